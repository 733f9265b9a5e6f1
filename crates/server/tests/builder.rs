//! A server in one expression: `Builder::serve`, where it listens, and what it says when it cannot.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use outflow::{BindError, Job, Listen, Plan, Refusal, Request, ServeError, Server, Source};
use outflow_client::{Client, Fetch, Payload};
use tokio::{sync::oneshot, task::JoinSet};

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Hello;

impl Source for Hello {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let id = request.id();
        Ok(Plan::new().job(Job::new(async move |emitter| Ok(emitter.emit(format!("hello {id}")).await?))))
    }
}

/// A port that nobody has just now.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Serves with what `serve` makes of a free port, and gives what a client is answered there.
async fn answer<F>(serve: impl Fn(u16, oneshot::Receiver<()>) -> F) -> String
where
    F: Future<Output = Result<(), ServeError>> + Send + 'static,
{
    let until = Instant::now() + PATIENCE;
    'ports: loop {
        let port = free_port();
        let (stop, stopped) = oneshot::channel();
        let mut serving = JoinSet::new();
        serving.spawn(serve(port, stopped));
        let client = loop {
            assert!(Instant::now() < until, "it does not begin to serve");
            if let Some(ended) = serving.try_join_next() {
                // Somebody else took the port meanwhile.
                assert!(matches!(ended.unwrap(), Err(ServeError::Bind(BindError::InUse { .. }))));
                continue 'ports;
            }
            match Client::connect(&format!("http://127.0.0.1:{port}")).await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let mut responses = client.fetch(Fetch::id(7)).await.unwrap();
        let response = responses.next().await.unwrap().unwrap();
        drop((responses, client));
        stop.send(()).unwrap();
        serving.join_next().await.unwrap().unwrap().unwrap();
        let Payload::Text(text) = response.payload else { panic!("no text: {response:?}") };
        return text.to_string();
    }
}

#[tokio::test]
async fn a_server_serves_where_it_is_told_to_until_it_is_told_to_stop() {
    let hello = || Server::builder().source("hello", Hello);
    let served = answer(|port, stopped| {
        hello().serve(format!("127.0.0.1:{port}"), async { _ = stopped.await }) //
    });
    assert_eq!(served.await, "hello 7");
    let served = answer(|port, stopped| hello().serve(("127.0.0.1", port), async { _ = stopped.await }));
    assert_eq!(served.await, "hello 7");
    let served = answer(|port, stopped| hello().serve(("localhost", port), async { _ = stopped.await }));
    assert_eq!(served.await, "hello 7");
    // And nowhere else.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let elsewhere = Listen::from(taken.local_addr().unwrap());
    let served = answer(|port, stopped| {
        hello().listen([elsewhere.clone()]).serve((Ipv4Addr::LOCALHOST, port), async { _ = stopped.await })
    });
    assert_eq!(served.await, "hello 7");
}

#[tokio::test]
async fn what_is_no_place_to_serve_at_is_said_before_anything_begins() {
    let serve = |place: &str| Server::builder().serve(place.to_owned(), std::future::pending());
    let Err(error) = serve("50005").await else { panic!("it served") };
    assert_eq!(
        error.to_string(),
        "`50005` is no address; write IP:PORT or NAME:PORT, such as 127.0.0.1:50005, [::1]:50005 or localhost:50005"
    );
    let Err(error) = serve("nobody.invalid:50005").await else { panic!("it served") };
    assert!(
        error.to_string().starts_with("cannot find where to listen: `nobody.invalid` gives no address"),
        "{error}"
    );

    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at: SocketAddr = taken.local_addr().unwrap();
    let Err(error) = Server::builder().serve(at, std::future::pending()).await else { panic!("it served") };
    assert!(matches!(error, ServeError::Bind(BindError::InUse { address }) if address == at), "{error}");

    // TEST-NET-1 (RFC 5737 §3) is nobody's address.
    let Err(error) = serve("192.0.2.1:0").await else { panic!("it served") };
    let ServeError::Bind(BindError::Refused { source, .. }) = &error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::AddrNotAvailable);
}
