//! Asking about runs: a server of `outflow.v1`, made with tonic, behind connections that are lost; and answers that are
//! none.

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outflow_client::{CallError, Client, Code, ConnectError, End, RunFilter, Violation};
use outflow_proto::outflow::v1::{
    GetRunRequest, GetRunResponse, ListRunsRequest, ListRunsResponse, Run, RunEnd, RunState, StopRunRequest,
    StopRunResponse,
    run_service_server::{RunService, RunServiceServer},
};
use support::{Call, OK, frame, map, serve_with, soon};
use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    sync::mpsc,
    task::JoinSet,
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, transport::Server};

/// Twelve runs, newest first: r12 … r1, of which the even ones are running.
struct Twelve;

fn run(number: u32) -> Run {
    let (state, end) = if number.is_multiple_of(2) {
        (RunState::Running, RunEnd::Unspecified)
    } else {
        (RunState::Ended, RunEnd::Complete)
    };
    Run { run_id: format!("r{number}"), state: state.into(), end: end.into(), jobs: number, ..Run::default() }
}

fn number(run_id: &str) -> Result<u32, Status> {
    let number = run_id.strip_prefix('r').and_then(|number| number.parse().ok());
    number.filter(|number| (1..=12).contains(number)).ok_or_else(|| Status::not_found("no such run"))
}

#[tonic::async_trait]
impl RunService for Twelve {
    async fn get_run(&self, request: Request<GetRunRequest>) -> Result<Response<GetRunResponse>, Status> {
        assert_eq!(request.metadata().get("grpc-timeout").unwrap(), "10000000u");
        let run = run(number(&request.into_inner().run_id)?);
        Ok(Response::new(GetRunResponse { run: Some(run) }))
    }

    async fn list_runs(&self, request: Request<ListRunsRequest>) -> Result<Response<ListRunsResponse>, Status> {
        let request = request.into_inner();
        let before = if request.page_token.is_empty() { 13 } else { number(&request.page_token)? };
        let of_state = (1..before).rev().filter(|n| request.state == 0 || run(*n).state == request.state);
        let mut runs: Vec<_> = of_state.map(run).collect();
        let size = if request.page_size == 0 { 5 } else { request.page_size as usize };
        let is_more = runs.len() > size;
        runs.truncate(size);
        let next_page_token = if is_more { runs.last().unwrap().run_id.clone() } else { String::new() };
        Ok(Response::new(ListRunsResponse { runs, next_page_token }))
    }

    async fn stop_run(&self, request: Request<StopRunRequest>) -> Result<Response<StopRunResponse>, Status> {
        let mut run = run(number(&request.into_inner().run_id)?);
        if run.state() == RunState::Running {
            run.set_state(RunState::Ended);
            run.set_end(RunEnd::Stopped);
        }
        Ok(Response::new(StopRunResponse { run: Some(run) }))
    }
}

/// A client of that server, how often it connected, and what loses its connections.
async fn twelve() -> (Client, Arc<AtomicUsize>, Lose) {
    let (incoming, accepted) = mpsc::channel::<DuplexStream>(16);
    let mut server = JoinSet::new();
    server.spawn(async move {
        let accepted = ReceiverStream::new(accepted).map(Ok::<_, std::io::Error>);
        let service = RunServiceServer::new(Twelve);
        Server::builder().add_service(service).serve_with_incoming(accepted).await.unwrap();
    });
    let ways = Arc::new(Mutex::new(JoinSet::new()));
    let connections = Arc::new(AtomicUsize::new(0));
    let (count, lose) = (Arc::clone(&connections), Lose { ways: Arc::clone(&ways), _server: server });
    let connect = move || {
        count.fetch_add(1, Ordering::Relaxed);
        let (ours, mut near) = duplex(1 << 16);
        let (mut far, theirs) = duplex(1 << 16);
        incoming.try_send(theirs).unwrap();
        ways.lock().unwrap().spawn(async move { drop(copy_bidirectional(&mut near, &mut far).await) });
        std::future::ready(Ok(ours))
    };
    let client = Client::builder().connect_by("the pipe", connect).await.unwrap();
    (client, connections, lose)
}

