//! Starts runs: finds who answers a request, has the plan made, and sees that jobs stop when the engine does. It
//! owns the list of sources and the tasks of all runs.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Budget, Cleanup, Limits, Placement, Plan, Reader, Refusal, Request, RunId, Sequence, Source,
    driver::drive,
    run::{Run, RunPermit},
};

/// Turns requests into runs.
pub struct Engine {
    sources: BTreeMap<String, Arc<dyn Source>>,
    default_source: Option<String>,
    limits: Arc<Limits>,
    budget: Budget,
    compute: Option<Handle>,
    runs: Arc<AtomicUsize>,
    tasks: TaskTracker,
    draining: CancellationToken,
    hurry: CancellationToken,
}

/// Collects what an [`Engine`] is made of.
pub struct Builder {
    sources: BTreeMap<String, Arc<dyn Source>>,
    default_source: Option<String>,
    limits: Limits,
    compute: Option<Handle>,
}

impl Builder {
    /// Adds a source, or replaces the one of this name.
    #[must_use]
    pub fn source(mut self, name: impl Into<String>, source: Arc<dyn Source>) -> Self {
        self.sources.insert(name.into(), source);
        self
    }

    /// Adds a source that answers every request which names none.
    #[must_use]
    pub fn default_source(mut self, name: impl Into<String>, source: Arc<dyn Source>) -> Self {
        let name = name.into();
        self.default_source = Some(name.clone());
        self.source(name, source)
    }

    /// The runtime for jobs of [`Placement::Compute`](crate::Placement::Compute); by default the one that the run is
    /// started on.
    #[must_use]
    pub fn compute(mut self, runtime: Handle) -> Self {
        self.compute = Some(runtime);
        self
    }

    /// The engine.
    pub fn build(self) -> Engine {
        Engine {
            sources: self.sources,
            default_source: self.default_source,
            budget: Budget::new(self.limits.budget_bytes),
            limits: Arc::new(self.limits),
            compute: self.compute,
            runs: Arc::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            hurry: CancellationToken::new(),
        }
    }
}

impl Engine {
    /// Begins an engine with these limits and no sources.
    pub fn builder(limits: Limits) -> Builder {
        Builder { sources: BTreeMap::new(), default_source: None, limits, compute: None }
    }

    /// The bounds it keeps.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes that all runs hold now.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Runs alive now.
    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }

    /// Starts a run of `request` on the current tokio runtime, and gives its reader.
    ///
    /// # Errors
    /// A [`Refusal`], and nothing was started. [`Refusal::Exhausted`] and [`Refusal::Draining`] are worth a later
    /// attempt, the others are not.
    pub fn start(&self, request: &Request, id: RunId) -> Result<Reader, Refusal> {
        tracing::info!("fetch response for id : {}", request.id());
        if self.draining.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let source = self.source_for(request)?;
        let permit = RunPermit::acquire(&self.runs, self.limits.runs_max)?;
        let plan = self.within_limits(source.plan(request)?)?;

        let last_wanted = Sequence(request.limit().map_or(u64::MAX, std::num::NonZero::get));
        let run = Arc::new(Run::new(id, plan.payload, last_wanted, self.limits.clone(), self.budget.clone(), permit));
        let here = Handle::current();
        let jobs_on = match plan.placement {
            Placement::Reader => here.clone(),
            Placement::Compute => self.compute.as_ref().unwrap_or(&here).clone(),
        };
        let cleanup = Cleanup::new(self.tasks.clone(), jobs_on.clone(), self.hurry.clone());
        self.tasks.spawn_on(drive(run.clone(), plan, cleanup, jobs_on), &here);
        Ok(Reader::new(run))
    }

    /// Starts nothing from here on. Runs under way end with their readers.
    pub fn drain(&self) {
        self.draining.cancel();
        self.tasks.close();
    }

    /// Asks clean-up that is under way to skip its grace.
    pub fn hurry(&self) {
        self.hurry.cancel();
    }

    /// Resolves when the engine drains and nothing of any run is left, neither a job nor what cleans up after one.
    pub async fn drained(&self) {
        self.tasks.wait().await;
    }

    fn source_for(&self, request: &Request) -> Result<&Arc<dyn Source>, Refusal> {
        let known = || self.sources.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if let Some(name) = request.source() {
            let found = self.sources.get(name);
            return found.ok_or_else(|| Refusal::UnknownSource { name: name.to_owned(), known: known() });
        }
        let default = self.default_source.as_ref().and_then(|name| self.sources.get(name));
        default.ok_or_else(|| Refusal::UnknownId { id: request.id(), known: known() })
    }

    fn within_limits(&self, mut plan: Plan) -> Result<Plan, Refusal> {
        if plan.jobs.len() > self.limits.jobs_max {
            return Err(Refusal::Exhausted { what: "the limit on jobs of one run", max: self.limits.jobs_max });
        }
        plan.jobs_at_once = plan.jobs_at_once.min(self.limits.jobs_at_once);
        Ok(plan)
    }
}
