//! Places in a run: `after`, `last` and `limit`, while it goes on and when it has ended.

use std::time::Duration;

use outflow::Limits;
use outflow_proto::{outflow::v1::RunState, protobuf::Request};
use tonic::Code;

use super::asking::{Names as _, Runs, Tap, again, counting, end, info, journaled, sequences, time, values};
use crate::support::{TestServer, one, wire::Connection};

/// Long enough for what must not come to come.
const A_WHILE: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn after_the_last_response_comes_what_follows_and_at_least_the_end() {
    let tap = Tap::shut();
    let taps = tap.clone();
    let server = TestServer::planned(move |_| taps.plan(5));
    let connection = Connection::open(server.address()).await;
    let mut live = connection.begin(&journaled(1)).await;
    tap.let_out(3);
    for n in 1..=3 {
        assert_eq!(live.response().await.sequence, n);
    }
    let run = live.run();
    // Headers come at once, and then nothing until there is something.
    let mut behind = connection.begin(&again(&run, 3)).await;
    assert!(tokio::time::timeout(A_WHILE, behind.message()).await.is_err());
    tap.let_out(1);
    assert_eq!(behind.response().await.sequence, 4);
    tap.let_out(1);
    let (first, second) = (live.finish().await, behind.finish().await);
    assert_eq!((sequences(&second), end(&second)), (vec![4, 5], Some(("complete", "0"))));
    assert_eq!(first.responses()[3..], second.responses());
    let nothing = connection.fetch(&again(&run, 5)).await;
    assert_eq!((nothing.code(), nothing.messages.len(), end(&nothing)), (Code::Ok, 0, Some(("complete", "0"))));
    assert_eq!(nothing.said("outflow-last-sequence"), Some("5"), "its `after`");
    assert!(!nothing.is_trailers_only(), "its headers name the run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn beyond_the_tail_is_out_of_range_at_once_with_the_tail_whether_or_not_more_will_come() {
    let tap = Tap::shut();
    let taps = tap.clone();
    let server = TestServer::planned(move |request| if request.id() == 0 { taps.plan(9) } else { counting(4) });
    let connection = Connection::open(server.address()).await;
    let mut live = connection.begin(&journaled(0)).await;
    let beyond = async |run: &str, after: u64, tail: u64| {
        let refused = connection.fetch(&again(run, after)).await;
        assert_eq!((refused.code(), refused.is_trailers_only()), (Code::OutOfRange, true));
        assert_eq!(info(&refused), ("BEYOND_TAIL".into(), [("tail".to_owned(), tail.to_string())].into()));
        assert!(!refused.headers.contains_key("outflow-run-id"));
    };
    beyond(&live.run(), 1, 0).await;
    tap.let_out(2);
    live.response().await;
    live.response().await;
    for after in [3, 1 << 53, u64::MAX] {
        beyond(&live.run(), after, 2).await;
    }
    // It is no place yet, not none for ever.
    tap.let_out(1);
    live.response().await;
    assert_eq!(connection.begin(&again(&live.run(), 3)).await.run(), live.run());
    let ended = connection.fetch(&journaled(1)).await;
    for after in [5, 1 << 53, u64::MAX] {
        beyond(&ended.run(), after, 4).await;
    }
    tap.let_out(6);
    assert_eq!(live.finish().await.messages.len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_last_so_many_are_counted_from_the_tail_as_it_stands_and_then_followed() {
    let tap = Tap::shut();
    let taps = tap.clone();
    let server = TestServer::planned(move |_| taps.plan(6));
    let connection = Connection::open(server.address()).await;
    let mut live = connection.begin(&journaled(1)).await;
    let run = live.run();
    let last = |last| Request { last, ..again(&run, 0) };
    // Nothing is there yet: all that follows is what there is.
    let early = connection.begin(&last(2)).await;
    tap.let_out(4);
    for n in 1..=4 {
        assert_eq!(live.response().await.sequence, n);
    }
    let (two, many) = (connection.begin(&last(2)).await, connection.begin(&last(100)).await);
    tap.let_out(2);
    assert_eq!(sequences(&early.finish().await), [1, 2, 3, 4, 5, 6]);
    assert_eq!(sequences(&two.finish().await), [3, 4, 5, 6]);
    assert_eq!(sequences(&many.finish().await), [1, 2, 3, 4, 5, 6]);
    assert_eq!(sequences(&connection.fetch(&last(2)).await), [5, 6], "the tail of the ended run is another");
    live.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_limit_pages_through_a_run_and_only_the_last_page_tells_the_end() {
    let server = TestServer::planned(|_| counting(9));
    let connection = Connection::open(server.address()).await;
    let whole = connection.fetch(&journaled(1)).await;
    let mut paged = Vec::new();
    for after in [0, 3, 6] {
        let page = connection.fetch(&Request { limit: 3, ..again(&whole.run(), after) }).await;
        assert_eq!((page.code(), page.reset), (Code::Ok, None));
        assert_eq!(page.said("outflow-last-sequence"), Some((after + 3).to_string().as_str()));
        assert_eq!(end(&page), (after == 6).then_some(("complete", "0")), "after {after}");
        paged.extend(page.messages);
    }
    assert_eq!(paged, whole.messages);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_limit_ends_one_readers_stream_without_waiting_and_not_the_run() {
    let tap = Tap::shut();
    let taps = tap.clone();
    let server = TestServer::planned(move |_| taps.plan(4));
    let connection = Connection::open(server.address()).await;
    let (limited, mut other) = {
        let limited = connection.begin(&Request { limit: 2, heartbeat: time(100), ..journaled(1) }).await;
        let other = connection.begin(&again(&limited.run(), 0)).await;
        (limited, other)
    };
    let run = limited.run();
    // Heartbeats count towards nothing.
    tokio::time::sleep(Duration::from_millis(350)).await;
    tap.let_out(2);
    let limited = limited.finish().await;
    let beats = limited.messages.iter().filter(|message| message.is_empty()).count();
    assert!(beats > 0 && limited.messages.len() == beats + 2, "{limited:?}");
    assert_eq!((limited.code(), end(&limited), limited.said("outflow-last-sequence")), (Code::Ok, None, Some("2")));
    other.response().await;
    assert_eq!(Runs::of(&server).await.get(&run).await.unwrap().state(), RunState::Running);
    let rest = connection.begin(&again(&run, 2)).await;
    tap.let_out(2);
    assert_eq!(sequences(&rest.finish().await), [3, 4]);
    assert_eq!(sequences(&other.finish().await), [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_limit_may_fall_inside_a_value_which_then_goes_on_behind_it() {
    let mut limits = Limits::default();
    limits.response_bytes_max = 1_024;
    let value = "né€".repeat(700);
    let emitted = value.clone();
    let server = TestServer::start(|server| {
        let plan = move |_: &outflow::Request| {
            let value = emitted.clone();
            one(async move |emitter| Ok(emitter.emit(value).await?))
        };
        server.default_source("test", crate::support::planned(plan)).limits(limits)
    });
    let connection = Connection::open(server.address()).await;
    let first = connection.fetch(&Request { limit: 2, ..journaled(1) }).await;
    assert_eq!((first.code(), end(&first), sequences(&first)), (Code::Ok, None, vec![1, 2]));
    let mut responses = first.responses();
    assert!(responses.iter().all(|response| response.partial), "the value is not whole");
    let rest = connection.fetch(&again(&first.run(), 2)).await;
    assert_eq!(end(&rest), Some(("complete", "0")));
    responses.extend(rest.responses());
    assert_eq!(values(&responses), [(0, value.into_bytes())]);
}
