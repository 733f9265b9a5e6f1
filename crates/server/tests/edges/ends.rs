//! Ends: each told the same to every reader at any later time, and nothing told before.

use std::{sync::Arc, time::Duration};

use outflow::{Code as JobCode, EmitError, Job, JobError, JobErrors, Limits, Plan, Request as Asked};
use outflow_proto::{
    outflow::v1::{RunEnd, RunState},
    protobuf::Request,
};
use parking_lot::Mutex;
use tempfile::TempDir;
use tonic::Code;

use super::asking::{Names, Runs, Tap, again, counting, end, journaled, sequences, time};
use crate::support::{
    Gauge, PATIENCE, TestServer, one, planned, waiting,
    wire::{Answer, Connection},
};

/// What the requests of these ids end with.
const ENDS: [(i32, Code, &str, &str, RunEnd); 5] = [
    (0, Code::Ok, "complete", "0", RunEnd::Complete),
    (1, Code::NotFound, "failed", "1", RunEnd::Failed),
    (2, Code::Cancelled, "stopped", "0", RunEnd::Stopped),
    (3, Code::DeadlineExceeded, "deadline", "0", RunEnd::Deadline),
    (4, Code::Aborted, "interrupted", "0", RunEnd::Interrupted),
];

fn ending(request: &Asked) -> Plan {
    let forever = one(async |emitter| {
        emitter.emit("begun").await?;
        std::future::pending().await
    });
    match request.id() {
        0 => counting(1),
        1 => one(async |_| Err(JobError::new(JobCode::NotFound, "né: nothing there"))),
        3 => forever.time_limit(Duration::from_millis(100)),
        _ => forever,
    }
}

fn in_folder(folder: &TempDir) -> TestServer {
    let data = folder.path().join("data");
    TestServer::start(|server| server.default_source("test", planned(ending)).data(data))
}

