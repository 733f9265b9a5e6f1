//! Readers that do not read: what they cost, how they are ended, and that nobody else waits for them.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use outflow::{Plan, Request as Asked, TransportLimits, source::Simulate};
use outflow_proto::protobuf::Request;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use support::{
    Gauge, PATIENCE, TestServer,
    frames::{CANCEL, DATA, Frame, HEADERS, Peer, RST_STREAM, fetch, setting, window},
    one, planned,
    wire::simulate,
    within,
};

/// Responses of a job that nobody reads.
const RESPONSES: usize = 5_000_000;
const TEXT: &str = "twenty-four bytes a time";
/// Prefix, sequence, and the tags of both fields: what a response is at least beside its text.
const FRAME_BYTES_MIN: usize = 5 + 2 + 2 + TEXT.len();

/// HTTP/2's usual window, which a reader leaves shut (RFC 9113 §6.9.2).
const WINDOW_BYTES: usize = 65_535;
/// By when a reader is cut that takes nothing for a second, with room for a slow machine.
const CUT_TIME: Duration = Duration::from_millis(3_500);

/// Bytes of a run's window and of HTTP/2's send buffer, the server's defaults, with the two chunks between them that
/// a stalled stream was seen to pull.
const HELD_BYTES_MAX: usize = 128 * 1024 + 128 * 1024 + 2 * 64 * 1024;

/// A job that emits without end of its own, and tells how far it got and whether it is alive.
#[derive(Clone, Default)]
struct Probe {
    emitted: Arc<AtomicUsize>,
    alive: Gauge,
}

impl Probe {
    fn plan(&self) -> Plan {
        let Self { emitted, alive } = self.clone();
        one(async move |emitter| {
            let _alive = alive.enter();
            for _ in 0..RESPONSES {
                emitter.emit(TEXT).await?;
                emitted.fetch_add(1, SeqCst);
            }
            Ok(())
        })
    }

    /// How many it had emitted when it was made to wait.
    async fn made_to_wait(&self) -> usize {
        let began = Instant::now();
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.emitted.load(SeqCst);
            if now > 0 && now == before {
                assert!(now < RESPONSES, "it was never made to wait");
                return now;
            }
            assert!(began.elapsed() < PATIENCE, "it goes on, at {now}");
            before = now;
        }
    }
}

/// A server that cuts readers which take nothing for `stall` seconds.
fn server(probe: &Probe, stall: u64) -> TestServer {
    let probe = probe.clone();
    let mut limits = TransportLimits::default();
    limits.stall_time = Duration::from_secs(stall);
    TestServer::start(|server| server.default_source("test", planned(move |_| probe.plan())).transport_limits(limits))
}

