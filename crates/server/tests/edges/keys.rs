//! Idempotency keys: one key and request, one run.

use std::time::Duration;

use outflow::{Job, Limits, Plan, Refusal, Request as Asked};
use outflow_proto::protobuf::Request;
use tonic::Code;

use super::asking::{Names as _, Runs, counted, counting, end, keyed, time};
use crate::support::{Gauge, Planned, TestServer, one, planned, waiting, wire::Connection};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_requests_with_one_key_at_once_one_starts_and_the_others_read() {
    let started = Gauge::default();
    let starts = started.clone();
    let server = TestServer::planned(move |_| {
        let starts = starts.clone();
        one(async move |emitter| {
            // Counted for good.
            std::mem::forget(starts.enter());
            tokio::time::sleep(Duration::from_millis(20)).await;
            emitter.emit("once").await?;
            Ok(())
        })
    });
    let connections = futures_util::future::join_all((0..4).map(|_| Connection::open(server.address()))).await;
    for round in 0..5 {
        let request = keyed(1, &format!("key {round}"));
        let answers = (0..24).map(|n| connections[n % 4].fetch(&request));
        let answers = futures_util::future::join_all(answers).await;
        let first = &answers[0];
        assert!(answers.iter().all(|answer| answer.run() == first.run() && answer.messages == first.messages));
        assert_eq!((end(first), started.now()), (Some(("complete", "0")), round + 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_key_is_compared_over_id_source_and_parameters_and_nothing_else() {
    let started = Gauge::default();
    let server = TestServer::start(|server| {
        let source = |started: &Gauge| {
            let started = started.clone();
            planned(move |_: &Asked| counted(&started, 3))
        };
        server.default_source("test", source(&started)).source("other", source(&started))
    });
    let connection = Connection::open(server.address()).await;
    let parameters = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    for key in [" ", "~", &"k".repeat(128)] {
        let asked = Request { parameters: parameters(&[("a", "1"), ("b", "2")]), ..keyed(1, key) };
        let before = started.now();
        let first = connection.fetch(&asked).await;
        for other in [
            Request { id: 2, ..asked.clone() },
            Request { source: "other".into(), ..asked.clone() },
            Request { parameters: parameters(&[("a", "1")]), ..asked.clone() },
            Request { parameters: parameters(&[("a", "2"), ("b", "2")]), ..asked.clone() },
            Request { parameters: parameters(&[("a", "1"), ("b", "2"), ("c", "")]), ..asked.clone() },
        ] {
            let refused = connection.fetch(&other).await;
            assert_eq!((refused.code(), refused.is_trailers_only()), (Code::AlreadyExists, true), "{other:?}");
            assert!(refused.message().contains("idempotency_key"), "{}", refused.message());
        }
        for same in [
            Request { limit: 2, ..asked.clone() },
            Request { linger: time(60_000), heartbeat: time(100), ..asked.clone() },
            // Named or not, it is the same source.
            Request { source: "test".into(), ..asked.clone() },
        ] {
            let answer = connection.fetch(&same).await;
            assert_eq!((answer.code(), answer.run()), (Code::Ok, first.run()), "{same:?}");
        }
        assert_eq!(started.now(), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_refused_request_binds_no_key() {
    let mut limits = Limits::default();
    (limits.runs_max, limits.jobs_max) = (1, 2);
    let alive = Gauge::default();
    let jobs = alive.clone();
    let server = TestServer::start(|server| {
        let source = Planned(move |request: &Asked| match request.id() {
            0 => Ok(waiting(&jobs)),
            1 => Ok(counting(1)),
            2 => Err(Refusal::invalid("id", "is 2")),
            jobs => Ok(Plan::new().jobs((0..jobs).map(|_| Job::new(async |_| Ok(()))))),
        });
        server.default_source("test", source).limits(limits)
    });
    let connection = Connection::open(server.address()).await;
    let runs = Runs::of(&server).await;
    for (id, code) in [(2, Code::InvalidArgument), (3, Code::ResourceExhausted)] {
        assert_eq!(connection.fetch(&keyed(id, "k")).await.code(), code);
    }
    let unknown = Request { source: "nobody".into(), ..keyed(1, "k") };
    assert_eq!(connection.fetch(&unknown).await.code(), Code::NotFound);
    let plain = connection.begin(&Request::default()).await;
    alive.becomes(1).await;
    let refused = connection.fetch(&keyed(1, "k")).await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "one run is all there may be");
    refused.assert_says_when_to_retry();
    assert_eq!(runs.count().await, 0);
    drop(plain);
    alive.becomes(0).await;
    // The place is free as soon as the run is gone, which is a little later.
    let mut taken = connection.fetch(&keyed(1, "k")).await;
    for _ in 0..200 {
        if taken.code() != Code::ResourceExhausted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        taken = connection.fetch(&keyed(1, "k")).await;
    }
    assert_eq!(end(&taken), Some(("complete", "0")));
    assert_eq!(connection.fetch(&keyed(1, "k")).await.run(), taken.run());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_key_lives_as_long_as_its_runs_journal_and_a_restart_does_not_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let start = |keep: Duration| {
        let mut limits = Limits::default();
        limits.keep_time = keep;
        let (source, data) = (planned(|_: &Asked| counting(2)), folder.path().join("data"));
        TestServer::start(|server| server.default_source("test", source).limits(limits).data(data))
    };
    let request = Request { linger: time(0), ..keyed(1, "k") };
    let server = start(Duration::from_secs(60));
    let first = Connection::open(server.address()).await.fetch(&request).await;
    drop(server);

    let server = start(Duration::from_secs(60));
    let connection = Connection::open(server.address()).await;
    let again = connection.fetch(&request).await;
    assert_eq!((again.run(), again.messages), (first.run(), first.messages.clone()));
    assert_eq!(connection.fetch(&Request { id: 2, ..request.clone() }).await.code(), Code::AlreadyExists);
    drop((server, connection));

    let server = start(Duration::ZERO);
    Runs::of(&server).await.gone(&first.run()).await;
    let other = Connection::open(server.address()).await.fetch(&Request { id: 2, ..request }).await;
    assert_eq!((other.code(), end(&other)), (Code::Ok, Some(("complete", "0"))));
    assert_ne!(other.run(), first.run());
}
