//! Fields together: what excludes what, what is the run's own and what the reader's.

use outflow::{Request as Asked, SourceOptions};
use outflow_proto::{outflow::v1::RunState, protobuf::Request};
use prost_types::Duration;
use tonic::Code;

use super::asking::{Names as _, Runs, Tap, again, counting, journaled, sequences, time};
use crate::support::{Gauge, TestServer, planned, wire::Connection};

/// Every request that cannot be, whatever run it is about, with the field that its refusal names.
fn invalid_of_any_run(run: &str) -> Vec<(&'static str, Request)> {
    let base = || again(run, 0);
    let parameters = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let below_zero = Duration { seconds: 0, nanos: -1 };
    vec![
        ("idempotency_key", Request { idempotency_key: "k".into(), ..base() }),
        ("idempotency_key", Request { idempotency_key: "k".into(), linger: time(1), after: 1, ..base() }),
        ("idempotency_key", Request { idempotency_key: "\n".into(), ..base() }),
        ("last", Request { after: 1, last: 1, ..base() }),
        ("last", Request { after: 1, last: 1, limit: 1, id: 7, ..base() }),
        ("id", Request { id: 8, ..base() }),
        ("id", Request { id: -7, after: 1, ..base() }),
        ("source", Request { source: "other".into(), ..base() }),
        ("source", Request { source: "nobody".into(), id: 7, ..base() }),
        ("parameters", Request { parameters: parameters(&[("a", "2")]), ..base() }),
        ("parameters", Request { parameters: parameters(&[("b", "1")]), ..base() }),
        ("parameters", Request { parameters: parameters(&[("a", "1"), ("b", "1")]), ..base() }),
        ("linger", Request { linger: Some(below_zero), ..base() }),
        ("linger", Request { linger: Some(Duration { seconds: i64::MIN, nanos: 0 }), last: 1, ..base() }),
        ("heartbeat", Request { heartbeat: Some(below_zero), ..base() }),
        ("heartbeat", Request { heartbeat: time(99), last: 1, ..base() }),
    ]
}

/// The same without a run: each would otherwise start one.
fn invalid_of_no_run() -> Vec<(&'static str, Request)> {
    let base = || Request { id: 7, ..journaled(7) };
    vec![
        ("after", Request { after: 1, ..base() }),
        ("after", Request { after: u64::MAX, linger: None, ..base() }),
        ("after", Request { after: 1, idempotency_key: "k".into(), ..base() }),
        ("last", Request { last: 1, ..base() }),
        ("last", Request { last: u64::MAX, linger: None, limit: 1, ..base() }),
        ("heartbeat", Request { heartbeat: time(99), ..base() }),
        ("heartbeat", Request { heartbeat: time(0), idempotency_key: "k".into(), ..base() }),
        ("linger", Request { linger: Some(Duration { seconds: -1, nanos: 0 }), ..base() }),
        ("linger", Request { linger: Some(Duration { seconds: 1, nanos: -1 }), ..base() }),
        ("linger", Request { linger: Some(Duration { seconds: 0, nanos: 1_000_000_000 }), ..base() }),
        ("idempotency_key", Request { idempotency_key: "k".repeat(129), ..base() }),
        ("idempotency_key", Request { idempotency_key: "tab\t".into(), ..base() }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_excludes_each_other_is_refused_by_name_and_nothing_is_started() {
    let (plans, tap) = (Gauge::default(), Tap::shut());
    let (planning, taps) = (plans.clone(), tap.clone());
    let server = TestServer::start(|server| {
        let source = planned(move |request: &Asked| {
            // Counted for good.
            std::mem::forget(planning.enter());
            if request.parameters().contains_key("a") { taps.plan(2) } else { counting(2) }
        });
        server.default_source("test", source).source("other", planned(|_| counting(1)))
    });
    let connection = Connection::open(server.address()).await;
    let runs = Runs::of(&server).await;
    let live = Request { parameters: [("a".to_owned(), "1".to_owned())].into(), ..journaled(7) };
    let mut live = connection.begin(&live).await;
    tap.let_out(1);
    assert_eq!(live.response().await.sequence, 1);
    let parameters = [("x".to_owned(), "1".to_owned())].into();
    let ended = connection.fetch(&Request { parameters, ..journaled(7) }).await;
    assert_eq!((ended.code(), runs.count().await), (Code::Ok, 2));
    let planned_before = plans.now();

    let of_runs = [live.run(), ended.run()].map(|run| invalid_of_any_run(&run)).concat();
    for (field, request) in of_runs.into_iter().chain(invalid_of_no_run()) {
        let refused = connection.fetch(&request).await;
        assert!(refused.is_trailers_only(), "{request:?} gave {refused:?}");
        assert_eq!((refused.code(), refused.violated().as_str()), (Code::InvalidArgument, field), "{request:?}");
        assert!(refused.message().contains(field), "{}", refused.message());
        assert!(!refused.headers.contains_key("outflow-run-id"));
    }
    assert_eq!((plans.now(), runs.count().await), (planned_before, 2), "nothing was started");
    let info = runs.get(&live.run()).await.unwrap();
    assert_eq!((info.readers, info.linger, info.state()), (1, time(60_000), RunState::Running));
    tap.let_out(1);
    assert_eq!(sequences(&live.finish().await), [1, 2], "its reader noticed nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn with_a_run_goes_what_it_was_asked_for_and_what_is_the_readers() {
    let server = TestServer::start(|server| {
        let options = SourceOptions::new();
        server.source("other", planned(|_| counting(1))).source_with("test", planned(|_| counting(9)), options)
    });
    let connection = Connection::open(server.address()).await;
    let parameters: std::collections::BTreeMap<_, _> = [("a".to_owned(), "1".to_owned())].into();
    let asked = Request { source: "test".into(), parameters: parameters.clone(), ..journaled(7) };
    let run = connection.fetch(&asked).await.run();
    let base = || again(&run, 0);
    let taken = [
        (1..=9, base()),
        (1..=9, Request { id: 7, ..base() }),
        (1..=9, Request { source: "test".into(), ..base() }),
        (1..=9, Request { parameters: parameters.clone(), ..base() }),
        (1..=9, Request { linger: time(1), heartbeat: time(100), ..base() }),
        (5..=6, Request { after: 4, limit: 2, heartbeat: time(100), linger: time(90_000), ..base() }),
        (5..=6, Request { last: 5, limit: 2, id: 7, source: "test".into(), parameters, ..base() }),
        (1..=9, Request { last: u64::MAX, ..base() }),
        (8..=9, Request { last: 2, limit: u64::MAX, ..base() }),
        (8..=9, Request { after: 7, limit: u64::MAX, ..base() }),
    ];
    for (expected, request) in taken {
        let answer = connection.fetch(&request).await;
        assert_eq!((answer.code(), answer.run()), (Code::Ok, run.clone()), "{request:?}");
        assert_eq!(sequences(&answer), expected.collect::<Vec<_>>(), "{request:?}");
    }
}
