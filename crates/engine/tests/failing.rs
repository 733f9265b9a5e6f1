//! A store that fails, and one that is full: nothing is shown that is not durable, nobody waits for ever, memory is
//! bounded, and all of it recovers by itself.

mod support;

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use outflow_engine::{
    Code, End, JobError, Key, Leave, Limits, Principal, Record, Refusal, Request, SourceOptions, Store as _,
};
use support::*;

fn impatient_engine(store: &Arc<GatedStore>, jobs: &Arc<Puppets>) -> outflow_engine::Engine {
    engine_with(store, jobs.clone(), SourceOptions::new(), impatient())
}

#[tokio::test]
async fn a_store_that_fails_shows_nothing_cuts_readers_refuses_journaled_runs_and_recovers() {
    for is_full in [true, false] {
        let (store, jobs) = (GatedStore::new(), Puppets::new(1));
        let engine = impatient_engine(&store, &jobs);
        let mut reader = start(&engine).await;
        let id = reader.run_id();
        jobs.emit(0, "one").await.unwrap();
        assert_eq!(results(&mut reader, 1).await, ["one"]);

        if is_full {
            store.fill(Reserve::There)
        } else {
            store.break_down()
        }
        jobs.emit(0, "two").await.unwrap();
        let cut = finish(&mut reader).await;
        assert_eq!((cut.left, cut.end, cut.last_sequence.get()), (Some(Leave::StoreFailing), None, 1));
        let refused = fetch(&engine, &Request::new(1).lingering(LONG)).await.map(|_| ());
        assert!(matches!(refused, Err(Refusal::StoreFailing { .. })), "{refused:?}");
        assert_eq!(jobs.plans(), 1, "a refused request plans nothing");
        let mut plain = fetch(&engine, &Request::new(1)).await.unwrap();
        jobs.emit(1, "plain").await.unwrap();
        assert_eq!(results(&mut plain, 1).await, ["plain"]);
        let known = engine.run(&Principal::Anonymous, &id.to_string()).await.unwrap();
        assert_eq!(known.record.last.get(), 1, "what is not durable is not known");

        store.recover();
        jobs.emit(0, "three").await.unwrap();
        jobs.end(0).await;
        let mut reader = within("a reader", async {
            loop {
                let mut reader = fetch(&engine, &again(id, 1)).await.unwrap();
                match next(&mut reader).await {
                    Given::Responses(responses) => break (responses, reader),
                    Given::End(finish) => assert_eq!(finish.left, Some(Leave::StoreFailing)),
                }
            }
        })
        .await;
        let (behind, finish) = rest(&mut reader.1).await;
        let all: Vec<_> = reader.0.iter().chain(&behind).map(|response| &*response.result).collect();
        assert_eq!((all, finish.end), (vec!["two", "three"], Some(End::Complete)));
        let mut whole = fetch(&engine, &again(id, 0)).await.unwrap();
        assert_eq!(rest(&mut whole).await.0.len(), 3);
        start(&engine).await;
    }
}

#[tokio::test]
async fn what_waits_for_a_failing_store_counts_against_the_window() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let mut limits = Limits::default();
    limits.window_bytes = 32 * 1024;
    let engine = engine_with(&store, jobs.clone(), SourceOptions::new(), limits.clone());
    let mut reader = start(&engine).await;
    store.break_down();
    for _ in 0..60 {
        jobs.let_emit(0, vec![b'x'; 8 * 1024]);
    }
    store.tried(5).await;
    // What one commit gathered, one window behind it, and the buffers that they are written in.
    let bound = 2 * (limits.window_bytes + 64 * 1024);
    assert!(engine.budget().used() <= bound, "{} bytes are held", engine.budget().used());
    let held = engine.budget().used();
    store.tried(2).await;
    assert_eq!(engine.budget().used(), held, "and it does not grow with the attempts");
    store.recover();
    let (emitted, read) = tokio::join!(jobs.emit(0, "last"), results(&mut reader, 61));
    emitted.unwrap();
    assert!(read[..60].iter().all(|result| result.len() == 8 * 1024) && read[60] == "last");
}

#[tokio::test]
async fn of_several_requests_that_wait_for_one_run_none_is_answered_where_it_cannot_be_made_durable() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = impatient_engine(&store, &jobs);
    engine.open().await.unwrap();
    store.commits.close();
    store.break_down();
    let request = Request::new(1).lingering(LONG).keyed("k");
    let answers = tokio::join!(fetch(&engine, &request), fetch(&engine, &request), fetch(&engine, &request));
    for answer in [answers.0, answers.1, answers.2] {
        assert!(matches!(answer.map(|_| ()), Err(Refusal::StoreFailing { .. })));
    }
    store.commits.open();
    assert_eq!(jobs.started(), 0, "and it never begins");
}

#[tokio::test]
async fn a_run_that_was_refused_and_became_durable_all_the_same_keeps_no_key_and_is_deleted() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = impatient_engine(&store, &jobs);
    engine.open().await.unwrap();
    store.commits.close();
    let request = Request::new(1).lingering(LONG).keyed("k");
    // Both wait for the same commit, which only takes too long.
    let (one, other) = tokio::join!(fetch(&engine, &request), fetch(&engine, &request));
    let refused = |answer: Result<outflow_engine::Reader, Refusal>| {
        assert!(matches!(answer.map(|_| ()), Err(Refusal::StoreFailing { .. })));
    };
    refused(one);
    refused(other);
    store.commits.open();
    until("the run is deleted", || store.count(|record| *record == Record::Deleted) == 1).await;
    let key = Key(b"key  k".to_vec().into());
    assert_eq!(store.bound(&key).unwrap(), None);
    assert_eq!(jobs.started(), 0);
    let answered = fetch(&engine, &Request::new(2).lingering(LONG).keyed("k")).await;
    answered.expect("the key is free");
}

