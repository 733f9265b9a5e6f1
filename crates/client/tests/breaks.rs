//! What ends without a status is a break, however it ends; and what a reader that leaves does to the server.

mod support;

use std::{error::Error as _, future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use h2::Reason;
use outflow_client::{BreakCause, Client, Fetch, FetchError, Outcome, Position, Responses};
use support::{COMPLETE, Call, OK, frame, map, response, responses, serve, soon};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf},
    sync::{Notify, mpsc},
    task::JoinSet,
};

/// Reads until the stream breaks: how many responses came, where it broke, how that was noticed, and whether the
/// connection said something of it.
async fn broken(mut responses: Responses) -> (usize, Position, BreakCause, bool) {
    let mut count = 0;
    loop {
        match responses.next().await {
            Some(Ok(_)) => count += 1,
            Some(Err(error)) => {
                assert_eq!((error.code(), error.status()), (None, None), "a break is no answer");
                assert!(responses.next().await.is_none());
                assert_eq!(responses.outcome(), None);
                let said = error.source().is_some();
                let FetchError::Break { position, cause, .. } = error else { panic!("{error}") };
                return (count, *position, cause, said);
            }
            None => panic!("it ended well"),
        }
    }
}

fn is_lost(error: &FetchError) -> bool {
    matches!(error, FetchError::Break { cause: BreakCause::Lost | BreakCause::NoConnection, .. })
}

/// Sends two responses, lets the reader have them, then ends the stream somehow.
async fn after_two(
    end: impl Fn(h2::SendStream<Bytes>) + Send + Sync + 'static,
) -> (usize, Position, BreakCause, bool) {
    let end = Arc::new(end);
    let taken = Arc::new(Notify::new());
    let go_on = Arc::clone(&taken);
    let (client, _server) = serve(move |mut call| {
        let (end, go_on) = (Arc::clone(&end), Arc::clone(&go_on));
        async move {
            let mut stream = call.run();
            stream.send_data(responses(2), false).unwrap();
            go_on.notified().await;
            end(stream);
        }
    })
    .await;
    let mut stream = client.fetch(Fetch::id(1)).await.unwrap();
    for _ in 0..2 {
        stream.next().await.unwrap().unwrap();
    }
    taken.notify_one();
    let (count, position, cause, said) = broken(stream).await;
    (count + 2, position, cause, said)
}

#[tokio::test]
async fn a_stream_that_is_reset_breaks_after_what_came() {
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::REFUSED_STREAM, Reason::ENHANCE_YOUR_CALM] {
        let (count, position, cause, said) = after_two(move |mut stream| stream.send_reset(reason)).await;
        assert_eq!((count, position.last_sequence, cause, said), (2, 2, BreakCause::Lost, true), "{reason}");
        assert_eq!(position.run_id.as_deref(), Some("r1"));
        assert!(position.is_resumable());
    }
}

#[tokio::test]
async fn a_stream_that_ends_without_a_status_breaks() {
    let data = after_two(|mut stream| stream.send_data(response(3, "last"), true).unwrap()).await;
    assert_eq!((data.0, data.1.last_sequence, data.2), (3, 3, BreakCause::NoStatus));
    let trailers = after_two(|mut stream| stream.send_trailers(map(&[COMPLETE])).unwrap()).await;
    assert_eq!((trailers.0, trailers.2), (2, BreakCause::NoStatus));
    // "No error" is a reset too, which HTTP libraries take for an end.
    let reset = after_two(|mut stream| stream.send_reset(Reason::NO_ERROR)).await;
    assert_eq!((reset.0, reset.2), (2, BreakCause::NoStatus));
    // Headers that end the stream and have no status.
    let (client, _server) = serve(|mut call| async move { call.only(&[]) }).await;
    let error = client.fetch(Fetch::id(1)).await.unwrap_err();
    assert!(matches!(error, FetchError::Break { cause: BreakCause::NoStatus, .. }), "{error}");
}

#[tokio::test]
async fn a_connection_that_is_lost_breaks_its_streams_and_later_ones() {
    let (client, mut server) = serve(|mut call| async move {
        let mut stream = call.run();
        stream.send_data(responses(2), false).unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let unread = client.fetch(Fetch::id(1)).await.unwrap();
    let mut stream = client.fetch(Fetch::id(1)).await.unwrap();
    for _ in 0..2 {
        stream.next().await.unwrap().unwrap();
    }
    assert!(client.is_connected());
    server.shutdown().await;
    // What had come is given, though nobody had read it.
    let (count, position, cause, _) = broken(unread).await;
    assert_eq!((count, position.last_sequence, cause), (2, 2, BreakCause::Lost));
    let (count, position, cause, _) = broken(stream).await;
    assert_eq!((count, position.last_sequence, cause), (0, 2, BreakCause::Lost));

    let error = client.fetch(Fetch::id(1)).await.unwrap_err();
    assert!(is_lost(&error), "{error}");
    assert!(!client.is_connected());
}

#[tokio::test]
async fn a_server_that_leaves_politely_finishes_what_is_open_and_takes_nothing_more() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connection = h2::server::handshake(theirs).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        connection.graceful_shutdown();
        let mut finish = Box::pin(tokio::time::sleep(Duration::from_millis(20)));
        let mut finished = false;
        poll_fn(|cx| {
            if !finished && finish.as_mut().poll(cx).is_ready() {
                finished = true;
                stream.send_data(responses(2), false).unwrap();
                stream.send_trailers(map(&[OK])).unwrap();
            }
            connection.poll_closed(cx)
        })
        .await
        .unwrap();
    });
    let client = Client::builder().no_resume().over(ours, "the pipe").await.unwrap();
    let stream = client.fetch(Fetch::id(1)).await.unwrap();
    assert_eq!(stream.map(Result::unwrap).count().await, 2);
    let error = client.fetch(Fetch::id(1)).await.unwrap_err();
    assert!(is_lost(&error), "{error}");
    assert!(!client.is_connected());
}

