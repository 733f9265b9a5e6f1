//! What a client of the tutorial's contract reads from this server is what it reads from the plain tonic server that
//! everybody writes; and what this server adds stands beside it, exactly where it is due.

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName};
use outflow::{Code, Job, JobError, JobErrors, Plan};
use outflow_proto::protobuf::{
    self, Request, Response,
    stream_service_client::StreamServiceClient,
    stream_service_server::{StreamService, StreamServiceServer},
};
use prost::Message as _;
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc},
    task::JoinSet,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::task::TaskTracker;
use tonic::{Status, transport::Channel};

use support::{
    Gauge, PATIENCE, TestServer, one, waiting,
    wire::{Connection, simulate},
    within,
};

/// The tutorial's server in Rust: a channel, a task for each job, and a stream of what they send.
#[derive(Default)]
struct Oracle(TaskTracker);

/// Numbers responses in the order in which they are sent.
struct Numbered {
    sequence: u64,
    sender: mpsc::Sender<Result<Response, Status>>,
}

impl Numbered {
    async fn send(&mut self, response: Response) {
        self.sequence += 1;
        _ = self.sender.send(Ok(Response { sequence: self.sequence, ..response })).await;
    }
}

#[tonic::async_trait]
impl StreamService for Oracle {
    type FetchResponseStream = ReceiverStream<Result<Response, Status>>;

    async fn fetch_response(
        &self,
        request: tonic::Request<Request>,
    ) -> Result<tonic::Response<Self::FetchResponseStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        self.0.spawn(work(request.into_inner(), sender));
        Ok(tonic::Response::new(ReceiverStream::new(receiver)))
    }
}

async fn work(request: Request, sender: mpsc::Sender<Result<Response, Status>>) {
    let number = |name, default| request.parameters.get(name).map_or(default, |value| value.parse().unwrap());
    let (jobs, responses, size) = (number("jobs", 5), number("responses", 1), number("size", 0));
    let fail = request.parameters.get("fail").map(|value| value.parse::<u64>().unwrap());
    let numbered = Arc::new(Mutex::new(Numbered { sequence: 0, sender: sender.clone() }));
    let mut under_way = JoinSet::new();
    for job in 0..jobs {
        let numbered = numbered.clone();
        let result = format!("Request #{job} For Id:{}{}", request.id, ".".repeat(size as usize));
        under_way.spawn(async move {
            tokio::time::sleep(Duration::from_millis(job)).await;
            if fail == Some(job) {
                let (code, message) = (13, format!("job {job} failed, as `fail` asked it to"));
                let error = Some(protobuf::JobError { code, message: message.clone() });
                numbered.lock().await.send(Response { job: job as u32, error, ..Default::default() }).await;
                return Some(Status::internal(message));
            }
            for _ in 0..responses {
                let response = Response { result: result.clone(), job: job as u32, ..Default::default() };
                numbered.lock().await.send(response).await;
            }
            None
        });
    }
    let failed = under_way.join_all().await.into_iter().flatten().next();
    if let Some(status) = failed {
        _ = sender.send(Err(status)).await;
    }
}

/// What a stock client makes of an answer.
#[derive(Debug)]
struct Stream {
    headers: HeaderMap,
    responses: Vec<Response>,
    status: Status,
    trailers: HeaderMap,
}

async fn read(client: &mut StreamServiceClient<Channel>, request: Request) -> Stream {
    let (headers, mut stream, _) = client.fetch_response(request).await.unwrap().into_parts();
    let mut responses = Vec::new();
    let status = loop {
        match within(PATIENCE, stream.message()).await {
            Ok(Some(response)) => responses.push(response),
            Ok(None) => break Status::ok(""),
            Err(status) => break status,
        }
    };
    let trailers = stream.trailers().await.unwrap().unwrap_or_else(|| status.metadata().clone());
    Stream { headers: headers.into_headers(), responses, status, trailers: trailers.into_headers() }
}

async fn client(address: SocketAddr) -> StreamServiceClient<Channel> {
    StreamServiceClient::new(Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap())
}

/// The responses of each job in their order, without the numbers that depend on who was faster.
fn by_job(responses: &[Response]) -> Vec<Response> {
    let mut responses = responses.to_vec();
    responses.sort_by_key(|response| response.job);
    responses.into_iter().map(|response| Response { sequence: 0, ..response }).collect()
}

