//! What may come at the same time: each order has one outcome. The tests force the order: jobs, runs and readers are on one
//! thread, which does nothing else between two steps of a test, and commits are held.

mod support;

use std::time::Duration;

use futures_util::FutureExt as _;
use outflow_engine::{End, Engine, Limits, Principal, Reader, Record, Refusal, Request, RunId, SourceOptions};
use support::*;

fn ends(record: &Record) -> bool {
    matches!(record, Record::Ended(_))
}

/// A run that stops when its last reader leaves.
async fn start_without_linger(engine: &Engine) -> Reader {
    fetch(engine, &Request::new(1).lingering(Duration::ZERO)).await.unwrap()
}

/// What is ready runs.
async fn others_run() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Everything of a run, read again, and how it ended.
async fn whole(engine: &Engine, id: RunId) -> (Vec<String>, Option<End>) {
    let mut reader = fetch(engine, &again(id, 0)).await.unwrap();
    let (responses, finish) = rest(&mut reader).await;
    (responses.into_iter().map(|response| response.result).collect(), finish.end)
}

#[tokio::test]
async fn a_reader_that_comes_before_the_linger_ends_keeps_the_run() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    let first = start_without_linger(&engine).await;
    let id = first.run_id();
    until("the job's start", || jobs.started() == 1).await;
    // The driver is told that the last reader left, and does not look before the next one is there.
    drop(first);
    let mut second = engine.fetch(&again(id, 0), number()).now_or_never().unwrap().unwrap();
    others_run().await;
    jobs.emit(0, "one").await.unwrap();
    assert_eq!(results(&mut second, 1).await, ["one"]);
    assert_eq!(store.count(ends), 0);

    drop(second);
    until("the end", || store.count(ends) == 1).await;
    assert_eq!(whole(&engine, id).await, (vec!["one".to_owned()], Some(End::Stopped)));
}

#[tokio::test]
async fn a_reader_that_comes_when_the_linger_has_ended_is_told_so_once_that_is_durable() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    let mut first = start_without_linger(&engine).await;
    let id = first.run_id();
    jobs.emit(0, "one").await.unwrap();
    assert_eq!(results(&mut first, 1).await, ["one"]);
    store.commits.close();
    drop(first);
    store.commits.waiting(1).await;
    // The run has stopped, and nobody knows yet.
    let mut second = fetch(&engine, &again(id, 1)).await.unwrap();
    is_shown_nothing(&mut second);
    assert!(jobs.emit(0, "two").await.is_err(), "its job is gone");
    let known = engine.run(&Principal::Anonymous, &id.to_string()).await.unwrap();
    assert_eq!((known.record.ended, known.readers), (None, 1));

    store.commits.open();
    assert_eq!(finish(&mut second).await.end, Some(End::Stopped));
    drop(second);
    assert_eq!(whole(&engine, id).await, (vec!["one".to_owned()], Some(End::Stopped)));
    assert_eq!(store.count(ends), 1);
}

#[tokio::test]
async fn a_request_that_shares_a_run_whose_linger_has_ended_starts_another() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let options = SourceOptions::new().shared(LONG).linger(Duration::ZERO);
    let engine = engine_with(&store, jobs.clone(), options, Limits::default());
    let first = fetch(&engine, &Request::new(1)).await.unwrap();
    let id = first.run_id();
    store.commits.close();
    drop(first);
    store.commits.waiting(1).await;
    let request = Request::new(1);
    let (second, ()) = tokio::join!(fetch(&engine, &request), async {
        others_run().await;
        store.commits.open();
    });
    assert_ne!(second.unwrap().run_id(), id, "a run that was stopped answers nobody");
}

/// What may end a run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cause {
    LastJob,
    StopRun,
    Linger,
}

