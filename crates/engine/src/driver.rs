//! Drives a run: starts its plan's jobs, job beside job, waits for them, for the run's closing, for the end of its linger
//! or for a shutdown, and leaves none behind.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    task::JoinSet,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Cleanup, Code, Emitter, End, Job, JobError, JobErrors, JobIndex, Placement, Plan,
    run::{Deserted, Run},
};

/// What a run's driver works with: clean-up is done where jobs run.
pub(crate) struct Surroundings {
    pub(crate) cleanup: Cleanup,
    /// Of a journaled run.
    pub(crate) journaled: Option<Box<Journaled>>,
}

/// What makes driving a journaled run different.
pub(crate) struct Journaled {
    /// Jobs that ended before a restart, and the first error among them.
    pub(crate) ended: Vec<JobIndex>,
    pub(crate) first_error: Option<JobError>,
    /// From here on no linger runs out.
    pub(crate) draining: CancellationToken,
    /// The run is to be left as it is, for a restart to take up.
    pub(crate) suspend: CancellationToken,
}

/// Why a driver looks up.
enum Event {
    JobEnded(JobIndex, Result<(), JobError>),
    AllEnded,
    /// The run was closed, its readers changed, or the engine drains.
    Changed,
    TimedOut,
    Suspended,
}

type JobEnd = (JobIndex, Result<(), JobError>);

/// Runs the jobs of `plan`, job beside job, until all have ended or the run was closed; then none is left.
pub(crate) fn drive(run: Arc<Run>, plan: Plan, surroundings: Surroundings) -> impl Future<Output = ()> + Send {
    let mut driver = Driver::new(run, plan, surroundings);
    // Not an `async fn`, which would keep its arguments twice: every idle run has one of these.
    async move { driver.drive().await }
}

struct Driver {
    run: Arc<Run>,
    surroundings: Surroundings,
    /// Jobs that have not begun, and the index of the first of them.
    jobs: std::vec::IntoIter<Job>,
    next: JobIndex,
    /// Jobs that have not ended.
    left: usize,
    under_way: JoinSet<JobEnd>,
    at_once: usize,
    job_errors: JobErrors,
    placement: Placement,
    /// The start of a job is durable before it happens.
    records_starts: bool,
    /// Boxed, since most runs have none.
    first_error: Option<Box<JobError>>,
    /// The run's own.
    time_limit: Option<Duration>,
    deadline: Option<Instant>,
    /// When the run may have to be closed: at its deadline, or a linger after its last reader left. Most have neither.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Driver {
    fn new(run: Arc<Run>, plan: Plan, mut surroundings: Surroundings) -> Self {
        let journaled = surroundings.journaled.as_mut();
        Self {
            run,
            next: JobIndex(0),
            left: plan.jobs.len() - journaled.as_ref().map_or(0, |journaled| journaled.ended.len()),
            jobs: plan.jobs.into_iter(),
            under_way: JoinSet::new(),
            at_once: plan.jobs_at_once,
            job_errors: plan.job_errors,
            placement: plan.placement,
            records_starts: journaled.is_some() && !plan.repeatable,
            first_error: journaled.and_then(|journaled| journaled.first_error.take()).map(Box::new),
            time_limit: plan.time_limit,
            deadline: None,
            timer: None,
            surroundings,
        }
    }

    async fn drive(&mut self) {
        // No job starts before its run is durable.
        if let Some(journaled) = &self.surroundings.journaled
            && !Box::pin(started(&self.run, &journaled.suspend)).await
        {
            return self.run.suspend();
        }
        self.deadline = self.time_limit.and_then(|time| Instant::now().checked_add(time));
        self.look();
        let is_suspended = loop {
            self.begin_jobs();
            match poll_fn(|cx| self.poll_event(cx)).await {
                Event::JobEnded(job, outcome) => {
                    self.left -= 1;
                    if let Some(error) = self.run.job_ended(job, outcome)
                        && self.job_errors != JobErrors::Tolerate
                    {
                        self.first_error.get_or_insert_with(|| Box::new(error));
                    }
                }
                Event::AllEnded => break false,
                Event::Changed | Event::TimedOut => self.look(),
                Event::Suspended => break true,
            }
            if self.is_enough() {
                break false;
            }
        };
        if is_suspended {
            self.suspend()
        } else {
            self.close()
        }
        // Also waits until they are gone: a job that is dropped may leave something to finish, and whoever waits for
        // this run waits for that, too.
        self.under_way.shutdown().await;
    }

