//! A server of the tutorial's contract, made with tonic: no Outflow, over real sockets.

mod support;

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use outflow_client::{Client, Code, ConnectError, End, Fetch, FetchError, Outcome, Payload};
use outflow_proto::protobuf::{
    Request, Response,
    stream_service_server::{StreamService, StreamServiceServer},
};
use support::soon;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc,
    task::JoinSet,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{Status, transport::Server};

/// Answers an id with so many responses; below 0 with an error; 0 with a stream that never ends.
struct Tutorial {
    left: mpsc::Sender<()>,
}

/// Tells when the stream it belongs to is dropped.
struct Left(mpsc::Sender<()>);

impl Drop for Left {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

#[tonic::async_trait]
impl StreamService for Tutorial {
    type FetchResponseStream = Pin<Box<dyn Stream<Item = Result<Response, Status>> + Send>>;

    async fn fetch_response(
        &self,
        request: tonic::Request<Request>,
    ) -> Result<tonic::Response<Self::FetchResponseStream>, Status> {
        let id = request.into_inner().id;
        let say = |n| Ok(Response { result: format!("response {n}"), ..Response::default() });
        let stream: Self::FetchResponseStream = match id {
            ..0 => return Err(Status::not_found("no such \u{20ac}")),
            0 => stream::iter(1..=3).map(say).chain(stream::pending()).boxed(),
            13 => stream::iter(1..=2).map(say).chain(stream::iter([Err(Status::internal("broken"))])).boxed(),
            _ => stream::iter(1..=id).map(say).boxed(),
        };
        let left = Left(self.left.clone());
        Ok(tonic::Response::new(stream.inspect(move |_| _ = &left).boxed()))
    }
}

/// Serves over TCP: the address, who left, and the server.
async fn over_tcp() -> (String, mpsc::Receiver<()>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (left, has_left) = mpsc::channel(16);
    let mut server = JoinSet::new();
    server.spawn(async move {
        let service = StreamServiceServer::new(Tutorial { left });
        Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    (address, has_left, server)
}

async fn texts(client: &Client, fetch: Fetch) -> (Vec<(u64, String)>, Option<Outcome>) {
    let mut responses = client.fetch(fetch).await.unwrap();
    assert!(responses.is_plain());
    assert_eq!((responses.run_id(), responses.durability()), (None, None));
    let mut texts = Vec::new();
    while let Some(response) = soon(responses.next()).await {
        let response = response.unwrap();
        let Payload::Text(text) = response.payload else { panic!("{response:?}") };
        texts.push((response.sequence, text.to_string()));
    }
    (texts, responses.outcome().copied())
}

#[tokio::test]
async fn a_plain_server_is_read_over_tcp_and_over_a_unix_socket() {
    let (address, _left, _server) = over_tcp().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut unix = JoinSet::new();
    unix.spawn(async move {
        let service = StreamServiceServer::new(Tutorial { left: mpsc::channel(1).0 });
        Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
    });
    let port = address.rsplit_once(':').unwrap().1;
    // "localhost" may be two addresses, of which the server has one.
    let addresses =
        [format!("http://{address}"), address.clone(), format!(":{port}"), format!("unix:{}", path.display())];
    for address in &addresses {
        let client = Client::connect(address).await.unwrap();
        let (texts, outcome) = texts(&client, Fetch::id(5)).await;
        let expected: Vec<_> = (1..=5).map(|n| (n, format!("response {n}"))).collect();
        assert_eq!(texts, expected, "{address}");
        assert_eq!(outcome, Some(Outcome::Ended { end: End::Complete, jobs_failed: 0, last_sequence: 5 }));
    }
}

#[tokio::test]
async fn a_limit_is_applied_here_and_stops_the_work_there() {
    let (address, mut left, _server) = over_tcp().await;
    let client = Client::connect(&address).await.unwrap();
    let (texts, outcome) = texts(&client, Fetch::id(0).limit(2)).await;
    assert_eq!(texts.len(), 2);
    assert_eq!(outcome, Some(Outcome::Limit { last_sequence: 2 }));
    soon(left.recv()).await.unwrap();
}

#[tokio::test]
async fn leaving_stops_the_work_while_the_connection_lives_on() {
    let (address, mut left, _server) = over_tcp().await;
    let client = Client::connect(&address).await.unwrap();
    let mut responses = client.fetch(Fetch::id(0)).await.unwrap();
    soon(responses.next()).await.unwrap().unwrap();
    assert!(left.try_recv().is_err());
    drop(responses);
    soon(left.recv()).await.unwrap();
    assert_eq!(texts(&client, Fetch::id(1)).await.0.len(), 1);
}

#[tokio::test]
async fn its_errors_are_its_answers() {
    let (address, _left, _server) = over_tcp().await;
    let client = Client::connect(&address).await.unwrap();
    let refused = client.fetch(Fetch::id(-1)).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("{address} refused the request: NOT_FOUND: no such \u{20ac}"));

    let mut responses = client.fetch(Fetch::id(13)).await.unwrap();
    assert!(soon(responses.next()).await.unwrap().is_ok() && soon(responses.next()).await.unwrap().is_ok());
    let error = soon(responses.next()).await.unwrap().unwrap_err();
    let FetchError::Status { status, .. } = error else { panic!("{error}") };
    assert_eq!((status.code(), status.message()), (Code::INTERNAL, "broken"));
    assert_eq!(responses.outcome(), None);
}

#[tokio::test]
async fn its_own_deadline_ends_a_stream_that_would_not_end() {
    let (address, mut left, _server) = over_tcp().await;
    let client = Client::connect(&address).await.unwrap();
    let mut responses = client.fetch(Fetch::id(0).deadline(Duration::from_millis(50))).await.unwrap();
    let error = loop {
        if let Err(error) = soon(responses.next()).await.expect("a stream without an end") {
            break error;
        }
    };
    // tonic's timeout bounds the headers alone, so that this client has to act.
    assert!(matches!(error, FetchError::WaitedTooLong { .. }), "{error}");
    soon(left.recv()).await.unwrap();
}

#[tokio::test]
async fn streams_on_one_connection_do_not_wait_for_one_another() {
    let (address, _left, _server) = over_tcp().await;
    let client = Client::connect(&address).await.unwrap();
    let _unread = client.fetch(Fetch::id(0)).await.unwrap();
    let mut readers = JoinSet::new();
    for id in 1..=50 {
        let client = client.clone();
        readers.spawn(async move { texts(&client, Fetch::id(id % 12 + 14)).await.0.len() });
    }
    let count: usize = readers.join_all().await.into_iter().sum();
    assert_eq!(i32::try_from(count).unwrap(), (1..=50).map(|id| id % 12 + 14).sum::<i32>());
}

#[tokio::test]
async fn where_nothing_listens_the_error_says_what_was_tried() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = Client::connect(&dead.to_string()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("no connection to {dead} ({dead}: ")), "{text}");
    assert!(text.ends_with("; is a server listening there?"), "{text}");
    let error = Client::connect("unix:/no/such.sock").await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    let error = Client::connect("https://localhost").await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
}
