//! What is asked, and when: by key, by run, with what is left of limit and time, and never twice what must not be.

use std::sync::atomic::Ordering;

use h2::Reason;
use outflow_client::{Client, Fetch, FetchError, Outcome};
use outflow_proto::protobuf;
use tokio::time::Instant;

use super::{
    HEARTBEAT, SECOND, after_two, between, journaled, read, rest, soon,
    support::{COMPLETE, OK, frame, map, serve_again},
    with_status,
};

#[tokio::test(start_paused = true)]
async fn a_break_before_the_headers_is_asked_for_by_the_key_and_by_the_run() {
    let (client, server) = serve_again(Client::builder(), |number, _, mut call| async move {
        // Twice nothing, then the answer.
        match number % 3 {
            1 => call.reset(Reason::CANCEL),
            2 => drop(call),
            _ => rest(&mut call, 0),
        }
    })
    .await;
    let fetches = [journaled(), journaled(), Fetch::id(1).idempotency_key("mine"), Fetch::run("r1")];
    for fetch in fetches {
        let (sequences, error) = read(&mut soon(client.fetch(fetch)).await.unwrap()).await;
        assert_eq!(sequences, [1, 2, 3, 4], "{error:?}");
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 12);
    for same in requests.chunks(3) {
        assert!(same[0] == same[1] && same[1] == same[2], "{same:?}");
        assert_eq!(same[0].heartbeat, Some(HEARTBEAT));
    }
    let keys: Vec<_> = requests.chunks(3).map(|same| same[0].idempotency_key.as_str()).collect();
    for made in &keys[..2] {
        assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
    }
    assert_ne!(keys[0], keys[1], "each request has its own");
    assert_eq!(keys[2..], ["mine", ""], "the caller's, and none where a run is named");
}

