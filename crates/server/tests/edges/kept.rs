//! What is kept, how long, and what is not: expiry, pressure, endless runs, and readers that take nothing.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use outflow::{Limits, MemoryStore, Request as Asked, SourceOptions, TransportLimits};
use outflow_proto::{
    outflow::v1::{ListRunsRequest, Run, RunEnd, RunState},
    protobuf::Request,
};
use tonic::Code;

use super::asking::{Names as _, Runs, Tap, again, counting, end, info, journaled, sequences, time};
use crate::support::{
    TestServer,
    frames::{DATA, Peer, fetch},
    one, planned,
    wire::Connection,
};

/// Longer than it takes to look for expired runs twice.
const TWO_SWEEPS: Duration = Duration::from_millis(2_500);

fn seconds(time: Option<&prost_types::Timestamp>) -> f64 {
    let time = time.expect("it is told");
    time.seconds as f64 + f64::from(time.nanos) / 1e9
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// A plan of one job, which emits so many thousands of bytes, a thousand at a time.
fn thousands(count: i32) -> outflow::Plan {
    one(async move |emitter| {
        for _ in 0..count {
            emitter.emit("x".repeat(1_000)).await?;
        }
        Ok(())
    })
}

/// A reader of `run` that takes no more than the first window.
async fn stalled(server: &TestServer, run: &str) -> Peer {
    let mut peer = Peer::open(server.address()).await;
    peer.send(&fetch(1, &again(run, 0), &[])).await;
    peer.until(|frame| frame.is(DATA, 1)).await;
    peer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_run_tells_when_it_expires_and_is_then_as_unknown_as_any_other() {
    let mut limits = Limits::default();
    limits.keep_time = Duration::from_secs(2);
    let tap = Tap::shut();
    let taps = tap.clone();
    let server = TestServer::start(|server| {
        let source = planned(move |request: &Asked| if request.id() == 0 { taps.plan(1) } else { counting(2) });
        let reused = SourceOptions::new().shared(Duration::from_secs(90)).linger(Duration::ZERO);
        server.default_source("test", source).source_with("reused", planned(|_| counting(1)), reused).limits(limits)
    });
    let connection = Connection::open(server.address()).await;
    let runs = Runs::of(&server).await;
    let live = connection.begin(&journaled(0)).await;
    assert_eq!(runs.get(&live.run()).await.unwrap().expire_time, None, "that is not known before it has ended");

    let asked = now();
    let soon = connection.fetch(&Request { linger: time(0), ..journaled(1) }).await;
    let lingers = connection.fetch(&journaled(1)).await;
    let reused = connection.fetch(&Request { source: "reused".into(), ..Request::default() }).await;
    for (answer, kept) in [(&soon, 2.0), (&lingers, 60.0), (&reused, 90.0)] {
        let expires = seconds(runs.get(&answer.run()).await.unwrap().expire_time.as_ref());
        // Told in whole seconds, as the earliest.
        assert!((asked + kept - 1.0..=now() + kept).contains(&expires), "{} is not {kept}", expires - asked);
    }
    runs.gone(&soon.run()).await;
    assert!(now() - asked >= 2.0, "not before its time");
    for after in [0, 2, 9] {
        let refused = connection.fetch(&again(&soon.run(), after)).await;
        assert_eq!((refused.code(), refused.is_trailers_only()), (Code::NotFound, true));
    }
    assert_eq!(runs.stop(&soon.run()).await.unwrap_err().code(), Code::NotFound);
    let (listed, _) = runs.list(ListRunsRequest::default()).await.unwrap();
    assert_eq!(listed.len(), 3, "those in their linger, within `reuse` and under way");
    assert_eq!(sequences(&connection.fetch(&again(&lingers.run(), 0)).await), [1, 2]);
    tap.let_out(1);
    live.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_run_with_a_reader_is_not_deleted_and_one_that_takes_nothing_is_cut_and_pins_nothing() {
    let start = |stall: u64| {
        let (mut limits, mut transport) = (Limits::default(), TransportLimits::default());
        limits.keep_time = Duration::ZERO;
        transport.stall_time = Duration::from_secs(stall);
        let source = planned(|request: &Asked| thousands(request.id()));
        TestServer::start(|server| server.default_source("test", source).limits(limits).transport_limits(transport))
    };
    let request = Request { linger: time(0), ..journaled(1_000) };
    let patient = start(60);
    let run = Connection::open(patient.address()).await.fetch(&request).await.run();
    let reader = stalled(&patient, &run).await;
    let runs = Runs::of(&patient).await;
    tokio::time::sleep(TWO_SWEEPS).await;
    let info = runs.get(&run).await.unwrap();
    assert_eq!((info.state(), info.readers), (RunState::Ended, 1), "its time is over, but it has a reader");
    let other = Connection::open(patient.address()).await.fetch(&again(&run, 0)).await;
    assert_eq!((other.messages.len(), end(&other)), (1_000, Some(("complete", "0"))), "so another one can come");
    drop(reader);
    runs.gone(&run).await;

    let strict = start(1);
    let run = Connection::open(strict.address()).await.fetch(&request).await.run();
    let _reader = stalled(&strict, &run).await;
    Runs::of(&strict).await.gone(&run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn under_pressure_the_oldest_go_first_and_none_in_its_linger_or_with_a_reader() {
    let mut transport = TransportLimits::default();
    transport.stall_time = Duration::from_secs(60);
    let server = TestServer::start(|server| {
        let source = planned(|request: &Asked| thousands(request.id()));
        let store = || Ok(Arc::new(MemoryStore::new(1_000_000)) as Arc<dyn outflow::Store>);
        server.default_source("test", source).store(store).transport_limits(transport)
    });
    let connection = Connection::open(server.address()).await;
    let runs = Runs::of(&server).await;
    let fill = async |linger: u64| {
        let run = connection.fetch(&Request { linger: time(linger), ..journaled(100) }).await;
        assert_eq!(end(&run), Some(("complete", "0")));
        run.run()
    };
    let lingers = fill(60_000).await;
    let read = fill(0).await;
    let _reader = stalled(&server, &read).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(fill(0).await);
    }
    tokio::time::sleep(TWO_SWEEPS).await;
    assert_eq!(runs.count().await, 7, "there is no pressure yet, and their time is not over");
    // Nine tenths of the store is where it begins, eight where it ends.
    others.extend([fill(0).await, fill(0).await]);
    runs.gone(&others[0]).await;
    tokio::time::sleep(TWO_SWEEPS).await;
    let mut left = Vec::new();
    for run in &others {
        left.push(runs.get(run).await.is_ok());
    }
    assert!(left.is_sorted() && left[2], "the oldest go first, and no more than need be: {left:?}");
    for run in [&lingers, &read] {
        assert_eq!(runs.get(run).await.unwrap().last_sequence, 100);
    }
}

/// A server whose source is endless: of about 100 bytes a response, ten thousand are kept.
fn endless(tap: &Tap) -> TestServer {
    let mut limits = Limits::default();
    (limits.run_bytes_max, limits.live_bytes) = (50_000, 64 * 1024);
    let tap = tap.clone();
    let source = planned(move |_: &Asked| {
        let tap = tap.clone();
        one(async move |emitter| {
            let text = "x".repeat(90);
            loop {
                tap.next().await;
                emitter.emit(&text).await?;
            }
        })
    });
    let options = SourceOptions::new().keep_bytes(10_000);
    TestServer::start(|server| server.source_with("endless", source, options).default_to("endless").limits(limits))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_an_endless_run_the_head_is_dropped_and_a_place_before_it_names_the_first_that_is_kept() {
    let tap = Tap::shut();
    let server = endless(&tap);
    let connection = Connection::open(server.address()).await;
    let runs = Runs::of(&server).await;
    let mut live = connection.begin(&journaled(1)).await;
    let run = live.run();
    // In pieces, as they would come: what is dropped is dropped between two commits.
    for _ in 0..50 {
        tap.let_out(20);
        for _ in 0..20 {
            live.response().await;
        }
    }
    let info_of: Run = runs.until(&run, |run| run.first_sequence > 1).await;
    let first = info_of.first_sequence;
    assert_eq!(
        (info_of.last_sequence, info_of.state()),
        (1_000, RunState::Running),
        "beyond the limit on bytes of a run"
    );
    let kept = (1_000 - first + 1) * 95;
    assert!((9_000..30_000).contains(&kept), "{kept} bytes from {first} on");
    for after in [1, first / 2, first - 2] {
        let refused = connection.fetch(&again(&run, after)).await;
        assert_eq!((refused.code(), refused.is_trailers_only()), (Code::OutOfRange, true), "after {after}");
        assert_eq!(info(&refused), ("BEFORE_HEAD".into(), [("first".to_owned(), first.to_string())].into()));
    }
    let limited = |after, last| Request { after, last, limit: 5, ..again(&run, after) };
    for (request, begins) in [
        (limited(first - 1, 0), first),
        (limited(first, 0), first + 1),
        (limited(0, 0), first),
        (limited(0, 10), 991),
        (limited(0, 1_000_000), first),
    ] {
        let answer = connection.fetch(&request).await;
        assert_eq!((answer.code(), end(&answer)), (Code::Ok, None));
        assert_eq!(sequences(&answer), (begins..begins + 5).collect::<Vec<_>>(), "{request:?}");
    }
    assert_eq!(runs.stop(&run).await.unwrap().end(), RunEnd::Stopped);
    let rest = connection.fetch(&again(&run, first - 1)).await;
    assert_eq!((sequences(&rest).first(), end(&rest)), (Some(&first), Some(("stopped", "0"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_that_an_endless_run_has_overtaken_is_told_what_is_the_first_now() {
    let tap = Tap::shut();
    let server = endless(&tap);
    // Windows that a few hundred responses fill.
    let connection = Connection::with(server.address(), &h2::client::Builder::new()).await;
    let runs = Runs::of(&server).await;
    let mut slow = connection.begin(&journaled(1)).await;
    let run = slow.run();
    // It has begun, or it would begin behind what is dropped.
    tap.let_out(1);
    assert_eq!(slow.response().await.sequence, 1);
    for last in (1_000..=10_000).step_by(1_000) {
        tap.let_out(if last == 1_000 { 999 } else { 1_000 });
        runs.until(&run, |run| run.last_sequence == last).await;
    }
    let cut = slow.finish().await;
    assert_eq!((cut.code(), end(&cut)), (Code::OutOfRange, None));
    // Whoever has nothing yet begins with the first that is kept, which is another where the first thousand came at once.
    let given = sequences(&cut);
    let (begun, last) = (given[0], given[given.len() - 1]);
    assert!(given.into_iter().eq(begun..=last), "without a gap up to there");
    // What was the first when it came to that place; by now it is another.
    let (reason, place) = info(&cut);
    let first: u64 = place["first"].parse().unwrap();
    assert_eq!((reason.as_str(), place.len()), ("BEFORE_HEAD", 1));
    let now = runs.get(&run).await.unwrap().first_sequence;
    assert!(last + 1 < first && first <= now, "{last} given, {first} named, {now} kept now");
    assert_eq!(cut.said("outflow-last-sequence"), Some(last.to_string().as_str()));
    runs.stop(&run).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_that_does_not_read_holds_up_no_journaled_run_and_gets_all_of_it_later() {
    let mut limits = Limits::default();
    limits.live_bytes = 64 * 1024;
    let source = planned(|request: &Asked| thousands(request.id()));
    let server = TestServer::start(|server| server.default_source("test", source).limits(limits));
    let connection = Connection::with(server.address(), &h2::client::Builder::new()).await;
    let slow = connection.begin(&journaled(5_000)).await;
    let ended = Runs::of(&server).await.ended(&slow.run()).await;
    assert_eq!((ended.end(), ended.last_sequence, ended.readers), (RunEnd::Complete, 5_000, 1));
    let whole = slow.finish().await;
    assert_eq!((sequences(&whole), end(&whole)), ((1..=5_000).collect(), Some(("complete", "0"))));
}
