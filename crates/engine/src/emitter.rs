//! A job's end of its run: how it hands over its responses, waits for room, takes turns, and leaves behind what has to
//! be finished without it.

mod message;

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    EmitError, Emitted, JobIndex, Payload, PayloadKind,
    frame::Part,
    run::{Attempt, Run},
};

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
    pub(crate) fn new(run: Arc<Run>, job: JobIndex, cleanup: Cleanup) -> Self {
        Self { run, job, cleanup, takes_turns: false }
    }

    /// This emitter, for a job that lets others of its thread go on after every block it filled.
    pub(crate) fn taking_turns(self) -> Self {
        Self { takes_turns: true, ..self }
    }

    pub(crate) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// Which job of the plan this is.
    pub fn job(&self) -> JobIndex {
        self.job
    }

    /// Whether the responses carry text or bytes.
    pub fn payload_kind(&self) -> PayloadKind {
        self.run.payload_kind()
    }

    /// What this job had emitted before a restart, where it is begun again after one and that is journaled. A job that can
    /// go on behind that says so with [`Emitter::go_on`]. Otherwise it does the same once more, and is compared.
    pub fn emitted_before(&self) -> Option<Emitted> {
        self.run.emitted_before(self.job)
    }

    /// From here on the job emits what follows [`Emitter::emitted_before`], and nothing of that again. That it does so is its
    /// own responsibility: nothing is compared.
    pub fn go_on(&self) {
        self.run.go_on(self.job);
    }

    /// Emits one response. It waits only while the run's window is full: of a plain run that is while its reader is slower
    /// than its jobs, of a journaled one while the store is. A payload too long for one response is split with `partial`,
    /// text between characters.
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

    /// The runtime that jobs run on.
    pub(crate) fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
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
