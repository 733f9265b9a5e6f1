//! A server written by hand, one answer at a time, over a pipe in memory: it can do what no proper server does.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its part of it")]

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use outflow_client::{Client, ClientBuilder};
use outflow_proto::protobuf;
use prost::Message as _;
use tokio::{io::DuplexStream, task::JoinSet};

pub const RUN: (&str, &str) = ("outflow-run-id", "r1");
pub const DURABILITY: (&str, &str) = ("outflow-durability", "memory");
pub const OK: (&str, &str) = ("grpc-status", "0");
pub const COMPLETE: (&str, &str) = ("outflow-end", "complete");

/// The server's side of one request.
pub struct Call {
    pub request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
}

impl Call {
    /// The request's message.
    pub async fn message(&mut self) -> protobuf::Request {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = self.request.body_mut().data().await {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(bytes[0], 0);
        assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, bytes.len() - 5);
        protobuf::Request::decode(bytes.split_off(5)).unwrap()
    }

    /// Headers that begin a gRPC stream, with these beside.
    pub fn open(&mut self, headers: &[(&str, &str)]) -> SendStream<Bytes> {
        self.respond.send_response(head(200, &with_grpc(headers)), false).unwrap()
    }

    /// Headers of a run, and a stream.
    pub fn run(&mut self) -> SendStream<Bytes> {
        self.open(&[RUN, DURABILITY])
    }

    /// Trailers-only: headers that end the stream.
    pub fn only(&mut self, headers: &[(&str, &str)]) {
        self.raw(200, &with_grpc(headers));
    }

    /// Any headers that end the stream.
    pub fn raw(&mut self, status: u16, headers: &[(&str, &str)]) {
        self.respond.send_response(head(status, headers), true).unwrap();
    }

    /// The answer and the request, for those who need both.
    pub fn split(self) -> (SendResponse<Bytes>, Request<RecvStream>) {
        (self.respond, self.request)
    }

    /// Resets the stream before its headers.
    pub fn reset(&mut self, reason: h2::Reason) {
        self.respond.send_reset(reason);
    }
}

fn with_grpc<'a>(headers: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![("content-type", "application/grpc")];
    all.extend(headers);
    all
}

fn head(status: u16, headers: &[(&str, &str)]) -> Response<()> {
    let mut head = Response::builder().status(status).body(()).unwrap();
    *head.headers_mut() = map(headers);
    head
}

pub fn map(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    pairs.iter().map(pair).collect()
}

/// A message with its prefix.
pub fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// The frame of a text response.
pub fn response(sequence: u64, text: &str) -> Bytes {
    frame(&protobuf::Response { sequence, result: text.into(), ..Default::default() }.encode_to_vec())
}

/// The frames of so many responses from 1.
pub fn responses(count: u64) -> Bytes {
    (1..=count).flat_map(|sequence| response(sequence, &format!("text {sequence}"))).collect()
}

/// What has to happen, and soon: a test that fails must not hang.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_mins(1), future).await.expect("it did not happen")
}

/// Serves on one end of a pipe, and connects a client to the other. Whoever drops the set closes the connection.
pub async fn serve_with<F, A>(builder: ClientBuilder, answer: F) -> (Client, JoinSet<()>)
where
    F: Fn(Call) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let mut server = JoinSet::new();
    server.spawn(serve_connection(theirs, Arc::new(answer)));
    (builder.over(ours, "the pipe").await.unwrap(), server)
}

/// Serves one stream at a time: what breaks it is the caller's.
pub async fn serve<F, A>(answer: F) -> (Client, JoinSet<()>)
where
    F: Fn(Call) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    serve_with(Client::builder().no_resume(), answer).await
}

/// Serves on one end of a pipe.
pub async fn serve_connection<F, A>(io: DuplexStream, answer: Arc<F>)
where
    F: Fn(Call) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let mut builder = h2::server::Builder::new();
    // Tests reset many streams on purpose.
    builder.max_concurrent_streams(10_000).max_pending_accept_reset_streams(10_000);
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    let mut answers = JoinSet::new();
    // A client that closes the pipe may do so in the middle of a frame.
    while let Some(Ok((request, respond))) = connection.accept().await {
        answers.spawn(answer(Call { request, respond }));
    }
}

/// What a server does with its first, second … request.
pub struct Again {
    /// Every request, in order.
    pub requests: Arc<Mutex<Vec<protobuf::Request>>>,
    /// Their `grpc-timeout`s.
    pub timeouts: Arc<Mutex<Vec<Option<String>>>>,
    /// How often it was connected to.
    pub connections: Arc<AtomicUsize>,
    /// How many milliseconds it takes to connect.
    pub connecting: Arc<AtomicU64>,
    /// The status with which it answers who asks about runs: 5, since it has none of that name; a plain server has no such
    /// service, and answers 12.
    pub run_service: Arc<AtomicU64>,
    servers: Arc<Mutex<JoinSet<()>>>,
}

impl Again {
    /// Loses every connection there is.
    pub fn cut(&self) {
        self.servers.lock().unwrap().abort_all();
    }

    pub fn requests(&self) -> Vec<protobuf::Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

/// Serves on as many connections as the client makes; the answer is told which request it is for, from 1.
pub async fn serve_again<F, A>(builder: ClientBuilder, answer: F) -> (Client, Again)
where
    F: Fn(usize, protobuf::Request, Call) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let servers = Arc::new(Mutex::new(JoinSet::new()));
    let requests = Arc::new(Mutex::new(Vec::new()));
    let timeouts = Arc::new(Mutex::new(Vec::new()));
    let connections = Arc::new(AtomicUsize::new(0));
    let connecting = Arc::new(AtomicU64::new(0));
    let run_service = Arc::new(AtomicU64::new(5));
    let again = Again {
        requests: Arc::clone(&requests),
        timeouts: Arc::clone(&timeouts),
        connections: Arc::clone(&connections),
        connecting: Arc::clone(&connecting),
        run_service: Arc::clone(&run_service),
        servers: Arc::clone(&servers),
    };
    let answer = Arc::new(answer);
    let record = Arc::new(move |mut call: Call| {
        let (answer, requests, timeouts) = (Arc::clone(&answer), Arc::clone(&requests), Arc::clone(&timeouts));
        let run_service = Arc::clone(&run_service);
        async move {
            if call.request.uri().path() != "/protobuf.StreamService/FetchResponse" {
                let status = run_service.load(Ordering::Relaxed).to_string();
                return call.only(&[("grpc-status", &status)]);
            }
            let request = call.message().await;
            let timeout = call.request.headers().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
            timeouts.lock().unwrap().push(timeout);
            let number = {
                let mut requests = requests.lock().unwrap();
                requests.push(request.clone());
                requests.len()
            };
            answer(number, request, call).await;
        }
    });
    let connect = move || {
        connections.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        servers.lock().unwrap().spawn(serve_connection(theirs, Arc::clone(&record)));
        let connecting = Duration::from_millis(connecting.load(Ordering::Relaxed));
        async move {
            if !connecting.is_zero() {
                tokio::time::sleep(connecting).await;
            }
            Ok(ours)
        }
    };
    (builder.connect_by("the pipe", connect).await.unwrap(), again)
}
