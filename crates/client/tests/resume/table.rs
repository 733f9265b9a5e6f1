//! Promise 10, row by row: what is asked for again, and what is the caller's.

use std::sync::{Arc, Mutex, atomic::Ordering};

use bytes::Bytes;
use h2::{Reason, SendStream};
use outflow_client::{Client, Code, End, Event, Fetch, FetchError, Outcome, Violation};
use outflow_proto::protobuf;
use tokio::time::Instant;

use super::{
    HEARTBEAT, SECOND, after_two, between, journaled, read, rest, soon,
    support::{COMPLETE, OK, RUN, map, serve_again},
    with_status,
};

async fn goes_on(what: &str, end: impl Fn(SendStream<Bytes>) + Send + Sync + 'static) {
    let (client, server) = after_two(end).await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&events);
    let fetch = journaled().on_event(move |event| listener.lock().unwrap().push(event.clone()));
    let mut responses = soon(client.fetch(fetch)).await.unwrap();
    let (sequences, error) = read(&mut responses).await;
    assert_eq!(sequences, [1, 2, 3, 4], "{what}: {error:?}");
    assert!(error.is_none(), "{what}: {error:?}");
    assert_eq!(responses.outcome(), Some(&Outcome::Ended { end: End::Complete, jobs_failed: 0, last_sequence: 4 }));
    let expected = protobuf::Request {
        run_id: "r1".into(),
        after: 2,
        heartbeat: Some(HEARTBEAT),
        ..protobuf::Request::default()
    };
    assert_eq!(server.requests()[1..], [expected], "{what}");
    let events = events.lock().unwrap();
    let [Event::Broke { attempt: 1, retry_in, .. }, Event::Resumed { position, attempts: 1, .. }] = &events[..]
    else {
        panic!("{what}: {events:?}")
    };
    assert!(*retry_in <= 3 * SECOND, "{what}");
    assert_eq!((position.run_id.as_deref(), position.last_sequence), (Some("r1"), 2));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_goes_on_where_it_was() {
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM] {
        goes_on(reason.description(), move |mut stream| stream.send_reset(reason)).await;
    }
    goes_on("no trailers", |mut stream| stream.send_data(Bytes::new(), true).unwrap()).await;
    goes_on("half a response", |mut stream| stream.send_data(between(3, 3).slice(..9), true).unwrap()).await;
    goes_on("no status", |mut stream| stream.send_trailers(map(&[COMPLETE])).unwrap()).await;
    goes_on("cut", with_status("14", &[("outflow-last-sequence", "2")])).await;
    goes_on("cut, with a delay", with_status("14", &[("grpc-retry-pushback-ms", "2000")])).await;
}

