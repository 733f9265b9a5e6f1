//! A job as a task: it begins where its start is durable, never panics, and tells the driver when nothing of it is left. The
//! task is all there is of a job: what it does lies in it, in no box of its own.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::task::AbortHandle;

use crate::{Code, Emitter, JobError, JobIndex, run::Run};

/// What a job is begun with.
pub(crate) struct Begin {
    pub(crate) emitter: Emitter,
    /// It must not be executed twice: it starts when its start is durable.
    pub(crate) records_start: bool,
}

impl Begin {
    /// Begins it.
    pub(crate) fn spawn<F, R>(self, work: F) -> AbortHandle
    where
        F: FnOnce(Emitter) -> R + Send + 'static,
        R: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        let Self { emitter, records_start } = self;
        let (run, job, on) = (emitter.run().clone(), emitter.job(), emitter.cleanup());
        let recorded = records_start.then(|| {
            let run = run.clone();
            Box::pin(async move { run.record_job_start(job).await }) as Recorded
        });
        let work = Work::Begins { work, emitter, recorded };
        on.runtime().spawn(Task { work, here: Here { run, job, is_told: false } }).abort_handle()
    }
}

type Recorded = Pin<Box<dyn Future<Output = ()> + Send>>;

pin_project! {
    struct Task<F, R> {
        #[pin]
        work: Work<F, R>,
        // Behind it, and so dropped after it.
        here: Here,
    }
}

pin_project! {
    #[project = WorkNow]
    #[project_replace = WorkBefore]
    enum Work<F, R> {
        Begins { work: F, emitter: Emitter, recorded: Option<Recorded> },
        GoesOn { #[pin] future: R },
        Gone,
    }
}

impl<F, R> Future for Task<F, R>
where
    F: FnOnce(Emitter) -> R,
    R: Future<Output = Result<(), JobError>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if let WorkNow::Begins { recorded, .. } = this.work.as_mut().project() {
            if let Some(recorded) = recorded {
                ready!(recorded.as_mut().poll(cx));
            }
            if let WorkBefore::Begins { work, emitter, .. } = this.work.as_mut().project_replace(Work::Gone) {
                // Also what a job does before its first await may panic.
                match caught(|| work(emitter)) {
                    Ok(future) => this.work.set(Work::GoesOn { future }),
                    Err(panicked) => this.here.leave(Err(panicked)),
                }
            }
        }
        if let WorkNow::GoesOn { future } = this.work.as_mut().project() {
            let outcome = match caught(|| future.poll(cx)) {
                Ok(poll) => ready!(poll),
                Err(panicked) => Err(panicked),
            };
            let gone = caught(|| this.work.set(Work::Gone));
            this.here.leave(outcome.and(gone));
        }
        Poll::Ready(())
    }
}

/// Held by a job's task until all else of the job is gone.
struct Here {
    run: Arc<Run>,
    job: JobIndex,
    is_told: bool,
}

impl Here {
    /// The job ended by itself.
    fn leave(&mut self, outcome: Result<(), JobError>) {
        self.is_told = true;
        self.run.job_gone(self.job, Some(outcome));
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if !self.is_told {
            self.run.job_gone(self.job, None);
        }
    }
}

fn caught<T>(work: impl FnOnce() -> T) -> Result<T, JobError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panicked(panic.as_ref()))
}

fn panicked(panic: &(dyn Any + Send)) -> JobError {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    JobError::new(Code::Internal, format_args!("the job panicked: {message}"))
}
