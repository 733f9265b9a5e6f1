//! Nothing of a journaled run is seen by anybody before it is durable.

mod support;

use futures_util::FutureExt as _;
use outflow_engine::{End, JobIndex, Leave, Principal, Record, Request};
use support::*;

#[tokio::test]
async fn a_response_reaches_no_reader_before_it_is_durable() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    let mut first = start(&engine).await;
    let mut second = fetch(&engine, &again(first.run_id(), 0)).await.unwrap();
    store.commits.close();
    jobs.emit(0, "one").await.unwrap();
    store.commits.waiting(1).await;
    for reader in [&mut first, &mut second] {
        is_shown_nothing(reader);
    }
    let mut late = fetch(&engine, &again(first.run_id(), 0)).await.unwrap();
    is_shown_nothing(&mut late);
    let known = engine.run(&Principal::Anonymous, &first.run_id().to_string()).await.unwrap();
    assert_eq!(known.record.last.get(), 0, "nor does anybody learn that it exists");
    assert!(fetch(&engine, &again(first.run_id(), 1)).await.is_err(), "nor can it be read behind");

    store.commits.open();
    for reader in [&mut first, &mut second, &mut late] {
        assert_eq!(results(reader, 1).await, ["one"]);
    }
}

#[tokio::test]
async fn a_runs_record_is_durable_before_its_request_is_answered_and_a_job_starts() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    store.commits.close();
    let request = Request::new(1).lingering(LONG);
    let mut asking = Box::pin(engine.fetch(&request, number()));
    // It is polled now and then, until its run's record is on its way.
    until("the record's commit", || (&mut asking).now_or_never().is_some() || store.commits.has_waiting()).await;
    assert!((&mut asking).now_or_never().is_none(), "it is answered before its run is durable");
    assert_eq!(jobs.started(), 0, "a job starts before its run is durable");
    assert_eq!(engine.list(outflow_engine::Filter::default(), None, 10).await.unwrap(), []);

    store.commits.open();
    let reader = within("the answer", asking).await.unwrap();
    assert_eq!(store.count(|record| matches!(record, Record::Started(_))), 1);
    until("the job's start", || jobs.started() == 1).await;
    drop(reader);
}

#[tokio::test]
async fn a_linger_that_a_reader_raises_is_durable_before_its_request_is_answered() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    let first = fetch(&engine, &Request::new(1).lingering(LONG / 2)).await.unwrap();
    let raising = again(first.run_id(), 0).lingering(LONG);
    store.commits.close();
    let mut asking = Box::pin(engine.fetch(&raising, number()));
    let mut answer = None;
    until("the linger's commit", || {
        answer = (&mut asking).now_or_never();
        answer.is_some() || store.commits.has_waiting()
    })
    .await;
    assert!(answer.is_none(), "it is answered before its linger is durable");
    assert!((&mut asking).now_or_never().is_none(), "it is answered before its linger is durable");
    // Who asks for nothing that is not durable waits for nothing.
    fetch(&engine, &again(first.run_id(), 0)).await.unwrap();

    store.commits.open();
    within("the answer", asking).await.unwrap();
    assert_eq!(store.count(|record| *record == Record::LingerRaised(LONG)), 1);
    let known = engine.run(&Principal::Anonymous, &first.run_id().to_string()).await.unwrap();
    assert_eq!(known.record.linger, LONG);
}

#[tokio::test]
async fn the_start_of_a_job_that_is_not_repeatable_is_durable_before_it_happens() {
    let (store, jobs) = (GatedStore::new(), Puppets::once(1));
    let engine = engine(&store, jobs.clone());
    // The first commit is the run's record, the second the job's start.
    store.commits.close();
    store.commits.let_one_go();
    let _reader = start(&engine).await;
    store.commits.waiting(1).await;
    assert_eq!(jobs.started(), 0);
    store.commits.open();
    until("the job's start", || jobs.started() == 1).await;
    assert_eq!(store.count(|record| *record == Record::JobStarted(JobIndex::new(0))), 1);
}

#[tokio::test]
async fn the_end_is_durable_before_anybody_is_told() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    let mut reader = start(&engine).await;
    let id = reader.run_id().to_string();
    jobs.emit(0, "one").await.unwrap();
    assert_eq!(results(&mut reader, 1).await, ["one"]);
    store.commits.close();
    jobs.end(0).await;
    store.commits.waiting(1).await;
    is_shown_nothing(&mut reader);
    assert_eq!(engine.run(&Principal::Anonymous, &id).await.unwrap().record.ended, None);
    let mut stopping = Box::pin(engine.stop(&Principal::Anonymous, &id));
    for _ in 0..20 {
        assert!((&mut stopping).now_or_never().is_none(), "StopRun answers before the end is durable");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }

    store.commits.open();
    assert_eq!(finish(&mut reader).await.end, Some(End::Complete));
    let stopped = within("StopRun", stopping).await.unwrap();
    assert_eq!(stopped.record.ended.map(|ended| ended.end), Some(End::Complete), "what came first is the end");
}

#[tokio::test]
async fn a_limit_that_is_reached_waits_for_no_end() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    let mut reader = fetch(&engine, &Request::new(1).lingering(LONG).limited(1)).await.unwrap();
    until("the job's start", || jobs.started() == 1).await;
    store.shown.close();
    jobs.emit(0, "one").await.unwrap();
    store.shown.waiting(1).await;
    // The end is behind the response, and will not come into the store.
    jobs.end(0).await;
    jobs.ended(0).await;
    store.commits.close();
    store.shown.open();
    assert_eq!(results(&mut reader, 1).await, ["one"]);
    let finish = finish(&mut reader).await;
    assert_eq!((finish.end, finish.left), (None, Some(Leave::Enough)));
    store.commits.open();
}

#[tokio::test]
async fn a_reader_that_has_caught_up_and_waits_keeps_nothing_of_its_way() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    let mut first = start(&engine).await;
    jobs.emit(0, "one").await.unwrap();
    assert_eq!(results(&mut first, 1).await, ["one"]);
    let users = std::sync::Arc::strong_count(&store);
    let mut late = fetch(&engine, &again(first.run_id(), 0)).await.unwrap();
    assert_eq!(results(&mut late, 1).await, ["one"], "read from the store");
    assert!(late.next().now_or_never().is_none());
    until("one user of the store more", || std::sync::Arc::strong_count(&store) == users + 1).await;
}
