//! What a connection may and may not do: who is let in, who is shown out, and that the others do not notice.

mod support;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use outflow::{Request as Asked, TransportLimits};
use outflow_proto::protobuf::Request;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;

use support::{
    Gauge, PATIENCE, TestServer,
    frames::{
        ACK, DATA, Frame, GOAWAY, HEADERS, PING, PREFACE, Peer, REFUSED_STREAM, RST_STREAM, SETTINGS, STREAM_CLOSED,
        fetch, frame, ping, reset, setting,
    },
    one, planned, trickling, waiting,
    wire::Connection,
    within,
};

const PREFACE_TIME: Duration = Duration::from_millis(400);

fn request(id: i32) -> Request {
    Request { id, ..Default::default() }
}

/// A server with these bounds, whose id 0 trickles and whose other ids wait.
fn server(alive: &Gauge, bounds: impl FnOnce(&mut TransportLimits)) -> TestServer {
    let alive = alive.clone();
    let plan = move |request: &Asked| match request.id() {
        0 => trickling(Duration::from_millis(5)),
        _ => waiting(&alive),
    };
    let mut limits = TransportLimits::default();
    bounds(&mut limits);
    TestServer::start(|server| server.default_source("test", planned(plan)).transport_limits(limits))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_that_speaks_no_http2_is_sent_settings_and_away() {
    let server = TestServer::start(|server| server);
    let tls_hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 64]].concat();
    for said in [&b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"[..], &[b'x'; 100], &[0; 30], &tls_hello] {
        let mut peer = Peer::connect(server.address()).await;
        let began = Instant::now();
        peer.send(said).await;
        let frames = peer.closed().await;
        assert_eq!(frames.first().map(|frame| (frame.kind, frame.flags)), Some((SETTINGS, 0)), "{said:?}");
        assert!(frames[1..].iter().all(|frame| frame.kind == GOAWAY), "{frames:?}");
        assert!(began.elapsed() < Duration::from_secs(2), "at once, not when its time for the preface is over");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_that_does_not_get_to_its_first_frame_is_closed_in_time() {
    let server = server(&Gauge::default(), |limits| limits.preface_time = PREFACE_TIME);
    let closed = async |said: &[u8]| {
        let began = Instant::now();
        let mut peer = Peer::connect(server.address()).await;
        peer.send(said).await;
        peer.closed().await;
        let took = began.elapsed();
        assert!(took >= PREFACE_TIME && took < Duration::from_secs(4), "{took:?} for {said:?}");
    };
    // A whole preface is not enough: SETTINGS belong to it.
    let settings = [PREFACE, &[0, 0, 0, 4]].concat();
    tokio::join!(closed(b""), closed(b"PRI *"), closed(PREFACE), closed(&settings));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_that_began_well_may_stay_silent() {
    let server = server(&Gauge::default(), |limits| limits.preface_time = PREFACE_TIME);
    let mut peer = Peer::open(server.address()).await;
    tokio::time::sleep(PREFACE_TIME * 2).await;
    peer.assert_lives().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_batch_of_cancelled_calls_harms_nobody() {
    let alive = Gauge::default();
    let server = server(&alive, |_| {});
    let mut peer = Peer::open(server.address()).await;
    peer.send(&fetch(1, &request(0), &[])).await;
    peer.until(|frame| frame.is(DATA, 1)).await;

    let cancels: Vec<u8> =
        (0..150).flat_map(|n| [fetch(3 + 2 * n, &request(1), &[]), reset(3 + 2 * n)].concat()).collect();
    peer.send(&cancels).await;
    let last = 3 + 2 * 150;
    peer.send(&fetch(last, &request(1), &[])).await;
    peer.until(|frame| frame.is(DATA, last)).await;
    peer.until(|frame| frame.is(DATA, 1)).await;
    assert_eq!(alive.becomes(1).await.as_secs(), 0, "only the last call's job goes on");
}

/// A trickling stream on a connection of its own, read to response `enough`.
async fn reads_on(address: SocketAddr, enough: u64) {
    let connection = Connection::open(address).await;
    let answer = connection.fetch(&Request { limit: enough, ..request(0) }).await;
    assert_eq!((answer.code(), answer.messages.len() as u64, answer.reset), (Code::Ok, enough, None));
}

/// Writes `flood` and reads what comes of it until the server closes the connection, which it has to.
async fn is_closed_for(address: SocketAddr, flood: Vec<u8>) {
    let peer = Peer::open(address).await;
    let (mut reading, mut writing) = peer.socket.into_split();
    let write = async {
        _ = writing.write_all(&flood).await;
        // Our own end stays open, so that the server's is the one that is closed.
        std::future::pending::<()>().await;
    };
    let mut sink = vec![0; 64 * 1024];
    let read = async { while !matches!(reading.read(&mut sink).await, Ok(0) | Err(_)) {} };
    let closed = async {
        tokio::select! {
            () = write => {}
            () = read => {}
        }
    };
    within(PATIENCE, closed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_flood_of_control_frames_ends_its_own_connection_only() {
    let server = server(&Gauge::default(), |_| {});
    // An innocent peer of the same kind first: a thousand at once is no flood.
    let mut innocent = Peer::open(server.address()).await;
    innocent.send(&ping(1).repeat(1_000)).await;
    innocent.assert_lives().await;

    let priority = frame(2, 0, 1, &[0, 0, 0, 0, 16]);
    for flood in [ping(1), setting(4, 65_535), priority] {
        let flood = is_closed_for(server.address(), flood.repeat(300_000));
        tokio::join!(flood, reads_on(server.address(), 50));
    }
    innocent.assert_lives().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn calls_cancelled_without_end_end_their_own_connection_only() {
    let alive = Gauge::default();
    let server = server(&alive, |_| {});
    // In small batches, each looked at before the next: what h2 lets pass for ever.
    let cancel = async {
        let mut peer = Peer::open(server.address()).await;
        for batch in 0..400 {
            let mut frames = Vec::new();
            for n in 0..50 {
                let stream = 1 + 2 * (batch * 50 + n);
                frames.extend([fetch(stream, &request(1), &[]), reset(stream)].concat());
            }
            frames.extend(ping(7));
            if peer.socket.write_all(&frames).await.is_err() {
                return;
            }
            loop {
                match peer.next().await {
                    None => return,
                    Some(Frame { kind: PING, flags: ACK, .. }) => break,
                    Some(_) => {}
                }
            }
        }
        panic!("20,000 calls were begun and cancelled");
    };
    tokio::join!(cancel, reads_on(server.address(), 50));
    alive.becomes(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn more_streams_than_allowed_are_refused_one_by_one() {
    let alive = Gauge::default();
    let server = server(&alive, |limits| limits.streams_per_connection = 4);
    let mut peer = Peer::open(server.address()).await;
    let settings = peer.until(|frame| frame.is(SETTINGS, 0) && frame.flags == 0).await;
    let max: Vec<u8> = [&3u16.to_be_bytes()[..], &4u32.to_be_bytes()].concat();
    assert!(settings.payload.chunks(6).any(|setting| setting == max), "clients are told: {settings:?}");

    let calls: Vec<u8> = (0..7).flat_map(|n| fetch(1 + 2 * n, &request(1), &[])).collect();
    peer.send(&calls).await;
    let mut refused = Vec::new();
    let mut answered = Vec::new();
    while refused.len() + answered.len() < 7 {
        let frame = peer.until(|frame| matches!(frame.kind, HEADERS | RST_STREAM)).await;
        if frame.kind == HEADERS {
            answered.push(frame.stream);
        } else if !refused.contains(&frame.stream) {
            assert_eq!(frame.code(), REFUSED_STREAM);
            refused.push(frame.stream);
        } else {
            // For its DATA, which was on its way: after the refusal it is on a closed stream.
            assert_eq!(frame.code(), STREAM_CLOSED);
        }
    }
    assert_eq!((answered, refused), (vec![1, 3, 5, 7], vec![9, 11, 13]));

    peer.send(&reset(5)).await;
    alive.becomes(3).await;
    peer.send(&fetch(15, &request(1), &[])).await;
    peer.until(|frame| frame.is(DATA, 15)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn more_connections_than_allowed_wait_for_a_place() {
    let server = server(&Gauge::default(), |limits| limits.connections_max = 2);
    let first = Peer::open(server.address()).await;
    let mut second = Peer::open(server.address()).await;
    second.assert_lives().await;
    let mut third = Peer::open(server.address()).await;
    let waits = tokio::time::timeout(Duration::from_millis(200), third.next()).await;
    assert!(waits.is_err(), "it is not served: {waits:?}");
    drop(first);
    third.assert_lives().await;
}

/// A job that waits for an hour is dropped soon after `leave` has been done to its stream.
async fn job_ends_when<F>(leave: impl FnOnce(Peer) -> F)
where
    F: Future<Output = Option<Peer>>,
{
    let alive = Gauge::default();
    let server = server(&alive, |_| {});
    let mut peer = Peer::open(server.address()).await;
    peer.send(&fetch(1, &request(1), &[])).await;
    peer.until(|frame| frame.is(DATA, 1)).await;
    assert_eq!(alive.now(), 1);
    let left = leave(peer).await;
    let took = alive.becomes(0).await;
    assert!(took < Duration::from_secs(1), "it went on for {took:?}");
    if let Some(mut left) = left {
        left.assert_lives().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_that_resets_its_stream_stops_its_job() {
    job_ends_when(async |mut peer| {
        peer.send(&reset(1)).await;
        Some(peer)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_that_closes_its_connection_stops_its_job() {
    job_ends_when(async |peer| {
        drop(peer);
        None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_is_torn_down_stops_its_job() {
    job_ends_when(async |peer| {
        // The kernel sends RST instead of FIN, as it does for a machine that came back after a crash.
        peer.socket.set_zero_linger().unwrap();
        drop(peer);
        None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_that_breaks_the_protocol_stops_its_job() {
    job_ends_when(async |mut peer| {
        // DATA on stream 0 (RFC 9113 §6.1).
        peer.send(&frame(DATA, 0, 0, &[0])).await;
        let frames = peer.closed().await;
        assert!(frames.iter().any(|frame| frame.kind == GOAWAY), "{frames:?}");
        None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_process_that_is_killed_stops_its_job() {
    let alive = Gauge::default();
    let server = server(&alive, |_| {});
    let mut client = tokio::process::Command::new(env!("CARGO_BIN_EXE_outflow"))
        .args(["fetch", "1", "--server", &server.address().to_string()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    alive.becomes(1).await;
    client.kill().await.unwrap();
    let took = alive.becomes(0).await;
    assert!(took < Duration::from_secs(1), "it went on for {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_that_goes_before_its_answer_leaves_nothing_behind() {
    let alive = Gauge::default();
    let server = server(&alive, |_| {});
    for _ in 0..50 {
        let mut socket = TcpStream::connect(server.address()).await.unwrap();
        let said = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &fetch(1, &request(1), &[])].concat();
        socket.write_all(&said).await.unwrap();
    }
    let connection = Connection::open(server.address()).await;
    let mut answering = connection.begin(&request(1)).await;
    answering.response().await;
    // Of all their jobs only the last call's goes on.
    alive.becomes(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_panic_in_a_job_is_its_streams_failure_only() {
    let server = TestServer::start(|server| {
        let plan = |request: &Asked| match request.id() {
            0 => trickling(Duration::from_millis(5)),
            _ => one(async |_| panic!("as the test wants it")),
        };
        server.default_source("test", planned(plan))
    });
    let connection = Connection::open(server.address()).await;
    let mut other = connection.begin(&request(0)).await;
    other.response().await;
    let answer = connection.fetch(&request(1)).await;
    assert_eq!(answer.code(), Code::Internal);
    assert!(answer.message().contains("as the test wants it"), "{}", answer.message());
    assert_eq!((answer.said("outflow-end"), answer.said("outflow-jobs-failed")), (Some("failed"), Some("1")));
    other.response().await;
    assert_eq!(connection.fetch(&Request { limit: 1, ..request(0) }).await.code(), Code::Ok);
}