#[tokio::test(start_paused = true)]
async fn a_plain_request_is_never_asked_for_twice_unless_it_was_certainly_not_carried_out() {
    let (client, server) = serve_again(Client::builder(), |number, _, mut call| async move {
        match number {
            1 => call.reset(Reason::CANCEL),
            2 | 3 => call.reset(Reason::REFUSED_STREAM),
            _ => rest(&mut call, 0),
        }
    })
    .await;
    let error = soon(client.fetch(Fetch::id(1))).await.unwrap_err();
    assert!(matches!(error, FetchError::Break { .. }), "{error}");
    assert_eq!(server.asked(), 1);
    let (sequences, error) = read(&mut soon(client.fetch(Fetch::id(1))).await.unwrap()).await;
    assert_eq!((sequences.len(), server.asked()), (4, 4), "{error:?}");
    for request in server.requests() {
        assert_eq!(request, protobuf::Request { id: 1, ..protobuf::Request::default() }, "nothing has it journaled");
    }
    // Nothing is sent on a connection that is dead.
    server.cut();
    while client.is_connected() {
        tokio::task::yield_now().await;
    }
    let (sequences, error) = read(&mut soon(client.fetch(Fetch::id(1))).await.unwrap()).await;
    assert_eq!((sequences.len(), server.asked()), (4, 5), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_plain_server_that_breaks_before_its_headers_is_not_asked_twice_either() {
    const UNIMPLEMENTED: u64 = 12;
    let (client, server) = serve_again(Client::builder(), |_, _, mut call| async move {
        call.reset(Reason::CANCEL);
    })
    .await;
    server.run_service.store(UNIMPLEMENTED, Ordering::Relaxed);
    // The first time nobody knows that keys mean nothing to it.
    for count in 1..=2 {
        let error = soon(client.fetch(journaled())).await.unwrap_err();
        let FetchError::Break { position, .. } = &error else { panic!("{error}") };
        assert_eq!((position.is_resumable(), server.asked()), (false, count), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_could_be_a_plain_server_is_asked_what_it_is_until_it_says_so() {
    const UNAVAILABLE: u64 = 14;
    let (client, server) = serve_again(Client::builder(), |number, _, mut call| async move {
        if number == 1 { call.reset(Reason::CANCEL) } else { rest(&mut call, 0) }
    })
    .await;
    server.run_service.store(UNAVAILABLE, Ordering::Relaxed);
    let waiting = tokio::time::timeout(20 * SECOND, client.fetch(journaled()));
    assert!(waiting.await.is_err(), "it is not known yet");
    assert_eq!(server.asked(), 1);

    let known = async {
        tokio::time::sleep(20 * SECOND).await;
        server.run_service.store(5, Ordering::Relaxed);
    };
    server.requests.lock().unwrap().clear();
    let (answered, ()) = soon(async { tokio::join!(client.fetch(journaled()), known) }).await;
    let (sequences, error) = read(&mut answered.unwrap()).await;
    assert_eq!((sequences.as_slice(), server.asked()), (&[1, 2, 3, 4][..], 2), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn the_limit_counts_over_breaks() {
    let (client, server) = serve_again(Client::builder(), |_, request, mut call| async move {
        let mut stream = call.run();
        let after = request.after;
        stream.send_data(between(after + 1, after + request.limit.min(2)), request.limit > 2).unwrap();
        if request.limit <= 2 {
            stream.send_trailers(map(&[OK])).unwrap();
        }
    })
    .await;
    let mut responses = client.fetch(Fetch::run("r1").after(10).limit(5)).await.unwrap();
    let (sequences, error) = read(&mut responses).await;
    assert_eq!(sequences, [11, 12, 13, 14, 15], "{error:?}");
    assert_eq!(responses.outcome(), Some(&Outcome::Limit { last_sequence: 15 }));
    let asked: Vec<_> = server.requests().iter().map(|request| (request.after, request.limit)).collect();
    assert_eq!(asked, [(10, 5), (12, 3), (14, 1)]);

    // All that was wanted has come when it breaks: nobody has to be asked for nothing.
    let (client, server) = after_two(|mut stream| stream.send_reset(Reason::CANCEL)).await;
    let mut responses = client.fetch(journaled().limit(2)).await.unwrap();
    let (sequences, error) = read(&mut responses).await;
    assert_eq!((sequences.as_slice(), server.asked()), (&[1, 2][..], 1), "{error:?}");
    assert_eq!(responses.outcome(), Some(&Outcome::Limit { last_sequence: 2 }));
}

#[tokio::test(start_paused = true)]
async fn the_last_responses_are_asked_for_until_the_first_of_them_came() {
    let (client, server) = serve_again(Client::builder(), |number, _, mut call| async move {
        let mut stream = call.run();
        match number {
            1 => stream.send_data(frame(&[]), true).unwrap(),
            2 => stream.send_data(between(90, 91), true).unwrap(),
            _ => {
                stream.send_data(between(92, 92), false).unwrap();
                stream.send_trailers(map(&[OK, COMPLETE, ("outflow-last-sequence", "92")])).unwrap();
            }
        }
    })
    .await;
    let (sequences, error) = read(&mut client.fetch(Fetch::run("r1").last(3)).await.unwrap()).await;
    assert_eq!(sequences, [90, 91, 92], "{error:?}");
    let asked: Vec<_> = server.requests().iter().map(|request| (request.after, request.last)).collect();
    assert_eq!(asked, [(0, 3), (0, 3), (91, 0)]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_over_all_attempts() {
    let (client, server) = after_two(|mut stream| stream.send_reset(Reason::CANCEL)).await;
    let (sequences, _) = read(&mut client.fetch(journaled().deadline(5 * SECOND)).await.unwrap()).await;
    assert_eq!(sequences.len(), 4);
    let timeouts = server.timeouts.lock().unwrap().clone();
    let micros = |timeout: &Option<String>| timeout.as_ref().unwrap().trim_end_matches('u').parse::<u64>().unwrap();
    assert_eq!(micros(&timeouts[0]), 5_000_000);
    assert!((3_800_000..=3_960_000).contains(&micros(&timeouts[1])), "{timeouts:?}");

    // Nobody says that it passed while it is waited for another attempt, and nobody has to.
    let (client, server) = after_two(with_status("14", &[("grpc-retry-pushback-ms", "60000")])).await;
    let began = Instant::now();
    let (_, error) = read(&mut client.fetch(journaled().deadline(5 * SECOND)).await.unwrap()).await;
    let Some(FetchError::WaitedTooLong { deadline, position }) = error else { panic!("{error:?}") };
    assert_eq!((deadline, position.last_sequence, server.asked()), (5 * SECOND, 2, 1));
    assert_eq!(began.elapsed().as_millis(), 5000);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_left_for_another_connection() {
    // No PINGs: it is the run that is silent, and whoever is between answers those.
    let builder = Client::builder().without_keepalive();
    let (client, server) = serve_again(builder, |number, request, mut call| async move {
        match number {
            1 => {
                let mut stream = call.run();
                stream.send_data(between(1, 2), false).unwrap();
                for _ in 0..5 {
                    tokio::time::sleep(29 * SECOND).await;
                    stream.send_data(frame(&[]), false).unwrap();
                }
                std::future::pending::<()>().await;
            }
            // Not even headers, from a server that is known to send them at once.
            2 => std::future::pending().await,
            _ => rest(&mut call, request.after),
        }
    })
    .await;
    let began = Instant::now();
    let mut responses = client.fetch(journaled()).await.unwrap();
    let (sequences, error) = read(&mut responses).await;
    assert_eq!(sequences, [1, 2, 3, 4], "{error:?}");
    assert_eq!(server.requests()[0].heartbeat, Some(HEARTBEAT), "it asked for them itself");
    assert_eq!(server.connections.load(Ordering::Relaxed), 3);
    assert_eq!(began.elapsed().as_secs(), 5 * 29 + 30 + 30);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_journaled_unasked_is_asked_for_with_heartbeats_too() {
    let (client, server) = after_two(|mut stream| stream.send_reset(Reason::CANCEL)).await;
    let (sequences, error) = read(&mut client.fetch(Fetch::id(1)).await.unwrap()).await;
    assert_eq!(sequences, [1, 2, 3, 4], "{error:?}");
    let heartbeats: Vec<_> = server.requests().iter().map(|request| request.heartbeat).collect();
    assert_eq!(heartbeats, [None, Some(HEARTBEAT)]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_reading_while_it_connects_holds_nobody_up() {
    let (client, server) = serve_again(Client::builder(), |number, request, mut call| async move {
        if number <= 2 {
            let _open = call.run();
            std::future::pending::<()>().await;
        }
        rest(&mut call, request.after);
    })
    .await;
    let mut away = client.fetch(journaled()).await.unwrap();
    let mut here = client.fetch(journaled()).await.unwrap();
    server.connecting.store(2_000, Ordering::Relaxed);
    server.cut();
    // It is connecting by then, and its reader has something else to do.
    assert!(tokio::time::timeout(SECOND, away.next()).await.is_err());
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
    let (sequences, error) = read(&mut here).await;
    assert_eq!(sequences, [1, 2, 3, 4], "{error:?}");
    let (sequences, error) = read(&mut away).await;
    assert_eq!(sequences, [1, 2, 3, 4], "{error:?}");
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
}
