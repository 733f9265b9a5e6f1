//! Services of one's own on the same port: what is theirs and what stays Outflow's, and that they end as streams do.

mod support;

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream};
use outflow::{ServeError, Server, TransportLimits};
use outflow_proto::protobuf::{Request, Response};
use prost::Message as _;
use tonic::{Code, Status, body::Body, server::NamedService, service::Routes};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use support::{
    Gauge, PATIENCE, TestServer,
    frames::{CANCEL, DATA, END_STREAM, Peer, RST_STREAM, call, frame, window},
    trickling,
    wire::{Answering, Connection, framed, post, simulate},
    within,
};

/// What calls of services have for their end, with room for a slow machine, and less than a server waits for connections.
const SOON: Duration = Duration::from_millis(4800);

fn said(result: impl Into<String>) -> Response {
    Response { result: result.into(), ..Default::default() }
}

/// A service that does what services do, as generated code would have it done.
#[derive(Clone, Default)]
struct Test {
    alive: Gauge,
}

impl NamedService for Test {
    const NAME: &'static str = "test.Service";
}

impl Test {
    async fn unary(self, path: String, request: Request) -> Result<tonic::Response<Response>, Status> {
        let _alive = self.alive.enter();
        match path.as_str() {
            "/test.Service/Echo" => Ok(tonic::Response::new(said(request.idempotency_key))),
            "/test.Service/Slow" => {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                Ok(tonic::Response::new(said("slow")))
            }
            "/test.Service/Wait" => std::future::pending().await,
            "/test.Service/Refuse" => Err(Status::already_exists("it is")),
            "/test.Service/Panic" => panic!("as services do"),
            _ => Err(Status::unimplemented("")),
        }
    }

    /// One response, and then nothing or more than anybody reads.
    fn stream(self, path: &str) -> impl Stream<Item = Result<Response, Status>> + Send + use<> {
        let alive = self.alive.enter();
        let floods = path == "/test.Service/Flood";
        stream::once(std::future::ready(Ok(said("first")))).chain(
            stream::poll_fn(
                move |_| {
                    if floods { Poll::Ready(Some(Ok(said("x".repeat(10_000))))) } else { Poll::Pending }
                },
            )
            .map(move |response| {
                _ = &alive;
                response
            }),
        )
    }
}

impl Service<http::Request<Body>> for Test {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: http::Request<Body>) -> Self::Future {
        let test = self.clone();
        let path = call.uri().path().to_owned();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Response, Request>::default());
            Ok(match path.as_str() {
                "/test.Service/Watch" | "/test.Service/Flood" => {
                    let answer = service_fn(|_: tonic::Request<Request>| {
                        let stream: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(test.clone().stream(&path));
                        std::future::ready(Ok(tonic::Response::new(stream)))
                    });
                    grpc.server_streaming(answer, call).await
                }
                _ => {
                    let answer = service_fn(|request: tonic::Request<Request>| {
                        test.clone().unary(path.clone(), request.into_inner())
                    });
                    grpc.unary(answer, call).await
                }
            })
        })
    }
}

/// A server with it, and a source that trickles.
fn server(test: &Test, stall: Duration) -> TestServer {
    let mut limits = TransportLimits::default();
    limits.stall_time = stall;
    let routes = Routes::new(test.clone());
    TestServer::start(|server| {
        let trickling = support::planned(|_| trickling(Duration::from_millis(5)));
        server.source("trickling", trickling).routes(routes).transport_limits(limits)
    })
}

const LONG: Duration = Duration::from_mins(1);

