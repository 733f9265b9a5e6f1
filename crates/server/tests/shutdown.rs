//! How a server ends: every stream is told, nothing new begins, nothing is left behind, and nobody can hold it up.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::{Duration, Instant},
};

use outflow::{Cleanup, Job, Placement, Plan, Request as Asked};
use outflow_proto::protobuf::Request;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use support::{
    Gauge, TestServer,
    frames::{ACK, CANCEL, DATA, END_STREAM, GOAWAY, HEADERS, PING, Peer, RST_STREAM, call, fetch, frame},
    one, planned, trickling, waiting,
    wire::{Answering, Connection, FETCH, framed, post},
};

/// What open streams have for their end, with room for a slow machine, and less than connections have.
const SOON: Duration = Duration::from_secs(4);
/// What a server takes that waits for a connection as long as it does.
const BOUND: Duration = Duration::from_secs(9);

fn request(id: i32) -> Request {
    Request { id, ..Default::default() }
}

/// A server whose id 0 trickles, 1 waits, and 2 sends all it can.
fn server(alive: &Gauge) -> TestServer {
    let alive = alive.clone();
    TestServer::planned(move |request: &Asked| match request.id() {
        0 => trickling(Duration::from_millis(5)),
        1 => waiting(&alive),
        _ => one(async |emitter| {
            loop {
                emitter.emit("as much as it can").await?;
            }
        }),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn open_streams_are_told_that_the_server_ends_and_when_to_try_again() {
    let alive = Gauge::default();
    let mut server = server(&alive);
    let connections = [Connection::open(server.address()).await, Connection::open(server.address()).await];
    let mut streams = Vec::new();
    for connection in &connections {
        for id in [0, 1] {
            let mut stream = connection.begin(&request(id)).await;
            stream.response().await;
            streams.push(stream);
        }
    }
    server.shut_down();
    for stream in streams {
        let answer = stream.finish().await;
        assert_eq!((answer.code(), answer.reset), (Code::Unavailable, None));
        answer.assert_says_when_to_retry();
        assert_eq!(answer.said("outflow-last-sequence"), Some(answer.messages.len().to_string().as_str()));
        assert_eq!((answer.said("outflow-end"), answer.said("outflow-jobs-failed")), (None, None));
    }
    server.ended_within(SOON);
    assert_eq!(alive.now(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_with_a_shut_window_is_reset_when_the_server_ends() {
    let mut server = server(&Gauge::default());
    let mut peer = Peer::open(server.address()).await;
    peer.send(&fetch(1, &request(2), &[])).await;
    let mut received = 0;
    while received < 65_535 {
        received += peer.until(|frame| frame.is(DATA, 1)).await.payload.len();
    }
    server.shut_down();
    assert_eq!(peer.until(|frame| frame.is(RST_STREAM, 1)).await.code(), CANCEL);
    peer.send(&frame(PING, ACK, 0, b"\x0b\x7b\xa2\xf0\x8b\x9b\xfe\x54")).await;
    drop(peer);
    server.ended_within(SOON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_that_comes_during_the_shutdown_is_refused_with_when_to_try_again() {
    let alive = Gauge::default();
    let mut server = server(&alive);
    let connection = Connection::open(server.address()).await;
    let (response, mut late) = connection.send(post(FETCH).body(()).unwrap(), false).await;
    let mut early = connection.begin(&request(0)).await;
    early.response().await;
    server.shut_down();
    assert_eq!(early.finish().await.code(), Code::Unavailable);

    late.send_data(framed(&request(1).encode_to_vec()), true).unwrap();
    let answer = Answering::new(response).await.finish().await;
    assert!(answer.is_trailers_only(), "{answer:?}");
    assert_eq!(answer.code(), Code::Unavailable);
    answer.assert_says_when_to_retry();
    assert_eq!(alive.now(), 0, "nothing was started");
    server.ended_within(SOON);
}

/// A peer that was told to go, and did not acknowledge it.
async fn told_to_go(server: &mut TestServer) -> Peer {
    let mut peer = Peer::open(server.address()).await;
    peer.assert_lives().await;
    server.shut_down();
    peer.until(|frame| frame.kind == GOAWAY).await;
    peer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn on_a_connection_that_stays_nothing_new_begins_and_health_says_so() {
    let alive = Gauge::default();
    let mut server = server(&alive);
    let mut peer = told_to_go(&mut server).await;
    let shutdown = peer.until(|frame| frame.kind == PING && frame.flags == 0).await;

    peer.send(&fetch(1, &request(1), &[])).await;
    let refused = peer.until(|frame| frame.stream == 1).await;
    assert!(refused.kind == HEADERS && refused.ends_stream(), "trailers only: {refused:?}");
    assert_eq!(alive.now(), 0, "nothing was started");

    for (stream, service) in [(3, ""), (5, "protobuf.StreamService")] {
        let check = framed(&HealthCheckRequest { service: service.to_owned() }.encode_to_vec());
        peer.send(&call(stream, "/grpc.health.v1.Health/Check", &[])).await;
        peer.send(&frame(DATA, END_STREAM, stream, &check)).await;
        let answer = peer.until(|frame| frame.is(DATA, stream)).await;
        let status = HealthCheckResponse::decode(&answer.payload[5..]).unwrap().status();
        assert_eq!(status, ServingStatus::NotServing, "`{service}`");
        peer.until(|frame| frame.stream == stream && frame.ends_stream()).await;
    }

    peer.send(&frame(PING, ACK, 0, &shutdown.payload)).await;
    assert!(peer.closed().await.iter().any(|frame| frame.kind == GOAWAY), "the last one names the last stream");
    server.ended_within(SOON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_connection_is_not_served_during_the_shutdown() {
    let mut server = server(&Gauge::default());
    let _held_up = told_to_go(&mut server).await;
    // The listener is closed, or about to be: then what it had accepted is.
    if let Ok(socket) = TcpStream::connect(server.address()).await {
        assert!(Peer::over(socket).closed().await.is_empty());
    }
    server.hurry().now();
    server.ended_within(SOON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_that_acknowledges_nothing_holds_it_up_for_a_bounded_time() {
    let mut server = server(&Gauge::default());
    let mut peer = told_to_go(&mut server).await;
    server.ended_within(BOUND);
    peer.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn in_a_hurry_no_connection_is_waited_for() {
    let mut server = server(&Gauge::default());
    let mut peer = told_to_go(&mut server).await;
    let began = Instant::now();
    server.hurry().now();
    server.ended_within(SOON);
    peer.closed().await;
    assert!(began.elapsed() < SOON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_open_health_watch_is_told_and_holds_nothing_up() {
    let mut server = server(&Gauge::default());
    let connection = Connection::open(server.address()).await;
    let (response, mut sending) =
        connection.send(post("/grpc.health.v1.Health/Watch").body(()).unwrap(), false).await;
    sending.send_data(framed(&[]), true).unwrap();
    let mut watch = Answering::new(response).await;
    let mut next = async || {
        let message = watch.message().await?.ok()?;
        Some(HealthCheckResponse::decode(message).unwrap().status())
    };
    assert_eq!(next().await, Some(ServingStatus::Serving));
    server.shut_down();
    assert_eq!(next().await, Some(ServingStatus::NotServing));
    assert_eq!(next().await, None);
    server.ended_within(SOON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idle_connections_hold_nothing_up() {
    let mut server = server(&Gauge::default());
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(Connection::open(server.address()).await);
    }
    server.shut_down();
    server.ended_within(SOON);
    for connection in &mut idle {
        connection.closed().await;
    }
}

/// Streams of the next two tests, and jobs of each.
const STREAMS: usize = 20;
const JOBS: usize = 3;

/// A job that leaves something to do behind when it is dropped: this counts itself in `done`, once there is no time
/// left, or else `after` a while.
fn leaving(done: &Arc<AtomicUsize>, after: Duration) -> Job {
    struct Guard<W: FnOnce()>(Option<W>);

    impl<W: FnOnce()> Drop for Guard<W> {
        fn drop(&mut self) {
            self.0.take().expect("dropped once")();
        }
    }

    let done = done.clone();
    Job::new(async move |emitter| {
        let cleanup = emitter.cleanup();
        let work = clean_up(cleanup.clone(), after, done);
        let _guard = Guard(Some(move || cleanup.spawn(work)));
        emitter.emit("begun").await?;
        tokio::time::sleep(Duration::from_hours(1)).await;
        Ok(())
    })
}

/// A server whose jobs all do that.
fn server_leaving(done: &Arc<AtomicUsize>, after: Duration) -> TestServer {
    let done = done.clone();
    TestServer::planned(move |_| Plan::new().jobs((0..JOBS).map(|_| leaving(&done, after))))
}

async fn clean_up(cleanup: Cleanup, after: Duration, done: Arc<AtomicUsize>) {
    tokio::select! {
        () = cleanup.hurry() => {}
        () = tokio::time::sleep(after) => {}
    }
    done.fetch_add(1, SeqCst);
}

/// Has all jobs begun, and shuts the server down under them.
async fn shut_down_under_jobs(server: &mut TestServer) {
    let connection = Connection::open(server.address()).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = connection.begin(&Request::default()).await;
        for _ in 0..JOBS {
            stream.response().await;
        }
        streams.push(stream);
    }
    server.shut_down();
    for stream in streams {
        assert_eq!(stream.finish().await.code(), Code::Unavailable);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_jobs_leave_behind_is_finished_before_the_server_has_ended() {
    let done = Arc::new(AtomicUsize::new(0));
    let mut server = server_leaving(&done, Duration::from_millis(300));
    shut_down_under_jobs(&mut server).await;
    server.ended_within(SOON);
    assert_eq!(done.load(SeqCst), STREAMS * JOBS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn in_a_hurry_what_jobs_leave_behind_is_told_so() {
    let done = Arc::new(AtomicUsize::new(0));
    let mut server = server_leaving(&done, Duration::from_hours(1));
    shut_down_under_jobs(&mut server).await;
    assert_eq!(done.load(SeqCst), 0, "they have their grace");
    server.hurry().now();
    server.ended_within(SOON);
    assert_eq!(done.load(SeqCst), STREAMS * JOBS);
}

/// A job that blocks its thread until the sender is dropped.
fn blocking(blocked: &Arc<Mutex<mpsc::Receiver<()>>>) -> Job {
    let blocked = blocked.clone();
    Job::new(async move |emitter| {
        emitter.emit("begun").await?;
        _ = blocked.lock().recv();
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_job_leaves_behind_is_finished_also_where_it_was_slow_to_stop() {
    let (release, blocked) = mpsc::sync_channel(0);
    let blocked = Arc::new(Mutex::new(blocked));
    let done = Arc::new(AtomicUsize::new(0));
    let count = done.clone();
    let mut server = TestServer::start(|server| {
        // One thread for both jobs: while one blocks it, the other cannot be dropped.
        let source = planned(move |_| Plan::new().job(leaving(&count, Duration::ZERO)).job(blocking(&blocked)));
        server.workers(1).default_source("test", source)
    });
    let connection = Connection::open(server.address()).await;
    let mut stream = connection.begin(&Request::default()).await;
    stream.response().await;
    stream.response().await;
    server.shut_down();
    assert_eq!(stream.finish().await.code(), Code::Unavailable);
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(release);
    server.ended_within(SOON);
    assert_eq!(done.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_blocks_its_thread_is_abandoned() {
    let (release, blocked) = mpsc::sync_channel(0);
    let blocked = Arc::new(Mutex::new(blocked));
    let mut server = TestServer::planned(move |_| Plan::new().job(blocking(&blocked)));
    let connection = Connection::open(server.address()).await;
    let mut stream = connection.begin(&Request::default()).await;
    stream.response().await;
    server.shut_down();
    assert_eq!(stream.finish().await.code(), Code::Unavailable);
    server.hurry().now();
    server.ended_within(SOON);
    drop(release);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_blocks_the_thread_of_its_reader_is_abandoned_too() {
    let (release, blocked) = mpsc::sync_channel(0);
    let blocked = Arc::new(Mutex::new(blocked));
    let mut server = TestServer::planned(move |_| Plan::new().job(blocking(&blocked)).placement(Placement::Reader));
    // No answer comes: the thread that would give it is blocked.
    let mut peer = Peer::open(server.address()).await;
    peer.send(&fetch(1, &request(1), &[])).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.shut_down();
    server.hurry().now();
    server.ended_within(SOON);
    drop(release);
}
