//! Drives a run: starts its plan's jobs, job beside job, waits for them, for the run's closing, for the end of its linger
//! or for a shutdown, and leaves none behind.

use std::{future::pending, mem, panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use futures_util::FutureExt as _;
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Cleanup, Code, Emitter, End, Job, JobError, JobErrors, JobIndex, Placement, Plan,
    run::{Deserted, Run},
};

/// What a run's driver works with.
pub(crate) struct Surroundings {
    pub(crate) cleanup: Cleanup,
    pub(crate) jobs_on: Handle,
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
    Changed,
    TimedOut,
    Suspended,
}

/// Runs the jobs of `plan`, job beside job, until all have ended or the run was closed; then none is left.
pub(crate) async fn drive(run: Arc<Run>, plan: Plan, surroundings: Surroundings) {
    let Surroundings { cleanup, jobs_on, mut journaled } = surroundings;
    let mut first_error = None;
    let mut ended_before = Vec::new();
    if let Some(journaled) = &mut journaled {
        tokio::select! {
            // No job starts before its run is durable.
            () = run.started() => {}
            () = journaled.suspend.cancelled() => return run.suspend(),
        }
        first_error = journaled.first_error.take();
        ended_before = mem::take(&mut journaled.ended);
    }
    let journaled = journaled.as_deref();
    let records_starts = journaled.is_some() && !plan.repeatable;
    let mut jobs_left = plan.jobs.len() - ended_before.len();
    let mut waiting = (0..).map(JobIndex).zip(plan.jobs).filter(|(index, _)| !ended_before.contains(index));
    let mut under_way = JoinSet::new();
    let mut clock = RunClock::new(&run, journaled, plan.time_limit.and_then(|time| Instant::now().checked_add(time)));
    loop {
        while under_way.len() < plan.jobs_at_once
            && !run.is_closed()
            && let Some((index, job)) = waiting.next()
        {
            let emitter = Emitter::new(run.clone(), index, cleanup.clone());
            let emitter = if plan.placement == Placement::Compute { emitter.taking_turns() } else { emitter };
            let recorded_in = records_starts.then(|| run.clone());
            under_way.spawn_on(guarded(index, job, emitter, recorded_in), &jobs_on);
        }
        match next(&run, &mut under_way, &mut clock).await {
            Event::JobEnded(job, outcome) => {
                jobs_left -= 1;
                if let Some(error) = run.job_ended(job, outcome)
                    && plan.job_errors != JobErrors::Tolerate
                {
                    first_error.get_or_insert(error);
                    if plan.job_errors == JobErrors::FailFast {
                        break;
                    }
                }
            }
            Event::AllEnded => break,
            Event::Changed | Event::TimedOut => {
                clock.look(jobs_left);
                if run.is_closed() {
                    break;
                }
            }
            Event::Suspended => {
                if records_starts && !under_way.is_empty() {
                    let reason = "the server was shut down in the middle of a job that is not repeatable";
                    run.close(End::Interrupted(reason.into()));
                }
                run.suspend();
                break;
            }
        }
    }
    if !run.close(first_error.map_or(End::Complete, End::Failed)) && journaled.is_none() {
        // Its reader was first.
        run.report_leaving(jobs_left);
    }
    // Also waits until they are gone: a job that is dropped may leave something to finish, and whoever waits for this
    // run waits for that, too.
    under_way.shutdown().await;
}

type JobEnd = (JobIndex, Result<(), JobError>);

async fn next(run: &Run, under_way: &mut JoinSet<JobEnd>, clock: &mut RunClock<'_>) -> Event {
    let suspend = clock.journaled.map(|journaled| &journaled.suspend);
    tokio::select! {
        biased;
        ended = under_way.join_next() => match ended {
            Some(ended) => {
                let (job, outcome) = ended.expect("jobs catch their panics, and only this set stops them");
                Event::JobEnded(job, outcome)
            }
            None => Event::AllEnded,
        },
        () = run.changed() => Event::Changed,
        () = expired(&mut clock.timer) => Event::TimedOut,
        () = async { match suspend { Some(suspend) => suspend.cancelled().await, None => pending().await } } => {
            Event::Suspended
        }
    }
}

async fn expired(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(sleep) => sleep.as_mut().await,
        None => pending().await,
    }
}

/// When a run may have to be closed: at its own time limit, or a linger after its last reader left. Most runs have
/// neither.
struct RunClock<'a> {
    run: &'a Arc<Run>,
    journaled: Option<&'a Journaled>,
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a> RunClock<'a> {
    fn new(run: &'a Arc<Run>, journaled: Option<&'a Journaled>, deadline: Option<Instant>) -> Self {
        let mut clock = Self { run, journaled, deadline, timer: None };
        clock.set();
        clock
    }

    /// Closes the run if it is time to, and else sets the timer for the next look.
    fn look(&mut self, jobs_left: usize) {
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.run.close(End::Deadline);
        } else if self.set() == Deserted::Stopped {
            let (id, linger) = (self.run.id(), self.run.linger());
            tracing::info!("run {id} stopped: nobody came back within {linger:?}, {jobs_left} jobs stopped");
        }
    }

    fn set(&mut self) -> Deserted {
        let lingers = self.journaled.is_some_and(|journaled| !journaled.draining.is_cancelled());
        let deserted = if lingers { self.run.close_if_deserted(Instant::now()) } else { Deserted::No };
        let stops_at = if let Deserted::Until(at) = deserted { Some(at) } else { None };
        let next = [stops_at, self.deadline].into_iter().flatten().min();
        self.timer = next.map(|at| Box::pin(sleep_until(at)));
        deserted
    }
}

/// A job as a task that never panics. One that must not be executed twice starts when its start is durable.
async fn guarded(index: JobIndex, job: Job, emitter: Emitter, recorded_in: Option<Arc<Run>>) -> JobEnd {
    if let Some(run) = recorded_in {
        run.record_job_start(index).await;
    }
    // Also what a job does before its first await may panic.
    let work = AssertUnwindSafe(async { job.start(emitter).await }).catch_unwind();
    (index, work.await.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))))
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> JobError {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    JobError::new(Code::Internal, format_args!("the job panicked: {message}"))
}
