//! A client that sees what is on the wire: headers, messages, trailers and resets, each by itself.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose};
use bytes::{Buf as _, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, client::Builder, client::ResponseFuture, client::SendRequest};
use http::{HeaderMap, Method, Request, Response, StatusCode, request};
use outflow_proto::protobuf;
use prost::Message as _;
use tokio::{net::TcpStream, task::JoinSet};
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{PATIENCE, within};

pub const FETCH: &str = "/protobuf.StreamService/FetchResponse";

/// One connection; dropping it closes it.
pub struct Connection {
    send: SendRequest<Bytes>,
    driver: JoinSet<Result<(), h2::Error>>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        // Windows that no test here fills.
        let mut builder = Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 26);
        Self::with(address, &builder).await
    }

    pub async fn with(address: SocketAddr, builder: &Builder) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (send, connection) = builder.handshake(socket).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        // The server's SETTINGS say how many streams may be open.
        Self { send: within(PATIENCE, send.ready()).await.unwrap(), driver }
    }

    /// Sends the head of a call, and its end with it or later.
    pub async fn send(&self, head: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut send = within(PATIENCE, self.send.clone().ready()).await.unwrap();
        send.send_request(head, end).unwrap()
    }

    /// Calls with `body` as it is, and reads the answer to its end.
    pub async fn call(&self, head: Request<()>, body: impl Into<Bytes>) -> Answer {
        let (response, mut sending) = self.send(head, false).await;
        // A server that needs no body may have answered, and closed the stream, by now.
        _ = sending.send_data(body.into(), true);
        Answering::new(response).await.finish().await
    }

    /// Sends one request with the means of gRPC, and reads its answer's head.
    pub async fn begin_with(&self, head: Request<()>, message: &protobuf::Request) -> Answering {
        let (response, mut sending) = self.send(head, false).await;
        _ = sending.send_data(framed(&message.encode_to_vec()), true);
        Answering::new(response).await
    }

    pub async fn begin(&self, message: &protobuf::Request) -> Answering {
        self.begin_with(post(FETCH).body(()).unwrap(), message).await
    }

    pub async fn fetch(&self, message: &protobuf::Request) -> Answer {
        self.begin(message).await.finish().await
    }

    /// Waits until the server has closed it.
    pub async fn closed(&mut self) {
        _ = within(PATIENCE, self.driver.join_next()).await;
    }
}

/// The head of a gRPC call.
pub fn post(path: &str) -> request::Builder {
    let call = Request::builder().method(Method::POST).uri(format!("http://test{path}"));
    call.header("content-type", "application/grpc").header("te", "trailers")
}

/// The head of a fetch that allows itself so long.
pub fn timed(timeout: &str) -> Request<()> {
    post(FETCH).header("grpc-timeout", timeout).body(()).unwrap()
}

/// A request for simulated work.
pub fn simulate(parameters: &[(&str, &str)]) -> protobuf::Request {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    protobuf::Request { id: 1, parameters, ..Default::default() }
}

/// `message` with its prefix.
pub fn framed(message: &[u8]) -> Bytes {
    prefixed(0, message)
}

/// `message` with a prefix that has this flag.
pub fn prefixed(flag: u8, message: &[u8]) -> Bytes {
    [&[flag], &(message.len() as u32).to_be_bytes()[..], message].concat().into()
}

/// An answer that is being read.
pub struct Answering {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The headers end the stream.
    pub ended: bool,
    pub body: RecvStream,
    /// What of `data` no message was made of yet.
    rest: BytesMut,
    messages: Vec<Bytes>,
}

impl Answering {
    pub async fn new(response: impl Future<Output = Result<Response<RecvStream>, h2::Error>>) -> Self {
        let (head, body) = within(PATIENCE, response).await.unwrap().into_parts();
        Self {
            status: head.status,
            headers: head.headers,
            ended: body.is_end_stream(),
            body,
            rest: BytesMut::new(),
            messages: Vec::new(),
        }
    }