struct Lose {
    ways: Arc<Mutex<JoinSet<()>>>,
    _server: JoinSet<()>,
}

impl Lose {
    /// Cuts all ways to the server, without waiting for anybody to notice.
    fn now(&self) {
        self.ways.lock().unwrap().abort_all();
    }
}

#[tokio::test]
async fn a_run_is_asked_for_and_stopped() {
    let (client, _, _lose) = twelve().await;
    let run = client.run("r2").await.unwrap();
    assert_eq!((run.run_id.as_str(), run.jobs, run.is_running()), ("r2", 2, true));
    let stopped = client.stop("r2").await.unwrap();
    assert_eq!(stopped.end.unwrap().end, End::Stopped);
    let unchanged = client.stop("r3").await.unwrap();
    assert_eq!(unchanged.end.unwrap().end, End::Complete);
    for error in [client.run("x").await.unwrap_err(), client.stop("r13").await.unwrap_err()] {
        assert_eq!(error.code(), Some(Code::NOT_FOUND));
        assert_eq!(error.to_string(), "the pipe refused: NOT_FOUND: no such run");
    }
}

async fn numbers(client: &Client, filter: RunFilter) -> Vec<u32> {
    let mut runs = client.runs(filter);
    let mut numbers = Vec::new();
    while let Some(run) = runs.next().await.unwrap() {
        numbers.push(run.jobs);
    }
    assert!(runs.next().await.unwrap().is_none());
    numbers
}

#[tokio::test]
async fn all_runs_are_listed_whatever_the_size_of_a_page() {
    let (client, _, _lose) = twelve().await;
    for size in [0, 1, 3, 6, 11, 12, 13] {
        assert_eq!(numbers(&client, RunFilter::all().page_size(size)).await, (1..=12).rev().collect::<Vec<_>>());
    }
    assert_eq!(numbers(&client, RunFilter::all().running()).await, [12, 10, 8, 6, 4, 2]);
    assert_eq!(numbers(&client, RunFilter::all().ended().page_size(2)).await, [11, 9, 7, 5, 3, 1]);

    let mut runs = client.runs(RunFilter::all().page_size(5));
    assert_eq!(runs.next().await.unwrap().unwrap().jobs, 12);
    let mut sizes = Vec::new();
    while let Some(page) = runs.next_page().await.unwrap() {
        sizes.push(page.len());
    }
    assert_eq!(sizes, [4, 5, 2], "what is left of the first page, and the others");
}

#[tokio::test]
async fn a_dead_connection_is_replaced_and_shared() {
    let (client, connections, lose) = twelve().await;
    client.run("r1").await.unwrap();
    for lost in 1..=3 {
        lose.now();
        // Half the time it has noticed by then, and half the time not.
        if lost % 2 == 0 {
            while client.is_connected() {
                tokio::task::yield_now().await;
            }
        }
        let asked: JoinSet<_> = (0..20)
            .map(|_| {
                let client = client.clone();
                async move { client.run("r1").await.unwrap().jobs }
            })
            .collect();
        assert_eq!(soon(asked.join_all()).await, [1; 20]);
        assert_eq!(connections.load(Ordering::Relaxed), lost + 1);
        assert!(client.is_connected());
    }
}

