//! The whole server on a disk that is really full, and when there is room again: nothing is shown that is not durable,
//! readers are cut, new journaled runs are refused, plain ones go on, and then all goes on by itself. Room is made from
//! outside, or by runs of the server's own that are stopped and deleted.

#[path = "cli/program.rs"]
#[allow(dead_code, reason = "the program's own tests use more of it")]
mod program;
#[path = "support/small_disk.rs"]
mod small_disk;
mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write as _},
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use outflow_proto::{
    outflow::v1::{GetRunRequest, Run, RunEnd, RunState, StopRunRequest, run_service_client::RunServiceClient},
    protobuf::{Request, Response},
};
use prost::Message as _;
use rustix::process::Signal;
use tokio::{runtime::Runtime, task::JoinSet};
use tonic::{Code, transport::Channel};

use program::Server;
use small_disk::SmallDisk;
use support::wire::{Answer, Answering, Connection, simulate};

/// The disk, with room for all that the runs write.
const DISK_MIB: u64 = 240;
/// How many runs are under way when it is full, each with its reader.
const RUNS: usize = 4;
/// Each run's two jobs emit so many responses of so many bytes: together more than the segments that are prepared ahead.
const RESPONSES: u64 = 500;
const BYTES: usize = 20_000;
/// Runs of so many responses a job fill the disk by themselves: some are stopped, and the others get their room. They lie
/// beside each other in every segment of the live journal, and the archive cannot take all of that at once.
const MANY: u64 = 900;
const STOPPED: usize = 4;
const GO_ON: usize = 4;
/// By when all of it has gone on, and more.
const RECOVERED: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root, to mount a small disk"]
fn a_server_on_a_full_tmpfs_shows_nothing_that_is_not_durable_and_goes_on_when_there_is_room() {
    fill_and_make_room(&SmallDisk::tmpfs(DISK_MIB));
}

#[test]
#[ignore = "needs root, to mount a small disk"]
fn a_server_on_a_full_ext4_shows_nothing_that_is_not_durable_and_goes_on_when_there_is_room() {
    fill_and_make_room(&SmallDisk::ext4(DISK_MIB));
}

#[test]
#[ignore = "needs root, to mount a small disk"]
fn runs_that_are_stopped_and_deleted_make_room_on_a_full_tmpfs_for_those_that_wait() {
    stop_and_make_room(&SmallDisk::tmpfs(DISK_MIB));
}