fn cases() -> Vec<Request> {
    let mut cases: Vec<Request> = [
        &[("jobs", "0")][..],
        &[("jobs", "1")],
        &[("jobs", "1"), ("responses", "0")],
        &[("jobs", "1"), ("responses", "1000")],
        &[("jobs", "1"), ("responses", "1000"), ("batch", "64")],
        &[("jobs", "1"), ("responses", "1"), ("batch", "64")],
        &[("jobs", "1"), ("responses", "40"), ("size", "16339")],
        &[("jobs", "1"), ("responses", "40"), ("size", "16384")],
        &[("jobs", "1"), ("responses", "30"), ("size", "65536"), ("batch", "7")],
        &[("jobs", "1"), ("responses", "30"), ("size", "102400")],
        &[("jobs", "1"), ("responses", "7"), ("fail", "0")],
        &[],
        &[("responses", "200"), ("size", "1000")],
        &[("responses", "200"), ("batch", "64")],
        &[("responses", "10"), ("size", "102400")],
        &[("responses", "3"), ("fail", "2")],
        &[("jobs", "200"), ("fail", "199")],
    ]
    .map(simulate)
    .into();
    for id in [i32::MIN, -1, 0, i32::MAX] {
        cases.push(Request { id, ..simulate(&[("jobs", "1")]) });
    }
    for case in &mut cases {
        case.parameters.insert("step".to_owned(), "1ms".to_owned());
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stock_client_reads_what_it_reads_from_a_plain_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let oracle_address = listener.local_addr().unwrap();
    let mut oracle = JoinSet::new();
    let service = StreamServiceServer::new(Oracle::default());
    oracle.spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let server = TestServer::start(|server| server);
    let (mut from_oracle, mut from_server) = (client(oracle_address).await, client(server.address()).await);

    for request in cases() {
        let (expected, actual) =
            tokio::join!(read(&mut from_oracle, request.clone()), read(&mut from_server, request.clone()));
        let case = format!("{request:?}");
        assert_eq!(actual.headers.get("content-type"), expected.headers.get("content-type"), "{case}");
        assert_eq!(actual.status.code(), expected.status.code(), "{case}");
        assert_eq!(actual.status.message(), expected.status.message(), "{case}");
        assert_eq!(actual.status.details(), expected.status.details(), "{case}");
        if request.parameters.get("jobs").is_some_and(|jobs| jobs == "1") {
            assert!(actual.responses == expected.responses, "{case}");
        }
        assert!(by_job(&actual.responses) == by_job(&expected.responses), "{case}");
        for stream in [&actual, &expected] {
            let sequences = stream.responses.iter().map(|response| response.sequence);
            assert!(sequences.eq(1..=stream.responses.len() as u64), "{case}");
        }
        assert!(added(&expected.headers).is_empty() && added(&expected.trailers).is_empty());
        assert_additions(&request, &actual);
    }
}

/// The names in `headers` that this server adds.
fn added(headers: &HeaderMap) -> Vec<&str> {
    let mut added: Vec<_> =
        headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with("outflow-")).collect();
    added.sort_unstable();
    added
}