/// The end of stream 1, and how many bytes of DATA came before it.
async fn ended(peer: &mut Peer) -> (Frame, usize) {
    let mut bytes = 0;
    let end = peer
        .until(|frame| {
            if frame.is(DATA, 1) {
                bytes += frame.payload.len();
            }
            frame.is(RST_STREAM, 1) || (frame.stream == 1 && frame.ends_stream())
        })
        .await;
    (end, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_with_a_shut_window_holds_a_bounded_number_of_bytes_and_is_cut_in_time() {
    let probe = Probe::default();
    let server = server(&probe, 1);
    let mut peer = Peer::open(server.address()).await;
    let asked = Instant::now();
    peer.send(&fetch(1, &Request::default(), &[])).await;
    let emitted = probe.made_to_wait().await;
    let bytes = emitted * FRAME_BYTES_MIN;
    assert!(bytes < WINDOW_BYTES + HELD_BYTES_MAX, "{emitted} responses, at least {bytes} bytes");

    probe.alive.becomes(0).await;
    assert!(asked.elapsed() >= Duration::from_secs(1), "it had a second: {:?}", asked.elapsed());
    let (end, received) = ended(&mut peer).await;
    assert_eq!((end.kind, end.code()), (RST_STREAM, CANCEL));
    assert_eq!(received, WINDOW_BYTES, "all that the window allowed");
    assert_eq!(probe.emitted.load(SeqCst), emitted, "nothing was emitted for nobody");

    // The connection goes on, and with a window so do its streams.
    peer.send(&window(0, 1 << 20)).await;
    peer.send(&fetch(3, &Request::default(), &[])).await;
    peer.until(|frame| frame.is(DATA, 3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_with_an_open_window_and_an_unread_socket_is_bounded_and_cut_as_well() {
    let probe = Probe::default();
    let server = server(&probe, 1);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    // The kernel's share is this reader's choice, and beside the point.
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(&server.address().into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut peer = Peer::over(TcpStream::from_std(socket.into()).unwrap());
    let open = [support::frames::PREFACE, &setting(4, i32::MAX as u32), &window(0, 1 << 30)].concat();
    peer.send(&open).await;
    peer.send(&fetch(1, &Request::default(), &[])).await;

    let emitted = probe.made_to_wait().await;
    let bytes = emitted * FRAME_BYTES_MIN;
    // What is gathered for one write, the kernel's unsent bytes, and what the small buffer holds.
    let wire = 128 * 1024 + 128 * 1024 + 256 * 1024;
    assert!(bytes < HELD_BYTES_MAX + wire, "{emitted} responses, at least {bytes} bytes");
    probe.alive.becomes(0).await;
    // Read at last, the connection turns out to live.
    peer.until(|frame| frame.is(RST_STREAM, 1)).await;
    peer.assert_lives().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stalled_reader_is_reset_at_its_deadline() {
    let probe = Probe::default();
    let server = server(&probe, 60);
    let mut peer = Peer::open(server.address()).await;
    let asked = Instant::now();
    peer.send(&fetch(1, &Request::default(), &[("grpc-timeout", "400m")])).await;
    probe.alive.becomes(1).await;
    probe.alive.becomes(0).await;
    let stopped = asked.elapsed();
    assert!(stopped >= Duration::from_millis(400) && stopped < Duration::from_millis(1400), "{stopped:?}");
    let (end, received) = ended(&mut peer).await;
    assert_eq!((end.kind, end.code(), received), (RST_STREAM, CANCEL, WINDOW_BYTES));
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    peer.assert_lives().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_that_reads_again_after_its_deadline_is_told_its_status() {
    let probe = Probe::default();
    let server = server(&probe, 60);
    let mut peer = Peer::open(server.address()).await;
    peer.send(&fetch(1, &Request::default(), &[("grpc-timeout", "300m")])).await;
    probe.alive.becomes(1).await;
    probe.alive.becomes(0).await;
    peer.send(&[window(0, 1 << 20), window(1, 1 << 20)].concat()).await;
    let (end, received) = ended(&mut peer).await;
    assert_eq!(end.kind, HEADERS, "trailers: {end:?}");
    assert!(received > WINDOW_BYTES, "what HTTP/2 had taken comes before them");
}

/// Takes 16 KiB of stream 1 every 250 ms, for more than twice as long as a reader may take nothing.
async fn take_little_by_little(peer: &mut Peer) {
    let grant = 16 * 1024;
    let mut allowed = WINDOW_BYTES;
    let mut received = 0;
    for _ in 0..11 {
        while received < allowed {
            let frame = peer.until(|frame| frame.stream == 1 && frame.kind != HEADERS).await;
            assert_eq!(frame.kind, DATA, "cut after {received} bytes, the last of them just now: {frame:?}");
            received += frame.payload.len();
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        allowed += grant as usize;
        peer.send(&[window(0, grant), window(1, grant)].concat()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_reader_is_cut_that_takes_little_by_little_or_has_nothing_to_take() {
    let mut limits = TransportLimits::default();
    limits.stall_time = Duration::from_secs(1);
    let alive = Gauge::default();
    let job = alive.clone();
    let server = TestServer::start(|server| {
        let silent = planned(move |_| support::waiting(&job));
        server.default_source("test", Simulate::default()).source("silent", silent).transport_limits(limits)
    });
    let (mut slow, mut silent) = (Peer::open(server.address()).await, Peer::open(server.address()).await);
    silent.send(&fetch(1, &Request { source: "silent".to_owned(), ..Default::default() }, &[])).await;
    silent.until(|frame| frame.is(DATA, 1)).await;
    let large = simulate(&[("jobs", "1"), ("responses", "2"), ("size", "1048000")]);
    slow.send(&fetch(1, &large, &[])).await;

    take_little_by_little(&mut slow).await;
    assert_eq!(alive.now(), 1, "there was nothing to take");
    silent.assert_lives().await;
}

/// Two connections that each leave shut the window of a stream whose run has nothing more to give: one has ended, the
/// other waits. HTTP/2 took all there is, and so much of it that it cannot be sent.
async fn leaving_the_rest(server: &TestServer, extra: &[(&str, &str)]) -> [Peer; 2] {
    let mut peers = [Peer::open(server.address()).await, Peer::open(server.address()).await];
    for (id, peer) in (0..).zip(&mut peers) {
        peer.send(&fetch(1, &Request { id, ..Default::default() }, extra)).await;
        let mut received = 0;
        while received < WINDOW_BYTES {
            received += peer.until(|frame| frame.is(DATA, 1)).await.payload.len();
        }
    }
    peers
}

/// A server for that.
fn server_of_one_large_response(alive: &Gauge, stall: u64) -> TestServer {
    let alive = alive.clone();
    let mut limits = TransportLimits::default();
    limits.stall_time = Duration::from_secs(stall);
    let plan = move |request: &Asked| {
        let (alive, waits) = (alive.clone(), request.id() == 1);
        one(async move |emitter| {
            let _alive = alive.enter();
            emitter.emit("x".repeat(110_000)).await?;
            if waits {
                tokio::time::sleep(Duration::from_hours(1)).await;
            }
            Ok(())
        })
    };
    TestServer::start(|server| server.default_source("test", planned(plan)).transport_limits(limits))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_that_leaves_the_rest_unread_is_reset_in_time_at_its_deadline_and_when_the_server_ends() {
    let alive = Gauge::default();
    let are_reset = async |peers: [Peer; 2]| {
        for mut peer in peers {
            let end = within(CUT_TIME, peer.until(|frame| frame.stream == 1)).await;
            assert_eq!((end.kind, end.code()), (RST_STREAM, CANCEL));
        }
    };
    let in_time = async {
        let server = server_of_one_large_response(&alive, 1);
        are_reset(leaving_the_rest(&server, &[]).await).await;
    };
    let at_its_deadline = async {
        let server = server_of_one_large_response(&alive, 60);
        are_reset(leaving_the_rest(&server, &[("grpc-timeout", "400m")]).await).await;
    };
    let when_the_server_ends = async {
        let mut server = server_of_one_large_response(&alive, 60);
        let peers = leaving_the_rest(&server, &[]).await;
        server.shut_down();
        are_reset(peers).await;
    };
    tokio::join!(in_time, at_its_deadline, when_the_server_ends);
    alive.becomes(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_that_takes_the_rest_late_is_given_it_with_the_end() {
    let server = server_of_one_large_response(&Gauge::default(), 60);
    let [mut peer, _] = leaving_the_rest(&server, &[]).await;
    peer.send(&[window(0, 1 << 20), window(1, 1 << 20)].concat()).await;
    let (end, received) = ended(&mut peer).await;
    assert_eq!(end.kind, HEADERS, "trailers: {end:?}");
    assert!(received > 110_000 - WINDOW_BYTES, "{received}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stalled_reader_that_leaves_stops_its_job_at_once() {
    for leave in ["reset", "close"] {
        let probe = Probe::default();
        let server = server(&probe, 60);
        let mut peer = Peer::open(server.address()).await;
        peer.send(&fetch(1, &Request::default(), &[])).await;
        probe.made_to_wait().await;
        if leave == "reset" {
            peer.send(&support::frames::reset(1)).await;
        } else {
            drop(peer);
        }
        let took = probe.alive.becomes(0).await;
        assert!(took < Duration::from_secs(1), "{leave}: it went on for {took:?}");
    }
}
