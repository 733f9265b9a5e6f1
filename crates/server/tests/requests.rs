//! What is not quite a request of this contract, and what gRPC's own tables say to it: each answered by itself, on a
//! connection that goes on.

mod support;

use std::{
    io::Write as _,
    pin::pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use h2::{SendStream, client::ResponseFuture};
use http::{Method, StatusCode};
use outflow::{Plan, Request as Asked};
use outflow_proto::protobuf::Request;
use prost::Message as _;
use tonic::Code;

use support::{
    Gauge, TestServer, one, trickling, waiting,
    wire::{Answer, Answering, Connection, FETCH, framed, post, prefixed, simulate, timed},
};

/// Longest request message.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const METHODS: [&str; 4] = [
    FETCH,
    HEALTH,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Answers with how many parameter bytes came.
fn measuring(request: &Asked) -> Plan {
    let bytes: usize = request.parameters().values().map(String::len).sum();
    one(async move |emitter| Ok(emitter.emit(bytes.to_string()).await?))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A request of `bytes` bytes in parameters.
fn large(bytes: usize) -> Request {
    let values = (0..bytes.div_ceil(60_000)).map(|n| (n.to_string(), "x".repeat((bytes - n * 60_000).min(60_000))));
    Request { parameters: values.collect(), ..Default::default() }
}

/// Fetches with `body` as it is, in this encoding.
async fn fetch_raw(connection: &Connection, encoding: Option<&str>, body: impl Into<Bytes>) -> Answer {
    let head = encoding.into_iter().fold(post(FETCH), |head, encoding| head.header("grpc-encoding", encoding));
    connection.call(head.body(()).unwrap(), body).await
}

/// The connection works: the next request gets its answer.
async fn assert_lives(connection: &Connection) {
    assert_eq!(connection.fetch(&Request::default()).await.code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_method_that_is_not_there_is_unimplemented() {
    let server = TestServer::planned(measuring);
    let connection = Connection::open(server.address()).await;
    let nowhere = format!("/{}", "x".repeat(5_000));
    for path in [
        "/protobuf.StreamService/Fetch",
        "/protobuf.StreamService/fetchresponse",
        "/protobuf.StreamService/FetchResponse/",
        "/protobuf.StreamService",
        "/StreamService/FetchResponse",
        "/grpc.health.v1.Health/Nothing",
        "/grpc.health.v1.Healthy/Check",
        "/",
        &nowhere,
    ] {
        let answer = connection.call(post(path).body(()).unwrap(), framed(&[])).await;
        assert!(answer.is_trailers_only(), "{path}: {answer:?}");
        assert_eq!(answer.code(), Code::Unimplemented, "{path}");
        assert!(answer.message().len() < 1024);
    }
    assert_lives(&connection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_content_type_is_no_grpc_on_any_service() {
    let server = TestServer::planned(measuring);
    let connection = Connection::open(server.address()).await;
    for path in METHODS {
        for content_type in
            [None, Some("application/json"), Some("application/grpc-web"), Some("application/grpc+json")]
        {
            let mut head = post(path).body(()).unwrap();
            head.headers_mut().remove("content-type");
            if let Some(content_type) = content_type {
                head.headers_mut().insert("content-type", content_type.parse().unwrap());
            }
            let answer = connection.call(head, framed(&[])).await;
            assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path} {content_type:?}");
            assert!(answer.messages.is_empty() && !answer.headers.contains_key("grpc-status"));
        }
    }
    for content_type in ["application/grpc+proto", "application/grpc; charset=utf-8", "Application/GRPC"] {
        let mut head = post(FETCH).body(()).unwrap();
        head.headers_mut().insert("content-type", content_type.parse().unwrap());
        let answer = connection.call(head, framed(&[])).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::OK, Code::Ok), "{content_type}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_method_than_post_is_not_allowed() {
    let server = TestServer::planned(measuring);
    let connection = Connection::open(server.address()).await;
    for path in METHODS.into_iter().chain(["/"]) {
        for method in [Method::GET, Method::PUT, Method::OPTIONS] {
            let head = post(path).method(&method).body(()).unwrap();
            let (response, _) = connection.send(head, true).await;
            let answer = Answering::new(response).await.finish().await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(answer.headers["allow"], "POST");
        }
    }
    assert_lives(&connection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_malformed_message_gets_the_status_of_the_specification() {
    let server = TestServer::planned(measuring);
    let connection = Connection::open(server.address()).await;
    let one = framed(&Request { id: 1, ..Default::default() }.encode_to_vec());
    let bomb = prefixed(1, &gzip(&vec![0; REQUEST_BYTES_MAX + 1]));
    assert!(bomb.len() < 10_000);
    let cases: [(&str, Option<&str>, Vec<u8>, Code); 13] = [
        ("no message", None, vec![], Code::Unimplemented),
        ("two messages", None, [&one[..], &one].concat(), Code::Unimplemented),
        ("one message and a piece", None, [&one[..], &[0]].concat(), Code::Unimplemented),
        ("a piece of a prefix", None, vec![0, 0, 0], Code::Internal),
        ("a piece of a message", None, one[..6].to_vec(), Code::Internal),
        ("a flag of 2", None, [&[2], &one[1..]].concat(), Code::Internal),
        ("compressed by nothing", None, [&[1], &one[1..]].concat(), Code::Internal),
        ("compressed by identity", Some("identity"), [&[1], &one[1..]].concat(), Code::Internal),
        ("not gzip", Some("gzip"), [&[1], &one[1..]].concat(), Code::Internal),
        ("no protobuf", None, framed(&[0xff; 20]).to_vec(), Code::Internal),
        ("text that is not UTF-8", None, framed(&[0x12, 1, 0xff]).to_vec(), Code::Internal),
        ("a gzip bomb", Some("gzip"), bomb.to_vec(), Code::ResourceExhausted),
        ("too long", None, framed(&vec![0; REQUEST_BYTES_MAX + 1]).to_vec(), Code::ResourceExhausted),
    ];
    for (name, encoding, body, code) in cases {
        let answer = fetch_raw(&connection, encoding, body).await;
        assert!(answer.is_trailers_only(), "{name}: {answer:?}");
        assert_eq!(answer.code(), code, "{name}");
    }
    assert_lives(&connection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn gzip_is_unpacked_and_another_encoding_named_with_those_that_are_known() {
    let server = TestServer::planned(measuring);
    let connection = Connection::open(server.address()).await;
    let message = large(900_000).encode_to_vec();
    for (encoding, body) in [
        (Some("gzip"), prefixed(1, &gzip(&message))),
        (Some("gzip"), framed(&message)),
        (Some("identity"), framed(&message)),
        (None, framed(&message)),
    ] {
        let answer = fetch_raw(&connection, encoding, body).await;
        assert_eq!((answer.code(), answer.results()), (Code::Ok, vec!["900000".to_owned()]), "{encoding:?}");
        assert!(!answer.headers.contains_key("grpc-encoding"), "responses are never compressed");
    }
    for encoding in ["snappy", "deflate", "GZIP", ""] {
        let answer = fetch_raw(&connection, Some(encoding), framed(&message[..10])).await;
        assert!(answer.is_trailers_only(), "{encoding}: {answer:?}");
        assert_eq!(answer.code(), Code::Unimplemented, "{encoding}");
        assert_eq!(answer.said("grpc-accept-encoding"), Some("identity,gzip"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_message_at_the_limit_is_taken() {
    let server = TestServer::planned(measuring);
    let connection = Connection::open(server.address()).await;
    let mut bytes = REQUEST_BYTES_MAX;
    while large(bytes).encoded_len() > REQUEST_BYTES_MAX {
        bytes -= 1;
    }
    assert_eq!(large(bytes).encoded_len(), REQUEST_BYTES_MAX, "to the byte");
    assert_eq!(connection.fetch(&large(bytes)).await.results(), [bytes.to_string()]);
    assert_eq!(connection.fetch(&large(bytes + 1)).await.code(), Code::ResourceExhausted);
}

/// Begins a call of which only this comes, and no end.
async fn unfinished(connection: &Connection, timeout: &str, body: &[u8]) -> (ResponseFuture, SendStream<Bytes>) {
    let (response, mut sending) = connection.send(timed(timeout), false).await;
    if !body.is_empty() {
        _ = sending.send_data(Bytes::copy_from_slice(body), false);
    }
    (response, sending)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_cannot_become_right_is_refused_before_its_end() {
    let server = TestServer::planned(measuring);
    let connection = Connection::open(server.address()).await;
    let length = (REQUEST_BYTES_MAX as u32 + 1).to_be_bytes();
    for (body, code) in [
        ([&[0][..], &length].concat(), Code::ResourceExhausted),
        (vec![7], Code::Internal),
        ([framed(b""), framed(b"")].concat(), Code::Unimplemented),
    ] {
        // Ten seconds are far from over when the answer is here.
        let asked = Instant::now();
        let (response, _sending) = unfinished(&connection, "10S", &body).await;
        let answer = Answering::new(response).await.finish().await;
        assert_eq!(answer.code(), code);
        assert!(asked.elapsed() < Duration::from_secs(5));
    }
    assert_lives(&connection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_that_never_ends_is_answered_in_time_while_others_go_on() {
    let alive = Gauge::default();
    let job = alive.clone();
    let server = TestServer::planned(move |request| match request.id() {
        0 => trickling(Duration::from_millis(10)),
        _ => waiting(&job),
    });
    let connection = Connection::open(server.address()).await;
    let mut other = connection.begin(&Request::default()).await;
    let message = framed(&Request { id: 1, ..Default::default() }.encode_to_vec());
    let asked = Instant::now();
    let mut calls = Vec::new();
    for body in [&b""[..], &message[..3], &message[..message.len() - 1], &message] {
        calls.push(unfinished(&connection, "300m", body).await);
    }
    let mut answers = pin!(async {
        let mut answers = Vec::new();
        for (response, _sending) in &mut calls {
            answers.push(Answering::new(response).await.finish().await);
        }
        answers
    });
    let answers = loop {
        tokio::select! {
            answers = &mut answers => break answers,
            response = other.response() => assert_eq!(response.result, "drop"),
        }
    };
    assert!(asked.elapsed() >= Duration::from_millis(300), "until then they could have come");
    assert!(asked.elapsed() < Duration::from_secs(3));
    for answer in answers {
        assert!(answer.is_trailers_only(), "{answer:?}");
        assert_eq!(answer.code(), Code::DeadlineExceeded);
    }
    assert_eq!(alive.now(), 0, "nothing was started");
    other.response().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_that_comes_byte_by_byte_is_answered() {
    let server = TestServer::planned(measuring);
    let connection = Connection::open(server.address()).await;
    let message = framed(&large(20).encode_to_vec());
    let (response, mut sending) = connection.send(post(FETCH).body(()).unwrap(), false).await;
    for byte in message {
        sending.send_data(Bytes::copy_from_slice(&[byte]), false).unwrap();
        tokio::task::yield_now().await;
    }
    sending.send_trailers(http::HeaderMap::new()).unwrap();
    assert_eq!(Answering::new(response).await.finish().await.results(), ["20"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn headers_beyond_their_limit_are_refused_and_the_connection_goes_on() {
    let server = TestServer::planned(measuring);
    let connection = Connection::open(server.address()).await;
    let head = |bytes: usize| post(FETCH).header("x-large", "x".repeat(bytes)).body(()).unwrap();
    assert_eq!(connection.call(head(15_000), framed(&[])).await.code(), Code::Ok);
    let answer = connection.call(head(17_000), framed(&[])).await;
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_lives(&connection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_refused_by_the_service_is_nothing_but_headers() {
    let server = TestServer::start(|server| server);
    let connection = Connection::open(server.address()).await;
    for request in [simulate(&[("jobs", "x")]), Request { source: "nobody".to_owned(), ..Default::default() }] {
        let answer = connection.fetch(&request).await;
        assert!(answer.is_trailers_only(), "{answer:?}");
        assert!(answer.trailers.is_none() && answer.messages.is_empty());
    }
}
