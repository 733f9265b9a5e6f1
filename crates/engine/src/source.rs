//! What answers: the trait, the plan it makes, and the jobs of the plan. It knows nothing of readers and transports.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use tokio::task::AbortHandle;

use crate::{Emitter, JobError, PayloadKind, Refusal, Request, digest::Digest, sources::SourcePermit, task::Begin};

/// What answers requests: it turns each into a plan, checked before any of its jobs starts.
///
/// `plan` must not block, unless [`Source::planning`] says that it may; what takes long belongs into a job.
pub trait Source: Send + Sync + 'static {
    /// The jobs that answer `request`.
    ///
    /// # Errors
    /// A [`Refusal`] goes to the client as the status of its call, and nothing is started.
    fn plan(&self, request: &Request) -> Result<Plan, Refusal>;

    /// Where `plan` is called; by default [`Planning::Here`].
    fn planning(&self) -> Planning {
        Planning::Here
    }

    /// A text that changes whenever this source may answer otherwise than before: its settings, its version. A journaled
    /// run is not taken up again after a restart under another one, and a shared run is not joined. By default it is
    /// empty, and so never changes.
    fn configuration(&self) -> String {
        String::new()
    }
}

/// A source that several share is one.
impl<S: Source + ?Sized> Source for Arc<S> {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        (**self).plan(request)
    }

    fn planning(&self) -> Planning {
        (**self).planning()
    }

    fn configuration(&self) -> String {
        (**self).configuration()
    }
}

/// Where a source makes its plans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planning {
    /// On the thread that serves the request: it must not block.
    #[default]
    Here,
    /// On a thread that may block, since it has to look at something first: a file, say. A request waits for that as long
    /// as for a disk, and is then refused; each source makes at most 64 such plans at once.
    Blocking,
}

/// What a source answers and how its runs are kept, beside what each of its plans says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceOptions {
    pub(crate) shared: Option<Shared>,
    pub(crate) linger: Option<Duration>,
    pub(crate) keep_bytes: Option<u64>,
    pub(crate) ids: Vec<RangeInclusive<i32>>,
    pub(crate) runs_at_once: Option<usize>,
}

/// How the runs of a source are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// How long after a complete end a run is still joined.
    pub reuse: Duration,
    /// With whom.
    pub among: Among,
}

/// Who joins the same run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Among {
    /// Only requests of one principal.
    #[default]
    OnePrincipal,
    /// Everybody's.
    Everybody,
}

impl SourceOptions {
    /// Runs live and die with their readers, unless a request asks for more.
    pub fn new() -> Self {
        Self::default()
    }

    /// A request joins the run that answers an equal one, where that is under way or ended `complete` within `reuse`.
    /// Every run is journaled.
    #[must_use]
    pub fn shared(mut self, reuse: Duration) -> Self {
        self.shared = Some(Shared { reuse, among: Among::default() });
        self
    }

    /// As [`SourceOptions::shared`], also between principals.
    #[must_use]
    pub fn shared_by_everybody(mut self, reuse: Duration) -> Self {
        self.shared = Some(Shared { reuse, among: Among::Everybody });
        self
    }

    /// Every run is journaled, and goes on at least so long without a reader.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = Some(linger);
        self
    }

    /// Its runs are endless: of each about the last so many bytes are kept, and never fewer.
    #[must_use]
    pub fn keep_bytes(mut self, bytes: u64) -> Self {
        self.keep_bytes = Some(bytes);
        self
    }

    /// Requests that name no source and ask for one of these ids are answered by this one. No two sources claim the same
    /// id. By default it claims none.
    #[must_use]
    pub fn ids(mut self, ids: impl IntoIterator<Item = RangeInclusive<i32>>) -> Self {
        self.ids = ids.into_iter().collect();
        self
    }

    /// So many runs of it are under way at once, at least 1, and requests that would start another are refused with
    /// `RESOURCE_EXHAUSTED`; those that join a run are not. By default, and at the most, what the engine's limits allow.
    #[must_use]
    pub fn runs_at_once(mut self, runs: usize) -> Self {
        self.runs_at_once = Some(runs.max(1));
        self
    }
}

/// Where the jobs of a plan run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// On threads of their own, beside each other. For jobs that compute between their responses: they may keep a
    /// thread busy without holding up a reader.
    #[default]
    Compute,
    /// On the thread that serves their reader: no response crosses a thread. Only for jobs that `await` wherever
    /// they take time, since while one computes nothing else on that thread moves.
    Reader,
}

/// What a failed job means for its run. The failure is always a response in its place in the sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobErrors {
    /// The other jobs finish, then the run ends `failed` with the first failed job's status.
    #[default]
    Fail,
    /// The other jobs are stopped, and the run ends `failed`.
    FailFast,
    /// The run ends `complete`.
    Tolerate,
}

