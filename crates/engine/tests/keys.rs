//! Idempotency keys and shared runs: which requests start a run, which join one, and which are refused.

mod support;

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use outflow_engine::{End, Key, Limits, Principal, Record, Refusal, Request, SourceOptions, Store as _};
use support::*;

fn shared(store: &Arc<GatedStore>, jobs: &Arc<Puppets>) -> outflow_engine::Engine {
    engine_with(store, jobs.clone(), SourceOptions::new().shared(LONG).linger(LONG), Limits::default())
}

fn keyed(key: &str) -> Request {
    Request::new(1).lingering(LONG).keyed(key)
}

fn is_bound(store: &Arc<GatedStore>, key: &str) -> bool {
    store.bound(&Key(format!("key  {key}").into_bytes().into())).unwrap().is_some()
}

#[tokio::test]
async fn of_two_requests_with_one_key_at_once_one_starts_and_the_other_reads() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    engine.open().await.unwrap();
    // Both have found nothing in the store when either goes on.
    store.lookups.close();
    let (one, other) = (keyed("k"), keyed("k"));
    let both = async { tokio::join!(fetch(&engine, &one), fetch(&engine, &other)) };
    let (both, ()) = tokio::join!(both, async {
        store.lookups.waiting(2).await;
        store.lookups.open();
    });
    let (mut one, mut other) = (both.0.unwrap(), both.1.unwrap());
    assert_eq!(one.run_id(), other.run_id());
    until("the job's start", || jobs.started() == 1).await;
    assert_eq!(store.count(|record| matches!(record, Record::Started(_))), 1);
    // One of the two plans was dropped.
    for job in 0..jobs.plans() {
        _ = jobs.emit(job, "both read it").await;
    }
    for reader in [&mut one, &mut other] {
        assert_eq!(results(reader, 1).await, ["both read it"]);
    }
    assert_eq!(jobs.started(), 1);
}

#[tokio::test]
async fn of_two_different_requests_with_one_key_at_once_one_starts_and_the_other_is_refused() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    engine.open().await.unwrap();
    store.lookups.close();
    let (one, other) = (keyed("k"), keyed("k").parameter("other", "yes"));
    let both = async { tokio::join!(fetch(&engine, &one), fetch(&engine, &other)) };
    let (both, ()) = tokio::join!(both, async {
        store.lookups.waiting(2).await;
        store.lookups.open();
    });
    let refused = [both.0.map(|_| ()), both.1.map(|_| ())].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert_eq!(refused, [Refusal::KeyReused { field: "parameters" }]);
    assert_eq!(store.count(|record| matches!(record, Record::Started(_))), 1);
}

#[tokio::test]
async fn a_key_names_its_request_by_id_source_and_parameters() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(0));
    let engine = engine(&store, jobs.clone());
    let first = fetch(&engine, &keyed("k").parameter("a", "1")).await.unwrap();
    for (request, differs) in [
        (Request::new(2).lingering(LONG).keyed("k").parameter("a", "1"), "id"),
        (keyed("k"), "parameters"),
        (keyed("k").parameter("a", "2"), "parameters"),
    ] {
        let refused = fetch(&engine, &request).await.map(|_| ());
        assert_eq!(refused, Err(Refusal::KeyReused { field: differs }));
    }
    let same = fetch(&engine, &keyed("k").parameter("a", "1").limited(7).answered_by("test")).await.unwrap();
    assert_eq!(same.run_id(), first.run_id(), "limit and linger are the reader's, and the source is the same");
}

#[tokio::test]
async fn of_two_different_requests_with_one_key_that_both_join_shared_runs_the_second_is_refused() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = shared(&store, &jobs);
    let [one, other] = [Request::new(1), Request::new(2)];
    let _readers = [fetch(&engine, &one).await.unwrap(), fetch(&engine, &other).await.unwrap()];
    // Both have found the key bound to nothing when either goes on.
    store.lookups.close();
    let (one, other) = (one.keyed("k"), other.keyed("k"));
    let both = async { tokio::join!(fetch(&engine, &one), fetch(&engine, &other)) };
    let (both, ()) = tokio::join!(both, async {
        store.lookups.waiting(2).await;
        store.lookups.open();
    });
    let refused = [both.0.map(|_| ()), both.1.map(|_| ())].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert_eq!(refused, [Refusal::KeyReused { field: "id" }]);
    assert_eq!(store.count(|record| matches!(record, Record::KeyBound(_))), 1);
}

