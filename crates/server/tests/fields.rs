//! Each field of a request at its edges, and the deadline beside it: what is taken, what is refused, and how that is
//! said.

mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use outflow::{Code as JobCode, Job, JobError, Limits, Plan, Refusal, Sources};
use outflow_proto::protobuf::{Request, Response};
use prost_types::Duration as ProtoDuration;
use tonic::Code;

use support::{
    Gauge, Planned, TestServer, one, planned, trickling, waiting,
    wire::{Answer, Connection, simulate, timed},
};

fn duration(seconds: i64, nanos: i32) -> ProtoDuration {
    ProtoDuration { seconds, nanos }
}

async fn refused(connection: &Connection, request: &Request) -> Answer {
    let answer = connection.fetch(request).await;
    assert!(answer.is_trailers_only(), "{request:?} gave {answer:?}");
    assert!(!answer.headers.contains_key("outflow-run-id"), "nothing was started");
    answer
}

/// A plan of one job, which emits numbers until there are so many.
fn counting(responses: u64) -> Plan {
    one(async move |emitter| {
        for n in 1..=responses {
            emitter.emit(n.to_string()).await?;
        }
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_id_is_answered() {
    let server = TestServer::start(|server| server);
    let connection = Connection::open(server.address()).await;
    for id in [i32::MIN, -1, 0, 1, i32::MAX] {
        let answer = connection.fetch(&Request { id, ..simulate(&[("jobs", "1")]) }).await;
        assert_eq!(answer.results(), [format!("Request #0 For Id:{id}")]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_limit_below_what_there_is_ends_the_stream_well_and_stops_the_jobs() {
    let alive = Gauge::default();
    let job = alive.clone();
    let server = TestServer::planned(move |_| {
        let alive = job.clone();
        one(async move |emitter| {
            let _alive = alive.enter();
            loop {
                emitter.emit("again").await?;
            }
        })
    });
    let connection = Connection::open(server.address()).await;
    for limit in [1, 2, 1_000, 5_000] {
        let answer = connection.fetch(&Request { limit, ..Request::default() }).await;
        assert_eq!(answer.code(), Code::Ok);
        assert!(answer.responses().iter().map(|response| response.sequence).eq(1..=limit));
        assert_eq!(answer.said("outflow-last-sequence"), Some(limit.to_string().as_str()));
        assert_eq!(answer.said("outflow-end"), None, "the run was stopped, it did not end");
        assert_eq!(answer.said("outflow-jobs-failed"), None);
        alive.becomes(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_limit_is_reached_without_waiting_for_the_jobs() {
    let alive = Gauge::default();
    let job = alive.clone();
    let server = TestServer::planned(move |_| waiting(&job));
    let connection = Connection::open(server.address()).await;
    // The job waits for an hour after the one response that is wanted.
    let answer = connection.fetch(&Request { limit: 1, ..Request::default() }).await;
    assert_eq!((answer.code(), answer.results()), (Code::Ok, vec!["begun".to_owned()]));
    assert_eq!(answer.said("outflow-end"), None);
    alive.becomes(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_limit_beyond_what_there_is_changes_nothing() {
    let server = TestServer::planned(|_| counting(10));
    let connection = Connection::open(server.address()).await;
    for limit in [0, 11, 1 << 53, u64::MAX] {
        let answer = connection.fetch(&Request { limit, ..Request::default() }).await;
        assert_eq!((answer.code(), answer.messages.len()), (Code::Ok, 10), "limit {limit}");
        assert_eq!(answer.said("outflow-end"), Some("complete"), "limit {limit}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_limit_of_exactly_what_there_is_gives_all_of_it() {
    let server = TestServer::planned(|_| counting(10));
    let connection = Connection::open(server.address()).await;
    for _ in 0..20 {
        let answer = connection.fetch(&Request { limit: 10, ..Request::default() }).await;
        assert_eq!((answer.code(), answer.messages.len()), (Code::Ok, 10));
        assert_eq!(answer.said("outflow-last-sequence"), Some("10"));
        // It depends on who is faster whether the run had ended when the last response was taken.
        assert!(matches!(answer.said("outflow-end"), None | Some("complete")), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn in_a_silence_heartbeats_come_that_no_limit_counts() {
    let server = TestServer::start(|server| server);
    let connection = Connection::open(server.address()).await;
    let heartbeat = Some(duration(0, 100_000_000));
    let request = Request { limit: 2, heartbeat, ..simulate(&[("jobs", "3"), ("step", "600ms")]) };

    let asked = Instant::now();
    let mut answering = connection.begin(&request).await;
    let mut heartbeats = 0;
    let mut responses = Vec::new();
    while responses.len() < 2 {
        let response = answering.response().await;
        if response == Response::default() {
            heartbeats += 1;
            assert!(asked.elapsed() >= Duration::from_millis(100) * heartbeats, "no sooner than asked for");
        } else {
            responses.push((response.sequence, response.result));
        }
    }
    assert!(heartbeats >= 2, "{heartbeats} in 600 ms");
    let expected = [(1, "Request #0 For Id:1".to_owned()), (2, "Request #1 For Id:1".to_owned())];
    assert_eq!(responses, expected);

    let answer = answering.finish().await;
    assert_eq!(answer.code(), Code::Ok);
    assert_eq!(answer.said("outflow-last-sequence"), Some("2"));
    assert_eq!(answer.messages.iter().filter(|message| message.is_empty()).count(), heartbeats as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_heartbeat_comes_while_responses_flow_or_none_was_asked_for() {
    let server = TestServer::start(|server| server);
    let connection = Connection::open(server.address()).await;
    let flowing = simulate(&[("jobs", "1"), ("responses", "20"), ("every", "50ms")]);
    let flowing = Request { heartbeat: Some(duration(0, 700_000_000)), ..flowing };
    let silent = simulate(&[("jobs", "2"), ("step", "800ms")]);
    let (flowing, silent) = tokio::join!(connection.fetch(&flowing), connection.fetch(&silent));
    for (answer, responses) in [(flowing, 20), (silent, 2)] {
        assert!(answer.responses().iter().map(|response| response.sequence).eq(1..=responses), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_duration_out_of_its_bounds_is_refused_by_name() {
    let server = TestServer::start(|server| server);
    let connection = Connection::open(server.address()).await;
    let heartbeats =
        [(-1, 0), (0, -1), (0, 0), (0, 99_999_999), (i64::MAX, 0), (i64::MAX, i32::MAX), (i64::MIN, i32::MIN)];
    let lingers = [(-1, 0), (0, -1), (i64::MAX, 999_999_999)];
    let empty = Request::default;
    let heartbeats = heartbeats.map(|(s, n)| ("heartbeat", Request { heartbeat: Some(duration(s, n)), ..empty() }));
    let lingers = lingers.map(|(s, n)| ("linger", Request { linger: Some(duration(s, n)), ..empty() }));
    for (field, request) in heartbeats.into_iter().chain(lingers) {
        let answer = refused(&connection, &request).await;
        assert_eq!((answer.code(), answer.violated().as_str()), (Code::InvalidArgument, field), "{request:?}");
        assert!(answer.message().contains(field), "{}", answer.message());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_parameter_out_of_its_bounds_is_refused_by_name() {
    let server = TestServer::start(|server| server);
    let connection = Connection::open(server.address()).await;
    for (name, value) in [
        ("jobs", "1001"),
        ("jobs", "-1"),
        ("jobs", ""),
        ("responses", "1000000001"),
        ("step", "61m"),
        ("step", "-1s"),
        ("every", "soon"),
        ("size", "1048577"),
        ("batch", "0"),
        ("batch", "1025"),
        ("fail", "5"),
        ("jbos", "1"),
        ("\u{7f}\"\n%é", "1"),
    ] {
        let answer = refused(&connection, &simulate(&[(name, value)])).await;
        assert_eq!(answer.code(), Code::InvalidArgument, "{name}={value}");
        assert_eq!(answer.violated(), format!("parameters.{name}"));
    }
    let many: BTreeMap<_, _> = (0..65).map(|n| (n.to_string(), String::new())).collect();
    let cases = [
        ("parameters", many),
        ("parameters", [(String::new(), String::new())].into()),
        ("parameters", [("n".repeat(129), String::new())].into()),
        ("parameters.size", [("size".to_owned(), "1".repeat(65_537))].into()),
    ];
    for (field, parameters) in cases {
        let answer = refused(&connection, &Request { parameters, ..Request::default() }).await;
        assert_eq!((answer.code(), answer.violated().as_str()), (Code::InvalidArgument, field));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_unknown_source_is_not_found_and_the_known_ones_are_named() {
    let server = TestServer::start(|server| server);
    let connection = Connection::open(server.address()).await;
    let from = |source: &str| Request { source: source.to_owned(), ..simulate(&[("jobs", "1")]) };
    assert_eq!(connection.fetch(&from("simulate")).await.code(), Code::Ok);
    for source in ["nobody", "Simulate", " ", &"x".repeat(100_000)] {
        let answer = refused(&connection, &from(source)).await;
        assert_eq!(answer.code(), Code::NotFound);
        assert!(answer.message().len() <= 1024, "clients limit metadata");
    }
    assert!(refused(&connection, &from("nobody")).await.message().contains("`simulate`"));

    let one = Sources::new().source("one", planned(|_| counting(1)));
    let named = TestServer::start(|server| server.sources(one));
    let connection = Connection::open(named.address()).await;
    let answer = refused(&connection, &Request { id: 7, ..Request::default() }).await;
    assert_eq!(answer.code(), Code::NotFound, "in a set of sources, none is the default by itself");
    assert!(answer.message().contains("id 7") && answer.message().contains("`one`"), "{}", answer.message());
    assert_eq!(connection.fetch(&from("one")).await.results(), ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_source_refuses_in_its_own_words() {
    let server = TestServer::start(|server| {
        let source = Planned(|request: &outflow::Request| match request.id() {
            0 => Err(JobError::new(JobCode::PermissionDenied, "not for you: 100% né").into()),
            _ => Err(Refusal::invalid("id", "is not 0")),
        });
        server.default_source("test", source)
    });
    let connection = Connection::open(server.address()).await;
    let answer = refused(&connection, &Request::default()).await;
    assert_eq!((answer.code(), answer.message()), (Code::PermissionDenied, "not for you: 100% né".to_owned()));
    let answer = refused(&connection, &Request { id: 1, ..Request::default() }).await;
    assert_eq!((answer.code(), answer.violated().as_str()), (Code::InvalidArgument, "id"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_limit_that_is_reached_is_said_with_when_to_try_again() {
    let mut limits = Limits::default();
    limits.runs_max = 2;
    limits.jobs_max = 3;
    let alive = Gauge::default();
    let job = alive.clone();
    let server = TestServer::start(|server| {
        let source = planned(move |request| match request.id() {
            0 => waiting(&job),
            jobs => Plan::new().jobs((0..jobs).map(|_| Job::new(async |_| Ok(())))),
        });
        server.default_source("test", source).limits(limits)
    });
    let connection = Connection::open(server.address()).await;
    let jobs = |id| Request { id, ..Request::default() };
    assert_eq!(connection.fetch(&jobs(3)).await.code(), Code::Ok);
    let answer = refused(&connection, &jobs(4)).await;
    assert_eq!(answer.code(), Code::ResourceExhausted);

    let open = [connection.begin(&jobs(0)).await, connection.begin(&jobs(0)).await];
    let answer = refused(&connection, &jobs(1)).await;
    assert_eq!(answer.code(), Code::ResourceExhausted);
    answer.assert_says_when_to_retry();

    drop(open);
    alive.becomes(0).await;
    let mut code = Code::ResourceExhausted;
    let asked = Instant::now();
    while code == Code::ResourceExhausted && asked.elapsed() < Duration::from_secs(2) {
        code = connection.fetch(&jobs(1)).await.code();
    }
    assert_eq!(code, Code::Ok, "a place is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deadline_bounds_the_whole_stream_and_not_only_its_first_response() {
    let server = TestServer::planned(|_| trickling(Duration::from_millis(20)));
    let connection = Connection::open(server.address()).await;
    for timeout in ["400m", "400000u"] {
        let asked = Instant::now();
        let answer = connection.begin_with(timed(timeout), &Request::default()).await.finish().await;
        let took = asked.elapsed();
        assert_eq!((answer.code(), answer.reset), (Code::DeadlineExceeded, None));
        assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(3), "{took:?}");
        assert!(answer.messages.len() > 1, "it flowed until then");
        assert_eq!(answer.said("outflow-last-sequence"), Some(answer.messages.len().to_string().as_str()));
        assert_eq!((answer.said("outflow-end"), answer.said("outflow-jobs-failed")), (None, None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_silent_stream_ends_at_its_deadline_and_its_job_with_it() {
    let alive = Gauge::default();
    let job = alive.clone();
    let server = TestServer::planned(move |_| waiting(&job));
    let connection = Connection::open(server.address()).await;
    let answer = connection.begin_with(timed("200m"), &Request::default()).await.finish().await;
    assert_eq!((answer.code(), answer.said("outflow-last-sequence")), (Code::DeadlineExceeded, Some("1")));
    alive.becomes(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_that_ends_before_its_deadline_is_as_any_other() {
    let server = TestServer::planned(|_| counting(3));
    let connection = Connection::open(server.address()).await;
    for timeout in ["20S", "99999999H", "99999999S"] {
        let answer = connection.begin_with(timed(timeout), &Request::default()).await.finish().await;
        assert_eq!((answer.code(), answer.said("outflow-end")), (Code::Ok, Some("complete")), "{timeout}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_time_at_all_is_exceeded_at_once() {
    let alive = Gauge::default();
    let job = alive.clone();
    let server = TestServer::planned(move |_| waiting(&job));
    let connection = Connection::open(server.address()).await;
    for timeout in ["0n", "0S", "1n"] {
        let answer = connection.begin_with(timed(timeout), &Request::default()).await.finish().await;
        assert_eq!(answer.code(), Code::DeadlineExceeded, "{timeout}");
    }
    alive.becomes(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_malformed_deadline_is_refused_rather_than_ignored() {
    let server = TestServer::planned(|_| counting(1));
    let connection = Connection::open(server.address()).await;
    for timeout in ["", "1", "S", "1s", "-1S", "+1S", "1.5S", "1 S", "123456789n", "1ms", "infinite"] {
        let answer = connection.begin_with(timed(timeout), &Request::default()).await.finish().await;
        assert!(answer.is_trailers_only(), "{timeout}: {answer:?}");
        assert_eq!(answer.code(), Code::InvalidArgument, "{timeout}");
        assert!(answer.message().starts_with("grpc-timeout"), "{}", answer.message());
    }
}
