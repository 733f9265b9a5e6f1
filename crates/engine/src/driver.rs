//! Drives a run: starts its plan's jobs, job beside job, waits for them, for the run's closing, for the end of its linger
//! or for a shutdown, and leaves none behind. While there is nothing to do it is no task: the run keeps it, and whoever
//! changes something has it go on.

use std::{future::poll_fn, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use crate::{
    Cleanup, Emitter, End, Job, JobError, JobErrors, JobIndex, Placement, Plan,
    run::{Deserted, GoesOn, Run},
    sources::SourcePermit,
    task::Begin,
};

/// What a run's driver works with: clean-up is done where jobs run.
pub(crate) struct Surroundings {
    pub(crate) cleanup: Cleanup,
    /// Of a journaled run.
    pub(crate) journaled: Option<Journaled>,
    /// Where it is driven.
    pub(crate) home: Handle,
    /// The engine's shutdown waits as long as there is one.
    pub(crate) _token: TaskTrackerToken,
}

/// What makes driving a journaled run different.
pub(crate) struct Journaled {
    /// Boxed, since most runs are driven by one process from their start to their end.
    pub(crate) resumed: Option<Box<Resumed>>,
    /// From here on no linger runs out.
    pub(crate) draining: CancellationToken,
    /// The run is to be left as it is, for a restart to take up.
    pub(crate) suspend: CancellationToken,
}

/// What a restart left of a run that it took up.
pub(crate) struct Resumed {
    /// Jobs that ended before it.
    pub(crate) ended: Vec<JobIndex>,
    /// The first error among them that the plan does not tolerate.
    pub(crate) first_error: Option<Box<JobError>>,
}

/// What a driver does after it looked.
enum Step {
    /// It waits until something changes.
    Wait,
    /// The same, but at most until then.
    WaitUntil(Instant),
    /// All is done, and no job is left.
    Done,
}

/// Runs the jobs of a plan, job beside job, until all have ended or the run was closed; then none is left.
pub(crate) struct Driver {
    run: Arc<Run>,
    surroundings: Surroundings,
    /// Jobs that have not begun, the next one last, and its index.
    jobs: Vec<Job>,
    next: JobIndex,
    /// Jobs that have not ended.
    left: u32,
    under_way: UnderWay,
    at_once: usize,
    job_errors: JobErrors,
    placement: Placement,
    /// The start of a job is durable before it happens.
    records_starts: bool,
    /// No job begins or goes on; those that are under way are waited for.
    is_closing: bool,
    /// Boxed, since most runs have none.
    first_error: Option<Box<JobError>>,
    /// Boxed, since most runs have none.
    time_limit: Option<Box<TimeLimit>>,
    /// The run's place among those of its source, while it has jobs.
    _permit: Option<SourcePermit>,
}

/// How long a run may take, and until when that is once it has begun.
struct TimeLimit {
    time: Duration,
    until: Option<Instant>,
}

/// Jobs that have begun and are not gone, which are stopped where nobody drives them any more.
struct UnderWay(Vec<(JobIndex, AbortHandle)>);

impl UnderWay {
    fn stop(&self) {
        self.0.iter().for_each(|(_, job)| job.abort());
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Driver {
    pub(crate) fn new(run: Arc<Run>, plan: Plan, mut surroundings: Surroundings) -> Self {
        let is_journaled = surroundings.journaled.is_some();
        let mut jobs = plan.jobs;
        jobs.reverse();
        let resumed = surroundings.journaled.as_mut().and_then(|journaled| journaled.resumed.as_mut());
        Self {
            run,
            next: JobIndex(0),
            left: (jobs.len() - resumed.as_ref().map_or(0, |resumed| resumed.ended.len())) as u32,
            under_way: UnderWay(Vec::with_capacity(jobs.len().min(plan.jobs_at_once))),
            jobs,
            at_once: plan.jobs_at_once,
            job_errors: plan.job_errors,
            placement: plan.placement,
            records_starts: is_journaled && !plan.repeatable,
            is_closing: false,
            first_error: resumed.and_then(|resumed| resumed.first_error.take()),
            time_limit: plan.time_limit.map(|time| Box::new(TimeLimit { time, until: None })),
            _permit: plan.permit,
            surroundings,
        }
    }

    /// Begins to drive.
    pub(crate) fn begin(mut self) {
        if self.surroundings.journaled.is_none() {
            self.set_time_limit();
            return self.go_on(GoesOn::Here);
        }
        self.surroundings.home.clone().spawn(async move {
            // No job starts before its run is durable.
            if let Some(journaled) = &self.surroundings.journaled
                && !started(&self.run, &journaled.suspend).await
            {
                return self.run.suspend();
            }
            self.set_time_limit();
            self.drive().await;
        });
    }

    fn set_time_limit(&mut self) {
        if let Some(limit) = &mut self.time_limit {
            limit.until = Instant::now().checked_add(limit.time);
        }
    }

    /// Drives until there is nothing to do for now.
    async fn drive(mut self) {
        loop {
            match self.look() {
                Step::Done => return,
                Step::WaitUntil(time) => {
                    let changed = poll_fn(|cx| self.run.poll_changed(cx));
                    // Either is a reason to look again.
                    _ = timeout_at(time, changed).await;
                }
                Step::Wait => return self.put_away(),
            }
        }
    }

    /// Drives on: as a task again, or only as long as there is nothing to wait for but a change.
    fn go_on(mut self, place: GoesOn) {
        if place == GoesOn::Here {
            match self.look() {
                Step::Done => return,
                Step::Wait => return self.put_away(),
                Step::WaitUntil(_) => {}
            }
        }
        self.surroundings.home.clone().spawn(self.drive());
    }

    fn put_away(self) {
        self.run.clone().put_away(Box::new(|place| self.go_on(place)));
    }

    /// Does what there is to do.
    fn look(&mut self) -> Step {
        let mut until = None;
        let all_here = self.note_gone();
        if !self.is_closing && !all_here {
            self.abandon();
        }
        if !self.is_closing {
            until = self.close_in_time();
            self.begin_jobs();
            self.close_if_done();
        }
        if self.is_closing {
            // Also waits until they are gone: a job that is dropped may leave something to finish, and whoever waits for
            // this run waits for that, too.
            return if self.under_way.0.is_empty() { Step::Done } else { Step::Wait };
        }
        until.map_or(Step::Wait, Step::WaitUntil)
    }

    /// Notes which jobs are gone; says whether all of them have ended, or were stopped by this driver.
    fn note_gone(&mut self) -> bool {
        let mut all_here = true;
        for (job, outcome) in self.run.jobs_gone() {
            self.under_way.0.retain(|(other, _)| *other != job);
            match outcome {
                _ if self.is_closing => {}
                Some(outcome) => self.job_ended(job, outcome),
                None => all_here = false,
            }
        }
        all_here
    }

    fn job_ended(&mut self, job: JobIndex, outcome: Result<(), JobError>) {
        self.left -= 1;
        if let Some(error) = self.run.job_ended(job, outcome)
            && self.job_errors != JobErrors::Tolerate
        {
            self.first_error.get_or_insert_with(|| Box::new(error));
        }
    }

    /// Whether no job is to begin or to go on.
    fn is_enough(&self) -> bool {
        self.run.is_closed() || (self.first_error.is_some() && self.job_errors == JobErrors::FailFast)
    }

    fn is_suspended(&self) -> bool {
        self.surroundings.journaled.as_ref().is_some_and(|journaled| journaled.suspend.is_cancelled())
    }

    fn begin_jobs(&mut self) {
        while self.under_way.0.len() < self.at_once
            && !self.is_enough()
            && !self.is_suspended()
            && let Some(job) = self.jobs.pop()
        {
            let index = self.next;
            self.next.0 += 1;
            let resumed = self.surroundings.journaled.as_ref().and_then(|journaled| journaled.resumed.as_ref());
            if resumed.is_some_and(|resumed| resumed.ended.contains(&index)) {
                continue;
            }
            let emitter = Emitter::new(self.run.clone(), index, self.surroundings.cleanup.clone());
            let emitter = if self.placement == Placement::Compute { emitter.taking_turns() } else { emitter };
            self.under_way.0.push((index, job.begin(Begin { emitter, records_start: self.records_starts })));
        }
        if self.jobs.is_empty() {
            // Their list, which a run may outlive by hours.
            self.jobs = Vec::new();
        }
    }

    /// Closes the run where its time is over; otherwise says when to look again.
    fn close_in_time(&self) -> Option<Instant> {
        let now = Instant::now();
        let deadline = self.time_limit.as_ref().and_then(|limit| limit.until);
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.run.close(End::Deadline);
            return None;
        }
        let journaled = self.surroundings.journaled.as_ref();
        let lingers = journaled.is_some_and(|journaled| !journaled.draining.is_cancelled());
        let stops_at = match if lingers { self.run.close_if_deserted(now) } else { Deserted::No } {
            Deserted::No => None,
            Deserted::Until(at) => Some(at),
            Deserted::Stopped => {
                let (id, linger, left) = (self.run.id(), self.run.linger(), self.left);
                tracing::info!("run {id} stopped: nobody came back within {linger:?}, {left} jobs stopped");
                None
            }
        };
        [stops_at, deadline].into_iter().flatten().min()
    }

    /// Stops all jobs where the run is to be left as it is, is enough, or has come to its end.
    fn close_if_done(&mut self) {
        if self.left > 0 && self.is_suspended() {
            self.suspend();
        } else if self.under_way.0.is_empty() || self.is_enough() {
            self.close();
        }
    }

    /// No job begins or goes on from here on.
    fn stop(&mut self) {
        self.is_closing = true;
        self.under_way.stop();
        self.jobs = Vec::new();
    }

    fn close(&mut self) {
        self.stop();
        let end = self.first_error.take().map_or(End::Complete, |error| End::Failed(*error));
        if !self.run.close(end) && self.surroundings.journaled.is_none() {
            // Its reader was first.
            self.run.report_leaving(self.left);
        }
    }

    /// A job is gone without having ended: the runtime that it ran on was shut down. That is no end of a run that a restart
    /// can take up.
    fn abandon(&mut self) {
        if self.surroundings.journaled.is_some() {
            return self.suspend();
        }
        self.stop();
        self.run.close(End::Interrupted("the runtime of its jobs was shut down".into()));
    }

    /// Leaves the run for a restart to take up.
    fn suspend(&mut self) {
        self.stop();
        if self.records_starts && !self.under_way.0.is_empty() {
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