#[tokio::test]
async fn a_break_says_what_can_be_done() {
    let (client, _server) = serve(|mut call| async move {
        let id = call.message().await.id;
        let durability = if id == 0 { "none" } else { "memory" };
        let mut stream = call.open(&[("outflow-run-id", "abc"), ("outflow-durability", durability)]);
        stream.send_data(responses(1), true).unwrap();
    })
    .await;
    for (id, advice) in
        [(0, "it cannot be read on, only asked for again"), (1, "run abc can be read on after response 1")]
    {
        let answers: Vec<_> = client.fetch(Fetch::id(id)).await.unwrap().collect().await;
        let error = answers[1].as_ref().unwrap_err();
        let what = "the stream from the pipe, run abc, after response 1, broke: it was ended without a status";
        assert_eq!(error.to_string(), format!("{what}; {advice}"));
    }
}

#[tokio::test]
async fn a_stream_that_is_refused_or_lost_before_its_headers_breaks() {
    let (client, mut server) = serve(|mut call: Call| async move {
        if call.message().await.id == 1 {
            call.reset(Reason::REFUSED_STREAM);
        } else {
            std::future::pending::<()>().await;
        }
    })
    .await;
    let error = client.fetch(Fetch::id(1)).await.unwrap_err();
    assert!(is_lost(&error), "{error}");
    let waiting = client.fetch(Fetch::id(2));
    let (waiting, ()) = tokio::join!(waiting, async {
        tokio::task::yield_now().await;
        server.shutdown().await;
    });
    assert!(is_lost(&waiting.unwrap_err()));
}

#[tokio::test]
async fn a_server_of_another_protocol_breaks_the_first_stream() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let client = Client::builder().no_resume().over(ours, "the pipe").await.unwrap();
    theirs.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let error = client.fetch(Fetch::id(1)).await.unwrap_err();
    assert!(is_lost(&error), "{error}");
    assert!(error.source().is_some());
}

/// A server that streams for ever and reports the reason with which each stream was reset.
async fn endless() -> (Client, mpsc::Receiver<Reason>, JoinSet<()>) {
    let (report, reasons) = mpsc::channel(16);
    let (client, server) = serve(move |mut call| {
        let report = report.clone();
        async move {
            let plain = call.message().await.id == 1;
            let mut stream = if plain { call.open(&[]) } else { call.run() };
            stream.send_data(responses(3), false).unwrap();
            let reason = poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
            report.send(reason).await.unwrap();
        }
    })
    .await;
    (client, reasons, server)
}

#[tokio::test]
async fn dropping_the_responses_resets_the_stream() {
    let (client, mut reasons, _server) = endless().await;
    let mut stream = client.fetch(Fetch::id(2)).await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert!(reasons.try_recv().is_err());
    drop(stream);
    assert_eq!(soon(reasons.recv()).await, Some(Reason::CANCEL));
    // Unread ones too, and the connection lives on.
    drop(client.fetch(Fetch::id(2)).await.unwrap());
    assert_eq!(soon(reasons.recv()).await, Some(Reason::CANCEL));
    client.fetch(Fetch::id(2)).await.unwrap();
}

#[tokio::test]
async fn dropping_a_fetch_that_waits_resets_the_stream() {
    let (report, mut reasons) = mpsc::channel(1);
    let (client, _server) = serve(move |mut call| {
        let report = report.clone();
        async move {
            call.message().await;
            report.send(None).await.unwrap();
            let (mut respond, _request) = call.split();
            let reason = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            report.send(Some(reason)).await.unwrap();
        }
    })
    .await;
    {
        let waiting = client.fetch(Fetch::id(1));
        tokio::select! {
            _ = waiting => panic!("it was answered"),
            arrived = reasons.recv() => assert_eq!(arrived, Some(None)),
        }
    }
    assert_eq!(soon(reasons.recv()).await, Some(Some(Reason::CANCEL)));
}

