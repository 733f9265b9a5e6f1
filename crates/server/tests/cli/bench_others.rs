//! `outflow bench` against servers that are not ours: what they may do by the standards is understood, and what they do
//! wrong is told. One is built on a library, which codes header fields as gRPC servers do; one is made of bytes.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use outflow_proto::protobuf;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::program::{run, text};

/// What `outflow bench` says about this server as JSON, what it says to stderr, and its exit code.
fn bench(server: &str, arguments: &[&str]) -> (Value, String, i32) {
    let (output, _) = run(&[&["bench", "--server", server, "--format", "json"], arguments].concat());
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr).to_owned());
    let report = serde_json::from_str(stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
    (report, stderr, output.status.code().unwrap())
}

/// Responses with these sequences, the text first, as everybody's library writes them.
fn body(sequences: &[u64]) -> Bytes {
    let mut body = BytesMut::new();
    for &sequence in sequences {
        let response = protobuf::Response { result: "text".into(), sequence, ..Default::default() };
        body.extend([&[0][..], &(response.encoded_len() as u32).to_be_bytes(), &response.encode_to_vec()].concat());
    }
    body.freeze()
}

fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let field =
        |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    pairs.iter().map(field).collect()
}

type Respond = SendResponse<Bytes>;

/// Answers with these headers, responses and trailers.
fn answer(respond: &mut Respond, headers: &[(&'static str, &str)], body: Bytes, trailers: &[(&'static str, &str)]) {
    let mut response = Response::new(());
    *response.headers_mut() = fields(headers);
    let mut stream = respond.send_response(response, false).unwrap();
    stream.send_data(body, false).unwrap();
    stream.send_trailers(fields(trailers)).unwrap();
}

/// A server on h2, which answers call `n` so; its address.
fn library<F, R>(builder: &h2::server::Builder, each: F) -> String
where
    F: Fn(usize, Request<RecvStream>, Respond) -> R + Send + 'static,
    R: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    listener.set_nonblocking(true).unwrap();
    let builder = builder.clone();
    // It ends with the process of the tests.
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut calls = JoinSet::new();
            let mut n = 0;
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { continue };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    calls.spawn_local(each(n, request, respond));
                    n += 1;
                }
            }
        });
    });
    address
}

