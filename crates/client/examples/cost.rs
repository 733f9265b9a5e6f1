//! Measures what receiving costs: CPU seconds per million responses of 24 bytes of text, and per GiB in large ones.
//!
//! `cargo run --release -p outflow-client --example cost`
//!
//! The server runs on a thread of its own, and only the client's thread is measured (Linux counts its nanoseconds in
//! `/proc/thread-self/schedstat`). `prost` is what a generated client does at least: it decodes each message as it
//! lies there, without a stream, a number or a check round it.

use std::{error::Error, fs, hint::black_box, thread, time::Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use outflow_client::{Client, Fetch};
use outflow_proto::protobuf;
use prost::Message as _;
use tokio::net::TcpListener;

/// What a server of Outflow's kind hands to HTTP/2 at once.
const CHUNK_BYTES: usize = 64 << 10;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let small = 4_000_000;
    let chunks = chunks(small, 24);
    report("prost's decoder alone", small, 24, || {
        for chunk in &chunks {
            let mut chunk = chunk.clone();
            while chunk.has_remaining() {
                chunk.advance(1);
                let length = chunk.get_u32() as usize;
                black_box(protobuf::Response::decode(chunk.split_to(length)).expect("it was encoded here"));
            }
        }
    });
    drop(chunks);
    for (name, count, bytes) in [("24 bytes", small, 24), ("64 KiB", 8192, 64 << 10)] {
        let address = serve(count, bytes)?;
        for batch in [false, true] {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let how = if batch { "next_batch" } else { "next" };
            report(&format!("client, {name}, {how}"), count, bytes, || {
                runtime.block_on(drain(&address, batch)).expect("the server answers");
            });
        }
    }
    Ok(())
}

/// Runs it a few times, and prints the best: what disturbs a measurement only ever adds.
fn report(name: &str, count: u32, text_bytes: u32, mut run: impl FnMut()) {
    let (mut cpu, mut wall) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        let (cpu_before, begin) = (thread_cpu_seconds(), Instant::now());
        run();
        cpu = cpu.min(thread_cpu_seconds() - cpu_before);
        wall = wall.min(begin.elapsed().as_secs_f64());
    }
    let millions = f64::from(count) / 1e6;
    let gib = f64::from(count) * f64::from(text_bytes) / f64::from(1 << 30);
    println!(
        "{name:<30} CPU s {:.4} per million, {:.3} per GiB; {:.2} million/s",
        cpu / millions,
        cpu / gib,
        millions / wall
    );
}

fn thread_cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").expect("this measures on Linux");
    let nanos: f64 = stat.split(' ').next().and_then(|field| field.parse().ok()).expect("nanoseconds stand first");
    nanos / 1e9
}

/// So many responses with so many bytes of text, as chunks of frames.
fn chunks(count: u32, text_bytes: u32) -> Vec<Bytes> {
    let result = "x".repeat(text_bytes as usize);
    let mut chunks = Vec::new();
    let mut chunk = BytesMut::with_capacity(2 * CHUNK_BYTES);
    for sequence in 1..=count {
        let response =
            protobuf::Response { result: result.clone(), sequence: sequence.into(), job: 3, ..Default::default() };
        chunk.put_u8(0);
        chunk.put_u32(response.encoded_len() as u32);
        response.encode(&mut chunk).expect("the buffer grows");
        if chunk.len() >= CHUNK_BYTES || sequence == count {
            chunks.push(chunk.split().freeze());
            chunk.reserve(2 * CHUNK_BYTES);
        }
    }
    chunks
}

async fn drain(address: &str, batch: bool) -> Result<(), Box<dyn Error>> {
    let client = Client::connect(address).await?;
    let mut responses = client.fetch(Fetch::id(1)).await?;
    if batch {
        let mut some = Vec::with_capacity(1024);
        while responses.next_batch(&mut some, 1024).await? > 0 {
            black_box(&some);
            some.clear();
        }
    } else {
        while let Some(response) = responses.next().await {
            black_box(response?);
        }
    }
    assert!(responses.outcome().is_some());
    Ok(())
}

/// Serves the same stream to each connection, one after the other.
fn serve(count: u32, text_bytes: u32) -> Result<String, Box<dyn Error>> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?.to_string();
    let chunks = chunks(count, text_bytes);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).expect("a listener");
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                // A client that leaves ends its connection, and nothing else.
                let _ = serve_connection(socket, &chunks).await;
            }
        });
    });
    Ok(address)
}

async fn serve_connection(socket: tokio::net::TcpStream, chunks: &[Bytes]) -> Result<(), Box<dyn Error>> {
    socket.set_nodelay(true)?;
    let mut connection = h2::server::Builder::new().handshake(socket).await?;
    let Some(request) = connection.accept().await else { return Ok(()) };
    let (_, mut respond) = request?;
    let head = http::Response::builder()
        .header("content-type", "application/grpc")
        .header("outflow-run-id", "cost")
        .body(())?;
    let mut stream = respond.send_response(head, false)?;
    let send = async {
        for chunk in chunks {
            let mut rest = chunk.clone();
            while !rest.is_empty() {
                stream.reserve_capacity(rest.len());
                let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                let Some(Ok(capacity)) = capacity else { return };
                let part = rest.split_to(capacity.min(rest.len()));
                if stream.send_data(part, false).is_err() {
                    return;
                }
            }
        }
        let mut trailers = http::HeaderMap::new();
        for (name, value) in [("grpc-status", "0"), ("outflow-end", "complete")] {
            trailers.insert(name, http::HeaderValue::from_static(value));
        }
        let _ = stream.send_trailers(trailers);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = send => {}
        _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => {}
    }
    Ok(())
}
