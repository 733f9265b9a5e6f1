//! The server is killed, again and again, under runs and readers, and started again on the same data: whatever a reader
//! saw is still there, with the same number and the same bytes, and every reader that comes back gets all of it, once.
//! Half of the readers come back by hand; the others leave that to our client, and notice nothing.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use outflow_client::{Client, Event, Fetch, FetchError, Payload, Response, RunFilter};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;

use super::program::{outflow, within};

/// How often it is killed; `OUTFLOW_TEST_KILLS` says otherwise.
const KILLS: usize = 25;
/// By hand, and as many with our client.
const READERS: u64 = 12;
const RESPONSES: u64 = 400;

/// A server that is killed, on the same data and address.
pub(crate) struct Killed {
    pub(crate) address: SocketAddr,
    folder: TempDir,
    child: Child,
}

impl Killed {
    /// Starts one with this configuration.
    pub(crate) fn start(config: &str) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("outflow.toml"), config).unwrap();
        let child = Self::spawn(address, &folder);
        Self { address, folder, child }
    }

    fn spawn(address: SocketAddr, folder: &TempDir) -> Child {
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (listen, data, config) = (address.to_string(), path("data"), path("outflow.toml"));
        let mut command =
            outflow(&["serve", "--listen", &listen, "--data", &data, "--config", &config, "--log", "error"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        let up = within(Duration::from_secs(10), || std::net::TcpStream::connect(address).ok());
        assert!(up.is_some(), "it is not ready");
        child
    }

    pub(crate) fn kill_and_start(&mut self) {
        // SIGKILL, on every Unix.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(self.address, &self.folder);
    }

    pub(crate) fn drain_and_start(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(self.address, &self.folder);
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What a reader has of its run.
#[derive(Default)]
struct Seen {
    run: Option<String>,
    /// By sequence: job and text.
    responses: BTreeMap<u64, (u32, String)>,
    is_over: bool,
}

impl Seen {
    fn take(&mut self, reader: u64, response: &Response) {
        let Payload::Text(text) = &response.payload else { panic!("{response:?}") };
        let known = self.responses.insert(response.sequence, (response.job, text.to_string()));
        assert!(known.is_none(), "reader {reader} got response {} twice", response.sequence);
        assert_eq!(response.sequence, self.responses.len() as u64, "reader {reader} misses a response");
    }
}

fn ask(reader: u64) -> Fetch {
    Fetch::id(i32::try_from(reader).unwrap())
        .parameter("jobs", "2")
        .parameter("step", "7ms")
        .parameter("responses", (RESPONSES / 2).to_string())
        .parameter("every", "3ms")
        .parameter("size", (reader % 100 * 40).to_string())
        .linger(Duration::from_secs(120))
}

/// Reads on from where it was, until the stream ends or breaks: by hand, as somebody without our client would.
async fn read_on(address: SocketAddr, reader: u64, seen: &mut Seen) -> Result<(), FetchError> {
    let Ok(client) = Client::connect(&address.to_string()).await else { return Ok(()) };
    let fetch = match &seen.run {
        Some(run) => Fetch::run(run.clone()).after(seen.responses.len() as u64),
        None => ask(reader).idempotency_key(format!("reader {reader}")),
    };
    let mut stream = client.fetch(fetch.no_resume()).await?;
    seen.run = stream.run_id().map(str::to_owned);
    while let Some(response) = stream.next().await {
        seen.take(reader, &response?);
    }
    seen.is_over = stream.outcome().is_some();
    Ok(())
}

async fn read_by_hand(address: SocketAddr, reader: u64) -> Seen {
    let mut seen = Seen::default();
    while !seen.is_over {
        match read_on(address, reader, &mut seen).await {
            Ok(()) | Err(FetchError::Break { .. }) => {}
            Err(FetchError::Refused { status, .. } | FetchError::Status { status, .. })
                if status.code() == outflow_client::Code::UNAVAILABLE => {}
            Err(error) => panic!("reader {reader}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seen
}

/// Reads all of a run as anybody does who uses our client.
async fn read_by_itself(client: &Client, reader: u64, breaks: &Arc<AtomicUsize>) -> Seen {
    let breaks = Arc::clone(breaks);
    let fetch = ask(reader).on_event(move |event| {
        if matches!(event, Event::Broke { .. }) {
            breaks.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut stream = client.fetch(fetch).await.unwrap();
    let mut seen = Seen { run: stream.run_id().map(str::to_owned), ..Seen::default() };
    while let Some(response) = stream.next().await {
        seen.take(reader, &response.unwrap());
    }
    seen.is_over = stream.outcome().is_some();
    seen
}

#[test]
fn what_was_seen_survives_any_kill_and_every_reader_gets_all_of_it_once() {
    let kills = std::env::var("OUTFLOW_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let seed: u64 = std::env::var("OUTFLOW_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("OUTFLOW_TEST_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut server = Killed::start("");
    let address = server.address;
    let is_calm = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let breaks = Arc::new(AtomicUsize::new(0));
    let client = runtime.block_on(Client::connect(&address.to_string())).unwrap();
    let readers: Vec<_> = (0..2 * READERS)
        .map(|reader| {
            let (calm, client, breaks) = (is_calm.clone(), client.clone(), breaks.clone());
            runtime.handle().spawn(async move {
                let mut all = Vec::new();
                // One run after the other for as long as there are kills, and then this one to its end.
                for round in 0.. {
                    let id = reader + 2 * READERS * round;
                    let seen = if reader < READERS {
                        read_by_hand(address, id).await
                    } else {
                        read_by_itself(&client, id, &breaks).await
                    };
                    assert_eq!((seen.is_over, seen.responses.len() as u64), (true, RESPONSES), "reader {reader}");
                    all.push(seen);
                    if calm.load(Ordering::Relaxed) {
                        break;
                    }
                }
                all
            })
        })
        .collect();
    for _ in 0..kills {
        #[expect(clippy::disallowed_methods, reason = "a test's thread may wait")]
        std::thread::sleep(Duration::from_millis(chance.random_range(20..300)));
        server.kill_and_start();
        // Now and then it is asked to leave, beside.
        if chance.random_bool(0.2) {
            server.drain_and_start();
        }
    }
    is_calm.store(true, Ordering::Relaxed);
    let breaks = breaks.load(Ordering::Relaxed);
    println!("our client's streams broke {breaks} times");
    assert!(breaks >= kills, "{kills} kills were to break more than {breaks} streams");
    runtime.block_on(async {
        let mut read = 0;
        for reader in readers {
            let runs = tokio::time::timeout(Duration::from_secs(60), reader).await.expect("it ends").unwrap();
            read += runs.len();
            for seen in runs {
                // All of it again, and with other eyes.
                let client = Client::connect(&address.to_string()).await.unwrap();
                let mut stream = client.fetch(Fetch::run(seen.run.clone().unwrap())).await.unwrap();
                let mut again = BTreeMap::new();
                while let Some(response) = stream.next().await {
                    let response = response.unwrap();
                    let Payload::Text(text) = &response.payload else { panic!("{response:?}") };
                    again.insert(response.sequence, (response.job, text.to_string()));
                }
                assert_eq!(again, seen.responses);
                for job in 0..2 {
                    let of_job = again.values().filter(|(of, _)| *of == job).count() as u64;
                    assert_eq!(of_job, RESPONSES / 2, "what was done again was not delivered again");
                }
            }
        }
        // What was asked for again, because its answer did not arrive, was not started again.
        let mut all = client.runs(RunFilter::all());
        let mut runs = 0;
        while let Some(page) = all.next_page().await.unwrap() {
            runs += page.len();
        }
        assert_eq!(runs, read);
    });
}
