//! The programs in `examples/`, run as they are, with a real client. `cargo test` builds them; for who runs this file alone
//! `cargo build --examples` does.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use outflow_client::{Client, Code, End, Fetch, Outcome, Payload, Response};
use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// An example that serves, on a port of its own.
struct Example {
    child: Child,
    address: SocketAddr,
}

/// Where cargo puts the example of this name: this test lies in `deps/` beside `examples/`.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(program.exists(), "{} is not there: `cargo build --examples` makes it", program.display());
    program
}

impl Example {
    /// Starts it, and connects to it once it serves.
    async fn start(name: &str) -> (Self, Client) {
        Self::start_in(Path::new("."), name).await
    }

    /// The same, in this folder.
    async fn start_in(folder: &Path, name: &str) -> (Self, Client) {
        let program = built(name);
        // Between the choice of a port and its use another process may take it.
        for _ in 0..5 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let child = Command::new(&program).arg(address.to_string()).current_dir(folder).spawn().unwrap();
            let mut example = Self { child, address };
            if let Some(client) = example.connect().await {
                return (example, client);
            }
        }
        panic!("{name} does not begin to serve");
    }

    /// A client of it; `None` where it ended instead of serving.
    async fn connect(&mut self) -> Option<Client> {
        let until = Instant::now() + PATIENCE;
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return None;
            }
            match Client::connect(&format!("http://{}", self.address)).await {
                Ok(client) => return Some(client),
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it as Ctrl-C does.
    async fn interrupt(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// All responses, and how the stream ended.
async fn fetched(client: &Client, fetch: Fetch) -> (Vec<Response>, Option<Outcome>) {
    let mut responses = client.fetch(fetch).await.unwrap();
    let mut all = Vec::new();
    while let Some(response) = responses.next().await {
        all.push(response.unwrap());
    }
    (all, responses.outcome().copied())
}

fn text(response: &Response) -> &str {
    match &response.payload {
        Payload::Text(text) => text,
        other => panic!("no text: {other:?}"),
    }
}

fn texts(responses: &[Response]) -> Vec<&str> {
    responses.iter().map(text).collect()
}

#[tokio::test]
async fn primes_are_found_and_ctrl_c_ends_the_program_well() {
    let (example, client) = Example::start("primes").await;
    let (responses, outcome) = fetched(&client, Fetch::id(30)).await;
    assert_eq!(texts(&responses), ["2", "3", "5", "7", "11", "13", "17", "19", "23", "29"]);
    assert!(matches!(outcome, Some(Outcome::Ended { end: End::Complete, .. })), "{outcome:?}");
    // The search goes on to the largest id there is, if nobody stops it.
    let (responses, _) = fetched(&client, Fetch::id(i32::MAX).limit(1_000)).await;
    assert_eq!(texts(&responses).last(), Some(&"7919"));
    assert!(example.interrupt().await.success());
}

#[tokio::test]
async fn jobs_of_a_fan_out_answer_beside_each_other_and_one_that_fails_is_told_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "one\ntwo\n").unwrap();
    std::fs::write(folder.path().join("b"), "three\n").unwrap();
    let (_example, client) = Example::start_in(folder.path(), "fan_out").await;
    let (responses, outcome) = fetched(&client, Fetch::id(0).parameter("files", "a,nothing,b")).await;
    assert!(matches!(outcome, Some(Outcome::Ended { end: End::Complete, jobs_failed: 1, .. })), "{outcome:?}");
    let of = |job| responses.iter().filter(move |response| response.job == job);
    assert!(of(0).map(text).eq(["a: one", "a: two"]), "{responses:?}");
    assert!(of(2).map(text).eq(["b: three"]), "{responses:?}");
    let failed: Vec<_> = of(1).collect();
    let [Response { payload: Payload::Error(error), .. }] = failed[..] else { panic!("{failed:?}") };
    assert_eq!(error.code, Code::NOT_FOUND);
    assert!(error.message.starts_with("nothing: "), "{error}");

    for (fetch, told) in [
        (Fetch::id(0), "parameters.files: is missing"),
        (Fetch::id(0).parameter("files", "a,../b"), "`../b` is not the name of a file here"),
    ] {
        let refused = client.fetch(fetch).await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::INVALID_ARGUMENT));
        assert!(refused.to_string().contains(told), "{refused}");
    }
}

#[tokio::test]
async fn messages_are_decoded_as_they_were_emitted() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Reading {
        #[prost(uint64, tag = "1")]
        number: u64,
        #[prost(double, tag = "2")]
        celsius: f64,
    }

    let (example, client) = Example::start("messages").await;
    let (responses, _) = fetched(&client, Fetch::id(-3).limit(2)).await;
    let readings: Vec<Reading> = responses.iter().map(|response| response.decode().unwrap()).collect();
    assert_eq!(readings, [Reading { number: 1, celsius: -2.9 }, Reading { number: 2, celsius: -2.8 }]);

    let mut reader = Command::new(built("messages"));
    reader.args(["read", &example.address.to_string()]);
    let read = tokio::task::spawn_blocking(move || reader.output().unwrap()).await.unwrap();
    assert!(read.status.success(), "{read:?}");
    let printed = String::from_utf8(read.stdout).unwrap();
    assert_eq!(printed, "reading 1: 20.1 °C\nreading 2: 20.2 °C\nreading 3: 20.3 °C\n");
}
