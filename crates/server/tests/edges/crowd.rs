//! A crowd on one shared run: a thousand readers over a few connections, who join at random times, dawdle, leave and come
//! back, and read in pages. The work is done once, and all of them are given the same.

use std::{
    env,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use outflow::{Job, Limits, Plan, SourceOptions};
use outflow_proto::protobuf::{Request, Response};
use parking_lot::Mutex;
use prost::Message as _;
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;
use tonic::Code;

use super::asking::{Names as _, Runs, again, end};
use crate::support::{Gauge, TestServer, planned, wire::Connection};

/// How many readers; `OUTFLOW_TEST_READERS` says otherwise.
const READERS: usize = 1_000;
/// How many of them share a connection.
const READERS_OF_A_CONNECTION: usize = 100;
const JOBS: u64 = 3;
const RESPONSES_OF_A_JOB: u64 = 100;
const RESPONSES: u64 = JOBS * RESPONSES_OF_A_JOB;
/// Readers come while the run is under way, and a while after its end.
const JOINS_WITHIN_MS: u64 = 2_000;

/// How a reader behaves.
#[derive(Clone, Debug)]
struct Manner {
    joins_after: Duration,
    /// Before how many of a hundred messages it waits.
    dawdles: u32,
    /// After how many responses it leaves, each time, and for how long.
    leaves: Vec<(u64, Duration)>,
    /// It reads in pages of so many; 0: all at once.
    page: u64,
}

fn millis(chance: &mut impl Rng, range: RangeInclusive<u64>) -> Duration {
    Duration::from_millis(chance.random_range(range))
}

impl Manner {
    fn of(chance: &mut StdRng) -> Self {
        let joins_after = millis(chance, 0..=JOINS_WITHIN_MS);
        let mut manner = Self { joins_after, dawdles: 0, leaves: Vec::new(), page: 0 };
        match chance.random_range(0..4) {
            0 => manner.dawdles = chance.random_range(1..20),
            1 => {
                let times = chance.random_range(1..6);
                manner.leaves = (0..times).map(|_| (chance.random_range(0..80), millis(chance, 0..=400))).collect();
            }
            2 => manner.page = chance.random_range(1..RESPONSES + 2),
            _ => {}
        }
        manner
    }
}

/// What all of them see.
struct Crowd {
    run: OnceLock<String>,
    /// Each response as the first reader had it.
    heard: Mutex<Vec<Bytes>>,
}

impl Crowd {
    /// Compares a message with what others were given in the same place.
    fn hear(&self, who: usize, sequence: u64, message: Bytes) {
        let mut heard = self.heard.lock();
        let place = sequence as usize - 1;
        if let Some(known) = heard.get(place) {
            assert_eq!(*known, message, "reader {who} has another response {sequence}");
            return;
        }
        assert_eq!(heard.len(), place, "reader {who} is the first to see response {sequence}");
        let response = Response::decode(message.clone()).unwrap();
        assert_eq!(response.sequence, sequence, "reader {who}: {response:?}");
        heard.push(message);
    }

    /// Reads as `manner` says, to the end of the run; says how often it called.
    async fn read(&self, who: usize, manner: Manner, connection: &Connection, mut chance: StdRng) -> usize {
        tokio::time::sleep(manner.joins_after).await;
        let mut leaves = manner.leaves.into_iter();
        let mut after = 0;
        let mut run: Option<String> = None;
        for calls in 1.. {
            let request = match &run {
                None => Request { id: 7, limit: manner.page, ..Request::default() },
                Some(run) => Request { limit: manner.page, ..again(run, after) },
            };
            let mut answering = connection.begin(&request).await;
            let named = answering.run();
            assert_eq!(*self.run.get_or_init(|| named.clone()), named, "reader {who} is on another run");
            run = Some(named);
            let (stays_for, stays_away) = leaves.next().map_or((u64::MAX, None), |(for_, away)| (for_, Some(away)));
            let mut given = 0;
            while given < stays_for
                && let Some(message) = answering.message().await
            {
                (after, given) = (after + 1, given + 1);
                self.hear(who, after, message.unwrap_or_else(|reset| panic!("reader {who} was reset: {reset}")));
                if chance.random_range(0..100) < manner.dawdles {
                    tokio::time::sleep(millis(&mut chance, 1..=40)).await;
                }
            }
            if given == stays_for {
                drop(answering);
                tokio::time::sleep(stays_away.expect("it stays only so long")).await;
                continue;
            }
            let answer = answering.finish().await;
            assert_eq!(answer.code(), Code::Ok, "reader {who}: {answer:?}");
            assert_eq!(answer.said("outflow-last-sequence"), Some(&*after.to_string()), "reader {who}");
            match end(&answer) {
                Some(end) => {
                    assert_eq!((end, after), (("complete", "0"), RESPONSES), "reader {who}");
                    return calls;
                }
                None => assert_eq!(given, manner.page, "reader {who} was sent away: {answer:?}"),
            }
        }
        unreachable!("it reads until it is told the end")
    }
}

/// Three jobs that emit random lengths at random times; another execution would emit other bytes.
fn work(begun: &Gauge) -> Plan {
    Plan::new().jobs((0..JOBS).map(|job| {
        let begun = begun.clone();
        Job::new(async move |emitter| {
            // For good.
            std::mem::forget(begun.enter());
            let mut chance = StdRng::seed_from_u64(rand::random());
            for n in 0..RESPONSES_OF_A_JOB {
                tokio::time::sleep(millis(&mut chance, 0..=20)).await;
                let length = chance.random_range(0..600);
                emitter.emit(format!("{job} {n} {:x} {:length$}", chance.random::<u64>(), "")).await?;
            }
            Ok(())
        })
    }))
}

/// A connection whose windows a slow reader fills.
async fn connect(address: SocketAddr, number: usize) -> Connection {
    let mut builder = h2::client::Builder::new();
    let stream_window = if number.is_multiple_of(2) { 8 * 1024 } else { 1 << 20 };
    builder.initial_window_size(stream_window).initial_connection_window_size(1 << 26);
    Connection::with(address, &builder).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_readers_of_a_shared_run_are_given_the_same_and_it_is_executed_once() {
    let readers = env::var("OUTFLOW_TEST_READERS").map_or(READERS, |readers| readers.parse().unwrap());
    let seed: u64 = env::var("OUTFLOW_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("OUTFLOW_TEST_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let begun = Gauge::default();
    let server = TestServer::start(|server| {
        let begun = begun.clone();
        let options = SourceOptions::new().shared(Duration::from_secs(600));
        let mut limits = Limits::default();
        // So little that who dawdles has to read from the store.
        limits.live_bytes = 8 * 1024;
        server
            .source_with("shared", planned(move |_| work(&begun)), options)
            .default_to("shared")
            .limits(limits)
            .data(folder.path().join("data"))
    });
    let crowd = Arc::new(Crowd { run: OnceLock::new(), heard: Mutex::default() });
    let mut reading = JoinSet::new();
    for number in 0..readers.div_ceil(READERS_OF_A_CONNECTION) {
        let connection = Arc::new(connect(server.address(), number).await);
        let first = number * READERS_OF_A_CONNECTION;
        for who in first..readers.min(first + READERS_OF_A_CONNECTION) {
            let (crowd, connection) = (crowd.clone(), connection.clone());
            let (manner, chance) = (Manner::of(&mut chance), StdRng::seed_from_u64(chance.random()));
            reading.spawn(async move { crowd.read(who, manner, &connection, chance).await });
        }
    }
    let mut calls = 0;
    while let Some(called) = reading.join_next().await {
        calls += called.unwrap();
    }
    println!("{readers} readers called {calls} times");
    assert!(calls > readers, "some come back");
    assert_eq!(begun.now() as u64, JOBS, "each job was executed once");
    assert_eq!(crowd.heard.lock().len() as u64, RESPONSES);
    let runs = Runs::of(&server).await;
    assert_eq!(runs.count().await, 1);
    assert_eq!(runs.get(crowd.run.get().unwrap()).await.unwrap().last_sequence, RESPONSES);
}
