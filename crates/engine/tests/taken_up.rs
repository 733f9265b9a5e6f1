//! Runs that had not ended when their process did, taken up by another engine over the same store.

mod support;

use std::sync::Arc;

use outflow_engine::{Batch, Code, End, JobError, JobErrors, Leave, Plan, Principal, Record, Room, Store as _};
use support::*;

/// What a process leaves that is killed just before anything was committed that `is` so: those records before it.
fn killed_before(store: &Arc<GatedStore>, is: impl Fn(&Record) -> bool) -> Arc<GatedStore> {
    let left = GatedStore::like_a_disk();
    let records = store.committed().into_iter().take_while(|(_, record)| !is(record)).collect();
    left.commit(&Batch { records, ..Batch::default() }, Room::Ordinary).unwrap();
    left
}

#[tokio::test]
async fn a_run_that_had_failed_fast_begins_none_of_its_other_jobs() {
    let store = GatedStore::like_a_disk();
    let fail_fast = |plan: Plan| plan.repeatable().job_errors(JobErrors::FailFast);
    let jobs = Puppets::shaped(2, fail_fast);
    let engine = support::engine(&store, jobs.clone());
    let reader = start(&engine).await;
    let id = reader.run_id();
    jobs.emit(1, "the other job was under way").await.unwrap();
    until("its response", || store.count(|record| matches!(record, Record::Frames(_))) == 1).await;
    jobs.fail(0, JobError::new(Code::NotFound, "it failed")).await;
    let ends = |record: &Record| matches!(record, Record::Ended(_));
    until("the end", || store.count(ends) == 1).await;
    drop(reader);
    let store = killed_before(&store, ends);

    let jobs = Puppets::shaped(2, fail_fast);
    let engine = support::engine(&store, jobs.clone());
    engine.open().await.unwrap();
    let mut reader = fetch(&engine, &again(id, 0)).await.unwrap();
    let (responses, finish) = rest(&mut reader).await;
    assert_eq!(finish.end, Some(End::Failed(JobError::new(Code::NotFound, "it failed"))));
    assert_eq!((responses.len(), finish.jobs_failed, jobs.started()), (2, 1, 0));
    let known = engine.run(&Principal::Anonymous, &id.to_string()).await.unwrap();
    assert!(known.record.ended.is_some());
}

#[tokio::test]
async fn an_engine_that_is_dropped_leaves_no_thread_and_no_task() {
    let (store, jobs) = (GatedStore::like_a_disk(), Puppets::once(1));
    let engine = support::engine(&store, jobs.clone());
    let mut reader = start(&engine).await;
    jobs.emit(0, "one").await.unwrap();
    assert_eq!(results(&mut reader, 1).await, ["one"]);
    drop(engine);
    let finish = finish(&mut reader).await;
    assert_eq!((finish.left, finish.end), (Some(Leave::Draining), None));
    drop(reader);
    within("the job's end", jobs.ended(0)).await;
    until("the committer and the sweeper are gone", || Arc::strong_count(&store) == 1).await;
}