    /// The next message as it is; `None` at the end, also where that is a reset.
    pub async fn message(&mut self) -> Option<Result<Bytes, Reason>> {
        loop {
            if let Some(prefix) = self.rest.first_chunk::<5>() {
                let length = u32::from_be_bytes(*prefix.last_chunk().unwrap()) as usize;
                assert_eq!(prefix[0], 0, "responses are never compressed");
                if self.rest.len() >= 5 + length {
                    self.rest.advance(5);
                    return Some(Ok(self.rest.split_to(length).freeze()));
                }
            }
            match within(PATIENCE, self.body.data()).await {
                Some(Ok(data)) => {
                    self.body.flow_control().release_capacity(data.len()).unwrap();
                    self.rest.extend_from_slice(&data);
                }
                Some(Err(error)) => return Some(Err(error.reason().unwrap_or(Reason::INTERNAL_ERROR))),
                None => return None,
            }
        }
    }

    /// The next response, which has to come.
    pub async fn response(&mut self) -> protobuf::Response {
        let message = self.message().await.expect("one more response").expect("no reset");
        self.messages.push(message.clone());
        protobuf::Response::decode(message).unwrap()
    }

    /// Reads to the end. What was read before is part of the answer.
    pub async fn finish(mut self) -> Answer {
        let reset = loop {
            match self.message().await {
                Some(Ok(message)) => self.messages.push(message),
                Some(Err(reason)) => break Some(reason),
                None => break None,
            }
        };
        assert!(reset.is_some() || self.rest.is_empty(), "the stream ends inside a message");
        let mut body = self.body;
        let trailers = if reset.is_none() { within(PATIENCE, body.trailers()).await.unwrap() } else { None };
        let messages = self.messages;
        Answer { status: self.status, headers: self.headers, ended: self.ended, messages, trailers, reset }
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The headers ended the stream.
    ended: bool,
    pub messages: Vec<Bytes>,
    pub trailers: Option<HeaderMap>,
    pub reset: Option<Reason>,
}

impl Answer {
    /// Whether it is nothing but headers with a gRPC status.
    pub fn is_trailers_only(&self) -> bool {
        let is_grpc = self.status == 200 && self.headers["content-type"] == "application/grpc";
        self.ended && is_grpc && self.headers.contains_key("grpc-status")
    }

    /// Where the status is.
    pub fn last(&self) -> &HeaderMap {
        self.trailers.as_ref().unwrap_or(&self.headers)
    }

    /// A header or trailer of the status, where it is there.
    pub fn said(&self, name: &str) -> Option<&str> {
        self.last().get(name).map(|value| value.to_str().unwrap())
    }

    pub fn code(&self) -> Code {
        let code = self.said("grpc-status").unwrap_or_else(|| panic!("no status in {self:?}"));
        Code::from_bytes(code.as_bytes())
    }

    /// The status's message, without its percent-encoding.
    pub fn message(&self) -> String {
        let mut bytes = self.said("grpc-message").unwrap_or("").bytes();
        let mut text = Vec::new();
        while let Some(byte) = bytes.next() {
            let mut digit = || (bytes.next().unwrap() as char).to_digit(16).unwrap() as u8;
            text.push(if byte == b'%' { digit() * 16 + digit() } else { byte });
        }
        String::from_utf8(text).unwrap()
    }

    /// The status's details.
    pub fn details(&self) -> ErrorDetails {
        let details = self.said("grpc-status-details-bin").unwrap_or_else(|| panic!("no details in {self:?}"));
        let details = general_purpose::STANDARD_NO_PAD.decode(details.trim_end_matches('=')).unwrap();
        tonic::Status::with_details(self.code(), self.message(), details.into()).get_error_details()
    }

    /// The field that the details complain of.
    pub fn violated(&self) -> String {
        let details = self.details();
        let violations = &details.bad_request().expect("a bad request").field_violations;
        assert!(violations.len() == 1 && !violations[0].description.is_empty(), "{violations:?}");
        violations[0].field.clone()
    }

    /// Asserts that it says when to try again, to both kinds of clients.
    pub fn assert_says_when_to_retry(&self) {
        assert_eq!(self.said("grpc-retry-pushback-ms"), Some("1000"));
        let retry = self.details().retry_info().expect("retry info").retry_delay;
        assert_eq!(retry, Some(std::time::Duration::from_secs(1)));
    }

    pub fn responses(&self) -> Vec<protobuf::Response> {
        self.messages.iter().map(|message| protobuf::Response::decode(message.clone()).unwrap()).collect()
    }

    pub fn results(&self) -> Vec<String> {
        self.responses().into_iter().map(|response| response.result).collect()
    }
}
