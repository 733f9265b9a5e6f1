//! Many streams at once: each in its own order, and none held up by another.

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use outflow::{Placement, Request as Asked};
use outflow_proto::protobuf::Request;
use tokio::task::JoinSet;
use tonic::Code;

use support::{
    Gauge, TestServer,
    frames::{DATA, Peer, fetch},
    one, planned, trickling, waiting,
    wire::{Answer, Connection, simulate},
};

fn request(id: i32) -> Request {
    Request { id, ..Default::default() }
}

/// A server with one worker, so that all streams share a thread: id 0 trickles, 1 waits, 2 sends all it can, and 3
/// sends so much at once on the very thread of its readers.
fn server(alive: &Gauge) -> TestServer {
    let alive = alive.clone();
    let plan = move |request: &Asked| match request.id() {
        0 => trickling(Duration::from_millis(5)),
        1 => waiting(&alive),
        2 => one(async |emitter| {
            loop {
                emitter.emit("as much as it can").await?;
            }
        }),
        _ => one(async |emitter| Ok(emitter.emit_all(&["one of a thousand"; 1_000]).await?))
            .placement(Placement::Reader),
    };
    TestServer::start(|server| server.workers(1).default_source("test", planned(plan)))
}

/// The five responses of a request as the tutorial makes it.
fn assert_in_order(answer: &Answer, id: i32) {
    let found = answer.responses().into_iter().map(|response| (response.sequence, response.job, response.result));
    assert!(found.eq((0..5).map(|n| (u64::from(n) + 1, n, format!("Request #{n} For Id:{id}")))), "{answer:?}");
    assert_eq!((answer.code(), answer.said("outflow-end")), (Code::Ok, Some("complete")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_streams_complete_each_in_its_own_order() {
    let server = TestServer::start(|server| server);
    let address = server.address();
    let began = Instant::now();
    let mut connections = JoinSet::new();
    for connection in 0..10 {
        connections.spawn(async move {
            let ids = connection * 100..(connection + 1) * 100;
            let connection = Connection::open(address).await;
            let fetch = async |id| (id, connection.fetch(&Request { id, ..simulate(&[("step", "100ms")]) }).await);
            futures_util::future::join_all(ids.map(fetch)).await
        });
    }
    let answers = connections.join_all().await.into_iter().flatten();
    let mut runs = BTreeSet::new();
    for (id, answer) in answers {
        assert_in_order(&answer, id);
        runs.insert(answer.headers["outflow-run-id"].clone().to_str().unwrap().to_owned());
    }
    assert_eq!(runs.len(), 1_000);
    // One after the other they would take 400 s.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slow_stream_does_not_hold_up_a_fast_one_beside_it() {
    let alive = Gauge::default();
    let server = server(&alive);
    let connection = Connection::open(server.address()).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        slow.push(connection.begin(&request(1)).await);
    }
    let mut trickle = connection.begin(&request(0)).await;
    for _ in 0..5 {
        let fast = connection.fetch(&request(3)).await;
        assert_eq!((fast.code(), fast.messages.len()), (Code::Ok, 1_000));
        trickle.response().await;
    }
    for stream in &mut slow {
        assert_eq!(stream.response().await.result, "begun");
    }
    assert_eq!(alive.now(), 50, "they go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_busy_stream_does_not_hold_up_a_trickling_one_beside_it() {
    let server = server(&Gauge::default());
    let connection = Connection::open(server.address()).await;
    let busy = async {
        let mut busy = connection.begin(&request(2)).await;
        loop {
            busy.message().await.expect("it never ends").unwrap();
        }
    };
    let trickle = async {
        let began = Instant::now();
        let answer = connection.fetch(&Request { limit: 50, ..request(0) }).await;
        assert_eq!((answer.code(), answer.messages.len()), (Code::Ok, 50));
        began.elapsed()
    };
    tokio::select! {
        () = busy => {}
        took = trickle => assert!(took < Duration::from_secs(5), "50 responses, 5 ms apart, took {took:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_that_does_not_read_holds_up_no_other_connection() {
    let server = server(&Gauge::default());
    let mut unread = Vec::new();
    for _ in 0..20 {
        let mut peer = Peer::open(server.address()).await;
        peer.send(&fetch(1, &request(2), &[])).await;
        // It is being answered, and its window will be shut soon.
        peer.until(|frame| frame.is(DATA, 1)).await;
        unread.push(peer);
    }
    let connection = Connection::open(server.address()).await;
    let (fast, trickle) = (request(3), Request { limit: 50, ..request(0) });
    let (fast, trickle) = tokio::join!(connection.fetch(&fast), connection.fetch(&trickle));
    assert_eq!((fast.code(), fast.messages.len()), (Code::Ok, 1_000));
    assert_eq!((trickle.code(), trickle.messages.len()), (Code::Ok, 50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_unread_stream_holds_up_no_other_one_while_the_connections_window_is_open() {
    let server = server(&Gauge::default());
    // Sixteen stream windows in one of the connection.
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(65_535).initial_connection_window_size(16 * 65_535);
    let connection = Connection::with(server.address(), &builder).await;
    let mut unread = Vec::new();
    for _ in 0..8 {
        unread.push(connection.begin(&request(2)).await);
    }
    for _ in 0..20 {
        let fast = connection.fetch(&request(3)).await;
        assert_eq!((fast.code(), fast.messages.len()), (Code::Ok, 1_000));
    }
    for stream in &mut unread {
        assert_eq!(stream.response().await.sequence, 1);
    }
}