#[test]
fn the_statuses_of_any_server_are_read() {
    let server = library(&h2::server::Builder::new(), |n, _, mut respond| async move {
        let grpc = [("content-type", "application/grpc"), ("server", "somebody's server, with a name")];
        let trailers: &[(&'static str, &str)] = match n {
            0 => &[("grpc-status", "0"), ("grpc-message", "")],
            1 => &[("x-other", "1"), ("grpc-status", "13"), ("grpc-message", "100%25 broken: %C3%A4")],
            2 => &[("grpc-status", "16")],
            3 => &[("grpc-status", "seven")],
            4 => &[("x-other", "1")],
            5 => return respond.send_reset(Reason::REFUSED_STREAM),
            6 => return respond.send_reset(Reason::ENHANCE_YOUR_CALM),
            7 | 8 => {
                // Trailers alone, and an answer by something that knows no gRPC.
                let mut response = Response::new(());
                *response.headers_mut() = fields(&[("grpc-status", "5"), ("grpc-message", "not here")]);
                if n == 8 {
                    *response.headers_mut() = fields(&[("content-type", "text/html")]);
                    *response.status_mut() = http::StatusCode::BAD_GATEWAY;
                }
                respond.send_response(response, true).unwrap();
                return;
            }
            _ => unreachable!("nine calls were made"),
        };
        answer(&mut respond, &grpc, body(&[0, 0]), trailers);
    });
    let (report, _, code) = bench(&server, &["--calls", "9"]);
    let statuses = json!({
        "OK": 1, "INTERNAL": 1, "UNAUTHENTICATED": 1, "UNKNOWN": 2, "UNAVAILABLE": 2, "RESOURCE_EXHAUSTED": 1,
        "NOT_FOUND": 1
    });
    assert_eq!((code, &report["statuses"]), (1, &statuses), "{report}");
    assert_eq!(report["responses"], 10);
    // It is not said which run answers, so that nothing is known of sequences.
    assert_eq!((&report["sequences_checked"], &report["sequence_errors"]), (&0.into(), &0.into()));
    assert_eq!(report["messages"]["INTERNAL"], "100% broken: ä");
    assert_eq!(report["messages"]["RESOURCE_EXHAUSTED"], "reset: ENHANCE_YOUR_CALM");
    assert!(report["messages"]["UNAVAILABLE"].as_str().unwrap().contains("REFUSED_STREAM"), "{report}");
}

#[test]
fn a_sequence_that_is_missing_is_told_wherever_it_is() {
    let server = library(&h2::server::Builder::new(), |n, _, mut respond| async move {
        let (sequences, last) = [
            (&[1, 2, 3][..], "3"),
            (&[1, 3], "3"),
            (&[1, 1, 2], "2"),
            // The last one was given and did not come.
            (&[1, 2], "3"),
            (&[], "0"),
        ][n];
        let run = [("outflow-run-id", "01k")];
        answer(&mut respond, &run, body(sequences), &[("grpc-status", "0"), ("outflow-last-sequence", last)]);
    });
    let (report, _, code) = bench(&server, &["--calls", "5"]);
    assert_eq!((code, &report["statuses"]), (1, &json!({ "OK": 5 })), "{report}");
    assert_eq!((&report["sequences_checked"], &report["sequence_errors"]), (&5.into(), &3.into()));
}

#[test]
fn the_servers_limits_are_kept() {
    let at_once = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (counted, seen) = (at_once, most.clone());
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(2).initial_window_size(10).max_frame_size(16_384);
    let server = library(&builder, move |_, mut request, mut respond| {
        let (counted, seen) = (counted.clone(), seen.clone());
        async move {
            seen.fetch_max(counted.fetch_add(1, SeqCst) + 1, SeqCst);
            let (mut length, mut largest) = (0, 0);
            while let Some(part) = request.body_mut().data().await {
                let part = part.unwrap();
                request.body_mut().flow_control().release_capacity(part.len()).unwrap();
                (length, largest) = (length + part.len(), largest.max(part.len()));
            }
            assert!(length > 60_000 && largest <= 10, "{length} bytes, {largest} at once");
            tokio::time::sleep(Duration::from_millis(5)).await;
            counted.fetch_sub(1, SeqCst);
            answer(&mut respond, &[], body(&[0]), &[("grpc-status", "0")]);
        }
    });
    let large = format!("large={}", "x".repeat(60_000));
    let (report, stderr, code) = bench(&server, &["--streams", "5", "--calls", "7", "--param", &large]);
    assert_eq!((code, &report["statuses"], &report["responses"]), (0, &json!({ "OK": 7 }), &7.into()), "{report}");
    assert_eq!(most.load(SeqCst), 2);
    assert!(stderr.contains("allows 2 streams at once"), "{stderr}");
}

/// A server made of bytes: what each of its connections does after the greeting. Its address.
fn bytes(connections: Vec<fn(&mut TcpStream)>) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = thread::spawn(move || {
        for connection in connections {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
            let mut preface = [0; 24];
            socket.read_exact(&mut preface).unwrap();
            assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            send(&mut socket, 4, 0, 0, b"");
            connection(&mut socket);
        }
    });
    (address, served)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = &u32::try_from(payload.len()).unwrap().to_be_bytes()[1..];
    [length, &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn send(socket: &mut TcpStream, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    socket.write_all(&frame(kind, flags, stream, payload)).unwrap();
}

/// The next frame of this kind on this stream: its flags and payload.
fn wait_for(socket: &mut TcpStream, kind: u8, stream: u32) -> (u8, Vec<u8>) {
    loop {
        let mut header = [0; 9];
        socket.read_exact(&mut header).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
        socket.read_exact(&mut payload).unwrap();
        if header[3] == kind && header[5..] == stream.to_be_bytes() {
            return (header[4], payload);
        }
    }
}

/// `:status: 200`, and `grpc-status: 0` in letters, to be indexed, which nobody does.
const HEADERS: &[u8] = b"\x20\x88";
const TRAILERS: &[u8] = b"\x40\x0bgrpc-status\x010";

#[test]
fn padding_priorities_and_cuts_anywhere_mean_nothing() {
    let (server, served) = bytes(vec![|socket| {
        wait_for(socket, 0, 1);
        send(socket, 6, 0, 0, b"are you?");
        assert_eq!(wait_for(socket, 6, 0), (1, b"are you?".to_vec()), "a PING is answered");
        // An interim answer; headers in three frames, padded and with a priority; frames of kinds that nobody knows.
        send(socket, 1, 4, 1, b"\x08\x03103");
        send(socket, 1, 0x28, 1, &[&b"\x02\0\0\0\0\x10"[..], &HEADERS[..1], b"\0\0"].concat());
        send(socket, 9, 0, 1, b"");
        send(socket, 9, 4, 1, &HEADERS[1..]);
        send(socket, 77, 0xff, 0, b"what?");
        send(socket, 2, 0, 1, b"\0\0\0\0\x10");
        let body = body(&[1, 2]);
        for part in body.chunks(3) {
            send(socket, 0, 8, 1, &[&[5], part, &[0; 5]].concat());
        }
        send(socket, 0, 8, 1, &[3, 0, 0, 0]);
        send(socket, 0, 0, 1, b"");
        for byte in frame(1, 0xd, 1, &[&[4], TRAILERS, &[0; 4]].concat()) {
            socket.write_all(&[byte]).unwrap();
        }
        socket.read_to_end(&mut Vec::new()).unwrap();
    }]);
    let (report, _, code) = bench(&server, &[]);
    served.join().unwrap();
    assert_eq!((code, &report["statuses"], &report["responses"]), (0, &json!({ "OK": 1 }), &2.into()), "{report}");
}

#[test]
fn windows_are_opened_again_for_padding_too() {
    let (server, served) = bytes(vec![|socket| {
        wait_for(socket, 0, 1);
        send(socket, 1, 4, 1, HEADERS);
        for part in body(&[1, 2, 3, 4]).chunks(5) {
            send(socket, 0, 8, 1, &[&[5], part, &[0; 5]].concat());
            let (_, bytes) = wait_for(socket, 8, 1);
            assert_eq!(bytes, u32::try_from(part.len() + 6).unwrap().to_be_bytes());
        }
        send(socket, 1, 5, 1, TRAILERS);
        socket.read_to_end(&mut Vec::new()).unwrap();
    }]);
    let (report, _, code) = bench(&server, &["--window", "11"]);
    served.join().unwrap();
    assert_eq!((code, &report["responses"]), (0, &4.into()), "{report}");
}

#[test]
fn what_a_connection_takes_with_it_has_failed_and_the_rest_gets_another() {
    let (server, served) = bytes(vec![
        |socket| {
            wait_for(socket, 0, 1);
            wait_for(socket, 0, 3);
            // It goes away after the first call, whose end is still to come.
            send(socket, 7, 0, 0, b"\0\0\0\x01\0\0\0\0restart");
            send(socket, 1, 4, 1, HEADERS);
            send(socket, 1, 5, 1, TRAILERS);
            socket.read_to_end(&mut Vec::new()).unwrap();
        },
        |socket| {
            wait_for(socket, 0, 1);
            wait_for(socket, 0, 3);
            send(socket, 1, 4, 1, HEADERS);
            // It is closed in the middle.
            send(socket, 0, 0, 1, &body(&[1]));
        },
        |socket| {
            wait_for(socket, 0, 1);
            send(socket, 1, 4, 1, HEADERS);
            send(socket, 1, 5, 1, TRAILERS);
            // Against the protocol.
            wait_for(socket, 0, 3);
            send(socket, 1, 4, 3, b"\xbe");
            _ = socket.read_to_end(&mut Vec::new());
        },
    ]);
    let (report, stderr, code) = bench(&server, &["--streams", "2", "--calls", "6"]);
    served.join().unwrap();
    let statuses = json!({ "OK": 2, "UNAVAILABLE": 3, "INTERNAL": 1 });
    assert_eq!((code, &report["statuses"], &report["responses"]), (1, &statuses, &1.into()), "{report} {stderr}");
    let told = report["messages"]["INTERNAL"].as_str().unwrap();
    assert!(told.contains("dynamic table"), "{told}");
}

#[test]
fn a_server_that_ends_every_connection_is_not_asked_for_ever() {
    let (server, served) = bytes(vec![|socket| {
        wait_for(socket, 0, 1);
    }]);
    let (report, stderr, code) = bench(&server, &["--for", "1h"]);
    served.join().unwrap();
    assert_eq!((code, &report["statuses"]), (1, &json!({ "UNAVAILABLE": 1 })), "{report}");
    assert!(stderr.contains("a connection was lost"), "{stderr}");
}
