//! What goes over the wire and how it is cut: windows, frames across chunks, batches.

mod support;

use std::{future::poll_fn, task::Poll};

use bytes::Bytes;
use futures_util::StreamExt as _;
use outflow_client::{Client, ClientBuilder, ConnectError, Fetch, FetchError, Payload};
use proptest::prelude::*;
use support::{COMPLETE, Call, OK, frame, map, response, responses, serve};
use tokio::io::AsyncReadExt as _;

/// Sends each of these pieces as a DATA frame of its own.
fn send_pieces(mut call: Call, pieces: Vec<Bytes>) {
    let mut stream = call.run();
    for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
        stream.send_data(piece, false).unwrap();
    }
    stream.send_trailers(map(&[OK, COMPLETE])).unwrap();
}

#[tokio::test]
async fn responses_are_the_same_wherever_the_data_frames_are_cut() {
    let bytes = responses(4);
    let length = bytes.len();
    let (client, _server) = serve(move |mut call| {
        let bytes = bytes.clone();
        async move {
            // Up to the length: where to cut once; above it: how large each piece is.
            let id = usize::try_from(call.message().await.id).unwrap();
            let pieces = match id.checked_sub(length) {
                None | Some(0) => vec![bytes.slice(..id), bytes.slice(id..)],
                Some(size) => bytes.chunks(size).map(Bytes::copy_from_slice).collect(),
            };
            send_pieces(call, pieces);
        }
    })
    .await;
    for id in 0..=i32::try_from(length).unwrap() + 10 {
        let got: Vec<_> = client.fetch(Fetch::id(id)).await.unwrap().map(Result::unwrap).collect().await;
        let texts: Vec<_> = got.iter().map(|response| (response.sequence, &response.payload)).collect();
        let expected: Vec<_> = (1..=4).map(|n| (n, Payload::Text(format!("text {n}").as_str().into()))).collect();
        assert!(texts.iter().copied().eq(expected.iter().map(|(n, payload)| (*n, payload))), "{id}: {texts:?}");
    }
}

