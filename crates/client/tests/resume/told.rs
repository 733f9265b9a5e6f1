//! What the caller gets of it: the end of all attempts, events, batches, and nothing at all.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use outflow_client::{Client, Code, Fetch, FetchError};
use outflow_proto::protobuf;
use tokio::time::Instant;

use super::{
    SECOND, after_two, between, journaled, read, rest, soon,
    support::{COMPLETE, Call, OK, map, serve_again},
};

#[tokio::test(start_paused = true)]
async fn it_gives_up_in_the_end_and_says_how_to_go_on() {
    let builder = Client::builder().give_up_after(20 * SECOND).resume_delays(SECOND, 4 * SECOND);
    let (client, server) = serve_again(builder, |number, _, mut call| async move {
        let mut stream = call.run();
        let data = if number == 1 { between(1, 2) } else { Bytes::new() };
        stream.send_data(data, true).unwrap();
    })
    .await;
    let began = Instant::now();
    let mut responses = client.fetch(journaled()).await.unwrap();
    let (sequences, error) = read(&mut responses).await;
    assert_eq!((sequences.len(), began.elapsed().as_secs()), (2, 20));
    let error = error.unwrap();
    let FetchError::GaveUp { attempts, waited, position, .. } = &error else { panic!("{error}") };
    assert_eq!((*attempts as usize, waited.as_secs()), (server.asked() - 1, 20));
    assert!((5..=11).contains(attempts), "{attempts}");
    assert!(position.is_resumable());
    let text = format!(
        "the stream from the pipe, run r1, after response 2, broke, and {attempts} attempts to go on within 20s were in \
         vain, the last one because: it was ended without a status; run r1 can be read on after response 2"
    );
    assert_eq!(error.to_string(), text);

    // What is received in between makes it count anew.
    let builder = Client::builder().give_up_after(20 * SECOND);
    let (client, _server) = serve_again(builder, |number, request, mut call| async move {
        tokio::time::sleep(15 * SECOND).await;
        let mut stream = call.run();
        stream.send_data(between(request.after + 1, request.after + 1), number < 6).unwrap();
        if number == 6 {
            stream.send_trailers(map(&[OK, COMPLETE])).unwrap();
        }
    })
    .await;
    let (sequences, error) = read(&mut client.fetch(journaled()).await.unwrap()).await;
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6], "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_before_the_run_has_a_name_is_told_its_key() {
    let builder = Client::builder().give_up_after(5 * SECOND);
    let (client, server) =
        serve_again(builder.clone(), |_, _, mut call| async move { call.reset(Reason::CANCEL) }).await;
    let error = soon(client.fetch(journaled())).await.unwrap_err();
    let FetchError::GaveUp { key: Some(key), .. } = &error else { panic!("{error:?}") };
    assert_eq!(*key, server.requests()[0].idempotency_key);
    let text = error.to_string();
    assert!(
        text.ends_with(&format!("; the same request with the idempotency key {key} finds its run, if there is one")),
        "{text}"
    );

    let (client, _server) = serve_again(builder, |_, _, mut call| async move {
        call.only(&[("grpc-status", "14"), ("grpc-message", "busy")])
    })
    .await;
    let error = soon(client.fetch(Fetch::id(1))).await.unwrap_err();
    assert_eq!((error.code(), error.status().unwrap().message()), (Some(Code::UNAVAILABLE), "busy"));
    assert!(
        error.to_string().contains("the last one because: the pipe refused the request: UNAVAILABLE: busy"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn resuming_can_be_turned_off() {
    for (builder, fetch) in
        [(Client::builder().no_resume(), journaled()), (Client::builder(), journaled().no_resume())]
    {
        let (client, server) = serve_again(builder, |_, _, mut call| async move {
            call.run().send_data(between(1, 2), true).unwrap();
        })
        .await;
        let mut responses = client.fetch(fetch).await.unwrap();
        let (sequences, error) = read(&mut responses).await;
        assert!(matches!(error, Some(FetchError::Break { .. })), "{error:?}");
        assert_eq!((sequences.len(), server.asked()), (2, 1));
        let request = &server.requests()[0];
        assert_eq!(
            (request.idempotency_key.as_str(), &request.heartbeat),
            ("", &None),
            "nothing is asked for that was not"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_loses_nothing_and_who_leaves_asks_no_more() {
    let (client, server) = serve_again(Client::builder(), |number, request, mut call| async move {
        tokio::time::sleep(SECOND).await;
        if number % 2 == 1 {
            call.run().send_data(between(request.after + 1, request.after + 1), true).unwrap();
        } else {
            call.reset(Reason::CANCEL);
        }
    })
    .await;
    let mut responses = client.fetch(journaled()).await.unwrap();
    let mut sequences = Vec::new();
    while sequences.len() < 4 {
        // Impatient: it is waited for many times over.
        if let Ok(next) = tokio::time::timeout(Duration::from_millis(7), responses.next()).await {
            sequences.push(next.unwrap().unwrap().sequence);
        }
    }
    assert_eq!(sequences, [1, 2, 3, 4]);
    // It breaks, and before it is asked for again its reader leaves.
    assert!(tokio::time::timeout(Duration::from_millis(30), responses.next()).await.is_err());
    let asked = server.asked();
    drop(responses);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(server.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_on_over_breaks() {
    let (client, _server) = after_two(|mut stream| stream.send_reset(Reason::CANCEL)).await;
    let mut responses = client.fetch(journaled()).await.unwrap();
    let mut batch = Vec::new();
    while soon(responses.next_batch(&mut batch, 100)).await.unwrap() > 0 {}
    assert!(batch.iter().map(|response| response.sequence).eq(1..=4));
}

/// What is told of a stream that is answered by `answer`.
async fn told<A>(answer: impl Fn(usize, protobuf::Request, Call) -> A + Send + Sync + 'static) -> Vec<String>
where
    A: Future<Output = ()> + Send + 'static,
{
    let (client, _server) = serve_again(Client::builder(), answer).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    let fetch = journaled().on_event(move |event| listener.lock().unwrap().push(event.to_string()));
    let (sequences, error) = read(&mut soon(client.fetch(fetch)).await.unwrap()).await;
    assert_eq!(sequences, [1, 2, 3, 4], "{error:?}");
    let told = told.lock().unwrap();
    told.clone()
}

#[tokio::test(start_paused = true)]
async fn events_read_like_sentences() {
    let told = told(|number, request, mut call| async move {
        match number {
            1 => call.only(&[("grpc-status", "14"), ("grpc-message", "busy")]),
            2 => {
                let mut stream = call.run();
                stream.send_data(between(1, 2), false).unwrap();
                stream.send_trailers(map(&[("grpc-status", "14"), ("grpc-message", "draining")])).unwrap();
            }
            3 => {
                let mut stream = call.run();
                stream.send_data(between(3, 3), false).unwrap();
                tokio::time::sleep(SECOND).await;
                stream.send_reset(Reason::ENHANCE_YOUR_CALM);
            }
            _ => rest(&mut call, request.after),
        }
    })
    .await;
    let stream = "the stream from the pipe, run r1, ";
    let expected = [
        ("the pipe refused the request: UNAVAILABLE: busy; attempt 1 to go on follows in ".to_owned(), "ms"),
        (format!("{stream}before its first response, goes on after "), " and 1 attempt"),
        (
            format!(
                "{stream}after response 2, broke: it was cut with UNAVAILABLE: draining; attempt 1 to go on follows in "
            ),
            "ms",
        ),
        (format!("{stream}after response 2, goes on after "), " and 1 attempt"),
        (
            format!(
                "{stream}after response 3, broke: the connection was lost or the stream was reset (error reading a body \
                 from connection: stream error received: detected excessive load generating behavior); attempt 1 to go on \
                 follows in "
            ),
            "ms",
        ),
        (format!("{stream}after response 3, goes on after "), " and 1 attempt"),
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, (begin, end)) in told.iter().zip(expected) {
        assert!(told.starts_with(&begin) && told.ends_with(end), "{told:?}, not {begin:?}");
    }
}