#[test]
#[ignore = "needs root, to mount a small disk"]
fn runs_that_are_stopped_and_deleted_make_room_on_a_full_ext4_for_those_that_wait() {
    stop_and_make_room(&SmallDisk::ext4(DISK_MIB));
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn fill_and_make_room(disk: &SmallDisk) {
    let runtime = runtime();
    let config = tempfile::NamedTempFile::new().unwrap();
    fs::write(config.path(), "[limits]\npatience = \"2s\"\n").unwrap();
    let data = disk.path().join("data");
    let arguments = ["--data", data.to_str().unwrap(), "--config", config.path().to_str().unwrap()];
    let mut server = Server::start(&arguments);
    for round in 0..2 {
        // What the store makes ahead is there before the disk is full.
        let first = runtime.block_on(answered(&server, &journaled(&format!("{round}, first"), "3")));
        assert_eq!((first.code(), first.responses().len()), (Code::Ok, 6));
        fill_up(disk);
        let mut readers = runtime.block_on(read_while_full(&server, round));
        if round == 1 {
            // Nobody is left who could remember what was not durable.
            server.signal(Signal::KILL);
            assert!(!server.wait().0.success());
            server = Server::start(&arguments);
        }
        runtime.block_on(look_while_full(&server, round, &mut readers));
        fs::remove_file(ballast(disk)).unwrap();
        runtime.block_on(read_to_the_end(&server, readers));
        let after = runtime.block_on(answered(&server, &journaled(&format!("{round}, after"), "3")));
        assert_eq!((after.code(), after.said("outflow-end")), (Code::Ok, Some("complete")), "{}", after.message());
    }
}

fn stop_and_make_room(disk: &SmallDisk) {
    let runtime = runtime();
    let config = tempfile::NamedTempFile::new().unwrap();
    // Nobody is cut, and what has ended and has no reader is deleted at once.
    fs::write(config.path(), "[limits]\npatience = \"1h\"\nkeep_time = \"0s\"\n").unwrap();
    let data = disk.path().join("data");
    let server = Server::start(&["--data", data.to_str().unwrap(), "--config", config.path().to_str().unwrap()]);
    let mut readers = JoinSet::new();
    let (_connection, runs) = runtime.block_on(async {
        let connection = Connection::open(address(&server)).await;
        let mut runs = Vec::new();
        for n in 0..STOPPED + GO_ON {
            let answering = connection.begin(&patient(&n.to_string(), MANY)).await;
            let run = answering.headers["outflow-run-id"].to_str().unwrap().to_owned();
            readers.spawn(read_patiently(run.clone(), answering));
            runs.push(run);
        }
        (connection, runs)
    });
    server.line("cannot be made durable, and wait");
    runtime.block_on(async {
        for run in &runs[STOPPED..] {
            assert_eq!(known(&server, run).await.state(), RunState::Running, "there was room for all of it");
        }
        for run in &runs[..STOPPED] {
            let asked = StopRunRequest { run_id: run.clone() };
            let run = run_service(&server).await.stop_run(asked).await.unwrap().into_inner().run.unwrap();
            assert_eq!(run.end(), RunEnd::Stopped);
        }
        // The others go on in the same streams, with all there is.
        let next = async |readers: &mut JoinSet<_>| {
            let next = tokio::time::timeout(RECOVERED, readers.join_next()).await;
            next.unwrap_or_else(|_| panic!("those that wait do not go on: {:#?}", server.log()))
        };
        while let Some(reader) = next(&mut readers).await {
            let (run, answer, last) = reader.unwrap();
            let end = (answer.code(), answer.said("outflow-end"), answer.said("outflow-last-sequence"));
            let is_stopped = runs[..STOPPED].contains(&run);
            let expected = if is_stopped { (Code::Cancelled, Some("stopped")) } else { (Code::Ok, Some("complete")) };
            assert_eq!(end, (expected.0, expected.1, Some(&*last.to_string())), "{}", answer.message());
            assert!(is_stopped || last == 2 * MANY);
        }
        let began = Instant::now();
        for run in &runs[..STOPPED] {
            let asked = || GetRunRequest { run_id: run.clone() };
            while let Ok(found) = run_service(&server).await.get_run(asked()).await {
                assert!(began.elapsed() < RECOVERED, "it is not deleted: {found:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let after = answered(&server, &patient("after", 3)).await;
        assert_eq!((after.code(), after.said("outflow-end")), (Code::Ok, Some("complete")), "{}", after.message());
    });
}

/// A run that is not kept beyond its end, and whose reader is told that it goes on where it has nothing to say.
fn patient(key: &str, responses: u64) -> Request {
    let heartbeat = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let linger = Some(prost_types::Duration::default());
    let mut request = journaled(key, &responses.to_string());
    // No faster than the archive takes what leaves the live journal.
    request.parameters.insert("every".to_owned(), "16ms".to_owned());
    Request { linger, heartbeat, ..request }
}

/// Reads a run to its end, however long that takes: none missing, none twice.
async fn read_patiently(run: String, mut answering: Answering) -> (String, Answer, u64) {
    let mut last = 0;
    while let Some(message) = answering.message().await {
        let response = Response::decode(message.unwrap()).unwrap();
        if response.sequence > 0 {
            assert_eq!(response.sequence, last + 1);
            last = response.sequence;
        }
    }
    (run, answering.finish().await, last)
}

/// Takes all room that there is.
fn fill_up(disk: &SmallDisk) {
    let mut ballast = fs::File::create(ballast(disk)).unwrap();
    for bytes in [1 << 20, 1 << 12] {
        let block = vec![0x5a; bytes];
        let full = loop {
            if let Err(error) = ballast.write_all(&block) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }
    ballast.sync_all().unwrap();
}

fn ballast(disk: &SmallDisk) -> PathBuf {
    disk.path().join("ballast")
}

/// What a reader has of its run.
#[derive(Default)]
struct Reader {
    run: String,
    last: u64,
    /// Responses of each job.
    of_job: BTreeMap<u32, u64>,
}

impl Reader {
    /// Takes what an answer brought, which follows what there is.
    fn take(&mut self, answer: &Answer) {
        for response in answer.responses() {
            assert_eq!(response.sequence, self.last + 1, "none missing, none twice");
            self.last = response.sequence;
            assert!(response.result.starts_with(&format!("Request #{} For Id:", response.job)));
            assert!(response.result.len() > BYTES, "with all its padding");
            *self.of_job.entry(response.job).or_default() += 1;
        }
        // It is cut where it is, not where it would like to be.
        assert_eq!(answer.said("outflow-last-sequence"), Some(&*self.last.to_string()));
    }

    async fn resume(&mut self, connection: &Connection) -> Answer {
        let request = Request { run_id: self.run.clone(), after: self.last, ..Request::default() };
        let answer = connection.fetch(&request).await;
        // What was shown is durable, so that nothing this reader saw lies beyond the tail.
        assert_ne!(answer.code(), Code::OutOfRange, "run {} after {}: {}", self.run, self.last, answer.message());
        if answer.trailers.is_some() {
            self.take(&answer);
        }
        answer
    }
}

fn address(server: &Server) -> SocketAddr {
    server.address.parse().unwrap()
}

fn journaled(key: &str, responses: &str) -> Request {
    Request {
        idempotency_key: format!("key {key}"),
        linger: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
        ..simulate(&[
            ("jobs", "2"),
            ("step", "0s"),
            ("responses", responses),
            ("size", &BYTES.to_string()),
            ("every", "1ms"),
        ])
    }
}

async fn answered(server: &Server, request: &Request) -> Answer {
    Connection::open(address(server)).await.fetch(request).await
}

async fn run_service(server: &Server) -> RunServiceClient<Channel> {
    let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap();
    RunServiceClient::new(channel.connect().await.unwrap())
}

async fn known(server: &Server, run: &str) -> Run {
    let asked = GetRunRequest { run_id: run.to_owned() };
    run_service(server).await.get_run(asked).await.unwrap().into_inner().run.unwrap()
}

/// Starts runs that write more than there is room for, and reads what they can show, until every reader is cut.
async fn read_while_full(server: &Server, round: u64) -> Vec<Reader> {
    let connection = Connection::open(address(server)).await;
    let fetches = (0..RUNS).map(|n| {
        let request = journaled(&format!("{round}, {n}"), &RESPONSES.to_string());
        let connection = &connection;
        async move { connection.fetch(&request).await }
    });
    let mut readers = Vec::new();
    for answer in futures_util::future::join_all(fetches).await {
        assert_eq!((answer.code(), answer.said("outflow-end")), (Code::Unavailable, None), "{}", answer.message());
        answer.assert_says_when_to_retry();
        let mut reader =
            Reader { run: answer.headers["outflow-run-id"].to_str().unwrap().to_owned(), ..Reader::default() };
        reader.take(&answer);
        assert!(reader.last < 2 * RESPONSES, "there was room for all of it");
        readers.push(reader);
    }
    assert!(readers.iter().any(|reader| reader.last > 0), "what there was room for is shown");
    readers
}

/// What is told while the disk is full.
async fn look_while_full(server: &Server, round: u64, readers: &mut [Reader]) {
    let connection = Connection::open(address(server)).await;
    // After a kill, it is only known once something was to be written.
    for reader in &mut *readers {
        let answer = reader.resume(&connection).await;
        assert_eq!((answer.code(), answer.said("outflow-end")), (Code::Unavailable, None), "{}", answer.message());
        let run = known(server, &reader.run).await;
        assert_eq!((run.state(), run.last_sequence), (RunState::Running, reader.last));
    }
    let refused = connection.fetch(&journaled(&format!("{round}, refused"), "3")).await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{}", refused.message());
    refused.assert_says_when_to_retry();
    // Of the journal's disk, or of the archive's, whichever said so first.
    let advice = ["make room on its disk", "give its disk room, or delete runs"];
    assert!(advice.iter().any(|advice| refused.message().contains(advice)), "{}", refused.message());
    assert!(refused.is_trailers_only());
    let plain = connection.fetch(&simulate(&[("jobs", "2"), ("step", "0s"), ("responses", "100")])).await;
    assert_eq!((plain.code(), plain.responses().len()), (Code::Ok, 200), "a plain run needs no disk");
    // An end can still be written.
    let stopped = &mut readers[0];
    let asked = StopRunRequest { run_id: stopped.run.clone() };
    let run = run_service(server).await.stop_run(asked).await.unwrap().into_inner().run.unwrap();
    assert_eq!(run.end(), RunEnd::Stopped);
    let answer = stopped.resume(&connection).await;
    assert_eq!((answer.code(), answer.said("outflow-end")), (Code::Cancelled, Some("stopped")));
    assert_eq!(stopped.last, run.last_sequence);
}

/// What every reader gets that comes back until its run has ended: all of it, once.
async fn read_to_the_end(server: &Server, readers: Vec<Reader>) {
    let began = Instant::now();
    let connection = Connection::open(address(server)).await;
    for mut reader in readers.into_iter().skip(1) {
        loop {
            let answer = reader.resume(&connection).await;
            if answer.said("outflow-end").is_some() {
                assert_eq!((answer.code(), answer.said("outflow-end")), (Code::Ok, Some("complete")));
                break;
            }
            assert_eq!(answer.code(), Code::Unavailable, "{}", answer.message());
            assert!(began.elapsed() < RECOVERED, "run {} does not go on: {}", reader.run, answer.message());
        }
        assert_eq!(reader.last, 2 * RESPONSES);
        assert_eq!(reader.of_job, [(0, RESPONSES), (1, RESPONSES)].into());
    }
}
