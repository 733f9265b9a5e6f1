//! Drives a run: starts its plan's jobs, job beside job, waits for them or for the run's closing, and leaves none behind.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use tokio::{runtime::Handle, task::JoinSet};

use crate::{Cleanup, Code, Emitter, End, Job, JobError, JobErrors, JobIndex, Placement, Plan, run::Run};

/// Runs the jobs of `plan`, job beside job, until all have ended or the run was closed; then none is left.
pub(crate) async fn drive(run: Arc<Run>, plan: Plan, cleanup: Cleanup, jobs_on: Handle) {
    let mut jobs_left = plan.jobs.len();
    let mut waiting = (0..).map(JobIndex).zip(plan.jobs);
    let mut under_way = JoinSet::new();
    let mut first_error = None;
    loop {
        while under_way.len() < plan.jobs_at_once
            && let Some((index, job)) = waiting.next()
        {
            let emitter = Emitter::new(run.clone(), index, cleanup.clone());
            let emitter = if plan.placement == Placement::Compute { emitter.taking_turns() } else { emitter };
            under_way.spawn_on(guarded(index, job, emitter), &jobs_on);
        }
        let (job, outcome) = tokio::select! {
            biased;
            ended = under_way.join_next() => match ended {
                Some(ended) => ended.expect("jobs catch their panics, and only this set stops them"),
                None => break,
            },
            () = run.closed() => break,
        };
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
    if !run.close(first_error.map_or(End::Complete, End::Failed)) {
        // Its reader was first.
        run.report_leaving(jobs_left);
    }
    // Also waits until they are gone: a job that is dropped may leave something to finish, and whoever waits for this
    // run waits for that, too.
    under_way.shutdown().await;
}

/// A job as a task that never panics.
async fn guarded(index: JobIndex, job: Job, emitter: Emitter) -> (JobIndex, Result<(), JobError>) {
    // Also what a job does before its first await may panic.
    let work = AssertUnwindSafe(async { job.start(emitter).await }).catch_unwind();
    (index, work.await.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))))
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> JobError {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    JobError::new(Code::Internal, format_args!("the job panicked: {message}"))
}
