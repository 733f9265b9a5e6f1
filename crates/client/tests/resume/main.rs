//! A stream that breaks goes on where it was, and its reader does not notice, on a clock that the tests own: promise 10,
//! row by row; what is asked; and what the caller is told.

#[path = "../support/mod.rs"]
mod support;

mod asked;
mod table;
mod told;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::SendStream;
use outflow_client::{Client, Fetch, FetchError, Payload, Responses};
use support::{Again, COMPLETE, Call, OK, map, response, serve_again};

const SECOND: Duration = Duration::from_secs(1);
const HEARTBEAT: prost_types::Duration = prost_types::Duration { seconds: 10, nanos: 0 };

/// A request that is journaled.
fn journaled() -> Fetch {
    Fetch::id(1).parameter("k", "v").linger(60 * SECOND)
}

/// The frames of the responses from one sequence to another.
fn between(first: u64, last: u64) -> Bytes {
    (first..=last).flat_map(|sequence| response(sequence, &format!("text {sequence}"))).collect()
}

/// Gives what follows `after`, up to 4, and the end.
fn rest(call: &mut Call, after: u64) {
    let mut stream = call.run();
    if after < 4 {
        stream.send_data(between(after + 1, 4), false).unwrap();
    }
    stream.send_trailers(map(&[OK, COMPLETE, ("outflow-last-sequence", "4")])).unwrap();
}

/// What has to happen on a clock that costs nothing.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(3600 * SECOND, future).await.expect("it did not happen")
}

/// Reads to the end: the sequences, and the error.
async fn read(responses: &mut Responses) -> (Vec<u64>, Option<FetchError>) {
    let mut sequences = Vec::new();
    while let Some(response) = soon(responses.next()).await {
        match response {
            Ok(response) => {
                let Payload::Text(text) = &response.payload else { panic!("{response:?}") };
                assert_eq!(*text, *format!("text {}", response.sequence));
                sequences.push(response.sequence);
            }
            Err(error) => {
                assert!(soon(responses.next()).await.is_none());
                return (sequences, Some(error));
            }
        }
    }
    (sequences, None)
}

/// Answers the first request with two responses and `end`, and later ones with the rest.
async fn after_two(end: impl Fn(SendStream<Bytes>) + Send + Sync + 'static) -> (Client, Again) {
    let end = Arc::new(end);
    serve_again(Client::builder(), move |number, request, mut call| {
        let end = Arc::clone(&end);
        async move {
            if number == 1 {
                let mut stream = call.run();
                stream.send_data(between(1, 2), false).unwrap();
                // The reader has them by then.
                tokio::time::sleep(SECOND).await;
                end(stream);
            } else {
                rest(&mut call, request.after);
            }
        }
    })
    .await
}

/// Trailers with a status, and others.
fn with_status(code: &'static str, others: &'static [(&'static str, &'static str)]) -> impl Fn(SendStream<Bytes>) {
    move |mut stream| {
        let all: Vec<_> = others.iter().copied().chain([("grpc-status", code)]).collect();
        stream.send_trailers(map(&all)).unwrap();
    }
}
