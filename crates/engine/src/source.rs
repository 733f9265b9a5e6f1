//! What answers: the trait, the plan it makes, the jobs of the plan, and the emitter through which a job hands over
//! its responses. It knows nothing of readers and transports.

use std::{fmt, pin::Pin, sync::Arc};

use bytes::Bytes;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Code, JobError, Refusal, Request,
    journal::{Content, SHARE_BYTES_MIN},
    run::{Attempt, Part, Run},
};

/// What answers requests: it turns each into a plan, checked before any of its jobs starts.
///
/// `plan` must not block; what takes time belongs into a job.
pub trait Source: Send + Sync + 'static {
    /// The jobs that answer `request`.
    ///
    /// # Errors
    /// A [`Refusal`] goes to the client as the status of its call, and nothing is started.
    fn plan(&self, request: &Request) -> Result<Plan, Refusal>;
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

/// Whether responses carry text or bytes. It is the source's, never a response's, so that a client that knows only
/// text is never silently sent nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PayloadKind {
    /// `result`; bytes that are not UTF-8 fail the job.
    #[default]
    Text,
    /// `result`; bytes that are not UTF-8 become U+FFFD.
    Lossy,
    /// `data`.
    Bytes,
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

/// Which job of the plan, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobIndex(pub(crate) u32);

impl fmt::Display for JobIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

type JobFuture = Pin<Box<dyn Future<Output = Result<(), JobError>> + Send>>;

/// One unit of work: it emits responses, and ends well or with an error.
///
/// # Cancel safety
/// A run that is stopped drops its jobs where they stand, at whichever `await`. What must be finished all the same
/// (ending a process, say) is given to [`Emitter::cleanup`] from a guard's `Drop`.
pub struct Job(Box<dyn FnOnce(Emitter) -> JobFuture + Send>);

impl Job {
    /// A job from a function that is given its emitter when it starts.
    pub fn new<F, R>(work: F) -> Self
    where
        F: FnOnce(Emitter) -> R + Send + 'static,
        R: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        Self(Box::new(move |emitter| Box::pin(work(emitter))))
    }

    pub(crate) fn start(self, emitter: Emitter) -> JobFuture {
        (self.0)(emitter)
    }
}

/// Text or bytes to emit: borrowed ones are copied into the journal, owned ones shared with it where they are large.
pub struct Payload<'a> {
    pub(crate) content: Content<'a>,
    /// Known to be UTF-8, because its type says so.
    pub(crate) is_text: bool,
}

macro_rules! payload_from {
    ($($from:ty, $is_text:literal, $value:ident => $content:expr;)*) => {$(
        impl<'a> From<$from> for Payload<'a> {
            #[inline]
            fn from($value: $from) -> Self {
                Self { content: $content, is_text: $is_text }
            }
        }
    )*};
}

payload_from! {
    &'a str, true, text => Content::Borrowed(text.as_bytes());
    &'a &str, true, text => Content::Borrowed(text.as_bytes());
    &'a String, true, text => Content::Borrowed(text.as_bytes());
    String, true, text => Content::Shared(text.into());
    &'a [u8], false, bytes => Content::Borrowed(bytes);
    &'a &[u8], false, bytes => Content::Borrowed(bytes);
    &'a Vec<u8>, false, bytes => Content::Borrowed(bytes);
    Vec<u8>, false, bytes => Content::Shared(bytes.into());
    Bytes, false, bytes => Content::Shared(bytes);
    &'a Bytes, false, bytes => Content::Shared(bytes.clone());
}

/// Text that many responses share: cloning it copies nothing, and it is checked once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Bytes);

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl<'a> From<&'a Text> for Payload<'a> {
    #[inline]
    fn from(Text(bytes): &'a Text) -> Self {
        let content =
            if bytes.len() < SHARE_BYTES_MIN { Content::Borrowed(bytes) } else { Content::Shared(bytes.clone()) };
        Self { content, is_text: true }
    }
}

/// Why a payload was not emitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The run has ended and nobody will read more: stop working.
    #[error("the run has ended")]
    Closed,
    /// The source answers with text, and this is not UTF-8. The job may go on, or fail with this error.
    #[error("not UTF-8 at byte {at} of a payload; a source of bytes says `payload = \"bytes\"` or `\"lossy\"`")]
    NotText {
        /// Offset of the first byte that is not text.
        at: usize,
    },
}

impl From<EmitError> for JobError {
    fn from(error: EmitError) -> Self {
        let code = match error {
            EmitError::Closed => Code::Cancelled,
            EmitError::NotText { .. } => Code::Internal,
        };
        Self::new(code, error)
    }
}

