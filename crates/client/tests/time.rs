//! Deadlines, heartbeats and PINGs, on a clock that the tests own.

mod support;

use std::{future::poll_fn, sync::Arc, time::Duration};

use h2::Reason;
use outflow_client::{BreakCause, Client, Code, Fetch, FetchError};
use support::{COMPLETE, Call, OK, frame, map, response, responses, serve, serve_connection, serve_with, soon};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, split},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};

const SECOND: Duration = Duration::from_secs(1);
/// What the server is given to answer a deadline itself.
const GRACE: Duration = Duration::from_millis(500);

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_waited_for_until_the_deadline() {
    let (client, _server) = serve(|mut call| async move {
        assert_eq!(call.message().await.id, 1);
        std::future::pending::<()>().await;
    })
    .await;
    let begin = Instant::now();
    let error = soon(client.fetch(Fetch::id(1).deadline(2 * SECOND))).await.unwrap_err();
    assert_eq!(begin.elapsed().as_millis(), (2 * SECOND + GRACE).as_millis());
    assert_eq!(error.code(), Some(Code::DEADLINE_EXCEEDED));
    assert!(error.status().is_none(), "nothing was received");
    assert!(matches!(error, FetchError::WaitedTooLong { deadline, .. } if deadline == 2 * SECOND));
    let text = "waited too long: the stream from the pipe, before its first response, had not ended after 2s; \
                allow more time or ask for less";
    assert_eq!(error.to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_bounds_the_whole_stream_and_resets_it() {
    let (report, mut reasons) = mpsc::channel(1);
    let (client, _server) = serve(move |mut call| {
        let report = report.clone();
        async move {
            sleep(SECOND).await;
            let mut stream = call.run();
            stream.send_data(responses(2), false).unwrap();
            report.send(poll_fn(|cx| stream.poll_reset(cx)).await.unwrap()).await.unwrap();
        }
    })
    .await;
    let begin = Instant::now();
    let mut stream = client.fetch(Fetch::id(1).deadline(3 * SECOND)).await.unwrap();
    assert_eq!(begin.elapsed().as_secs(), 1);
    for _ in 0..2 {
        stream.next().await.unwrap().unwrap();
    }
    let error = soon(stream.next()).await.unwrap().unwrap_err();
    assert_eq!(begin.elapsed().as_millis(), (3 * SECOND + GRACE).as_millis());
    let FetchError::WaitedTooLong { position, .. } = error else { panic!("{error}") };
    assert_eq!(position.last_sequence, 2);
    assert!(stream.next().await.is_none());
    assert_eq!(soon(reasons.recv()).await, Some(Reason::CANCEL));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_pauses_is_cut_at_the_deadline_too() {
    let (client, _server) = serve(|mut call| async move {
        let mut stream = call.run();
        for sequence in 1.. {
            stream.reserve_capacity(1);
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(_)) if stream.send_data(response(sequence, "more"), false).is_ok() => {}
                _ => return,
            }
        }
    })
    .await;
    let mut stream = client.fetch(Fetch::id(1).deadline(SECOND)).await.unwrap();
    // The reader is slow, so that something is always there for it: waiting never happens.
    for _ in 0..1_000_000 {
        match stream.next().await.unwrap() {
            Ok(_) => sleep(Duration::from_millis(10)).await,
            Err(error) => {
                assert!(matches!(error, FetchError::WaitedTooLong { .. }), "{error}");
                return;
            }
        }
    }
    panic!("it was never cut");
}

#[tokio::test(start_paused = true)]
async fn the_servers_own_deadline_status_goes_before_ours() {
    let (client, _server) = serve(|mut call| async move {
        let mut stream = call.run();
        sleep(SECOND + GRACE / 2).await;
        stream.send_trailers(map(&[("grpc-status", "4")])).unwrap();
    })
    .await;
    let mut stream = client.fetch(Fetch::id(1).deadline(SECOND)).await.unwrap();
    let error = soon(stream.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, FetchError::Status { .. }), "{error}");
    assert_eq!(error.code(), Some(Code::DEADLINE_EXCEEDED));
    assert_eq!(stream.outcome(), None, "a reader's deadline is no end of the run");
}