#[tokio::test]
async fn an_error_resets_the_stream_before_the_responses_are_dropped() {
    let (report, mut reasons) = mpsc::channel(1);
    let (client, _server) = serve(move |mut call| {
        let report = report.clone();
        async move {
            let mut stream = call.run();
            stream.send_data(frame(b"no response"), false).unwrap();
            let reason = poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
            report.send(reason).await.unwrap();
        }
    })
    .await;
    let mut stream = client.fetch(Fetch::id(1)).await.unwrap();
    assert!(matches!(stream.next().await, Some(Err(FetchError::Protocol { .. }))));
    assert_eq!(soon(reasons.recv()).await, Some(Reason::CANCEL));
}

#[tokio::test]
async fn enough_of_a_plain_server_resets_the_stream_and_is_a_good_end() {
    let (client, mut reasons, _server) = endless().await;
    let mut stream = client.fetch(Fetch::id(1).limit(2)).await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert_eq!(stream.outcome(), None);
    assert!(reasons.try_recv().is_err());
    assert_eq!(stream.next().await.unwrap().unwrap().sequence, 2);
    // It is reset with the last one, not when the caller comes back for more.
    assert_eq!(soon(reasons.recv()).await, Some(Reason::CANCEL));
    assert!(stream.next().await.is_none());
    assert_eq!(stream.outcome(), Some(&Outcome::Limit { last_sequence: 2 }));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_owner_closes_the_connection() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let client = Client::builder().no_resume().over(ours, "the pipe").await.unwrap();
    let clone = client.clone();
    drop(client);
    // The preface and whatever else; then nothing, for as long as one owner is left.
    let mut bytes = vec![0; 1 << 16];
    assert!(theirs.read(&mut bytes).await.unwrap() > 0);
    let quiet = tokio::time::timeout(Duration::from_secs(1), theirs.read(&mut bytes)).await;
    assert!(!matches!(quiet, Ok(Ok(0))), "closed with an owner left");
    drop(clone);
    let mut rest = Vec::new();
    theirs.read_to_end(&mut rest).await.unwrap();

    let (client, mut reasons, mut server) = endless().await;
    let mut stream = client.fetch(Fetch::id(2)).await.unwrap();
    drop(client);
    assert_eq!(stream.next().await.unwrap().unwrap().sequence, 1, "the stream owns the connection too");
    drop(stream);
    server.join_next().await.unwrap().unwrap();
    assert_eq!(soon(reasons.recv()).await, None);
}

/// HTTP/2 libraries count the frames that still come on streams they have reset and forgotten, and end the connection
/// at 1,024 of them unless told otherwise: readers that had enough would take the others with them.
#[tokio::test]
async fn what_was_under_way_to_readers_that_left_does_not_cost_the_connection() {
    const READERS: u32 = 300;
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (from_client, mut to_client) = tokio::io::split(theirs);
    let (report, mut opened) = mpsc::channel(1);
    let mut server = JoinSet::new();
    server.spawn(report_opened(from_client, report));
    let client = Client::builder().no_resume().over(ours, "the pipe").await.unwrap();
    to_client.write_all(&raw_frame(SETTINGS, 0, 0, &[])).await.unwrap();
    // `:status: 200` and a content type (RFC 7541).
    let head = [b"\x88\x00\x0ccontent-type\x10", &b"application/grpc"[..]].concat();

    let mut leaving = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..=READERS {
        let answer = async {
            let stream = opened.recv().await.unwrap();
            to_client.write_all(&raw_frame(HEADERS, END_HEADERS, stream, &head)).await.unwrap();
            stream
        };
        let (responses, stream) = soon(async { tokio::join!(client.fetch(Fetch::id(1)), answer) }).await;
        leaving.push(responses.unwrap());
        streams.push(stream);
    }
    let mut staying = leaving.pop().unwrap();
    let last = streams.pop().unwrap();
    drop(leaving);
    // The resets go out, and the frames that were under way come in.
    for _ in 0..10 {
        tokio::task::yield_now().await;
        for stream in &streams {
            to_client.write_all(&raw_frame(DATA, 0, *stream, &response(0, "late"))).await.unwrap();
        }
    }
    to_client.write_all(&raw_frame(DATA, 0, last, &response(0, "mine"))).await.unwrap();
    let answer = soon(staying.next()).await.unwrap();
    assert!(answer.is_ok(), "{answer:?}");
}

/// Reads frames, and tells which streams the client opens.
async fn report_opened(mut client: ReadHalf<DuplexStream>, opened: mpsc::Sender<u32>) {
    client.read_exact(&mut [0; 24]).await.unwrap();
    let mut head = [0; 9];
    while client.read_exact(&mut head).await.is_ok() {
        let [a, b, c, kind, _flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        client.read_exact(&mut payload).await.unwrap();
        if kind == HEADERS {
            opened.send(u32::from_be_bytes(stream)).await.unwrap();
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_HEADERS: u8 = 4;

/// An HTTP/2 frame (RFC 9113 §4.1).
fn raw_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
