//! Shared runs: who joins, who does not, and what a late one gets.

use std::time::{Duration, Instant};

use outflow::{Code as JobCode, JobError, Plan, Refusal, Request as Asked, Source, SourceOptions};
use outflow_proto::protobuf::Request;
use tonic::Code;

use super::asking::{Names as _, Runs, Tap, counted, end, keyed, sequences, time};
use crate::support::{Gauge, TestServer, one, planned, wire::Connection};

/// Answers with numbers up to 3, and counts how often. Id 1 fails, id 2 goes on until it is stopped.
struct Counted {
    begun: Gauge,
    configuration: &'static str,
}

impl Source for Counted {
    fn plan(&self, request: &Asked) -> Result<Plan, Refusal> {
        Ok(match request.id() {
            1 => one(async |_| Err(JobError::new(JobCode::Internal, "failed"))),
            2 => one(async |_| std::future::pending().await),
            _ => counted(&self.begun, 3),
        })
    }

    fn configuration(&self) -> String {
        self.configuration.to_owned()
    }
}

fn of(source: &str, id: i32) -> Request {
    Request { source: source.to_owned(), id, ..Request::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_run_under_way_is_joined_and_a_late_reader_replays_it_from_the_start() {
    let tap = Tap::shut();
    let taps = tap.clone();
    let server = TestServer::start(|server| {
        let source = planned(move |_: &Asked| taps.plan(6));
        server.source_with("shared", source, SourceOptions::new().shared(Duration::ZERO))
    });
    let connection = Connection::open(server.address()).await;
    let first = connection.begin(&of("shared", 1)).await;
    let mut readers = vec![first];
    for n in 1..=5 {
        tap.let_out(1);
        readers[0].response().await;
        let late = connection.begin(&Request { linger: time(100), heartbeat: time(60_000), ..of("shared", 1) }).await;
        assert_eq!(late.run(), readers[0].run(), "after {n}");
        readers.push(late);
    }
    tap.let_out(1);
    // Six were let out: a second execution would wait for more.
    let run = readers[0].run();
    for reader in readers {
        let answer = reader.finish().await;
        assert_eq!((sequences(&answer), end(&answer)), ((1..=6).collect(), Some(("complete", "0"))));
    }
    tap.let_out(6);
    assert_ne!(connection.fetch(&of("shared", 1)).await.run(), run, "it has ended, and is reused for no time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn only_a_complete_run_of_the_same_request_is_joined_and_only_within_reuse() {
    let begun = Gauge::default();
    let server = TestServer::start(|server| {
        let source = || Counted { begun: begun.clone(), configuration: "" };
        let minute = SourceOptions::new().shared(Duration::from_secs(60));
        server
            .source_with("long", source(), minute)
            .source_with("other", source(), SourceOptions::new().shared(Duration::from_secs(60)))
            .source_with("everybody", source(), SourceOptions::new().shared_by_everybody(Duration::from_secs(60)))
            .source_with("short", source(), SourceOptions::new().shared(Duration::from_millis(1_500)))
    });
    let connection = Connection::open(server.address()).await;
    let mut runs = Vec::new();
    let parameters = [("a".to_owned(), "1".to_owned())].into();
    let different =
        [of("long", 0), of("long", 3), Request { parameters, ..of("long", 0) }, of("other", 0), of("everybody", 0)];
    for (index, request) in different.iter().enumerate() {
        let run = connection.fetch(request).await.run();
        assert!(!runs.contains(&run), "{request:?}");
        runs.push(run);
        assert_eq!(begun.now(), index + 1);
    }
    for (request, run) in different.iter().zip(&runs) {
        let joined = connection.fetch(request).await;
        assert_eq!((&joined.run(), sequences(&joined), end(&joined)), (run, vec![1, 2, 3], Some(("complete", "0"))));
    }
    assert_eq!(begun.now(), 5, "all of them were joined");

    let failed = [connection.fetch(&of("long", 1)).await, connection.fetch(&of("long", 1)).await];
    assert_ne!(failed[0].run(), failed[1].run(), "one that failed is not joined");
    let mut stopped = Vec::new();
    for _ in 0..2 {
        let live = connection.begin(&of("long", 2)).await;
        Runs::of(&server).await.stop(&live.run()).await.unwrap();
        stopped.push(live.finish().await.run());
    }
    assert_ne!(stopped[0], stopped[1], "one that was stopped is not joined");

    let asked = Instant::now();
    let first = connection.fetch(&of("short", 0)).await.run();
    let second = connection.fetch(&of("short", 0)).await.run();
    assert!(first == second || asked.elapsed() > Duration::from_millis(1_500));
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    assert_ne!(connection.fetch(&of("short", 0)).await.run(), first, "its reuse is over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_key_on_a_shared_source_leads_to_the_run_it_joined_for_good() {
    let server = TestServer::start(|server| {
        let source = Counted { begun: Gauge::default(), configuration: "" };
        server
            .source_with("shared", source, SourceOptions::new().shared(Duration::from_millis(300)))
            .default_to("shared")
    });
    let connection = Connection::open(server.address()).await;
    let joined = loop {
        let first = connection.fetch(&of("", 0)).await.run();
        let joined = connection.fetch(&keyed(0, &format!("of {first}"))).await;
        // On a slow machine its reuse may be over by then.
        if joined.run() == first {
            break joined;
        }
    };
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_ne!(connection.fetch(&of("", 0)).await.run(), joined.run());
    let key = format!("of {}", joined.run());
    assert_eq!(connection.fetch(&keyed(0, &key)).await.run(), joined.run());
    assert_eq!(connection.fetch(&keyed(3, &key)).await.code(), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn under_another_configuration_no_run_is_joined() {
    let folder = tempfile::tempdir().unwrap();
    let begun = Gauge::default();
    let start = |configuration| {
        let (source, data) = (Counted { begun: begun.clone(), configuration }, folder.path().join("data"));
        let options = SourceOptions::new().shared(Duration::from_secs(60));
        TestServer::start(|server| server.source_with("shared", source, options).data(data))
    };
    let mut runs = Vec::new();
    for configuration in ["one", "one", "two", "two", "one"] {
        let server = start(configuration);
        let answer = Connection::open(server.address()).await.fetch(&of("shared", 0)).await;
        assert_eq!((answer.code(), sequences(&answer)), (Code::Ok, vec![1, 2, 3]));
        runs.push(answer.run());
    }
    assert_eq!((&runs[0], &runs[2], &runs[0]), (&runs[1], &runs[3], &runs[4]));
    assert_ne!(runs[0], runs[2]);
    assert_eq!(begun.now(), 2);
}