/// Begins a call.
async fn begin(connection: &Connection, method: &str, timeout: Option<&str>) -> Answering {
    let mut head = post(&format!("/test.Service/{method}"));
    if let Some(timeout) = timeout {
        head = head.header("grpc-timeout", timeout);
    }
    connection.begin_with(head.body(()).unwrap(), &Request::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn services_of_ones_own_are_answered_beside_streams() {
    let server = server(&Test::default(), LONG);
    let connection = Connection::open(server.address()).await;
    let mut stream = connection.begin(&Request::default()).await;
    assert_eq!(stream.response().await.result, "drop");

    // More than the window of a stream.
    let large = Request { idempotency_key: "k".repeat(300_000), ..Default::default() };
    let (response, mut sending) = connection.send(post("/test.Service/Echo").body(()).unwrap(), false).await;
    sending.send_data(framed(&large.encode_to_vec()), true).unwrap();
    let answer = Answering::new(response).await.finish().await;
    assert_eq!((answer.code(), answer.results()), (Code::Ok, vec![large.idempotency_key]));

    let answer = begin(&connection, "Refuse", None).await.finish().await;
    assert!(answer.is_trailers_only());
    assert_eq!((answer.code(), answer.message().as_str()), (Code::AlreadyExists, "it is"));
    assert_eq!(stream.response().await.result, "drop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_no_service_has_is_told_with_its_path() {
    let server = server(&Test::default(), LONG);
    let connection = Connection::open(server.address()).await;
    for path in ["/test.Service/Nothing", "/test.Nobody/Echo", "/protobuf.StreamService/Echo", "/test.Service"] {
        let answer = connection.begin_with(post(path).body(()).unwrap(), &Request::default()).await.finish().await;
        assert!(answer.is_trailers_only(), "{path}");
        assert_eq!(answer.code(), Code::Unimplemented, "{path}");
        assert!(answer.message().starts_with(&format!("there is no method {path};")), "{}", answer.message());
    }
    let get = http::Request::get("http://test/test.Service/Echo").body(()).unwrap();
    assert_eq!(connection.call(get, "").await.status, 405);
    assert_eq!(begin(&connection, "Echo", None).await.finish().await.code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_handler_that_panics_ends_its_call_and_no_other() {
    let server = server(&Test::default(), LONG);
    let connection = Connection::open(server.address()).await;
    let mut stream = connection.begin(&Request::default()).await;
    stream.response().await;
    let head = post("/test.Service/Panic").body(()).unwrap();
    let (response, mut sending) = connection.send(head, false).await;
    sending.send_data(framed(&[]), true).unwrap();
    let reset = within(PATIENCE, response).await.unwrap_err();
    assert_eq!(reset.reason(), Some(h2::Reason::CANCEL));
    assert_eq!(stream.response().await.result, "drop");
    assert_eq!(begin(&connection, "Echo", None).await.finish().await.code(), Code::Ok);
}

/// Answers everything, under the name of a service of Outflow's.
#[derive(Clone)]
struct Claims<const SERVICE: usize>;

const CLAIMED: [&str; 3] = ["protobuf.StreamService", "outflow.v1.RunService", "grpc.health.v1.Health"];

impl<const SERVICE: usize> NamedService for Claims<SERVICE> {
    const NAME: &'static str = CLAIMED[SERVICE];
}

impl<const SERVICE: usize> Service<http::Request<Body>> for Claims<SERVICE> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        std::future::ready(Ok(Status::data_loss("an impostor").into_http()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn outflows_own_services_stay_its_own() {
    let routes =
        Routes::new(Claims::<0>).add_service(Claims::<1>).add_service(Claims::<2>).add_service(Test::default());
    let server = TestServer::start(|server| server.routes(routes));
    let connection = Connection::open(server.address()).await;
    let answer = connection.fetch(&simulate(&[("jobs", "2"), ("step", "0s")])).await;
    assert_eq!((answer.code(), answer.messages.len()), (Code::Ok, 2));
    for (path, code) in [
        ("/protobuf.StreamService/Other", Code::Unimplemented),
        ("/outflow.v1.RunService/GetRun", Code::InvalidArgument),
        ("/outflow.v1.RunService/Other", Code::Unimplemented),
        ("/grpc.health.v1.Health/Check", Code::Ok),
    ] {
        let answer = connection.call(post(path).body(()).unwrap(), framed(&[])).await;
        assert_eq!(answer.code(), code, "{path}: {}", answer.message());
    }
    assert_eq!(begin(&connection, "Echo", None).await.finish().await.code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn calls_end_at_their_deadline_and_their_handlers_with_them() {
    let test = Test::default();
    let server = server(&test, LONG);
    let connection = Connection::open(server.address()).await;
    for method in ["Wait", "Watch", "Flood"] {
        let answer = within(PATIENCE, begin(&connection, method, Some("300m")).await.finish()).await;
        assert_eq!((answer.code(), answer.reset), (Code::DeadlineExceeded, None), "{method}");
        assert_eq!(answer.is_trailers_only(), method == "Wait");
        assert_eq!(answer.messages.is_empty(), method == "Wait");
        test.alive.becomes(0).await;
    }
    // One that is in time is not touched.
    assert_eq!(begin(&connection, "Slow", Some("1H")).await.finish().await.results(), ["slow"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_caller_that_leaves_has_its_handler_dropped() {
    let test = Test::default();
    let server = server(&test, LONG);
    for method in ["Wait", "Watch"] {
        let mut peer = Peer::open(server.address()).await;
        peer.send(&call(1, &format!("/test.Service/{method}"), &[])).await;
        peer.send(&frame(DATA, END_STREAM, 1, &framed(&[]))).await;
        test.alive.becomes(1).await;
        peer.send(&support::frames::reset(1)).await;
        test.alive.becomes(0).await;
        peer.assert_lives().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn when_the_server_ends_calls_may_end_first_and_are_told_where_they_do_not() {
    let test = Test::default();
    let mut server = server(&test, LONG);
    let connection = Connection::open(server.address()).await;
    let mut stream = connection.begin(&Request::default()).await;
    stream.response().await;
    let mut watch = begin(&connection, "Watch", None).await;
    assert_eq!(watch.response().await.result, "first");
    let wait = connection.send(post("/test.Service/Wait").body(()).unwrap(), false).await;
    let slow = connection.send(post("/test.Service/Slow").body(()).unwrap(), false).await;
    let mut calls = Vec::new();
    for (response, mut sending) in [wait, slow] {
        sending.send_data(framed(&[]), true).unwrap();
        calls.push(response);
    }
    test.alive.becomes(3).await;
    server.shut_down();

    let [wait, slow] = calls.try_into().unwrap();
    let (stream, watch, wait, slow) =
        tokio::join!(stream.finish(), watch.finish(), async { Answering::new(wait).await.finish().await }, async {
            Answering::new(slow).await.finish().await
        },);
    assert_eq!((slow.code(), slow.results()), (Code::Ok, vec!["slow".to_owned()]), "it had the time");
    for ended in [stream, watch, wait] {
        assert_eq!((ended.code(), ended.reset), (Code::Unavailable, None));
        ended.assert_says_when_to_retry();
    }
    server.ended_within(SOON);
    assert_eq!(test.alive.now(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_watch_of_health_sees_the_end_and_is_told_so() {
    let mut server = server(&Test::default(), LONG);
    let connection = Connection::open(server.address()).await;
    let head = post("/grpc.health.v1.Health/Watch").body(()).unwrap();
    let (response, mut sending) = connection.send(head, false).await;
    sending.send_data(framed(&HealthCheckRequest::default().encode_to_vec()), true).unwrap();
    let mut watch = Answering::new(response).await;
    let status = |message: Option<Result<bytes::Bytes, h2::Reason>>| {
        HealthCheckResponse::decode(message.unwrap().unwrap()).unwrap().status()
    };
    assert_eq!(status(watch.message().await), ServingStatus::Serving);
    server.shut_down();
    assert_eq!(status(watch.message().await), ServingStatus::NotServing);
    let ended = watch.finish().await;
    assert_eq!((ended.code(), ended.reset), (Code::Unavailable, None));
    server.ended_within(SOON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_that_takes_nothing_is_reset_and_one_that_takes_little_is_not() {
    let test = Test::default();
    let server = server(&test, Duration::from_secs(1));
    let mut peer = Peer::open(server.address()).await;
    peer.send(&call(1, "/test.Service/Flood", &[])).await;
    peer.send(&frame(DATA, END_STREAM, 1, &framed(&[]))).await;
    // A second and more, with something taken in each.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        peer.send(&[window(1, 1_000), window(0, 1_000)].concat()).await;
        assert_eq!(test.alive.now(), 1);
    }
    let end = within(PATIENCE, peer.until(|frame| frame.is(RST_STREAM, 1))).await;
    assert_eq!(end.code(), CANCEL);
    test.alive.becomes(0).await;
    peer.assert_lives().await;
}

#[tokio::test]
async fn descriptions_that_are_none_are_refused_before_a_port_is_bound() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let at = taken.local_addr().unwrap();
    let refused = Server::builder().listen([at.into()]).file_descriptor_set(*b"\xff\xff\xff").bind();
    let Err(error @ ServeError::Descriptors(_)) = refused else { panic!("it was taken, or the port was first") };
    assert!(error.to_string().starts_with("cannot describe the services of `Builder::file_descriptor_set`: "));
}