    /// Whether no job is to begin or to go on.
    fn is_enough(&self) -> bool {
        self.run.is_closed() || (self.first_error.is_some() && self.job_errors == JobErrors::FailFast)
    }

    fn is_suspended(&self) -> bool {
        self.surroundings.journaled.as_ref().is_some_and(|journaled| journaled.suspend.is_cancelled())
    }

    fn begin_jobs(&mut self) {
        while self.under_way.len() < self.at_once
            && !self.is_enough()
            && !self.is_suspended()
            && let Some(job) = self.jobs.next()
        {
            let index = self.next;
            self.next.0 += 1;
            let journaled = self.surroundings.journaled.as_ref();
            if journaled.is_some_and(|journaled| journaled.ended.contains(&index)) {
                continue;
            }
            let emitter = Emitter::new(self.run.clone(), index, self.surroundings.cleanup.clone());
            let emitter = if self.placement == Placement::Compute { emitter.taking_turns() } else { emitter };
            let recorded_in = self.records_starts.then(|| self.run.clone());
            let jobs_on = self.surroundings.cleanup.runtime();
            self.under_way.spawn_on(guarded(index, job, emitter, recorded_in), jobs_on);
        }
        if self.jobs.len() == 0 {
            // Their list, which a run may outlive by hours.
            self.jobs = Vec::new().into_iter();
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let ended = self.under_way.poll_join_next(cx);
        if let Poll::Ready(Some(ended)) = ended {
            let (job, outcome) = ended.expect("jobs catch their panics, and only this set stops them");
            return Poll::Ready(Event::JobEnded(job, outcome));
        }
        // Asked first, so that a suspension that follows is told.
        let changed = self.run.poll_changed(cx);
        if self.left > 0 && self.is_suspended() {
            return Poll::Ready(Event::Suspended);
        }
        if ended.is_ready() {
            return Poll::Ready(Event::AllEnded);
        }
        if changed.is_ready() {
            return Poll::Ready(Event::Changed);
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx).map(|()| Event::TimedOut),
            None => Poll::Pending,
        }
    }

    /// Closes the run if it is time to, and else sets the timer for the next look.
    fn look(&mut self) {
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.run.close(End::Deadline);
        } else if self.set_timer() == Deserted::Stopped {
            let (id, linger, left) = (self.run.id(), self.run.linger(), self.left);
            tracing::info!("run {id} stopped: nobody came back within {linger:?}, {left} jobs stopped");
        }
    }

    fn set_timer(&mut self) -> Deserted {
        let journaled = self.surroundings.journaled.as_ref();
        let lingers = journaled.is_some_and(|journaled| !journaled.draining.is_cancelled());
        let deserted = if lingers { self.run.close_if_deserted(Instant::now()) } else { Deserted::No };
        let stops_at = if let Deserted::Until(at) = deserted { Some(at) } else { None };
        let next = [stops_at, self.deadline].into_iter().flatten().min();
        self.timer = next.map(|at| Box::pin(sleep_until(at)));
        deserted
    }

    fn close(&mut self) {
        let end = self.first_error.take().map_or(End::Complete, |error| End::Failed(*error));
        if !self.run.close(end) && self.surroundings.journaled.is_none() {
            // Its reader was first.
            self.run.report_leaving(self.left);
        }
    }

    /// Leaves the run for a restart to take up.
    fn suspend(&self) {
        if self.records_starts && !self.under_way.is_empty() {
            let reason = "the server was shut down in the middle of a job that is not repeatable";
            self.run.close(End::Interrupted(reason.into()));
        }
        self.run.suspend();
    }
}

/// Resolves when the run is durable, or was given up, or is to be left for a restart to take up; says whether its jobs
/// are to begin.
async fn started(run: &Arc<Run>, suspend: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        is_durable = run.started() => is_durable,
        () = suspend.cancelled() => false,
    }
}

/// A job as a task that never panics. One that must not be executed twice starts when its start is durable.
#[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice, and every job has one of these")]
fn guarded(
    index: JobIndex,
    job: Job,
    emitter: Emitter,
    recorded_in: Option<Arc<Run>>,
) -> impl Future<Output = JobEnd> + Send {
    async move {
        if let Some(run) = recorded_in {
            Box::pin(run.record_job_start(index)).await;
        }
        // Also what a job does before its first await may panic.
        let outcome = match catch_unwind(AssertUnwindSafe(|| job.start(emitter))) {
            Ok(work) => AssertUnwindSafe(work).catch_unwind().await,
            Err(panic) => Err(panic),
        };
        (index, outcome.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))))
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> JobError {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    JobError::new(Code::Internal, format_args!("the job panicked: {message}"))
}
