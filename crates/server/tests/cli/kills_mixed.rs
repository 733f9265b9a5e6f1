//! The server is killed under runs of all kinds: repeatable ones, ones that must not be executed twice, ones that answer
//! otherwise each time, ones that fail, shared ones, and some that are stopped. Each comes to an end for which there is a
//! reason, the same for everybody who asks later, and keeps all that anybody saw of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use outflow_client::{Client, Code, End, Fetch, FetchError, Outcome, Responses};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::kills::Killed;

/// How often it is killed; `OUTFLOW_TEST_KILLS` says otherwise.
const KILLS: usize = 12;
const READERS: u64 = 24;
/// Of each job, of which there are three.
const RESPONSES: u64 = 60;

const CONFIG: &str = "
[[source]]
name = 'repeatable'
kind = 'simulate'
default = true

[[source]]
name = 'once'
kind = 'simulate'
repeatable = false

[[source]]
name = 'differs'
kind = 'simulate'
differ = true

[[source]]
name = 'shared'
kind = 'simulate'
shared = true
reuse = '1h'
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Repeatable,
    Once,
    Differs,
    Fails,
    Shared,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Repeatable, Self::Once, Self::Differs, Self::Fails, Self::Shared];

    fn ask(self, id: u64) -> Fetch {
        let (source, id) = match self {
            Self::Repeatable | Self::Fails => ("repeatable", id),
            Self::Once => ("once", id),
            Self::Differs => ("differs", id),
            Self::Shared => ("shared", id / 8),
        };
        let fetch = Fetch::id(i32::try_from(id).unwrap())
            .source(source)
            .parameter("jobs", "3")
            .parameter("step", "5ms")
            .parameter("responses", RESPONSES.to_string())
            .parameter("every", "4ms")
            .linger(Duration::from_secs(300));
        if self == Self::Fails { fetch.parameter("fail", "1") } else { fetch }
    }

    /// Whether a run may end so, and with so many responses.
    fn may_end(self, end: End, responses: u64, is_stopped: bool) -> bool {
        match (self, end) {
            (Self::Fails, End::Failed) => responses == 2 * RESPONSES + 1,
            (Self::Fails, End::Complete) => false,
            (_, End::Complete) => responses == 3 * RESPONSES,
            (Self::Once | Self::Differs, End::Interrupted) => responses <= 3 * RESPONSES,
            (_, End::Stopped) => is_stopped,
            _ => false,
        }
    }
}

/// What a reader was given, and what it was told of the end.
#[derive(Debug, PartialEq)]
struct Seen {
    run: String,
    responses: BTreeMap<u64, String>,
    end: End,
    code: Option<Code>,
}

/// Reads to the end of the run, which is asked to stop after so many responses.
async fn read_all(client: &Client, mut stream: Responses, stops_after: Option<usize>) -> Seen {
    let mut responses = BTreeMap::new();
    let mut code = None;
    while let Some(response) = stream.next().await {
        match response {
            Ok(response) => {
                assert_eq!(response.sequence, responses.len() as u64 + 1);
                responses.insert(response.sequence, format!("{response:?}"));
                if Some(responses.len()) == stops_after {
                    let run = stream.run_id().unwrap().to_owned();
                    // The server may be away just now: then it is not stopped, or nobody was told so.
                    _ = client.stop(run).await;
                }
            }
            Err(FetchError::Status { status, .. }) => code = Some(status.code()),
            Err(error) => panic!("{error}"),
        }
    }
    let Some(Outcome::Ended { end, .. }) = stream.outcome() else { panic!("it was cut: {:?}", stream.outcome()) };
    Seen { run: stream.run_id().unwrap().to_owned(), responses, end: *end, code }
}

/// What one reader does: run after run, with keys or without, until it is calm.
async fn read_on(address: SocketAddr, reader: u64, seed: u64, calm: Arc<AtomicBool>) -> Vec<(Kind, Seen)> {
    let mut chance = StdRng::seed_from_u64(seed);
    let builder = Client::builder().give_up_after(Duration::from_secs(600));
    let client = builder.connect(&address.to_string()).await.unwrap();
    let mut all = Vec::new();
    for round in 0.. {
        let kind = Kind::ALL[chance.random_range(0..Kind::ALL.len())];
        let id = reader + READERS * round;
        let fetch =
            if chance.random_bool(0.5) { kind.ask(id).idempotency_key(format!("{id}")) } else { kind.ask(id) };
        // Others read a shared one, and would not know why it ended.
        let stops_after = (kind != Kind::Shared && chance.random_bool(0.2)).then(|| chance.random_range(1..50));
        let stream = client.fetch(fetch).await.unwrap_or_else(|error| panic!("{kind:?} {id}: {error}"));
        let seen = read_all(&client, stream, stops_after).await;
        let count = seen.responses.len() as u64;
        assert!(kind.may_end(seen.end, count, stops_after.is_some()), "{kind:?} {id}: {:?}, {count}", seen.end);
        all.push((kind, seen));
        if calm.load(SeqCst) {
            break;
        }
    }
    all
}

#[test]
fn runs_of_all_kinds_end_for_a_reason_and_keep_what_was_seen_whenever_the_server_is_killed() {
    let kills = std::env::var("OUTFLOW_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let seed: u64 = std::env::var("OUTFLOW_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("OUTFLOW_TEST_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut server = Killed::start(CONFIG);
    let address = server.address;
    let calm = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let readers: Vec<_> = (0..READERS)
        .map(|reader| runtime.handle().spawn(read_on(address, reader, chance.random(), calm.clone())))
        .collect();
    for _ in 0..kills {
        #[expect(clippy::disallowed_methods, reason = "a test's thread may wait")]
        std::thread::sleep(if chance.random_bool(0.2) {
            // Long enough for a run to end: a job that is killed before it has come as far as it had been never does.
            Duration::from_millis(1_500)
        } else {
            Duration::from_millis(chance.random_range(20..400))
        });
        if chance.random_bool(0.2) {
            server.drain_and_start();
        } else {
            server.kill_and_start();
        }
    }
    calm.store(true, SeqCst);
    runtime.block_on(async {
        let client = Client::connect(&address.to_string()).await.unwrap();
        let mut ends = BTreeMap::new();
        for reader in readers {
            let runs = tokio::time::timeout(Duration::from_secs(60), reader).await.expect("it ends").unwrap();
            for (kind, seen) in runs {
                let stream = client.fetch(Fetch::run(&*seen.run)).await.unwrap();
                assert_eq!(read_all(&client, stream, None).await, seen, "{kind:?}");
                *ends.entry(format!("{kind:?} {}", seen.end)).or_insert(0) += 1;
            }
        }
        println!("{kills} kills: {ends:?}");
    });
}