/// The jobs of one request, and how they are run.
pub struct Plan {
    pub(crate) jobs: Vec<Job>,
    pub(crate) jobs_at_once: usize,
    pub(crate) payload: PayloadKind,
    pub(crate) job_errors: JobErrors,
    pub(crate) placement: Placement,
    pub(crate) repeatable: bool,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) basis: u64,
    pub(crate) expected_bytes: Option<u64>,
    pub(crate) output_limit: Option<u64>,
    /// Its place among the runs of its source.
    pub(crate) permit: Option<SourcePermit>,
}

impl Plan {
    /// A plan without jobs; a run of it ends at once.
    pub fn new() -> Self {
        Self {
            jobs: Vec::new(),
            jobs_at_once: usize::MAX,
            payload: PayloadKind::default(),
            job_errors: JobErrors::default(),
            placement: Placement::default(),
            repeatable: false,
            time_limit: None,
            basis: 0,
            expected_bytes: None,
            output_limit: None,
            permit: None,
        }
    }

    /// Adds a job; the first has index 0.
    #[must_use]
    pub fn job(mut self, job: Job) -> Self {
        self.jobs.push(job);
        self
    }

    /// Adds jobs in order.
    #[must_use]
    pub fn jobs(mut self, jobs: impl IntoIterator<Item = Job>) -> Self {
        self.jobs.extend(jobs);
        self
    }

    /// How many jobs are under way at once, at least 1; by default, and at the most, what the engine's limits allow.
    #[must_use]
    pub fn jobs_at_once(mut self, jobs: usize) -> Self {
        self.jobs_at_once = jobs.max(1);
        self
    }

    /// Whether responses carry text (the default) or bytes.
    #[must_use]
    pub fn payload(mut self, payload: PayloadKind) -> Self {
        self.payload = payload;
        self
    }

    /// What a failed job means for the run; by default [`JobErrors::Fail`].
    #[must_use]
    pub fn job_errors(mut self, job_errors: JobErrors) -> Self {
        self.job_errors = job_errors;
        self
    }

    /// The jobs may be begun again after a restart: an equal request gives the same payloads in the same order with the
    /// same boundaries, and executing it twice does no harm. What is emitted again is compared with what is journaled, and
    /// not delivered again.
    ///
    /// By default they may not: a journaled run one of whose jobs was under way ends `interrupted`.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// The run ends with [`End::Deadline`](crate::End::Deadline) where it takes longer than this; after a restart the
    /// time begins anew. By default it may take as long as it likes.
    #[must_use]
    pub fn time_limit(mut self, time: Duration) -> Self {
        self.time_limit = Some(time);
        self
    }

    /// What the plan rests on beside its request and the source's configuration: which file was found, say, and how long it
    /// was. It is recorded with the run, and where a restart finds something else the run ends `interrupted`.
    #[must_use]
    pub fn basis(mut self, basis: impl AsRef<[u8]>) -> Self {
        self.basis = Digest::new().with(basis).value();
        self
    }

    /// About how many bytes the payloads of all responses will have together. Clients are told it before the first
    /// response, to show progress; nothing holds a run to it.
    #[must_use]
    pub fn expected_bytes(mut self, bytes: u64) -> Self {
        self.expected_bytes = Some(bytes);
        self
    }

    /// The run ends [`End::Failed`](crate::End::Failed), with [`Code::ResourceExhausted`](crate::Code::ResourceExhausted),
    /// where its responses would carry more than so many bytes in all, at least 1: what was emitted before is delivered,
    /// and what goes beyond it is not. By default a journaled run has the engine's limit, and a plain one none.
    #[must_use]
    pub fn output_limit(mut self, bytes: u64) -> Self {
        self.output_limit = Some(bytes);
        self
    }

    /// Where the jobs run; by default [`Placement::Compute`].
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("jobs", &self.jobs.len()).finish_non_exhaustive()
    }
}

/// One unit of work: it emits responses, and ends well or with an error.
///
/// # Cancel safety
/// A run that is stopped drops its jobs where they stand, at whichever `await`. What must be finished all the same
/// (ending a process, say) is given to [`Emitter::cleanup`] from a guard's `Drop`.
pub struct Job(Box<dyn FnOnce(Begin) -> AbortHandle + Send>);

impl Job {
    /// A job from a function that is given its emitter when it starts.
    pub fn new<F, R>(work: F) -> Self
    where
        F: FnOnce(Emitter) -> R + Send + 'static,
        R: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        Self(Box::new(move |begin| begin.spawn(work)))
    }

    pub(crate) fn begin(self, begin: Begin) -> AbortHandle {
        (self.0)(begin)
    }
}
