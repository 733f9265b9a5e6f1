//! Linger: how long a run goes on without a reader, who says so, and when it does not run.

use std::time::{Duration, Instant};

use outflow::{Limits, Plan, Request as Asked, SourceOptions};
use outflow_proto::{
    outflow::v1::{RunEnd, RunState},
    protobuf::Request,
};
use tempfile::TempDir;
use tonic::Code;

use super::asking::{Names as _, Runs, Tap, again, end, journaled, keyed, sequences, time};
use crate::support::{
    Gauge, PATIENCE, TestServer, one, planned, waiting,
    wire::{Connection, timed},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_linger_is_the_larger_of_the_requests_and_the_sources_and_thirty_seconds_where_neither_says() {
    let server = TestServer::start(|server| {
        let source = || planned(|_: &Asked| Plan::new());
        let minute = Duration::from_secs(60);
        server
            .source("plain", source())
            .source_with("lingers", source(), SourceOptions::new().linger(minute))
            .source_with("shared", source(), SourceOptions::new().shared(Duration::ZERO))
            .source_with("both", source(), SourceOptions::new().shared(Duration::ZERO).linger(minute))
    });
    let connection = Connection::open(server.address()).await;
    let runs = Runs::of(&server).await;
    let cases = [
        ("plain", None, "", None),
        ("plain", time(1_500), "", time(1_500)),
        ("plain", time(0), "", time(0)),
        ("plain", None, "k", time(30_000)),
        ("plain", time(90_000), "l", time(90_000)),
        ("lingers", None, "", time(60_000)),
        ("lingers", time(59_999), "", time(60_000)),
        ("lingers", time(60_001), "", time(60_001)),
        ("lingers", None, "m", time(60_000)),
        ("shared", None, "", time(30_000)),
        ("shared", time(1_000), "", time(1_000)),
        ("both", None, "", time(60_000)),
        ("both", time(1_000), "n", time(60_000)),
    ];
    for (source, linger, key, expected) in cases {
        let answer = connection.fetch(&Request { source: source.into(), linger, ..keyed(1, key) }).await;
        assert_eq!(answer.code(), Code::Ok);
        let durability = if expected.is_some() { "memory" } else { "none" };
        assert_eq!(answer.headers["outflow-durability"], durability, "{source} {linger:?} {key}");
        match runs.get(&answer.run()).await {
            Ok(run) => assert_eq!(run.linger, expected, "{source} {linger:?} {key}"),
            Err(status) => assert_eq!((status.code(), expected), (Code::FailedPrecondition, None)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_that_comes_may_raise_a_linger_and_not_lower_it() {
    let alive = Gauge::default();
    let jobs = alive.clone();
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(|server| {
        let source = planned(move |_| waiting(&jobs));
        let shared = SourceOptions::new().shared(Duration::ZERO);
        // Where it takes a while until something is durable.
        server.source_with("test", source, shared).default_to("test").data(folder.path().join("data"))
    });
    let connection = Connection::open(server.address()).await;
    let runs = Runs::of(&server).await;
    let request = keyed(1, "k");
    let first = connection.begin(&Request { linger: time(10_000), ..request.clone() }).await;
    let run = first.run();
    let readers = [
        (Request { linger: time(9_000), ..again(&run, 0) }, 10_000),
        (again(&run, 0), 10_000),
        (Request { linger: time(11_000), ..again(&run, 0) }, 11_000),
        // Also who comes by its key, or because the source shares.
        (Request { linger: time(12_000), ..request }, 12_000),
        (Request { linger: time(13_000), id: 1, ..Request::default() }, 13_000),
        (Request { linger: time(0), ..again(&run, 0) }, 13_000),
    ];
    for (request, millis) in readers {
        let reader = connection.begin(&request).await;
        assert_eq!(reader.run(), run);
        assert_eq!(runs.get(&run).await.unwrap().linger, time(millis), "it is durable before the reader is answered");
    }
    runs.stop(&run).await.unwrap();
    alive.becomes(0).await;
    let late = connection.fetch(&Request { linger: time(60_000), ..again(&run, 0) }).await;
    assert_eq!(late.code(), Code::Cancelled);
    assert_eq!(runs.get(&run).await.unwrap().linger, time(13_000), "of an ended run nothing changes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_plain_run_stops_at_once_and_a_journaled_one_a_linger_after_its_last_reader_left() {
    let alive = Gauge::default();
    let jobs = alive.clone();
    let server = TestServer::planned(move |_| waiting(&jobs));
    let connection = Connection::open(server.address()).await;
    let runs = Runs::of(&server).await;
    let mut plain = connection.begin(&Request::default()).await;
    plain.response().await;
    drop(plain);
    alive.becomes(0).await;

    let first = connection.begin(&Request { linger: time(300), ..Request::default() }).await;
    let run = first.run();
    let second = connection.begin(&again(&run, 0)).await;
    drop(first);
    runs.until(&run, |run| run.readers == 1).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(runs.get(&run).await.unwrap().state(), RunState::Running, "it has a reader");
    let left = Instant::now();
    drop(second);
    let ended = runs.ended(&run).await;
    assert!(left.elapsed() >= Duration::from_millis(290), "{:?}", left.elapsed());
    assert_eq!((ended.end(), ended.last_sequence), (RunEnd::Stopped, 1));
    alive.becomes(0).await;
    let told = connection.fetch(&again(&run, 0)).await;
    assert_eq!((told.code(), end(&told)), (Code::Cancelled, Some(("stopped", "0"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deadline_is_its_readers_and_the_run_follows_its_linger() {
    let tap = Tap::shut();
    let taps = tap.clone();
    let server = TestServer::planned(move |_| taps.plan(2));
    let connection = Connection::open(server.address()).await;
    let mut live = connection.begin_with(timed("300m"), &journaled(1)).await;
    tap.let_out(1);
    assert_eq!(live.response().await.sequence, 1);
    let run = live.run();
    let behind = connection.begin_with(timed("200m"), &again(&run, 1)).await;
    for reader in [live, behind] {
        let cut = reader.finish().await;
        assert_eq!((cut.code(), end(&cut)), (Code::DeadlineExceeded, None));
        assert_eq!(cut.said("outflow-last-sequence"), Some("1"), "what it was given, or its `after`");
    }
    let info = Runs::of(&server).await.until(&run, |run| run.readers == 0).await;
    assert_eq!(info.state(), RunState::Running);
    tap.let_out(1);
    assert_eq!(sequences(&connection.fetch(&again(&run, 1)).await), [2]);
}

/// A server that keeps its runs in `folder` and answers with a plan that waits until `tap` is opened, twice.
fn in_folder(folder: &TempDir, tap: &Tap, limits: Limits, repeatable: bool) -> TestServer {
    let (tap, data) = (tap.clone(), folder.path().join("data"));
    let plan = move |_: &Asked| if repeatable { tap.plan(2).repeatable() } else { tap.plan(2) };
    TestServer::start(|server| server.default_source("test", planned(plan)).limits(limits).data(data))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_linger_does_not_run_while_the_server_drains() {
    let (folder, tap) = (tempfile::tempdir().unwrap(), Tap::shut());
    let mut server = in_folder(&folder, &tap, Limits::default(), false);
    let connection = Connection::open(server.address()).await;
    let mut live = connection.begin(&Request { linger: time(200), ..Request::default() }).await;
    tap.let_out(1);
    live.response().await;
    let run = live.run();
    server.shut_down();
    let cut = live.finish().await;
    assert_eq!((cut.code(), end(&cut)), (Code::Unavailable, None));
    // Without a reader for much longer than its linger. Then its job, which no restart may do again, ends in time.
    tokio::time::sleep(Duration::from_millis(800)).await;
    tap.let_out(1);
    server.ended_within(PATIENCE);

    let server = in_folder(&folder, &tap, Limits::default(), false);
    let whole = Connection::open(server.address()).await.fetch(&again(&run, 0)).await;
    assert_eq!((sequences(&whole), end(&whole)), (vec![1, 2], Some(("complete", "0"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_linger_runs_afresh_after_a_restart_and_no_shorter_than_that_allows() {
    let (folder, tap) = (tempfile::tempdir().unwrap(), Tap::shut());
    let mut limits = Limits::default();
    assert_eq!(limits.linger_after_restart, Duration::from_secs(60));
    let start = |limits: &Limits| in_folder(&folder, &tap, limits.clone(), true);
    let server = start(&limits);
    let connection = Connection::open(server.address()).await;
    let run = connection.begin(&Request { linger: time(50), ..Request::default() }).await;
    let (run, _reading) = (run.run(), run);
    drop(server);

    // Down for longer than its linger, and longer again without a reader.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let server = start(&limits);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(Runs::of(&server).await.get(&run).await.unwrap().state(), RunState::Running);
    drop(server);

    limits.linger_after_restart = Duration::from_millis(400);
    let began = Instant::now();
    let server = start(&limits);
    let ended = Runs::of(&server).await.ended(&run).await;
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    assert_eq!(ended.end(), RunEnd::Stopped);
    tap.let_out(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn leaving_and_a_reset_and_a_lost_connection_are_all_the_same_to_a_run() {
    let (tap, started) = (Tap::shut(), Gauge::default());
    let (taps, starts) = (tap.clone(), started.clone());
    let server = TestServer::planned(move |_| {
        let (tap, starts) = (taps.clone(), starts.clone());
        one(async move |emitter| {
            std::mem::forget(starts.enter());
            for n in 1..=3 {
                tap.next().await;
                emitter.emit(n.to_string()).await?;
            }
            Ok(())
        })
    });
    let runs = Runs::of(&server).await;
    let connection = Connection::open(server.address()).await;
    let first = connection.begin(&journaled(1)).await;
    let run = first.run();
    // Dropping a stream resets it; dropping a connection loses it.
    drop(first);
    runs.until(&run, |run| run.readers == 0).await;
    tap.let_out(1);
    let other = Connection::open(server.address()).await;
    let mut second = other.begin(&again(&run, 0)).await;
    assert_eq!(second.response().await.sequence, 1);
    drop(other);
    drop(second);
    runs.until(&run, |run| run.readers == 0).await;
    tap.let_out(1);
    let enough = connection.fetch(&Request { limit: 1, ..again(&run, 1) }).await;
    assert_eq!((enough.code(), end(&enough)), (Code::Ok, None));
    assert_eq!(runs.get(&run).await.unwrap().state(), RunState::Running);
    tap.let_out(1);
    let rest = connection.fetch(&again(&run, 2)).await;
    assert_eq!((sequences(&rest), end(&rest)), (vec![3], Some(("complete", "0"))));
    assert_eq!(started.now(), 1, "its job never noticed");
}
