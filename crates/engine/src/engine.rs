//! Starts runs: finds who answers a request, has the plan made, and sees that jobs stop when the engine does. It owns the
//! tasks of all runs; who answers what is in `sources.rs`, what is particular about journaled runs is in `journaled.rs`.

use std::sync::{Arc, atomic::AtomicUsize};

use tokio::{runtime::Handle, sync::OnceCell};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Budget, Cleanup, Clock, Code, JobError, Limits, LiveSources, MemoryStore, Placement, Plan, Reader, Refusal,
    Request, RunId, Sequence, Source, SourceOptions, Sources, SourcesError, Store, StoreError, Timestamp,
    driver::{Driver, Journaled, Surroundings},
    keeper::Keeper,
    run::{From, Run, RunPermit},
    sources::{Registered, SourcePermit},
};

/// Turns requests into runs.
pub struct Engine {
    pub(crate) sources: LiveSources,
    pub(crate) limits: Arc<Limits>,
    pub(crate) budget: Budget,
    compute: Option<Handle>,
    pub(crate) runs: Arc<AtomicUsize>,
    pub(crate) tasks: TaskTracker,
    pub(crate) draining: CancellationToken,
    pub(crate) suspend: CancellationToken,
    hurry: CancellationToken,
    pub(crate) clock: Clock,
    pub(crate) open_store: StoreOpener,
    pub(crate) keeper: OnceCell<Arc<Keeper>>,
}

/// Opens the store when it is needed for the first time.
pub(crate) type StoreOpener = Arc<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// Collects what an [`Engine`] is made of.
pub struct Builder {
    sources: Sources,
    limits: Limits,
    compute: Option<Handle>,
    clock: Clock,
    open_store: StoreOpener,
}

impl Builder {
    /// Adds a source, which answers requests that name it.
    #[must_use]
    pub fn source(self, name: impl Into<String>, source: impl Source) -> Self {
        self.source_with(name, source, SourceOptions::default())
    }

    /// Adds a source that answers requests as `options` say.
    #[must_use]
    pub fn source_with(mut self, name: impl Into<String>, source: impl Source, options: SourceOptions) -> Self {
        self.sources = self.sources.source_with(name, source, options);
        self
    }

    /// Has the source of this name answer every request that names none and whose id nobody claims.
    #[must_use]
    pub fn default_to(mut self, name: impl Into<String>) -> Self {
        self.sources = self.sources.default_to(name);
        self
    }

    /// Adds a source that answers every request which names none and whose id nobody claims.
    #[must_use]
    pub fn default_source(mut self, name: impl Into<String>, source: impl Source) -> Self {
        self.sources = self.sources.default_source(name, source);
        self
    }

    /// Has these sources answer, and none that were added before.
    #[must_use]
    pub fn sources(mut self, sources: Sources) -> Self {
        self.sources = sources;
        self
    }

    /// The runtime for jobs of [`Placement::Compute`](crate::Placement::Compute), and for runs that are taken up after a
    /// restart; by default the one that the run is started on.
    #[must_use]
    pub fn compute(mut self, runtime: Handle) -> Self {
        self.compute = Some(runtime);
        self
    }

    /// What tells the time of day; by default it stands still, at the start of 1970.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Where journals are kept: opened, on a thread that may block, when the first journaled run needs it or
    /// [`Engine::open`] is called. Until it could be opened once, every need tries again. By default a
    /// [`MemoryStore`] of 256 MiB.
    #[must_use]
    pub fn store(mut self, open: impl Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync + 'static) -> Self {
        self.open_store = Arc::new(open);
        self
    }

    /// The engine.
    ///
    /// # Errors
    /// Where the sources cannot stand beside each other.
    pub fn build(self) -> Result<Engine, SourcesError> {
        Ok(Engine {
            sources: LiveSources::new(self.sources)?,
            budget: Budget::new(self.limits.budget_bytes),
            limits: Arc::new(self.limits),
            compute: self.compute,
            runs: Arc::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            suspend: CancellationToken::new(),
            hurry: CancellationToken::new(),
            clock: self.clock,
            open_store: self.open_store,
            keeper: OnceCell::new(),
        })
    }
}

/// What the store in memory holds unless another one is given.
const MEMORY_STORE_BYTES: u64 = 256 * 1024 * 1024;

impl Engine {
    /// Begins an engine with these limits and no sources.
    pub fn builder(limits: Limits) -> Builder {
        Builder {
            sources: Sources::new(),
            limits,
            compute: None,
            clock: Clock::new(Timestamp::default),
            open_store: Arc::new(|| Ok(Arc::new(MemoryStore::new(MEMORY_STORE_BYTES)))),
        }
    }

    /// The bounds it keeps.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The sources that answer, which can be replaced.
    pub fn sources(&self) -> &LiveSources {
        &self.sources
    }

