//! A source whose jobs do what they are told, step by step, and after a restart do the same again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use outflow_engine::{
    Code, Emitter, Job, JobError, JobErrors, PayloadKind, Placement, Plan, Refusal, Request, Source,
};
use tokio::sync::Notify;

use super::ops::Step;

/// Where a value ends in the flat form of what a job emits, and where its error stands.
const VALUE_ENDS: u16 = 256;
const ERROR: u16 = 257;

/// How the runs of an id are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    pub(crate) jobs: usize,
    at_once: usize,
    pub(crate) errors: JobErrors,
    pub(crate) is_repeatable: bool,
}

impl Traits {
    pub(crate) fn of(id: i32) -> Self {
        let kind = id as usize % 64;
        Self {
            jobs: 1 + kind % 3,
            at_once: if (kind / 3).is_multiple_of(4) { 1 } else { 8 },
            errors: [JobErrors::Fail, JobErrors::Tolerate, JobErrors::FailFast][kind / 12 % 3],
            is_repeatable: kind % 5 != 4,
        }
    }
}

/// What the jobs of one run do.
pub(crate) type Scripts = Arc<Vec<Script>>;

/// What one job does, as far as it is known.
#[derive(Default)]
pub(crate) struct Script {
    steps: Mutex<Vec<Step>>,
    more: Notify,
    begun: AtomicUsize,
}

impl Script {
    pub(crate) fn push(&self, step: Step) {
        self.steps.lock().unwrap().push(step);
        self.more.notify_waiters();
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.steps.lock().unwrap().last(), Some(Step::End | Step::Fail))
    }

    pub(crate) fn fails(&self) -> bool {
        matches!(self.steps.lock().unwrap().last(), Some(Step::Fail))
    }

    /// How often the job was begun.
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(SeqCst)
    }

    async fn step(&self, at: usize) -> Step {
        loop {
            let mut more = std::pin::pin!(self.more.notified());
            more.as_mut().enable();
            if let Some(step) = self.steps.lock().unwrap().get(at) {
                return step.clone();
            }
            more.await;
        }
    }

    async fn play(&self, job: usize, emitter: Emitter) -> Result<(), JobError> {
        self.begun.fetch_add(1, SeqCst);
        for at in 0.. {
            match self.step(at).await {
                Step::Emit { bytes } => emitter.emit(payload(job, at, bytes)).await?,
                Step::EmitAll { count, bytes } => {
                    emitter.emit_all(&vec![payload(job, at, bytes); usize::from(count)]).await?;
                }
                Step::EmitPartial { bytes } => emitter.emit_partial(payload(job, at, bytes)).await?,
                Step::End => return Ok(()),
                Step::Fail => return Err(failure(job, at)),
            }
        }
        unreachable!("there are not so many steps")
    }

    /// All that the job emits, in a flat form: it is the same however values are split.
    pub(crate) fn flat(&self, job: usize) -> Vec<u16> {
        let mut flat = Vec::new();
        for (at, step) in self.steps.lock().unwrap().iter().enumerate() {
            match step {
                Step::Emit { bytes } => add(&mut flat, &payload(job, at, *bytes), false),
                Step::EmitAll { count, bytes } => {
                    (0..*count).for_each(|_| add(&mut flat, &payload(job, at, *bytes), false));
                }
                Step::EmitPartial { bytes } => add(&mut flat, &payload(job, at, *bytes), true),
                Step::End => {}
                Step::Fail => add_error(&mut flat, &failure(job, at).message),
            }
        }
        flat
    }
}

/// Adds one response to a flat form.
pub(crate) fn add(flat: &mut Vec<u16>, data: &[u8], goes_on: bool) {
    flat.extend(data.iter().map(|byte| u16::from(*byte)));
    if !goes_on {
        flat.push(VALUE_ENDS);
    }
}

pub(crate) fn add_error(flat: &mut Vec<u16>, message: &str) {
    flat.push(ERROR);
    flat.extend(message.bytes().map(u16::from));
}

/// Bytes that differ from place to place, so that what is lost, repeated or misplaced shows.
fn payload(job: usize, at: usize, length: usize) -> Bytes {
    (0..length).map(|n| (n * 31 + at * 7 + job * 101 + n / 251) as u8).collect()
}

fn failure(job: usize, at: usize) -> JobError {
    JobError::new(Code::Internal, format_args!("job {job} fails in step {at}"))
}

/// Answers every id with jobs that do what they are told.
#[derive(Clone, Default)]
pub(crate) struct Worker(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Of each id the scripts of its runs, in the order in which the runs began to work.
    begun: Mutex<BTreeMap<i32, Vec<Scripts>>>,
    /// Runs are being taken up: there is no other plan than the last one.
    takes_up: AtomicBool,
}

impl Worker {
    /// What is planned until the next call is for runs that are taken up, or is not.
    pub(crate) fn takes_up(&self, takes_up: bool) {
        self.0.takes_up.store(takes_up, SeqCst);
    }

    /// The scripts of the `n`-th run of an id.
    pub(crate) fn scripts(&self, id: i32, n: usize) -> Option<Scripts> {
        self.0.begun.lock().unwrap().get(&id)?.get(n).cloned()
    }

    /// The run of these scripts works now.
    fn begins(&self, id: i32, scripts: &Scripts) {
        let mut begun = self.0.begun.lock().unwrap();
        let of_id = begun.entry(id).or_default();
        if !of_id.iter().any(|known| Arc::ptr_eq(known, scripts)) {
            of_id.push(scripts.clone());
        }
    }
}

impl Source for Worker {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let id = request.id();
        let traits = Traits::of(id);
        let scripts: Scripts = if self.0.takes_up.load(SeqCst) {
            self.0.begun.lock().unwrap()[&id].last().expect("it has begun").clone()
        } else {
            Arc::new((0..traits.jobs).map(|_| Script::default()).collect())
        };
        let jobs = (0..traits.jobs).map(|job| {
            let (worker, scripts) = (self.clone(), scripts.clone());
            Job::new(async move |emitter| {
                worker.begins(id, &scripts);
                scripts[job].play(job, emitter).await
            })
        });
        let plan = Plan::new().jobs(jobs).jobs_at_once(traits.at_once).job_errors(traits.errors);
        let plan = plan.payload(PayloadKind::Bytes).placement(Placement::Reader);
        Ok(if traits.is_repeatable { plan.repeatable() } else { plan })
    }
}