#[tokio::test]
async fn the_first_of_a_stop_a_lingers_end_and_the_last_jobs_end_is_the_end() {
    use Cause::{LastJob, Linger, StopRun};
    for causes in [
        [LastJob, StopRun, Linger],
        [LastJob, Linger, StopRun],
        [StopRun, LastJob, Linger],
        [StopRun, Linger, LastJob],
        [Linger, StopRun, LastJob],
        [Linger, LastJob, StopRun],
    ] {
        let (store, jobs) = (GatedStore::new(), Puppets::new(1));
        let engine = engine(&store, jobs.clone());
        let mut reader = Some(start_without_linger(&engine).await);
        let id = reader.as_ref().unwrap().run_id();
        jobs.emit(0, "one").await.unwrap();
        assert_eq!(results(reader.as_mut().unwrap(), 1).await, ["one"]);
        let name = id.to_string();
        let mut stopping = Box::pin(engine.stop(&Principal::Anonymous, &name));
        store.commits.close();
        for cause in causes {
            match cause {
                LastJob => jobs.end(0).await,
                Linger => drop(reader.take()),
                StopRun => {
                    // It looks the run up on another thread first.
                    let before = store.finds();
                    let asked = (&mut stopping).now_or_never();
                    assert!(asked.is_none(), "StopRun answers before the end is durable: {asked:?}");
                    until("the look-up", || {
                        _ = (&mut stopping).now_or_never();
                        store.finds() > before
                    })
                    .await;
                    for _ in 0..20 {
                        assert!(
                            (&mut stopping).now_or_never().is_none(),
                            "StopRun answers before the end is durable"
                        );
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            others_run().await;
            store.commits.waiting(1).await;
        }
        store.commits.open();
        let stopped = within("StopRun", stopping).await.unwrap();
        let wanted = if causes[0] == LastJob { End::Complete } else { End::Stopped };
        assert_eq!(stopped.record.ended.map(|ended| ended.end), Some(wanted.clone()), "{causes:?}");
        assert_eq!(whole(&engine, id).await, (vec!["one".to_owned()], Some(wanted)), "{causes:?}");
        assert_eq!(store.count(ends), 1, "{causes:?}");
    }
}

#[tokio::test]
async fn a_run_that_ended_before_it_is_stopped_stays_as_it_is() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    let mut reader = start(&engine).await;
    let id = reader.run_id().to_string();
    jobs.end(0).await;
    assert_eq!(finish(&mut reader).await.end, Some(End::Complete));
    let attempts = store.attempts();
    // While somebody reads it, and when it is only in the store.
    for reader in [Some(reader), None] {
        let stopped = engine.stop(&Principal::Anonymous, &id).await.unwrap();
        assert_eq!(stopped.record.ended.map(|ended| ended.end), Some(End::Complete));
        drop(reader);
        until("the run is let go", || engine.runs() == 0).await;
    }
    assert_eq!(store.attempts(), attempts, "nothing is written for it");
}

#[tokio::test]
async fn two_stops_at_once_are_answered_alike() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    let mut reader = start(&engine).await;
    let id = reader.run_id().to_string();
    let stop = || engine.stop(&Principal::Anonymous, &id);
    let (one, other) = tokio::join!(stop(), stop());
    let (one, other) = (one.unwrap().record.ended, other.unwrap().record.ended);
    assert_eq!(one.as_ref().map(|ended| &ended.end), Some(&End::Stopped));
    assert_eq!(one, other);
    assert_eq!(finish(&mut reader).await.end, Some(End::Stopped));
    assert_eq!(store.count(ends), 1);
}

#[tokio::test]
async fn a_run_that_somebody_reads_is_not_deleted_and_one_that_is_being_deleted_is_read_by_nobody() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let mut limits = Limits::default();
    limits.keep_time = Duration::ZERO;
    let engine = engine_with(&store, jobs.clone(), SourceOptions::new(), limits);
    let mut readers = [start_without_linger(&engine).await, start_without_linger(&engine).await];
    for (job, reader) in readers.iter_mut().enumerate() {
        jobs.emit(job, "kept").await.unwrap();
        jobs.end(job).await;
        assert_eq!(results(reader, 1).await, ["kept"]);
    }
    let [read, unread] = readers;
    let ids = [read.run_id(), unread.run_id()];
    until("both ends", || store.count(ends) == 2).await;
    store.commits.close();
    drop(unread);
    store.commits.waiting(1).await;
    assert_eq!(store.count(|record| *record == Record::Deleted), 0);
    let refused = fetch(&engine, &again(ids[1], 0)).await.map(|_| ());
    assert_eq!(refused, Err(Refusal::UnknownRun { id: ids[1].to_string() }));
    let mut second = fetch(&engine, &again(ids[0], 0)).await.unwrap();
    drop(read);
    store.commits.open();
    until("the deletion", || store.count(|record| *record == Record::Deleted) == 1).await;
    let (all, finish) = rest(&mut second).await;
    assert_eq!((all.len(), finish.end), (1, Some(End::Complete)));
    drop(second);
    until("the other's deletion", || store.count(|record| *record == Record::Deleted) == 2).await;
}
