//! What becomes of runs whose jobs lose the runtime that they run on: that is no end of any job.

use std::{future::pending, sync::Arc, time::Duration};

use outflow_engine::{
    Delivery, Emitter, End, Engine, Job, JobError, Limits, Plan, Principal, Reader, Refusal, Request, Source,
};

/// Plans so many jobs, one at a time, each of which emits once and then waits for ever.
struct Waiting(usize);

impl Source for Waiting {
    fn plan(&self, _: &Request) -> Result<Plan, Refusal> {
        Ok(Plan::new().jobs((0..self.0).map(|_| Job::new(begins_and_waits))).jobs_at_once(1).repeatable())
    }
}

async fn begins_and_waits(emitter: Emitter) -> Result<(), JobError> {
    emitter.emit("begun").await?;
    pending().await
}

/// A reader whose run's first job has begun, its engine, and the runtime of the jobs.
async fn begun(jobs: usize, request: Request) -> (Reader, Engine, tokio::runtime::Runtime) {
    let compute = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let engine = Engine::builder(Limits::default()).default_source("test", Arc::new(Waiting(jobs)));
    let engine = engine.compute(compute.handle().clone()).build().unwrap();
    let mut reader = engine.fetch(&request, 1).await.unwrap();
    assert!(matches!(reader.next().await, Delivery::Chunk(_)));
    (reader, engine, compute)
}

#[tokio::test]
async fn a_run_whose_jobs_lose_their_runtime_is_never_complete() {
    let (mut reader, _engine, compute) = begun(2, Request::new(1)).await;
    compute.shutdown_background();
    let Delivery::Finished(finish) = reader.next().await else { panic!("nothing else was emitted") };
    assert_eq!(finish.end, Some(End::Interrupted("the runtime of its jobs was shut down".into())));
}

#[tokio::test]
async fn a_journaled_run_whose_jobs_lose_their_runtime_is_left_for_a_restart() {
    let request = Request::new(1).lingering(Duration::from_secs(600));
    let (mut reader, engine, compute) = begun(1, request).await;
    compute.shutdown_background();
    tokio::time::timeout(Duration::from_millis(300), reader.next()).await.expect_err("it has not ended");
    let run = engine.run(&Principal::Anonymous, &reader.run_id().to_string()).await.unwrap();
    assert_eq!(run.record.ended, None);
}