    /// Bytes that all runs hold now.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Runs alive now.
    pub fn runs(&self) -> usize {
        self.runs.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Answers a request on the current tokio runtime: starts a run, joins one, or reads one again. A new run is named
    /// by `random`, 128 bits that nobody can predict.
    ///
    /// # Errors
    /// A [`Refusal`], and nothing was started. [`Refusal::Exhausted`], [`Refusal::StoreFailing`] and
    /// [`Refusal::Draining`] are worth a later attempt, the others are not.
    ///
    /// # Cancel safety
    /// Dropped before a journaled run's record is durable, the run goes on without a reader, for its linger. A key that
    /// it was just binding to a shared run is free again, unless its commit is under way. Others with that key wait for
    /// it, so it has to be polled.
    pub async fn fetch(&self, request: &Request, random: u128) -> Result<Reader, Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::Draining);
        }
        if let Some(again) = request.run() {
            tracing::info!("fetch run : {}", again.run);
            return Box::pin(self.read_again(request, again)).await;
        }
        tracing::info!("fetch response for id : {}", request.id());
        let registered = self.sources.answering(request)?;
        if registered.journals(request) {
            // In a box, since plain requests do without: what answers one is small enough for glibc to have it at hand.
            Box::pin(self.fetch_journaled(request, &registered, random)).await
        } else {
            self.start_plain(request, registered, RunId::plain(random)).await
        }
    }

    async fn start_plain(&self, request: &Request, source: Arc<Registered>, id: RunId) -> Result<Reader, Refusal> {
        let permit = RunPermit::acquire(&self.runs, self.limits.runs_max)?;
        let plan = self.plan(request, SourcePermit::acquire(source)?).await?;
        let run = Run::plain(id, plan.payload, self.limits.clone(), self.budget.clone(), permit);
        let run = Arc::new(run.expecting(plan.expected_bytes));
        if let Some(bytes) = plan.output_limit {
            run.limit_output(bytes, 0);
        }
        let place = run.attach(From::After(Sequence::NONE), request.limit(), None)?;
        self.driver_of(run.clone(), plan, None, Handle::current()).begin();
        Ok(Reader::plain(run, place))
    }

    /// The driver of a run, for the runtime `home`.
    pub(crate) fn driver_of(&self, run: Arc<Run>, plan: Plan, journaled: Option<Journaled>, home: Handle) -> Driver {
        let jobs_on = match plan.placement {
            Placement::Reader => &home,
            Placement::Compute => self.compute.as_ref().unwrap_or(&home),
        };
        let cleanup = Cleanup::new(self.tasks.clone(), jobs_on.clone(), self.hurry.clone());
        Driver::new(run, plan, Surroundings { cleanup, journaled, home, _token: self.tasks.token() })
    }

    /// The runtime for what no connection asked for.
    pub(crate) fn background(&self) -> Handle {
        self.compute.clone().unwrap_or_else(Handle::current)
    }

    /// Starts nothing from here on. Plain runs end with their readers; journaled ones of repeatable plans are left as they
    /// are, for a restart to take up; others go on until [`Engine::suspend`].
    pub fn drain(&self) {
        self.draining.cancel();
        self.tasks.close();
        self.tell_drivers();
    }

    /// Leaves journaled runs that are still under way as they are.
    pub fn suspend(&self) {
        self.suspend.cancel();
        self.tell_drivers();
    }

    fn tell_drivers(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.living.tell_drivers();
        }
    }

    /// Asks clean-up that is under way to skip its grace.
    pub fn hurry(&self) {
        self.hurry.cancel();
    }

    /// Resolves when the engine drains and nothing of any run is left, neither a job nor what cleans up after one.
    pub async fn drained(&self) {
        self.tasks.wait().await;
    }

    /// The plan of the source that `permit` is of, checked.
    pub(crate) async fn plan(&self, request: &Request, permit: SourcePermit) -> Result<Plan, Refusal> {
        self.within_limits(permit.plan(request, self.limits.patience).await?)
    }

    pub(crate) fn within_limits(&self, mut plan: Plan) -> Result<Plan, Refusal> {
        if plan.jobs.len() > self.limits.jobs_max {
            return Err(Refusal::Exhausted { what: "the limit on jobs of one run", max: self.limits.jobs_max });
        }
        if plan.output_limit == Some(0) {
            return Err(JobError::new(
                Code::Internal,
                "the source's plan has an output_limit of 0; it is at least 1",
            )
            .into());
        }
        plan.jobs_at_once = plan.jobs_at_once.min(self.limits.jobs_at_once);
        Ok(plan)
    }
}

/// An engine that is dropped without a drain leaves neither a thread nor a task behind: journaled runs are left as they
/// are, and their readers are cut. Plain runs end with their readers.
impl Drop for Engine {
    fn drop(&mut self) {
        self.drain();
        self.suspend();
        self.hurry();
        if let Some(keeper) = self.keeper.get() {
            keeper.living.cut_readers();
        }
    }
}