#[tokio::test(start_paused = true)]
async fn a_stream_silent_for_three_heartbeats_is_broken() {
    let (client, _server) = serve(|mut call| async move {
        let plain = call.message().await.id == 2;
        let mut stream = if plain { call.open(&[]) } else { call.run() };
        // Late, but not too late; then never again.
        for _ in 0..5 {
            sleep(Duration::from_millis(2900)).await;
            let _ = stream.send_data(if plain { response(0, "x") } else { frame(&[]) }, false);
        }
        sleep(100 * SECOND).await;
        let _ = stream.send_trailers(map(&[OK, COMPLETE]));
    })
    .await;
    let begin = Instant::now();
    let mut stream = client.fetch(Fetch::id(1).heartbeat(SECOND)).await.unwrap();
    let error = soon(stream.next()).await.unwrap().unwrap_err();
    assert_eq!(begin.elapsed().as_millis(), 5 * 2900 + 3000);
    let FetchError::Break { cause, .. } = error else { panic!("{error}") };
    assert_eq!(cause, BreakCause::Silent { limit: 3 * SECOND });

    // Without having asked, and from a plain server, silence means nothing.
    for fetch in [Fetch::id(1), Fetch::id(2).heartbeat(SECOND)] {
        let mut stream = client.fetch(fetch).await.unwrap();
        while let Some(response) = stream.next().await {
            response.unwrap();
        }
    }
}

/// A link of some mobile network: 20 KB/s, so that a megabyte takes most of a minute.
#[tokio::test(start_paused = true)]
async fn a_slow_way_is_not_taken_for_a_silent_one() {
    let (ours, near) = tokio::io::duplex(1 << 10);
    let (far, theirs) = tokio::io::duplex(1 << 10);
    let mut server = JoinSet::new();
    server.spawn(serve_connection(
        theirs,
        Arc::new(|mut call: Call| async move {
            let mut stream = call.run();
            stream.send_data(response(1, &"x".repeat((1 << 20) - 100)), false).unwrap();
            stream.send_trailers(map(&[OK, COMPLETE])).unwrap();
        }),
    ));
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (split(near), split(far));
    server.spawn(async move {
        _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    server.spawn(async move {
        let mut piece = [0; 1 << 10];
        while let Ok(length @ 1..) = from_server.read(&mut piece).await {
            sleep(SECOND / 20).await;
            if to_client.write_all(&piece[..length]).await.is_err() {
                break;
            }
        }
    });
    let client = Client::builder().no_resume().over(ours, "the pipe").await.unwrap();
    let begin = Instant::now();
    let mut stream = client.fetch(Fetch::id(1).heartbeat(10 * SECOND)).await.unwrap();
    assert_eq!(soon(stream.next()).await.unwrap().unwrap().sequence, 1);
    assert!(stream.next().await.is_none());
    assert!(begin.elapsed() > 50 * SECOND, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_silence_under_a_second_is_too_long_however_fast_the_heart_beats() {
    let (client, _server) = serve(|mut call| async move {
        let mut stream = call.run();
        sleep(Duration::from_millis(900)).await;
        let _ = stream.send_data(responses(1), false);
        std::future::pending::<()>().await;
    })
    .await;
    let mut stream = client.fetch(Fetch::id(1).heartbeat(Duration::from_millis(100))).await.unwrap();
    stream.next().await.unwrap().unwrap();
    let error = soon(stream.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, FetchError::Break { cause: BreakCause::Silent { limit: SECOND }, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_was_away_does_not_take_its_own_absence_for_silence() {
    let (client, _server) = serve(|mut call| async move {
        let mut stream = call.run();
        stream.send_data(responses(1), false).unwrap();
        sleep(61 * SECOND).await;
        stream.send_trailers(map(&[OK, COMPLETE])).unwrap();
    })
    .await;
    let mut stream = client.fetch(Fetch::id(1).heartbeat(SECOND)).await.unwrap();
    stream.next().await.unwrap().unwrap();
    // It begins to wait, is called away for long, and waits again.
    assert!(tokio::time::timeout(SECOND, stream.next()).await.is_err());
    sleep(59 * SECOND).await;
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_answers_no_ping_is_given_up_while_a_stream_is_open() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let builder = Client::builder().no_resume().keepalive(20 * SECOND, 10 * SECOND);
    let client = builder.over(ours, "the pipe").await.unwrap();
    let begin = Instant::now();
    let error = soon(client.fetch(Fetch::id(1))).await.unwrap_err();
    assert!(matches!(error, FetchError::Break { cause: BreakCause::Lost, .. }), "{error}");
    assert!((30..=31).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    drop(theirs);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_pings_may_be_silent_for_as_long_as_it_likes() {
    let (client, _server) = serve(|mut call| async move {
        let mut stream = call.run();
        sleep(1000 * SECOND).await;
        stream.send_trailers(map(&[OK, COMPLETE])).unwrap();
    })
    .await;
    let mut stream = client.fetch(Fetch::id(1)).await.unwrap();
    assert!(stream.next().await.is_none());

    let builder = Client::builder().no_resume().without_keepalive();
    let (client, _server) = serve_with(builder, |call| async move {
        let _unanswered = call;
        std::future::pending::<()>().await;
    })
    .await;
    assert!(tokio::time::timeout(1000 * SECOND, client.fetch(Fetch::id(1))).await.is_err());
}
