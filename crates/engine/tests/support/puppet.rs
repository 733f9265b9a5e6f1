//! A source whose jobs do what the test says, when it says so.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use outflow_engine::{EmitError, Job, JobError, Payload, Placement, Plan, Refusal, Request, Source};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

enum Step {
    Emit(Vec<u8>, oneshot::Sender<Result<(), EmitError>>),
    End(Result<(), JobError>),
}

type Shape = Box<dyn Fn(Plan) -> Plan + Send + Sync>;

/// Plans so many jobs for every request, and holds the strings of all.
pub struct Puppets {
    jobs: usize,
    shape: Shape,
    plans: AtomicUsize,
    started: Arc<AtomicUsize>,
    strings: Mutex<Vec<mpsc::Sender<Step>>>,
}

impl Puppets {
    /// Plans of so many jobs, which may be begun again.
    pub fn new(jobs: usize) -> Arc<Self> {
        Self::shaped(jobs, Plan::repeatable)
    }

    /// Plans of so many jobs, none of which may be executed twice.
    pub fn once(jobs: usize) -> Arc<Self> {
        Self::shaped(jobs, |plan| plan)
    }

    /// The same, each plan made what `shape` makes of it.
    pub fn shaped(jobs: usize, shape: impl Fn(Plan) -> Plan + Send + Sync + 'static) -> Arc<Self> {
        let (plans, started, strings) = Default::default();
        Arc::new(Self { jobs, shape: Box::new(shape), plans, started, strings })
    }

    /// How many plans were made.
    pub fn plans(&self) -> usize {
        self.plans.load(SeqCst)
    }

    /// How many jobs were started.
    pub fn started(&self) -> usize {
        self.started.load(SeqCst)
    }

    fn string(&self, job: usize) -> mpsc::Sender<Step> {
        self.strings.lock()[job].clone()
    }

    /// Job `job`, counted over all plans, emits `text`; says what came of it.
    pub async fn emit(&self, job: usize, text: impl Into<Vec<u8>>) -> Result<(), EmitError> {
        let (done, emitted) = oneshot::channel();
        _ = self.string(job).send(Step::Emit(text.into(), done)).await;
        super::within("an emission", emitted).await.unwrap_or(Err(EmitError::Closed))
    }

    /// Job `job` is to emit `text`, and may wait for that.
    pub fn let_emit(&self, job: usize, text: impl Into<Vec<u8>>) {
        self.string(job).try_send(Step::Emit(text.into(), oneshot::channel().0)).expect("it has few steps before it");
    }

    /// Job `job` ends.
    pub async fn end(&self, job: usize) {
        _ = self.string(job).send(Step::End(Ok(()))).await;
    }

    /// Resolves when job `job` is gone, and its run knows.
    pub async fn ended(&self, job: usize) {
        super::within("a job's end", self.string(job).closed()).await;
        // One thread has the job, the run and the test: what was woken runs before this goes on.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    /// Job `job` fails.
    pub async fn fail(&self, job: usize, error: JobError) {
        _ = self.string(job).send(Step::End(Err(error))).await;
    }
}

impl Source for Puppets {
    fn plan(&self, _: &Request) -> Result<Plan, Refusal> {
        self.plans.fetch_add(1, SeqCst);
        let jobs = (0..self.jobs).map(|_| {
            let (string, mut steps) = mpsc::channel(64);
            self.strings.lock().push(string);
            let started = self.started.clone();
            Job::new(async move |emitter| {
                started.fetch_add(1, SeqCst);
                while let Some(step) = steps.recv().await {
                    match step {
                        Step::Emit(bytes, done) => _ = done.send(emitter.emit(Payload::from(bytes)).await),
                        Step::End(outcome) => return outcome,
                    }
                }
                Ok(())
            })
        });
        Ok((self.shape)(Plan::new().jobs(jobs).placement(Placement::Reader)))
    }
}
