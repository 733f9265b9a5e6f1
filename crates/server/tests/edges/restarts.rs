//! Restarts: which runs go on, which end `interrupted`, and that nothing is done twice that must not be.

use std::{collections::BTreeMap, sync::Arc};

use outflow::{Job, JobError, Plan, Refusal, Request as Asked, Source};
use parking_lot::Mutex;
use tempfile::TempDir;
use tonic::Code;

use super::asking::{Names as _, Tap, again, end, journaled, sequences};
use crate::support::{
    PATIENCE, TestServer,
    wire::{Answer, Connection},
};

/// How often each job of each id was started.
type Starts = Arc<Mutex<BTreeMap<(i32, u32), u32>>>;

/// What a source does, and what changes from one start of the server to the next.
#[derive(Clone)]
struct Answers {
    starts: Starts,
    tap: Tap,
    configuration: &'static str,
    jobs: u32,
    repeatable: bool,
    jobs_at_once: usize,
    /// What a job emits that is executed for the so many-th time.
    emits: fn(job: u32, execution: u32) -> Vec<String>,
    refuses: bool,
}

impl Answers {
    fn new() -> Self {
        Self {
            starts: Arc::default(),
            tap: Tap::shut(),
            configuration: "",
            jobs: 2,
            repeatable: true,
            jobs_at_once: 8,
            emits: |job, _| vec![format!("job {job} begins"), format!("job {job} goes on")],
            refuses: false,
        }
    }

    fn started(&self, id: i32, job: u32) -> u32 {
        self.starts.lock().get(&(id, job)).copied().unwrap_or(0)
    }

    /// Job 0 ends by itself; the others wait after what they emit at first.
    async fn job(self, id: i32, job: u32, emitter: outflow::Emitter) -> Result<(), JobError> {
        let execution = {
            let mut starts = self.starts.lock();
            let execution = starts.entry((id, job)).or_default();
            *execution += 1;
            *execution
        };
        for text in (self.emits)(job, execution) {
            emitter.emit(text).await?;
        }
        if job > 0 {
            self.tap.next().await;
            emitter.emit(format!("job {job} ends")).await?;
        }
        Ok(())
    }

    fn serve(&self, folder: &TempDir, name: &str) -> TestServer {
        let data = folder.path().join("data");
        TestServer::start(|server| server.default_source(name, self.clone()).data(data))
    }
}

impl Source for Answers {
    fn plan(&self, request: &Asked) -> Result<Plan, Refusal> {
        if self.refuses {
            return Err(Refusal::invalid("id", "is not answered any more"));
        }
        let id = request.id();
        let jobs = (0..self.jobs).map(|job| {
            let answers = self.clone();
            Job::new(move |emitter| answers.job(id, job, emitter))
        });
        let plan = Plan::new().jobs(jobs).jobs_at_once(self.jobs_at_once);
        Ok(if self.repeatable { plan.repeatable() } else { plan })
    }

    fn configuration(&self) -> String {
        self.configuration.to_owned()
    }
}

