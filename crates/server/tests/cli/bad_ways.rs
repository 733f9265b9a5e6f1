//! Our client and a server process, with something bad between them: a proxy that breaks streams one by one at their worst
//! moments, a network that breaks connections at any, and kills and drains of the server beside. The client's reader gets
//! the whole stream once, in order, and no error; what it asked for is done once.

use std::{
    collections::BTreeMap,
    env, fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use outflow_client::{
    BreakCause, Client, ClientBuilder, Code, End, Event, Fetch, FetchError, Outcome, Response, RunFilter,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;

use super::{
    kills::Killed,
    network::Network,
    proxy::{Proxy, Trouble},
};

const READERS: usize = 16;
/// How many streams each of them reads, one after the other, or how long it goes on; `OUTFLOW_TEST_ROUNDS` says otherwise.
const ROUNDS: usize = 2;
const RESPONSES: u64 = 100;
const LINGER: Duration = Duration::from_mins(10);

fn rounds() -> usize {
    env::var("OUTFLOW_TEST_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap())
}

fn chance() -> StdRng {
    let seed = env::var("OUTFLOW_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("OUTFLOW_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// A command that notes that it was started, as sources that must not be executed twice.
fn commands(started: &Path) -> String {
    let started = started.display();
    let script = format!(
        "echo {{id}} >> {started}; i=0; while [ $i -lt {RESPONSES} ]; do echo {{id}} $i; i=$((i+1)); sleep 0.01; done"
    );
    format!(
        "[[source]]\nname = 'command'\nkind = 'exec'\ncommand = ['sh', '-c', '{script}']\n
         [[source]]\nname = 'simulate'\nkind = 'simulate'\n"
    )
}

fn started(file: &Path) -> BTreeMap<usize, usize> {
    let mut started = BTreeMap::new();
    for line in fs::read_to_string(file).unwrap_or_default().lines() {
        *started.entry(line.parse().unwrap()).or_default() += 1;
    }
    started
}

/// A client that is soon impatient.
fn builder() -> ClientBuilder {
    let millis = Duration::from_millis;
    Client::builder()
        .resume_delays(millis(5), millis(200))
        .keepalive(millis(1_000), millis(1_000))
        .resume_heartbeat(millis(100))
}

fn simulated(id: usize) -> Fetch {
    Fetch::id(i32::try_from(id).unwrap())
        .source("simulate")
        .parameter("jobs", "1")
        .parameter("step", "0s")
        .parameter("responses", RESPONSES.to_string())
        .parameter("every", "8ms")
        // Now and then longer than a TCP segment.
        .parameter("size", if id.is_multiple_of(5) { "4000" } else { "100" })
        .linger(LINGER)
}

fn command(id: usize) -> Fetch {
    Fetch::id(i32::try_from(id).unwrap()).source("command")
}

/// What was told of breaks, over all streams.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Told {
    fn listen(&self, fetch: Fetch) -> Fetch {
        let told = self.clone();
        fetch.on_event(move |event| {
            let what = match event {
                Event::Broke { error, .. } => match &**error {
                    FetchError::Break { cause: BreakCause::Silent { .. }, .. } => "silent",
                    FetchError::Break { position, .. } if position.run_id.is_none() => "no headers",
                    FetchError::Break { .. } => "lost",
                    error if error.code() == Some(Code::UNAVAILABLE) => "drained",
                    error => panic!("{error}"),
                },
                _ => "resumed",
            };
            *told.0.lock().unwrap().entry(what).or_default() += 1;
        })
    }

    fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().get(what).copied().unwrap_or_default()
    }
}

/// All of a run, as it came: in order, without a gap, to its end, without an error.
async fn whole(client: &Client, fetch: Fetch) -> (String, Vec<Response>) {
    let mut stream = client.fetch(fetch).await.unwrap();
    let mut responses = Vec::new();
    while let Some(response) = stream.next().await {
        let response = response.unwrap();
        assert_eq!(response.sequence, responses.len() as u64 + 1);
        responses.push(response);
    }
    let expected = Outcome::Ended { end: End::Complete, jobs_failed: 0, last_sequence: RESPONSES };
    assert_eq!((responses.len() as u64, stream.outcome()), (RESPONSES, Some(&expected)));
    (stream.run_id().unwrap().to_owned(), responses)
}

/// That the runs are what was read of them, and that there are no others but `more`.
async fn nothing_else(server: SocketAddr, read: Vec<(String, Vec<Response>)>, more: usize) {
    let client = Client::connect(&server.to_string()).await.unwrap();
    let count = read.len() + more;
    for (run, responses) in read {
        assert_eq!(whole(&client, Fetch::run(run)).await.1, responses);
    }
    let (mut runs, mut all) = (client.runs(RunFilter::all()), 0);
    while let Some(page) = runs.next_page().await.unwrap() {
        all += page.len();
    }
    assert_eq!(all, count);
}

async fn ended<T: 'static>(mut readers: JoinSet<T>) -> Vec<T> {
    let limit = Duration::from_mins(2) * rounds() as u32;
    let mut all = Vec::new();
    tokio::time::timeout(limit, async {
        while let Some(read) = readers.join_next().await {
            all.push(read.unwrap());
        }
    })
    .await
    .expect("every stream ends");
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_break_one_by_one_are_whole_and_what_they_asked_for_is_done_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("started");
    let server = Killed::start(&commands(&file));
    let proxy = Proxy::before(server.address, chance().random()).await;
    let told = Told::default();
    let mut readers = JoinSet::new();
    let mut client = None;
    for reader in 0..READERS {
        // Some share a connection.
        if reader.is_multiple_of(4) {
            client = Some(builder().connect(&proxy.address().to_string()).await.unwrap());
        }
        let (client, told) = (client.clone().unwrap(), told.clone());
        readers.spawn(async move {
            let mut read = Vec::new();
            for round in 0..rounds() {
                let id = reader + READERS * round;
                let fetch = if id.is_multiple_of(2) { simulated(id) } else { command(id).linger(LINGER) };
                read.push(whole(&client, told.listen(fetch)).await);
            }
            read
        });
    }
    // And such as live and die with their reader: whole, or broken, and never asked for twice.
    let mut plain = JoinSet::new();
    for id in 1_000..1_000 + 2 * READERS {
        let client = builder().connect(&proxy.address().to_string()).await.unwrap();
        plain.spawn(async move {
            let mut stream = client.fetch(command(id)).await?;
            while let Some(response) = stream.next().await {
                response?;
            }
            Ok::<_, FetchError>(())
        });
    }
    let plain = ended(plain).await;
    let read: Vec<_> = ended(readers).await.into_iter().flatten().collect();
    for outcome in &plain {
        assert!(matches!(outcome, Ok(()) | Err(FetchError::Break { .. })), "{outcome:?}");
    }
    let broken = plain.iter().filter(|outcome| outcome.is_err()).count();
    println!("{:?}, and {broken} plain ones broke", told.0.lock().unwrap());
    for trouble in [Trouble::BeforeHeaders, Trouble::Reset, Trouble::Silent, Trouble::BeforeTrailers] {
        assert!(proxy.made(trouble) > 0, "{trouble:?}");
    }
    assert!(broken > 0 && ["silent", "lost", "no headers", "resumed"].iter().all(|what| told.count(what) > 0));
    assert_eq!(started(&file).values().max(), Some(&1), "{:?}", started(&file));
    assert_eq!(read.len(), READERS * rounds());
    nothing_else(server.address, read, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_whole_through_a_bad_network_while_the_server_is_killed_and_drained() {
    let mut chance = chance();
    let mut server = Killed::start("");
    let address = server.address;
    let network = Network::before(address, chance.random()).await;
    let proxy = Proxy::before(address, chance.random()).await;
    let told = Told::default();
    let is_calm = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let way = if reader.is_multiple_of(2) { network.address() } else { proxy.address() };
        let client = builder().connect(&way.to_string()).await.unwrap();
        let (told, is_calm) = (told.clone(), is_calm.clone());
        readers.spawn(async move {
            let mut read = Vec::new();
            // One run after the other for as long as there are kills, and then this one to its end.
            while !is_calm.load(SeqCst) {
                read.push(whole(&client, told.listen(simulated(reader + READERS * read.len()))).await);
            }
            read
        });
    }
    let kills = tokio::task::spawn_blocking(move || {
        for kill in 0..6 * rounds() {
            #[expect(clippy::disallowed_methods, reason = "a test's thread may wait")]
            std::thread::sleep(Duration::from_millis(chance.random_range(50..400)));
            if kill % 3 == 1 {
                server.drain_and_start();
            } else {
                server.kill_and_start();
            }
        }
        is_calm.store(true, SeqCst);
        server
    });
    let read: Vec<_> = ended(readers).await.into_iter().flatten().collect();
    let _server = kills.await.unwrap();
    println!("{:?}, {} connections", told.0.lock().unwrap(), network.connections());
    assert!(["lost", "no headers", "drained", "resumed"].iter().all(|what| told.count(what) > 0), "{:?}", told.0);
    nothing_else(address, read, 0).await;
}
