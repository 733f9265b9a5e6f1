//! Bounds that a client meets: readers of one run, and runs of one page, also while those leave for the archive.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use outflow::{Limits, Plan};
use outflow_proto::{outflow::v1::ListRunsRequest, protobuf::Request};
use tonic::Code;

use super::asking::{Names as _, Runs, again, end, journaled, keyed};
use crate::support::{Gauge, TestServer, planned, waiting, wire::Connection};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_run_has_so_many_readers_and_one_that_leaves_makes_room() {
    let alive = Gauge::default();
    let jobs = alive.clone();
    let server = TestServer::start(|server| {
        let mut limits = Limits::default();
        limits.readers_max = 3;
        server.default_source("test", planned(move |_| waiting(&jobs))).limits(limits)
    });
    let (connection, runs) = (Connection::open(server.address()).await, Runs::of(&server).await);
    let mut first = connection.begin(&Request { linger: journaled(1).linger, ..keyed(1, "k") }).await;
    let run = first.run();
    assert_eq!(first.response().await.result, "begun");
    let mut readers = vec![first, connection.begin(&again(&run, 0)).await, connection.begin(&keyed(1, "k")).await];
    for refused in [again(&run, 0), again(&run, 1), keyed(1, "k")] {
        let refused = connection.fetch(&refused).await;
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("readers of one run"), "{}", refused.message());
        refused.assert_says_when_to_retry();
    }
    // Of another run it is another limit.
    let other = connection.begin(&journaled(1)).await;
    assert_ne!(other.run(), run);
    readers.pop();
    runs.until(&run, |run| run.readers == 2).await;
    let mut next = connection.begin(&again(&run, 0)).await;
    assert_eq!(next.response().await.result, "begun");
    assert_eq!(connection.fetch(&again(&run, 0)).await.code(), Code::ResourceExhausted);
    runs.stop(&run).await.unwrap();
    runs.stop(&other.run()).await.unwrap();
    assert_eq!(end(&next.finish().await), Some(("stopped", "0")));
}

/// All runs, in pages of so many, of which none has more than `most`.
async fn pages(runs: &Runs, page_size: u32, most: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListRunsRequest { page_size, page_token, ..ListRunsRequest::default() };
        let (page, next) = runs.list(request).await.unwrap();
        assert!(page.len() == most || (next.is_empty() && page.len() < most), "a page of {}", page.len());
        all.extend(page.into_iter().map(|run| run.run_id));
        if next.is_empty() {
            return all;
        }
        page_token = next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_run_is_on_one_page_of_bounded_size_wherever_it_lies() {
    const RUNS: usize = 1_205;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let archive = data.join("archive.redb");
    let server = TestServer::start(|server| server.default_source("test", planned(|_| Plan::new())).data(data));
    let (connection, runs) = (Connection::open(server.address()).await, Runs::of(&server).await);
    let started = stream::iter(0..RUNS).map(async |_| connection.fetch(&journaled(1)).await.run());
    let started: BTreeSet<String> = started.buffer_unordered(100).collect().await;
    assert_eq!(started.len(), RUNS);
    // A thousand is the most, and a hundred where nothing is said.
    let all = pages(&runs, 0, 100).await;
    assert!(all.iter().eq(started.iter().rev()), "the last started first");
    for page_size in [1_000, 1_001, u32::MAX] {
        assert_eq!(pages(&runs, page_size, 1_000).await, all);
    }
    let made = fs::metadata(&archive).unwrap().modified().unwrap();
    let began = Instant::now();
    // In quiet times what has ended leaves the journal, in several steps.
    for after_move in 0.. {
        assert_eq!(pages(&runs, 150, 150).await, all);
        if fs::metadata(&archive).unwrap().modified().unwrap() == made {
            assert!(began.elapsed() < Duration::from_secs(60), "nothing moves");
            tokio::time::sleep(Duration::from_millis(100)).await;
        } else if after_move > 0 && began.elapsed() > Duration::from_secs(7) {
            break;
        }
    }
    // A run that came later is not on a page that is asked for with an old token.
    let (page, token) = runs.list(ListRunsRequest { page_size: 7, ..ListRunsRequest::default() }).await.unwrap();
    assert!(page.iter().map(|run| &run.run_id).eq(&all[..7]));
    let later = connection.fetch(&journaled(1)).await.run();
    let next = ListRunsRequest { page_size: 7, page_token: token, ..ListRunsRequest::default() };
    assert!(runs.list(next).await.unwrap().0.iter().map(|run| &run.run_id).eq(&all[7..14]));
    assert_eq!(runs.list(ListRunsRequest::default()).await.unwrap().0[0].run_id, later);
}
