//! Journaled runs as a client sees them: what the headers promise, what a resumed stream gives, and what is said where
//! nothing can be resumed; and the run service beside it.

mod support;

use std::{collections::BTreeMap, time::Duration};

use outflow::{Plan, SourceOptions};
use outflow_proto::{
    outflow::v1::{
        Durability, GetRunRequest, ListRunsRequest, RunEnd, RunState, StopRunRequest,
        run_service_client::RunServiceClient,
    },
    protobuf::Request,
};
use tonic::{Code, transport::Channel};

use support::{
    Gauge, TestServer, one, planned, waiting,
    wire::{Answer, Answering, Connection, simulate},
};

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// Simulated work that is done at once, journaled.
fn quick(responses: &str) -> Request {
    Request { linger: Some(seconds(60)), ..simulate(&[("jobs", "1"), ("step", "0s"), ("responses", responses)]) }
}

fn run_id(answer: &Answer) -> String {
    answer.headers["outflow-run-id"].to_str().unwrap().to_owned()
}

fn id_of(answering: &Answering) -> String {
    answering.headers["outflow-run-id"].to_str().unwrap().to_owned()
}

fn again(run_id: &str, after: u64) -> Request {
    Request { run_id: run_id.to_owned(), after, ..Request::default() }
}

fn sequences(answer: &Answer) -> Vec<u64> {
    answer.responses().iter().map(|response| response.sequence).collect()
}

/// The metadata of the `ErrorInfo` in a refusal's details.
fn info(answer: &Answer) -> (String, BTreeMap<String, String>) {
    let details = answer.details();
    let info = details.error_info().expect("there is an ErrorInfo");
    (info.reason.clone(), info.metadata.clone().into_iter().collect())
}