#[tokio::test]
async fn a_request_that_comes_when_another_gave_up_is_refused_too_and_leaves_no_key() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = impatient_engine(&store, &jobs);
    engine.open().await.unwrap();
    store.commits.close();
    let request = Request::new(1).lingering(LONG).keyed("k");
    let mut second = None;
    let first = async {
        let first = fetch(&engine, &request).await.map(|_| ());
        assert!(matches!(first, Err(Refusal::StoreFailing { .. })));
    };
    let joining = async {
        store.commits.waiting(1).await;
        // Half a patience later, so that the first gives up while this one waits.
        tokio::time::sleep(Duration::from_millis(25)).await;
        second = Some(fetch(&engine, &request).await.map(|_| ()));
    };
    tokio::join!(first, joining);
    assert!(matches!(second, Some(Err(Refusal::StoreFailing { .. }))), "{second:?}");
    store.commits.open();
    until("the run is deleted", || store.count(|record| *record == Record::Deleted) == 1).await;
    assert_eq!(store.bound(&Key(b"key  k".to_vec().into())).unwrap(), None);
}

#[tokio::test]
async fn a_run_can_be_stopped_in_a_full_store_and_ends_at_what_was_durable() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(2));
    let engine = impatient_engine(&store, &jobs);
    let mut reader = start(&engine).await;
    let id = reader.run_id();
    jobs.emit(0, "one").await.unwrap();
    assert_eq!(results(&mut reader, 1).await, ["one"]);
    store.fill(Reserve::There);
    jobs.emit(0, "two").await.unwrap();
    jobs.fail(1, JobError::new(Code::NotFound, "nobody will read this")).await;
    store.tried(1).await;
    let stopped = within("StopRun", engine.stop(&Principal::Anonymous, &id.to_string())).await.unwrap();
    let ended = stopped.record.ended.unwrap();
    assert_eq!((ended.end, stopped.record.last.get()), (End::Stopped, 1));
    assert_eq!(ended.jobs_failed, 0, "the error of the job that failed was dropped with its response");
    let mut again = fetch(&engine, &again(id, 0)).await.unwrap();
    let (all, finish) = rest(&mut again).await;
    assert_eq!((all.len(), finish.end, finish.jobs_failed), (1, Some(End::Stopped), 0));
}

#[tokio::test]
async fn stop_run_in_a_full_store_does_not_wait_for_the_next_attempt() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = impatient_engine(&store, &jobs);
    let reader = start(&engine).await;
    store.fill(Reserve::There);
    jobs.emit(0, "one").await.unwrap();
    // By now a second passes between two attempts, and patience is 50 ms.
    store.tried(7).await;
    let stopped = engine.stop(&Principal::Anonymous, &reader.run_id().to_string()).await.unwrap();
    assert_eq!(stopped.record.ended.map(|ended| ended.end), Some(End::Stopped));
}

#[tokio::test]
async fn a_key_that_a_stop_drops_answers_nobody() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let mut limits = Limits::default();
    limits.patience = support::HANGS_AFTER;
    let engine = engine_with(&store, jobs.clone(), SourceOptions::new().shared(LONG).linger(LONG), limits);
    let reader = fetch(&engine, &Request::new(1)).await.unwrap();
    let id = reader.run_id().to_string();
    store.fill(Reserve::There);
    let request = Request::new(1).keyed("k");
    let mut asking = Box::pin(engine.fetch(&request, number()));
    until("the key is on its way", || (&mut asking).now_or_never().is_some() || store.attempts() > 1).await;
    engine.stop(&Principal::Anonymous, &id).await.unwrap();
    let answer = within("the answer", asking).await.map(|reader| reader.run_id());
    let is_bound = store.bound(&Key(b"key  k".to_vec().into())).unwrap().is_some();
    assert_eq!(answer.is_ok(), is_bound, "{answer:?}");
    // And the key is nobody's in this process either.
    store.recover();
    if !is_bound {
        let other = Request::new(2).keyed("k");
        within("the key", async {
            while fetch(&engine, &other).await.is_err_and(|refusal| matches!(refusal, Refusal::StoreFailing { .. })) {
            }
        })
        .await;
    }
}

#[tokio::test]
async fn what_waits_behind_a_large_commit_is_cut_and_can_be_stopped_while_the_store_fails() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let mut limits = impatient();
    (limits.window_bytes, limits.budget_bytes) = (64 * 1024 * 1024, 256 * 1024 * 1024);
    let engine = engine_with(&store, jobs.clone(), SourceOptions::new(), limits);
    let _large = start(&engine).await;
    let mut small = start(&engine).await;
    let id = small.run_id().to_string();
    let _first = start(&engine).await;
    store.commits.close();
    jobs.emit(2, "first").await.unwrap();
    store.commits.waiting(1).await;
    // Of what comes meanwhile the large run fills the next commit, so that the small one's turn comes only after it.
    for _ in 0..36 {
        jobs.emit(0, vec![b'x'; 1024 * 1024 - 64]).await.unwrap();
    }
    jobs.emit(1, "small").await.unwrap();
    store.commits.let_one_go();
    store.commits.waiting(1).await;
    store.fill(Reserve::There);
    store.commits.open();
    assert_eq!(finish(&mut small).await.left, Some(Leave::StoreFailing));
    let stopped = engine.stop(&Principal::Anonymous, &id).await.unwrap();
    assert_eq!(stopped.record.ended.map(|ended| ended.end), Some(End::Stopped));
    store.recover();
    until("the large run goes on", || store.count(|record| matches!(record, Record::Frames(_))) > 36).await;
}