/// How a job hands over its responses, in the order in which they get their sequence numbers.
#[derive(Clone)]
pub struct Emitter {
    run: Arc<Run>,
    job: JobIndex,
    cleanup: Cleanup,
    /// On threads of their own, jobs take turns with others of their kind.
    takes_turns: bool,
}

impl Emitter {
    pub(crate) fn new(run: Arc<Run>, job: JobIndex, cleanup: Cleanup, placement: Placement) -> Self {
        Self { run, job, cleanup, takes_turns: placement == Placement::Compute }
    }

    /// Which job of the plan this is.
    pub fn job(&self) -> JobIndex {
        self.job
    }

    /// Emits one response. It waits only while the run's window is full, that is, while its reader is slower than
    /// its jobs. A payload too long for one response is split with `partial`, text between characters.
    ///
    /// # Errors
    /// [`EmitError::Closed`] when the run has ended, [`EmitError::NotText`] when bytes that are not UTF-8 are given
    /// to a source of text. Neither is worth a retry.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it has emitted nothing, or of a long payload its first parts.
    #[inline]
    pub async fn emit(&self, payload: impl Into<Payload<'_>>) -> Result<(), EmitError> {
        let mut payload = payload.into();
        // Nearly always all there is to do, and then without a second future.
        match self.run.append(self.job, &mut payload, Part::Last)? {
            Attempt::Appended { sealed: false } => Ok(()),
            attempt => self.emit_on(payload, Part::Last, attempt).await,
        }
    }

    /// Emits a piece of a value that goes on in this job's next response. The last piece is given to
    /// [`Emitter::emit`].
    ///
    /// # Errors
    /// As [`Emitter::emit`]. Each piece of text must be UTF-8 by itself.
    pub async fn emit_partial(&self, payload: impl Into<Payload<'_>>) -> Result<(), EmitError> {
        let mut payload = payload.into();
        let attempt = self.run.append(self.job, &mut payload, Part::GoesOn)?;
        self.emit_on(payload, Part::GoesOn, attempt).await
    }

    /// Emits many responses, several under one lock: the cheapest way where they are ready together.
    ///
    /// # Errors
    /// As [`Emitter::emit`]; those before the one that could not be emitted were.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it has emitted the first ones, in order, and not the others.
    pub async fn emit_all<P>(&self, payloads: &[P]) -> Result<(), EmitError>
    where
        for<'a> &'a P: Into<Payload<'a>>,
    {
        let mut rest = payloads;
        while !rest.is_empty() {
            let (taken, attempt) = self.run.append_many(self.job, rest)?;
            rest = &rest[taken..];
            match attempt {
                Attempt::Appended { sealed } => self.take_turns(sealed).await,
                Attempt::Full => self.run.room().await,
                Attempt::TooLong => {
                    self.emit(&rest[0]).await?;
                    rest = &rest[1..];
                }
                Attempt::Closed => return Err(EmitError::Closed),
            }
        }
        Ok(())
    }

    /// What outlives this job: see [`Cleanup`].
    pub fn cleanup(&self) -> Cleanup {
        self.cleanup.clone()
    }

    /// Goes on with a payload after the first attempt at it.
    async fn emit_on(&self, mut payload: Payload<'_>, part: Part, mut attempt: Attempt) -> Result<(), EmitError> {
        loop {
            match attempt {
                Attempt::Appended { sealed } => {
                    self.take_turns(sealed).await;
                    return Ok(());
                }
                // A first part was appended, and the payload is shorter by it.
                Attempt::TooLong => {}
                Attempt::Full => self.run.room().await,
                Attempt::Closed => return Err(EmitError::Closed),
            }
            attempt = self.run.append(self.job, &mut payload, part)?;
        }
    }

    async fn take_turns(&self, sealed: bool) {
        if sealed && self.takes_turns {
            tokio::task::yield_now().await;
        }
    }
}

/// Where a job leaves work that has to be finished after the job itself was dropped, such as ending a process. The
/// engine's shutdown waits for it.
#[derive(Clone, Debug)]
pub struct Cleanup {
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
    hurry: CancellationToken,
}

impl Cleanup {
    pub(crate) fn new(tasks: TaskTracker, runtime: tokio::runtime::Handle, hurry: CancellationToken) -> Self {
        Self { tasks, runtime, hurry }
    }

    /// Runs `work` to its end, on the runtime the job ran on.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(work, &self.runtime);
    }

    /// Resolves when there is no time left for a grace.
    pub async fn hurry(&self) {
        self.hurry.cancelled().await;
    }
}