#[tokio::test]
async fn a_large_response_comes_through_many_frames_and_windows() {
    let text = "0123456789abcdef".repeat(200_000);
    let sent = text.clone();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move {
        let mut connection = h2::server::handshake(theirs).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(response(0, &sent), false).unwrap();
        stream.send_trailers(map(&[OK])).unwrap();
        poll_fn(|cx| connection.poll_closed(cx)).await
    });
    let builder = Client::builder().stream_window_bytes(65_535).connection_window_bytes(65_535);
    let client = builder.over(ours, "the pipe").await.unwrap();
    let mut stream = client.fetch(Fetch::id(1)).await.unwrap();
    let got = stream.next().await.unwrap().unwrap();
    assert!(got.payload == Payload::Text(text.as_str().into()));
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_batch_is_what_was_received_and_never_more_than_asked() {
    let (client, _server) = serve(|mut call| async move {
        let mut stream = call.run();
        stream.send_data(responses(100), false).unwrap();
        stream.send_data([response(101, "a"), response(103, "gap")].concat().into(), false).unwrap();
        stream.send_trailers(map(&[OK, COMPLETE])).unwrap();
    })
    .await;
    let mut stream = client.fetch(Fetch::id(1)).await.unwrap();
    let mut batch = Vec::new();
    assert_eq!(stream.next_batch(&mut batch, 0).await.unwrap(), 0);
    assert_eq!(stream.next_batch(&mut batch, 30).await.unwrap(), 30);
    assert_eq!(stream.next().await.unwrap().unwrap().sequence, 31);
    let mut more = 0;
    while batch.len() < 100 {
        // It waits for something, and adds to what is there.
        let count = stream.next_batch(&mut batch, 1000).await.unwrap();
        assert!(count > 0);
        more += count;
    }
    assert_eq!((more, batch.len()), (70, 100));
    assert!(batch.iter().map(|response| response.sequence).eq((1..=30).chain(32..=101)));
    // The error comes after all that was good, once.
    let error = stream.next_batch(&mut batch, 1000).await.unwrap_err();
    assert!(matches!(error, FetchError::Protocol { .. }), "{error}");
    assert_eq!(stream.next_batch(&mut batch, 1000).await.unwrap(), 0);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_batch_does_not_wait_for_more_than_there_is() {
    let (client, _server) = serve(|mut call| async move {
        let mut stream = call.run();
        stream.send_data(responses(3), false).unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut stream = client.fetch(Fetch::id(1)).await.unwrap();
    let mut batch = Vec::new();
    assert_eq!(stream.next_batch(&mut batch, 1000).await.unwrap(), 3);
    let mut waiting = Box::pin(stream.next_batch(&mut batch, 1000));
    assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);
}

/// The settings and the connection's window, as the client's first bytes say them.
async fn announced(builder: ClientBuilder) -> (Vec<(u16, u32)>, u32) {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let _client = builder.over(ours, "the pipe").await.unwrap();
    let mut preface = [0; 24];
    theirs.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let mut settings = Vec::new();
    loop {
        let mut head = [0; 9];
        theirs.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        theirs.read_exact(&mut payload).await.unwrap();
        match head[3] {
            4 => settings = payload.chunks(6).map(setting).collect(),
            8 => return (settings, u32::from_be_bytes(payload.try_into().unwrap()) + 65_535),
            other => panic!("frame of type {other}"),
        }
    }
}

fn setting(bytes: &[u8]) -> (u16, u32) {
    let (id, value) = bytes.split_at(2);
    (u16::from_be_bytes(id.try_into().unwrap()), u32::from_be_bytes(value.try_into().unwrap()))
}

#[tokio::test]
async fn the_server_is_told_of_large_windows_and_frames() {
    const WINDOW: u16 = 4;
    const FRAME: u16 = 5;
    let (settings, connection) = announced(Client::builder()).await;
    assert!(settings.contains(&(WINDOW, 4 << 20)), "{settings:?}");
    assert!(settings.contains(&(FRAME, 1 << 17)), "{settings:?}");
    assert_eq!(connection, 64 << 20);

    let builder = Client::builder().stream_window_bytes(100_000).frame_bytes_max(1 << 16);
    let (settings, connection) = announced(builder.clone()).await;
    assert!(settings.contains(&(WINDOW, 100_000)), "{settings:?}");
    assert!(settings.contains(&(FRAME, 1 << 16)), "{settings:?}");
    assert_eq!(connection, 1_600_000);
    assert_eq!(announced(builder.connection_window_bytes(200_000)).await.1, 200_000);
}

#[tokio::test]
async fn a_setting_out_of_its_range_is_an_error() {
    use std::time::Duration;
    for (builder, name) in [
        (Client::builder().stream_window_bytes(65_534), "stream_window_bytes is 65534, and must be from 65535 to"),
        (Client::builder().stream_window_bytes(u32::MAX), "stream_window_bytes"),
        (Client::builder().connection_window_bytes(1), "connection_window_bytes"),
        (Client::builder().frame_bytes_max(16_384), "frame_bytes_max"),
        (Client::builder().frame_bytes_max(1 << 24), "frame_bytes_max"),
        (Client::builder().keepalive(Duration::ZERO, Duration::from_secs(1)), "keepalive is 0ns, and must be 1ms"),
        (Client::builder().keepalive(Duration::from_secs(1), Duration::ZERO), "keepalive"),
        (Client::builder().connect_timeout(Duration::ZERO), "connect_timeout"),
    ] {
        let (io, _other) = tokio::io::duplex(1024);
        for error in [builder.clone().over(io, "x").await, builder.connect("127.0.0.1:1").await] {
            let error = error.unwrap_err();
            assert!(matches!(error, ConnectError::Setting { .. }), "{error}");
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn any_bytes_end_in_an_error_or_an_end_and_never_in_a_panic(data: Vec<u8>, framed: bool, status in 0u8..20) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, _server) = serve(move |mut call| {
                let data = if framed { frame(&data) } else { data.clone().into() };
                async move {
                    let mut stream = call.run();
                    if !data.is_empty() {
                        stream.send_data(data, false).unwrap();
                    }
                    stream.send_trailers(map(&[("grpc-status", &status.to_string()), COMPLETE])).unwrap();
                }
            })
            .await;
            let mut stream = client.fetch(Fetch::id(1)).await.unwrap();
            let mut failed = false;
            while let Some(response) = stream.next().await {
                assert!(!failed, "something after an error");
                failed = response.is_err();
            }
            assert!(failed || status == 0, "a status that is not OK was lost");
        });
    }
}