#[tokio::test(start_paused = true)]
async fn a_break_between_the_last_response_and_the_trailers_is_asked_about_and_nothing_comes_twice() {
    let breaks: [fn(SendStream<Bytes>); 3] = [
        |mut stream| stream.send_reset(Reason::CANCEL),
        |mut stream| stream.send_data(Bytes::new(), true).unwrap(),
        |mut stream| stream.send_trailers(map(&[("grpc-status", "14"), ("outflow-last-sequence", "4")])).unwrap(),
    ];
    for end in breaks {
        let (client, server) = serve_again(Client::builder(), move |number, request, mut call| async move {
            match number {
                1 => {
                    let mut stream = call.run();
                    stream.send_data(between(1, 4), false).unwrap();
                    tokio::time::sleep(SECOND).await;
                    end(stream);
                }
                _ => rest(&mut call, request.after),
            }
        })
        .await;
        let mut responses = soon(client.fetch(journaled())).await.unwrap();
        let (sequences, error) = read(&mut responses).await;
        assert_eq!(sequences, [1, 2, 3, 4], "{error:?}");
        assert!(error.is_none(), "{error:?}");
        assert_eq!(server.requests().iter().map(|request| request.after).collect::<Vec<_>>(), [0, 4]);
        let expected = Outcome::Ended { end: End::Complete, jobs_failed: 0, last_sequence: 4 };
        assert_eq!(responses.outcome(), Some(&expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_made_again_once_for_all_its_streams() {
    let (client, server) = serve_again(Client::builder(), |number, request, mut call| async move {
        if number <= 20 {
            let mut stream = call.run();
            stream.send_data(between(1, 2), false).unwrap();
            std::future::pending::<()>().await;
        }
        rest(&mut call, request.after);
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = client.fetch(journaled()).await.unwrap();
        stream.next().await.unwrap().unwrap();
        stream.next().await.unwrap().unwrap();
        streams.push(stream);
    }
    server.cut();
    let readers: tokio::task::JoinSet<_> =
        streams.into_iter().map(|mut stream| async move { read(&mut stream).await }).collect();
    for (sequences, error) in soon(readers.join_all()).await {
        assert_eq!((sequences.as_slice(), error.is_none()), (&[3, 4][..], true), "{error:?}");
    }
    assert_eq!((server.connections.load(Ordering::Relaxed), server.asked()), (2, 40));
}

/// A stream whose first answer ends so, which its reader is told, and for which nobody is asked twice.
async fn is_final(
    what: &str,
    fetch: Fetch,
    end: impl Fn(SendStream<Bytes>) + Send + Sync + 'static,
) -> (Option<FetchError>, Option<Outcome>) {
    let (client, server) = after_two(end).await;
    let mut responses = soon(client.fetch(fetch)).await.unwrap();
    let (sequences, error) = read(&mut responses).await;
    assert_eq!((sequences.as_slice(), server.asked()), (&[1, 2][..], 1), "{what}: {error:?}");
    (error, responses.outcome().copied())
}

#[tokio::test(start_paused = true)]
async fn an_end_is_final_whatever_its_status() {
    for (code, end, expected) in [
        ("0", "complete", End::Complete),
        ("9", "failed", End::Failed),
        // Also where the first failed job happened to say what else means a cut.
        ("14", "failed", End::Failed),
        ("1", "stopped", End::Stopped),
        ("4", "deadline", End::Deadline),
        ("10", "interrupted", End::Interrupted),
    ] {
        let ended = move |mut stream: SendStream<Bytes>| {
            stream.send_trailers(map(&[("grpc-status", code), ("outflow-end", end)])).unwrap();
        };
        let (error, outcome) = is_final(end, journaled(), ended).await;
        assert_eq!(outcome, Some(Outcome::Ended { end: expected, jobs_failed: 0, last_sequence: 2 }));
        match error {
            None => assert_eq!(code, "0"),
            Some(FetchError::Status { status, .. }) => assert_eq!(status.code().value().to_string(), code),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_without_an_end_is_the_callers_unless_it_is_unavailable() {
    let pushback = &[("grpc-retry-pushback-ms", "10")];
    for code in ["1", "2", "3", "4", "5", "7", "8", "9", "10", "11", "13", "15", "16", "99"] {
        let (error, outcome) = is_final(code, journaled(), with_status(code, pushback)).await;
        let Some(FetchError::Status { position, status }) = error else { panic!("{code}: {error:?}") };
        assert_eq!((status.code().value().to_string().as_str(), outcome), (code, None));
        assert_eq!((position.last_sequence, position.is_resumable()), (2, true));
    }
    let (error, _) = is_final("not again", journaled(), with_status("14", &[("grpc-retry-pushback-ms", "-1")])).await;
    assert_eq!(error.unwrap().code(), Some(Code::UNAVAILABLE));
    // The limit was reached.
    let (error, outcome) = is_final("limit", journaled().limit(2), with_status("0", &[])).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(outcome, Some(Outcome::Limit { last_sequence: 2 }));
    // An `OK` that nothing explains.
    let (error, outcome) = is_final("OK", journaled(), with_status("0", &[])).await;
    assert!(matches!(error, Some(FetchError::Protocol { .. })), "{error:?}");
    assert_eq!(outcome, None);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_again_is_asked_for_once() {
    let none = [RUN, ("outflow-durability", "none")];
    for (what, headers) in [("none", &none[..]), ("not said", &none[..1]), ("a plain server", &[])] {
        for code in ["", "14"] {
            let headers: Vec<_> = headers.to_vec();
            let (client, server) = serve_again(Client::builder(), move |_, _, mut call| {
                let headers = headers.clone();
                async move {
                    let mut stream = call.open(&headers);
                    stream.send_data(between(1, 2), false).unwrap();
                    tokio::time::sleep(SECOND).await;
                    if code.is_empty() {
                        stream.send_reset(Reason::CANCEL);
                    } else {
                        stream.send_trailers(map(&[("grpc-status", code), ("grpc-retry-pushback-ms", "1")])).unwrap();
                    }
                }
            })
            .await;
            for fetch in [Fetch::id(1), journaled()] {
                let asked = server.asked();
                let (sequences, error) = read(&mut soon(client.fetch(fetch)).await.unwrap()).await;
                assert_eq!(sequences, [1, 2]);
                let error = error.unwrap();
                match code {
                    "" => assert!(matches!(error, FetchError::Break { .. }), "{what}: {error}"),
                    _ => assert_eq!(error.code(), Some(Code::UNAVAILABLE), "{what}"),
                }
                assert_eq!(server.asked(), asked + 1, "{what}");
            }
        }
    }
    // A word for a durability that is not `none`, from a later version.
    let (client, server) = serve_again(Client::builder(), |number, request, mut call| async move {
        let mut stream = call.open(&[RUN, ("outflow-durability", "replicated")]);
        stream.send_data(between(request.after + 1, request.after + 1), number == 1).unwrap();
        if number == 2 {
            stream.send_trailers(map(&[OK, COMPLETE])).unwrap();
        }
    })
    .await;
    let (sequences, error) = read(&mut client.fetch(journaled()).await.unwrap()).await;
    assert_eq!((sequences.as_slice(), server.asked()), (&[1, 2][..], 2), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_asked_about_again_where_it_says_so() {
    let info: &[(&str, &str)] = &[("grpc-retry-pushback-ms", "3000")];
    for (code, others, is_retried) in [
        ("14", &[][..], true),
        ("14", info, true),
        ("8", info, true),
        ("14", &[("grpc-retry-pushback-ms", "-1")], false),
        ("8", &[], false),
        ("5", &[], false),
        ("4", &[], false),
    ] {
        for fetch in [Fetch::id(1), journaled(), Fetch::run("r1")] {
            let (client, server) = serve_again(Client::builder(), move |number, _, mut call| async move {
                if number == 1 {
                    let all: Vec<_> = others.iter().copied().chain([("grpc-status", code)]).collect();
                    call.only(&all);
                } else {
                    rest(&mut call, 0);
                }
            })
            .await;
            let began = Instant::now();
            let answered = soon(client.fetch(fetch)).await;
            if is_retried {
                assert_eq!(read(&mut answered.unwrap()).await.0, [1, 2, 3, 4]);
                assert_eq!(server.asked(), 2);
                assert_eq!(began.elapsed() >= 3 * SECOND, others == info);
            } else {
                let error = answered.unwrap_err();
                assert!(matches!(error, FetchError::Refused { .. }), "{error}");
                assert_eq!(server.asked(), 1, "{code}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_without_a_server_is_no_answer() {
    for (fetch, is_retried) in [(journaled(), true), (Fetch::id(1), false)] {
        let (client, server) = serve_again(Client::builder(), |number, _, mut call| async move {
            if number == 1 { call.raw(503, &[("content-type", "text/html")]) } else { rest(&mut call, 0) }
        })
        .await;
        let answered = soon(client.fetch(fetch)).await;
        assert_eq!((answered.is_ok(), server.asked()), (is_retried, 1 + usize::from(is_retried)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_gone_when_it_is_asked_for_again_is_told_with_the_place() {
    let (client, server) = serve_again(Client::builder(), |number, _, mut call| async move {
        if number == 1 {
            call.run().send_data(between(1, 2), true).unwrap();
        } else {
            call.only(&[("grpc-status", "5"), ("grpc-message", "no such run")]);
        }
    })
    .await;
    let (sequences, error) = read(&mut client.fetch(journaled()).await.unwrap()).await;
    assert_eq!((sequences.len(), server.asked()), (2, 2));
    let text = "the stream from the pipe, run r1, after response 2, ended with NOT_FOUND: no such run";
    assert_eq!(error.unwrap().to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_follow_fails_loudly() {
    const OTHER: &[(&str, &str)] = &[("outflow-run-id", "r2")];
    for (headers, sequence, expected) in [
        (&[RUN][..], 4, Violation::Sequence { expected: 3, received: 4 }),
        (&[RUN], 2, Violation::Sequence { expected: 3, received: 2 }),
        (&[RUN], 1, Violation::Sequence { expected: 3, received: 1 }),
        (OTHER, 3, Violation::OtherRun { asked: "r1".into(), received: "r2".into() }),
        (&[], 3, Violation::NoRuns { run_id: "r1".into() }),
    ] {
        let (client, server) = serve_again(Client::builder(), move |number, _, mut call| async move {
            let mut stream = if number == 1 { call.run() } else { call.open(headers) };
            let data = if number == 1 { between(1, 2) } else { between(sequence, sequence) };
            stream.send_data(data, number == 1).unwrap();
            if number > 1 {
                // Whoever has seen enough may have left.
                let _ = stream.send_trailers(map(&[OK, COMPLETE]));
            }
        })
        .await;
        let (sequences, error) = read(&mut client.fetch(journaled()).await.unwrap()).await;
        assert_eq!(sequences, [1, 2]);
        let Some(FetchError::Protocol { violation, .. }) = error else { panic!("{error:?}") };
        assert_eq!((*violation, server.asked()), (expected, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_two_frames_is_one() {
    let draining = [("grpc-status", "14"), ("grpc-message", "draining")];
    let (client, server) = serve_again(Client::builder(), move |number, request, mut call| async move {
        match number {
            // Headers and an empty end, as some proxies make of headers that end the stream.
            1 | 3 => call.open(&draining).send_data(Bytes::new(), true).unwrap(),
            2 => call.run().send_data(between(1, 2), true).unwrap(),
            _ => rest(&mut call, request.after),
        }
    })
    .await;
    let (sequences, error) = read(&mut soon(client.fetch(journaled())).await.unwrap()).await;
    assert_eq!((sequences.as_slice(), server.asked()), (&[1, 2, 3, 4][..], 4), "{error:?}");
}