/// What this server adds to an answer that was not cut.
fn assert_additions(request: &Request, stream: &Stream) {
    assert_eq!(added(&stream.headers), ["outflow-durability", "outflow-run-id"]);
    assert_eq!(stream.headers["outflow-durability"], "none");
    assert_eq!(added(&stream.trailers), ["outflow-end", "outflow-jobs-failed", "outflow-last-sequence"]);
    let failed = request.parameters.contains_key("fail");
    assert_eq!(stream.trailers["outflow-last-sequence"], stream.responses.len().to_string());
    assert_eq!(stream.trailers["outflow-end"], if failed { "failed" } else { "complete" });
    assert_eq!(stream.trailers["outflow-jobs-failed"], u8::from(failed).to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_run_has_a_name_of_its_own() {
    let server = TestServer::start(|server| server);
    let connection = Connection::open(server.address()).await;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let answer = connection.fetch(&simulate(&[("jobs", "0")])).await;
        let id = answer.headers["outflow-run-id"].to_str().unwrap().to_owned();
        assert!((26..=64).contains(&id.len()), "{id}");
        assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{id}");
        assert!(ids.insert(id), "no two runs have the same");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn headers_come_before_there_is_a_response() {
    let server = TestServer::planned(|_| one(async |_| std::future::pending().await));
    let connection = Connection::open(server.address()).await;
    let answering = connection.begin(&Request::default()).await;
    assert!(!answering.ended);
    assert!(answering.headers.contains_key("outflow-run-id"));
    assert!(!answering.headers.contains_key("grpc-status"), "a status ends the stream");
}

/// A job that waits and then fails, or answers.
fn job(wait: u64, outcome: Result<&'static str, Code>) -> Job {
    Job::new(async move |emitter| {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        match outcome {
            Ok(text) => Ok(emitter.emit(text).await?),
            Err(code) => Err(JobError::new(code, format_args!("failed after {wait} ms"))),
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_failed_run_has_the_status_of_the_first_job_that_failed() {
    let server = TestServer::planned(|_| {
        let jobs = [job(200, Err(Code::NotFound)), job(0, Err(Code::Aborted)), job(400, Ok("last"))];
        Plan::new().jobs(jobs).job_errors(JobErrors::Fail)
    });
    let answer = Connection::open(server.address()).await.fetch(&Request::default()).await;
    assert_eq!((answer.code(), answer.message()), (tonic::Code::Aborted, "failed after 0 ms".to_owned()));
    let error = |code, message: &str| Some(protobuf::JobError { code, message: message.to_owned() });
    assert_eq!(
        answer.responses(),
        [
            Response { sequence: 1, job: 1, error: error(10, "failed after 0 ms"), ..Default::default() },
            Response { sequence: 2, job: 0, error: error(5, "failed after 200 ms"), ..Default::default() },
            Response { sequence: 3, job: 2, result: "last".to_owned(), ..Default::default() },
        ]
    );
    assert_eq!(answer.said("outflow-end"), Some("failed"));
    assert_eq!(answer.said("outflow-jobs-failed"), Some("2"));
    assert_eq!(answer.said("outflow-last-sequence"), Some("3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_failed_job_means_is_its_sources_choice() {
    let alive = Gauge::default();
    let server = TestServer::start(|server| {
        let of = |job_errors, alive: Option<Gauge>| {
            support::planned(move |_| {
                let plan = alive.as_ref().map_or_else(Plan::new, waiting);
                plan.job(job(100, Err(Code::Internal))).job_errors(job_errors)
            })
        };
        server
            .source("tolerant", of(JobErrors::Tolerate, None))
            .source("fast", of(JobErrors::FailFast, Some(alive.clone())))
    });
    let connection = Connection::open(server.address()).await;
    let from = |source: &str| Request { source: source.to_owned(), ..Default::default() };

    let answer = connection.fetch(&from("tolerant")).await;
    assert_eq!(answer.code(), tonic::Code::Ok);
    assert_eq!((answer.said("outflow-end"), answer.said("outflow-jobs-failed")), (Some("complete"), Some("1")));
    assert!(answer.responses()[0].error.is_some());

    let answer = connection.fetch(&from("fast")).await;
    assert_eq!(answer.code(), tonic::Code::Internal);
    assert_eq!((answer.said("outflow-end"), answer.said("outflow-jobs-failed")), (Some("failed"), Some("1")));
    alive.becomes(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_that_knows_only_the_tutorials_fields_reads_the_text() {
    #[derive(prost::Message)]
    struct TutorialRequest {
        #[prost(int32, tag = "1")]
        id: i32,
    }
    #[derive(prost::Message)]
    struct TutorialResponse {
        #[prost(string, tag = "1")]
        result: String,
    }
    let server = TestServer::start(|server| {
        server.default_source(
            "test",
            support::planned(|request| {
                let text = format!("for {}", request.id());
                one(async move |emitter| Ok(emitter.emit(text).await?))
            }),
        )
    });
    let connection = Connection::open(server.address()).await;
    let request = support::wire::framed(&TutorialRequest { id: 7 }.encode_to_vec());
    let head = support::wire::post(support::wire::FETCH).body(()).unwrap();
    let answer = connection.call(head, request).await;
    assert_eq!(answer.messages.len(), 1);
    assert_eq!(TutorialResponse::decode(answer.messages[0].clone()).unwrap().result, "for 7");
    assert_eq!(answer.code(), tonic::Code::Ok);
}