async fn run_service(server: &TestServer) -> RunServiceClient<Channel> {
    let channel = Channel::from_shared(format!("http://{}", server.address())).unwrap();
    RunServiceClient::new(channel.connect().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_goes_on_after_any_response_and_its_end_is_told_every_time() {
    let server = TestServer::start(|server| server);
    let connection = Connection::open(server.address()).await;
    let whole = connection.fetch(&quick("20")).await;
    assert_eq!(whole.headers["outflow-durability"], "memory");
    assert_eq!((whole.code(), sequences(&whole)), (Code::Ok, (1..=20).collect()));
    let run = run_id(&whole);
    for after in 0..=20 {
        let rest = connection.fetch(&again(&run, after)).await;
        assert_eq!(run_id(&rest), run);
        assert_eq!(rest.responses(), whole.responses()[after as usize..], "after {after}");
        assert_eq!((rest.code(), rest.said("outflow-end")), (Code::Ok, Some("complete")));
        assert_eq!(rest.said("outflow-last-sequence"), Some("20"));
    }
    let last = connection.fetch(&Request { last: 3, ..again(&run, 0) }).await;
    assert_eq!(sequences(&last), [18, 19, 20]);
    let page = connection.fetch(&Request { limit: 5, ..again(&run, 5) }).await;
    assert_eq!((sequences(&page), page.said("outflow-end")), ((6..=10).collect(), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_plain_run_promises_nothing_and_cannot_be_read_again() {
    let server = TestServer::start(|server| server);
    let connection = Connection::open(server.address()).await;
    let plain = connection.fetch(&simulate(&[("jobs", "1")])).await;
    assert_eq!(plain.headers["outflow-durability"], "none");
    let refused = connection.fetch(&again(&run_id(&plain), 0)).await;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.is_trailers_only());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_cannot_be_resumed_is_said() {
    let alive = Gauge::default();
    let jobs = alive.clone();
    let server = TestServer::start(|server| {
        server
            .default_source("test", planned(move |_| waiting(&jobs)))
            .source("simulate", outflow::source::Simulate::default())
    });
    let connection = Connection::open(server.address()).await;
    let ended = connection.fetch(&Request { source: "simulate".into(), ..quick("3") }).await;
    let mut live = connection.begin(&Request { linger: Some(seconds(60)), ..Request::default() }).await;
    live.message().await;
    let runs = [(run_id(&ended), 3), (id_of(&live), 1)];
    for (run, tail) in &runs {
        let beyond = connection.fetch(&again(run, tail + 1)).await;
        assert_eq!(beyond.code(), Code::OutOfRange);
        assert_eq!(info(&beyond), ("BEYOND_TAIL".into(), [("tail".to_owned(), tail.to_string())].into()));
    }
    for unknown in ["x", "7", &"0".repeat(36), &format!("{}0", &runs[0].0[..35]), &"z".repeat(64), &"é".repeat(40)] {
        let refused = connection.fetch(&again(unknown, 0)).await;
        assert_eq!((refused.code(), refused.is_trailers_only()), (Code::NotFound, true), "{unknown}");
    }
    let contradictions = [
        ("id", Request { id: 7, ..again(&runs[0].0, 0) }),
        ("source", Request { source: "test".into(), ..again(&runs[0].0, 0) }),
        ("parameters", Request { parameters: [("jobs".to_owned(), "2".to_owned())].into(), ..again(&runs[0].0, 0) }),
        ("idempotency_key", Request { idempotency_key: "k".into(), ..again(&runs[0].0, 0) }),
        ("last", Request { last: 1, ..again(&runs[0].0, 1) }),
    ];
    for (field, request) in contradictions {
        let refused = connection.fetch(&request).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}");
        assert_eq!(refused.violated(), field);
    }
    run_service(&server).await.stop_run(StopRunRequest { run_id: runs[1].0.clone() }).await.unwrap();
    alive.becomes(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_requests_with_one_key_are_one_run_and_another_request_is_refused() {
    let server = TestServer::start(|server| server);
    let connection = Connection::open(server.address()).await;
    let keyed = Request { idempotency_key: "k 1".into(), ..simulate(&[("jobs", "2"), ("step", "50ms")]) };
    let (first, second) = tokio::join!(connection.fetch(&keyed), connection.fetch(&keyed));
    assert_eq!(run_id(&first), run_id(&second));
    assert_eq!(first.responses(), second.responses());
    assert_eq!(run_id(&connection.fetch(&keyed).await), run_id(&first), "also when it has ended");
    let other = connection.fetch(&Request { id: 2, ..keyed }).await;
    assert_eq!(other.code(), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_run_goes_on_without_its_reader_until_it_is_stopped_for_all() {
    let alive = Gauge::default();
    let jobs = alive.clone();
    let server = TestServer::planned(move |_| waiting(&jobs));
    let connection = Connection::open(server.address()).await;
    let mut live = connection.begin(&Request { id: 5, linger: Some(seconds(60)), ..Request::default() }).await;
    live.message().await;
    let run = id_of(&live);
    drop(live);
    let mut runs = run_service(&server).await;
    let get = || GetRunRequest { run_id: run.clone() };
    let mut info = runs.get_run(get()).await.unwrap().into_inner().run.unwrap();
    while info.readers > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        info = runs.get_run(get()).await.unwrap().into_inner().run.unwrap();
    }
    assert_eq!((info.state(), info.end(), info.last_sequence), (RunState::Running, RunEnd::Unspecified, 1));
    assert_eq!((info.id, info.source.as_str(), info.jobs, info.linger), (5, "test", 1, Some(seconds(60))));
    assert_eq!((info.durability(), info.end_time), (Durability::Memory, None));
    assert!(info.start_time.is_some() && alive.now() == 1);

    let other = connection.begin(&again(&run, 1)).await;
    let stopped = runs.stop_run(StopRunRequest { run_id: run.clone() }).await.unwrap().into_inner().run.unwrap();
    assert_eq!((stopped.state(), stopped.end()), (RunState::Ended, RunEnd::Stopped));
    assert!(stopped.expire_time.is_some());
    alive.becomes(0).await;
    let told = other.finish().await;
    assert_eq!((told.code(), told.said("outflow-end")), (Code::Cancelled, Some("stopped")));
    let once_more = runs.stop_run(StopRunRequest { run_id: run.clone() }).await.unwrap().into_inner().run.unwrap();
    assert_eq!((once_more.end_time, once_more.end()), (stopped.end_time, RunEnd::Stopped));
    let unknown = runs.stop_run(StopRunRequest { run_id: "0".repeat(36) }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn runs_are_listed_newest_first_by_pages_and_filters() {
    let alive = Gauge::default();
    let jobs = alive.clone();
    let server = TestServer::start(|server| {
        let empty = planned(|_| Plan::new());
        let endless = planned(move |_| waiting(&jobs));
        server.source_with("empty", empty, SourceOptions::new().linger(Duration::ZERO)).source("endless", endless)
    });
    let connection = Connection::open(server.address()).await;
    let mut ids = Vec::new();
    for id in 0..5 {
        ids.push(run_id(&connection.fetch(&Request { id, source: "empty".into(), ..Request::default() }).await));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let request = Request { source: "endless".into(), linger: Some(seconds(60)), ..Request::default() };
    let live = connection.begin(&request).await;
    ids.push(id_of(&live));
    ids.reverse();

    let mut runs = run_service(&server).await;
    let mut page = ListRunsRequest { page_size: 2, ..ListRunsRequest::default() };
    let mut listed = Vec::new();
    loop {
        let answer = runs.list_runs(page.clone()).await.unwrap().into_inner();
        assert!(answer.runs.len() <= 2);
        listed.extend(answer.runs.into_iter().map(|run| run.run_id));
        if answer.next_page_token.is_empty() {
            break;
        }
        page.page_token = answer.next_page_token;
    }
    assert_eq!(listed, ids);
    let count = async |request: ListRunsRequest| {
        run_service(&server).await.list_runs(request).await.map(|answer| answer.into_inner().runs.len())
    };
    let any = ListRunsRequest::default;
    assert_eq!(count(ListRunsRequest { state: RunState::Running.into(), ..any() }).await.unwrap(), 1);
    assert_eq!(count(ListRunsRequest { state: RunState::Ended.into(), ..any() }).await.unwrap(), 5);
    assert_eq!(count(ListRunsRequest { source: "empty".into(), ..any() }).await.unwrap(), 5);
    assert_eq!(count(ListRunsRequest { source: "other".into(), ..any() }).await.unwrap(), 0);
    for wrong in [ListRunsRequest { state: 9, ..any() }, ListRunsRequest { page_token: "x".into(), ..any() }] {
        assert_eq!(count(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    runs.stop_run(StopRunRequest { run_id: ids[0].clone() }).await.unwrap();
    alive.becomes(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn many_readers_share_one_run_wherever_they_begin() {
    let started = Gauge::default();
    let counted = started.clone();
    let server = TestServer::start(|server| {
        let source = planned(move |_| {
            std::mem::forget(counted.enter());
            one(async |emitter| {
                for n in 0..20_000 {
                    emitter.emit(format!("response {n}")).await?;
                }
                Ok(())
            })
        });
        server.source_with("shared", source, SourceOptions::new().shared(Duration::from_secs(60)))
    });
    let connection = Connection::open(server.address()).await;
    let request = Request { source: "shared".into(), ..Request::default() };
    let first = connection.fetch(&request).await;
    assert_eq!(sequences(&first), (1..=20_000).collect::<Vec<_>>());
    let from_the_middle = again(&run_id(&first), 10_000);
    for _ in 0..3 {
        let (a, b) = tokio::join!(connection.fetch(&request), connection.fetch(&from_the_middle));
        assert_eq!(a.responses(), first.responses());
        assert_eq!(b.responses(), first.responses()[10_000..]);
    }
    assert_eq!(started.now(), 1, "the source was asked once");
}