/// What is told of an end, whoever asks.
fn told(answer: &Answer) -> (Code, String, String, String, Option<String>) {
    let (end, failed) = end(answer).unwrap_or_else(|| panic!("no end in {answer:?}"));
    let last = answer.said("outflow-last-sequence").map(str::to_owned);
    (answer.code(), answer.message(), end.to_owned(), failed.to_owned(), last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_end_is_told_with_its_status_to_every_reader_and_again_after_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = in_folder(&folder);
    let connection = Connection::open(server.address()).await;
    let mut begun = Vec::new();
    for (id, ..) in ENDS {
        let answering = connection.begin(&journaled(id)).await;
        assert_eq!(answering.headers["outflow-durability"], "disk");
        begun.push(answering);
    }
    let runs: Vec<String> = begun.iter().map(Names::run).collect();
    let service = Runs::of(&server).await;
    service.until(&runs[2], |run| run.last_sequence == 1).await;
    service.until(&runs[4], |run| run.last_sequence == 1).await;
    service.stop(&runs[2]).await.unwrap();
    let interrupted = begun.pop().unwrap();
    let mut live = Vec::new();
    for answering in begun {
        live.push(answering.finish().await);
    }
    // Its job cannot be done again, and is given no time to end.
    server.hurry().now();
    server.shut_down();
    let cut = interrupted.finish().await;
    assert_eq!(end(&cut), None, "it had not ended when its reader was cut");
    server.ended_within(PATIENCE);

    for restart in 0..2 {
        let server = in_folder(&folder);
        let connection = Connection::open(server.address()).await;
        let service = Runs::of(&server).await;
        for (index, (id, code, name, failed, ended)) in ENDS.into_iter().enumerate() {
            let whole = connection.fetch(&again(&runs[index], 0)).await;
            let behind = connection.fetch(&again(&runs[index], 1)).await;
            let (of_whole, of_behind) = (told(&whole), told(&behind));
            assert_eq!(of_whole, of_behind, "restart {restart}");
            assert_eq!((of_whole.0, of_whole.2.as_str(), of_whole.3.as_str()), (code, name, failed), "{whole:?}");
            assert_eq!((sequences(&whole), behind.messages.len()), (vec![1], 0));
            if let Some(live) = live.get(index) {
                assert_eq!((told(live), &live.messages), (of_whole, &whole.messages), "restart {restart}");
            }
            let run = service.get(&runs[index]).await.unwrap();
            assert_eq!((run.id, run.state(), run.end()), (id, RunState::Ended, ended));
            assert_eq!(run.jobs_failed.to_string(), failed);
            if id == 1 {
                assert_eq!((run.end_code, run.end_message.as_str()), (Code::NotFound as i32, "né: nothing there"));
            }
            assert_eq!(service.stop(&runs[index]).await.unwrap().end(), ended, "an ended run stays as it is");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn stopping_answers_with_the_end_recorded_however_many_ask_and_whatever_came_first() {
    let alive = Gauge::default();
    let jobs = alive.clone();
    let server = TestServer::planned(move |request| if request.id() == 0 { waiting(&jobs) } else { counting(3) });
    let connection = Connection::open(server.address()).await;
    let mut live = connection.begin(&journaled(0)).await;
    live.response().await;
    let run = live.run();
    let mut asking = Vec::new();
    for _ in 0..8 {
        asking.push(Runs::of(&server).await);
    }
    let stopped = futures_util::future::join_all(asking.iter().map(|runs| runs.stop(&run))).await;
    let first = stopped[0].clone().unwrap();
    assert_eq!((first.state(), first.end(), first.last_sequence), (RunState::Ended, RunEnd::Stopped, 1));
    assert!(first.end_time.is_some());
    for stopped in stopped {
        let stopped = stopped.unwrap();
        assert_eq!((stopped.end(), stopped.end_time), (first.end(), first.end_time));
    }
    let told = live.finish().await;
    assert_eq!((told.code(), end(&told)), (Code::Cancelled, Some(("stopped", "0"))));
    alive.becomes(0).await;

    let complete = connection.fetch(&journaled(1)).await;
    let unchanged = asking[0].stop(&complete.run()).await.unwrap();
    assert_eq!((unchanged.end(), unchanged.last_sequence), (RunEnd::Complete, 3));
    let plain = connection.fetch(&Request { id: 1, ..Request::default() }).await;
    for (run, code) in [
        (plain.run().as_str(), Code::FailedPrecondition),
        (&"0".repeat(36), Code::NotFound),
        ("No Run", Code::NotFound),
        ("", Code::InvalidArgument),
    ] {
        assert_eq!(asking[0].stop(run).await.unwrap_err().code(), code, "stop {run}");
        assert_eq!(asking[0].get(run).await.unwrap_err().code(), code, "get {run}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_emitted_after_the_end_has_no_number_and_waiting_jobs_never_start() {
    let (late, started) = (Arc::new(Mutex::new(None)), Gauge::default());
    let (outcome, starts, tap) = (late.clone(), started.clone(), Tap::shut());
    let taps = tap.clone();
    let server = TestServer::planned(move |_| {
        let (outcome, tap) = (outcome.clone(), taps.clone());
        let first = one(async move |emitter| {
            emitter.emit("in time").await?;
            // Handed to somebody who outlives the job.
            emitter.cleanup().spawn(async move {
                tap.next().await;
                *outcome.lock() = Some(emitter.emit("too late").await);
            });
            std::future::pending().await
        });
        let starts = starts.clone();
        first.jobs_at_once(1).job(Job::new(async move |_| {
            std::mem::forget(starts.enter());
            Ok(())
        }))
    });
    let connection = Connection::open(server.address()).await;
    let mut live = connection.begin(&journaled(0)).await;
    live.response().await;
    let runs = Runs::of(&server).await;
    runs.stop(&live.run()).await.unwrap();
    tap.let_out(1);
    while late.lock().is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(*late.lock(), Some(Err(EmitError::Closed)));
    let whole = connection.fetch(&again(&live.run(), 0)).await;
    assert_eq!((sequences(&whole), end(&whole)), (vec![1], Some(("stopped", "0"))));
    assert_eq!((runs.get(&live.run()).await.unwrap().last_sequence, started.now()), (1, 0));
}

/// Three jobs: the second fails after the first has ended and before the third does.
fn failing(job_errors: JobErrors, tap: &Tap) -> Plan {
    let jobs = (0..3).map(|job| {
        let tap = tap.clone();
        Job::new(async move |emitter| {
            tap.next().await;
            if job == 1 {
                return Err(JobError::new(JobCode::DataLoss, "it is gone"));
            }
            Ok(emitter.emit(format!("job {job}")).await?)
        })
    });
    Plan::new().jobs(jobs).jobs_at_once(1).job_errors(job_errors)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_failed_job_is_a_response_in_its_place_and_what_follows_is_its_sources_choice() {
    let folder = tempfile::tempdir().unwrap();
    let tap = Tap::shut();
    let start = || {
        let (tap, data) = (tap.clone(), folder.path().join("data"));
        let kinds = [JobErrors::Fail, JobErrors::FailFast, JobErrors::Tolerate];
        let plan = move |request: &Asked| failing(kinds[request.id() as usize], &tap);
        TestServer::start(|server| server.default_source("test", planned(plan)).data(data))
    };
    let server = start();
    let connection = Connection::open(server.address()).await;
    let cases = [
        (0, 3, Code::DataLoss, "failed", "it is gone"),
        (1, 2, Code::DataLoss, "failed", "it is gone"),
        (2, 3, Code::Ok, "complete", ""),
    ];
    let mut seen = Vec::new();
    for (id, responses, code, name, message) in cases {
        let live = connection.begin(&journaled(id)).await;
        tap.let_out(responses as usize);
        let whole = live.finish().await;
        assert_eq!((whole.code(), end(&whole)), (code, Some((name, "1"))));
        assert_eq!((whole.message().as_str(), sequences(&whole)), (message, (1..=responses).collect()));
        let failed = &whole.responses()[1];
        let error = failed.error.as_ref().expect("an error in its place");
        assert_eq!((failed.job, error.code, error.message.as_str()), (1, JobCode::DataLoss.number(), "it is gone"));
        assert_eq!((failed.result.as_str(), failed.data.len(), failed.partial), ("", 0, false));
        seen.push(whole);
    }
    drop(server);
    let server = start();
    let connection = Connection::open(server.address()).await;
    for whole in seen {
        let later = connection.fetch(&again(&whole.run(), 0)).await;
        assert_eq!((told(&later), later.messages), (told(&whole), whole.messages));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_run_that_reaches_its_byte_limit_ends_failed_and_keeps_all_it_had() {
    let mut limits = Limits::default();
    limits.run_bytes_max = 100_000;
    let server =
        TestServer::start(|server| server.default_source("test", planned(|_| counting(u64::MAX))).limits(limits));
    let connection = Connection::open(server.address()).await;
    let live = connection.fetch(&journaled(1)).await;
    assert_eq!((live.code(), end(&live)), (Code::ResourceExhausted, Some(("failed", "0"))));
    assert!(live.message().contains("100000"), "{}", live.message());
    assert!(sequences(&live).into_iter().eq(1..=live.messages.len() as u64));
    let bytes: usize = live.messages.iter().map(|message| message.len() + 5).sum();
    assert!(bytes >= 100_000, "{bytes}");
    let (run, later) = (live.run(), connection.fetch(&again(&live.run(), 0)).await);
    assert_eq!((told(&later), later.messages), (told(&live), live.messages));
    let run = Runs::of(&server).await.get(&run).await.unwrap();
    assert_eq!((run.end(), run.end_code), (RunEnd::Failed, Code::ResourceExhausted as i32));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_drain_cuts_readers_with_when_to_retry_and_tells_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let tap = Tap::shut();
    let start = || {
        let (tap, data) = (tap.clone(), folder.path().join("data"));
        let source = planned(move |_: &Asked| tap.plan(4).repeatable());
        TestServer::start(|server| server.default_source("test", source).data(data))
    };
    let mut server = start();
    let connection = Connection::open(server.address()).await;
    let mut live = connection.begin(&journaled(1)).await;
    tap.let_out(2);
    live.response().await;
    live.response().await;
    let run = live.run();
    let behind = connection.begin(&again(&run, 2)).await;
    server.shut_down();
    for reader in [live, behind] {
        let cut = reader.finish().await;
        assert_eq!((cut.code(), end(&cut)), (Code::Unavailable, None));
        assert_eq!(cut.said("outflow-last-sequence"), Some("2"));
        cut.assert_says_when_to_retry();
    }
    server.ended_within(PATIENCE);

    let server = start();
    let connection = Connection::open(server.address()).await;
    let rest = connection.begin(&Request { linger: time(1), ..again(&run, 2) }).await;
    // The two that its job emits again are known.
    tap.let_out(4);
    let rest = rest.finish().await;
    assert_eq!((sequences(&rest), end(&rest)), (vec![3, 4], Some(("complete", "0"))));
    assert_eq!(rest.results(), ["3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_run_had_before_a_restart_counts_to_what_its_plan_allows() {
    let folder = tempfile::tempdir().unwrap();
    let tap = Tap::shut();
    let start = || {
        let (tap, data) = (tap.clone(), folder.path().join("data"));
        // A byte each.
        let source = planned(move |_: &Asked| tap.plan(9).repeatable().output_limit(4));
        TestServer::start(|server| server.default_source("test", source).data(data))
    };
    let mut server = start();
    let connection = Connection::open(server.address()).await;
    let mut live = connection.begin(&journaled(1)).await;
    tap.let_out(2);
    live.response().await;
    live.response().await;
    let run = live.run();
    server.shut_down();
    assert_eq!(end(&live.finish().await), None);
    server.ended_within(PATIENCE);

    let server = start();
    let connection = Connection::open(server.address()).await;
    tap.let_out(9);
    let whole = connection.fetch(&again(&run, 0)).await;
    assert_eq!((whole.code(), end(&whole)), (Code::ResourceExhausted, Some(("failed", "0"))));
    assert!(whole.message().contains("output_limit (4 bytes)"), "{}", whole.message());
    assert_eq!(whole.results(), ["1", "2", "3", "4"]);
}