/// Has `first` begin a run, lets its reader have `responses`, ends the server, and reads the run as `second` has it.
async fn restarted(first: &Answers, second: &Answers, name: &str, responses: usize) -> (Vec<String>, Answer) {
    let folder = tempfile::tempdir().unwrap();
    let mut server = first.serve(&folder, "test");
    let connection = Connection::open(server.address()).await;
    let mut live = connection.begin(&journaled(1)).await;
    let mut seen = Vec::new();
    while seen.len() < responses {
        seen.push(live.response().await.result);
    }
    let run = live.run();
    server.hurry().now();
    server.shut_down();
    server.ended_within(PATIENCE);
    let server = second.serve(&folder, name);
    let connection = Connection::open(server.address()).await;
    let answer = connection.fetch(&again(&run, 0)).await;
    let once_more = connection.fetch(&again(&run, 0)).await;
    assert_eq!((&answer.messages, end(&answer)), (&once_more.messages, end(&once_more)));
    (seen, answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_ended_is_not_run_again_and_one_that_is_repeated_is_not_delivered_again() {
    let answers = Answers { jobs: 3, ..Answers::new() };
    let second = Answers { tap: Tap::shut(), ..answers.clone() };
    second.tap.let_out(2);
    let (seen, whole) = restarted(&answers, &second, "test", 6).await;
    assert_eq!(
        (whole.code(), end(&whole), sequences(&whole)),
        (Code::Ok, Some(("complete", "0")), (1..=8).collect())
    );
    let results = whole.results();
    assert_eq!(results[..6], seen, "what was seen is there, with its numbers");
    let mut rest = results[6..].to_vec();
    rest.sort();
    assert_eq!(rest, ["job 1 ends", "job 2 ends"]);
    assert_eq!([0, 1, 2].map(|job| answers.started(1, job)), [1, 2, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_repeated_job_that_does_not_do_the_same_interrupts_its_run() {
    let others: [fn(u32, u32) -> Vec<String>; 4] = [
        // Other bytes, other boundaries, too few, another order.
        |job, execution| vec![format!("job {job} begins"), format!("job {job}, {execution}")],
        |job, execution| match execution {
            1 => vec![format!("job {job}"), "ab".into()],
            _ => vec![format!("job {job}a"), "b".into()],
        },
        |job, execution| (execution..2).map(|n| format!("job {job}, {n}")).chain(["last".into()]).collect(),
        |job, execution| {
            if execution == 1 { vec![job.to_string(), "x".into()] } else { vec!["x".into(), job.to_string()] }
        },
    ];
    for (index, emits) in others.into_iter().enumerate() {
        let answers = Answers { emits, ..Answers::new() };
        let second = Answers { tap: Tap::shut(), ..answers.clone() };
        second.tap.let_out(8);
        let (seen, whole) = restarted(&answers, &second, "test", 4).await;
        assert_eq!((whole.code(), end(&whole)), (Code::Aborted, Some(("interrupted", "0"))), "{index}");
        assert_eq!(whole.results(), seen, "{index}: all that was seen, and nothing else");
        assert!(whole.message().contains("job 1"), "{}", whole.message());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn where_the_source_is_not_what_it_was_the_run_ends_interrupted_and_nothing_starts() {
    let answers = Answers { configuration: "one", ..Answers::new() };
    let with = |change: fn(&mut Answers)| {
        let mut changed = answers.clone();
        change(&mut changed);
        changed
    };
    let changed = [
        ("test", with(|answers| answers.configuration = "two"), "configuration"),
        ("gone", with(|_| ()), "no source `test`"),
        ("test", with(|answers| answers.refuses = true), "not answered any more"),
        ("test", with(|answers| answers.jobs = 3), "2 jobs and has 3"),
    ];
    for (index, (name, second, reason)) in changed.into_iter().enumerate() {
        let (seen, whole) = restarted(&answers, &second, name, 4).await;
        assert_eq!((whole.code(), end(&whole)), (Code::Aborted, Some(("interrupted", "0"))), "{reason}");
        assert!(whole.message().contains(reason), "{}", whole.message());
        assert_eq!(whole.results(), seen);
        let started = u32::try_from(index).unwrap() + 1;
        assert_eq!((answers.started(1, 0), answers.started(1, 1)), (started, started), "once for each first server");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_is_not_repeatable_is_never_begun_again_and_the_others_never_start() {
    let answers = Answers { jobs: 4, repeatable: false, jobs_at_once: 1, ..Answers::new() };
    let second = Answers { tap: Tap::shut(), ..answers.clone() };
    second.tap.let_out(8);
    // Job 0 has ended, job 1 is under way.
    let (seen, whole) = restarted(&answers, &second, "test", 4).await;
    assert_eq!((whole.code(), end(&whole)), (Code::Aborted, Some(("interrupted", "0"))));
    assert_eq!(whole.results(), seen);
    assert_eq!([0, 1, 2, 3].map(|job| answers.started(1, job)), [1, 1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_has_ended_has_let_go_of_its_directory() {
    let folder = tempfile::tempdir().unwrap();
    let answers = Answers::new();
    for _ in 0..20 {
        let mut server = answers.serve(&folder, "test");
        let connection = Connection::open(server.address()).await;
        let _live = connection.begin(&journaled(1)).await;
        server.hurry().now();
        server.shut_down();
        server.ended_within(PATIENCE);
    }
}