#[tokio::test]
async fn who_waits_for_a_connection_shares_what_comes_of_it() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&attempts);
    let (ours, theirs) = duplex(1 << 16);
    let first = Mutex::new(Some(ours));
    let connect = move || {
        count.fetch_add(1, Ordering::Relaxed);
        let first = first.lock().unwrap().take();
        async move {
            tokio::task::yield_now().await;
            first.ok_or_else(|| std::io::Error::other("no way"))
        }
    };
    let client = Client::builder().connect_by("the pipe", connect).await.unwrap();
    drop(theirs);
    while client.is_connected() {
        tokio::task::yield_now().await;
    }
    for attempted in 2..=3 {
        let asked: JoinSet<_> = (0..20)
            .map(|_| {
                let client = client.clone();
                async move { client.run("r1").await.unwrap_err().to_string() }
            })
            .collect();
        let expected = "no connection to the pipe (the pipe: no way); is a server listening there?";
        assert!(soon(asked.join_all()).await.iter().all(|error| error == expected));
        assert_eq!(attempts.load(Ordering::Relaxed), attempted);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_waited_for_and_no_longer() {
    let builder = Client::builder().call_timeout(Duration::from_secs(3));
    let (client, _server) = serve_with(builder, |call| async move {
        let _unanswered = call;
        std::future::pending::<()>().await;
    })
    .await;
    let begin = tokio::time::Instant::now();
    let error = client.run("r1").await.unwrap_err();
    assert_eq!(begin.elapsed().as_millis(), 3500, "it has half a second to say so itself");
    assert!(matches!(error, CallError::WaitedTooLong { .. }), "{error}");
    assert_eq!(error.to_string(), "the pipe did not answer within 3s");
}

/// Asks for a run, and answers by hand.
async fn answered<A>(answer: impl Fn(Call) -> A + Send + Sync + 'static) -> CallError
where
    A: Future<Output = ()> + Send + 'static,
{
    let (client, _server) = serve_with(Client::builder().message_bytes_max(100), answer).await;
    soon(client.run("r1")).await.unwrap_err()
}

fn violation(error: CallError) -> Violation {
    match error {
        CallError::Protocol { violation, .. } => *violation,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_no_answer_is_told() {
    let error = answered(|mut call| async move { call.raw(503, &[]) }).await;
    assert_eq!(violation(error), Violation::HttpStatus { status: http::StatusCode::SERVICE_UNAVAILABLE });
    let error = answered(|mut call| async move { call.only(&[("grpc-status", "x")]) }).await;
    assert_eq!(violation(error), Violation::GrpcStatus { received: "x".into() });
    let error = answered(|mut call| async move { call.only(&[OK]) }).await;
    assert_eq!(violation(error), Violation::NotOneMessage);
    for (messages, expected) in [(1, Violation::NoRun), (2, Violation::NotOneMessage)] {
        let error = answered(move |mut call| async move {
            let mut stream = call.open(&[]);
            stream.send_data([frame(&[]), frame(&[])][..messages].concat().into(), false).unwrap();
            // Whoever has seen enough may have left.
            let _ = stream.send_trailers(map(&[OK]));
        })
        .await;
        assert_eq!(violation(error), expected);
    }
    let error = answered(|mut call| async move {
        let mut stream = call.open(&[]);
        let _ = stream.send_data(frame(&[0; 101]), false);
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(violation(error), Violation::MessageTooLarge { bytes: 101, limit: 100 });
    // Half an answer is none.
    let error = answered(|mut call| async move {
        let mut stream = call.open(&[]);
        let _ = stream.send_data(frame(&[]), true);
    })
    .await;
    assert!(matches!(error, CallError::Lost { source: None, .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_was_given_is_not_made_again() {
    let (client, mut server) = serve_with(Client::builder(), |mut call| async move {
        call.only(&[("grpc-status", "5")]);
    })
    .await;
    assert_eq!(client.run("r1").await.unwrap_err().code(), Some(Code::NOT_FOUND));
    server.shutdown().await;
    let error = soon(client.run("r1")).await.unwrap_err();
    let CallError::NoConnection { source } = &error else { panic!("{error:?}") };
    assert!(matches!(**source, ConnectError::Given { .. }));
    assert_eq!(error.to_string(), "the connection to the pipe is dead, and was given by the caller: give another");
}