#[tokio::test]
async fn a_key_that_another_run_took_and_left_while_a_request_looked_is_that_runs() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = shared(&store, &jobs);
    let _shared_run = fetch(&engine, &Request::new(2)).await.unwrap();
    store.lookups.close();
    let joining = Request::new(2).keyed("k");
    let (joined, ()) = tokio::join!(fetch(&engine, &joining), async {
        store.lookups.waiting(1).await;
        // That the key leads nowhere was seen, and is not told before a run has taken it, has ended and was let go.
        store.lookups.let_others_pass();
        let mut other = fetch(&engine, &Request::new(1).keyed("k")).await.unwrap();
        jobs.end(1).await;
        assert_eq!(finish(&mut other).await.end, Some(End::Complete));
        drop(other);
        until("the other run is let go", || engine.runs() == 1).await;
        store.lookups.open();
    });
    assert_eq!(joined.map(|_| ()), Err(Refusal::KeyReused { field: "id" }));
    assert_eq!(store.count(|record| matches!(record, Record::KeyBound(_))), 0);
}

#[tokio::test]
async fn a_shared_run_is_joined_by_a_key_only_when_that_is_durable() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = shared(&store, &jobs);
    let first = fetch(&engine, &Request::new(1)).await.unwrap();
    store.commits.close();
    let keyed = Request::new(1).keyed("k");
    let mut asking = [Box::pin(engine.fetch(&keyed, number())), Box::pin(engine.fetch(&keyed, number()))];
    until("the key's commit", || {
        asking.iter_mut().any(|asking| asking.now_or_never().is_some()) || store.commits.has_waiting()
    })
    .await;
    for _ in 0..20 {
        for asking in &mut asking {
            assert!(asking.now_or_never().is_none(), "it is answered before its key is durable");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!is_bound(&store, "k"));
    store.commits.open();
    // Together: whichever bound the key, the other waits for it.
    let [one, other] = asking;
    let answers = within("the answers", async { tokio::join!(one, other) }).await;
    for answer in [answers.0, answers.1] {
        assert_eq!(answer.unwrap().run_id(), first.run_id());
    }
    assert!(is_bound(&store, "k"));
}

#[tokio::test]
async fn a_key_that_came_to_a_shared_run_later_is_free_when_that_is_deleted() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let mut limits = Limits::default();
    (limits.keep_time, limits.linger) = (Duration::ZERO, Duration::ZERO);
    let engine = engine_with(&store, jobs.clone(), SourceOptions::new().shared(Duration::ZERO), limits);
    let mut first = fetch(&engine, &Request::new(1)).await.unwrap();
    let joined = fetch(&engine, &Request::new(1).keyed("k")).await.unwrap();
    assert_eq!(joined.run_id(), first.run_id());
    jobs.end(0).await;
    assert_eq!(finish(&mut first).await.end, Some(End::Complete));
    drop((first, joined));
    until("the run is deleted", || store.count(|record| *record == Record::Deleted) == 1).await;
    fetch(&engine, &Request::new(2).keyed("k")).await.expect("the key is free");
}

#[tokio::test]
async fn a_refused_request_binds_nothing() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let mut limits = Limits::default();
    (limits.runs_max, limits.patience) = (1, impatient().patience);
    let engine = engine_with(&store, jobs.clone(), SourceOptions::new(), limits);
    let first = fetch(&engine, &Request::new(1).lingering(Duration::ZERO)).await.unwrap();
    assert!(matches!(fetch(&engine, &keyed("k")).await.map(|_| ()), Err(Refusal::Exhausted { .. })));
    drop(first);
    until("the run's end", || engine.runs() == 0).await;
    store.break_down();
    assert!(matches!(fetch(&engine, &keyed("k")).await.map(|_| ()), Err(Refusal::StoreFailing { .. })));
    store.recover();
    until("the key is free", || engine.runs() == 0).await;
    let other = within("the key", async {
        loop {
            match fetch(&engine, &keyed("k").parameter("other", "yes")).await {
                Ok(reader) => return reader,
                Err(Refusal::StoreFailing { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(refusal) => panic!("{refusal}"),
            }
        }
    })
    .await;
    let known = engine.run(&Principal::Anonymous, &other.run_id().to_string()).await.unwrap();
    assert_eq!((known.record.ended, known.readers), (None, 1));
}

#[tokio::test]
async fn a_new_run_is_planned_once_whatever_is_let_go_meanwhile() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    let mut other = start(&engine).await;
    store.lookups.close();
    let request = keyed("k");
    let (reader, ()) = tokio::join!(fetch(&engine, &request), async {
        store.lookups.waiting(1).await;
        jobs.end(0).await;
        assert_eq!(support::finish(&mut other).await.end, Some(End::Complete));
        drop(other);
        until("the other run is let go", || engine.runs() == 0).await;
        store.lookups.open();
    });
    let _reader = reader.unwrap();
    assert_eq!(jobs.plans(), 2, "one for each run");
}
