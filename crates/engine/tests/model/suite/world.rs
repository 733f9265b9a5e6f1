//! An engine and all that is known of it: each operation is done, and what comes of it compared with what may.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use outflow_engine::{
    Clock, Delivery, Engine, Filter, Finish, Leave, Limits, Principal, Reader, Refusal, RunInfo, SourceOptions,
    Store as _, Timestamp,
};
use tokio::time::{Instant, advance};

use super::{
    Shelf,
    ops::{From, How, Linger, Op, Step},
    patience::{PATIENCE, nap, now, patient},
    runs::{Kind, Known},
    shelf::Taken,
    work::Worker,
};

/// How long runs go on without a reader, where a request says nothing, and after a restart.
pub(super) const LINGER: Duration = Duration::from_secs(35);
const LINGER_AFTER_RESTART: Duration = Duration::from_secs(65);
/// More than ended runs are kept, and than they are reused.
const DAY: Duration = Duration::from_hours(25);
const REUSE: Duration = Duration::from_hours(1);

pub(crate) struct World<S> {
    shelf: S,
    pub(super) worker: Worker,
    clock: Arc<AtomicU64>,
    store: Arc<Taken>,
    pub(super) engine: Engine,
    /// Requests so far, which name runs.
    pub(super) random: u128,
    pub(super) runs: Vec<Known>,
    pub(super) readers: Vec<Held>,
    /// The runs that keys, and the ids of shared sources, led to last.
    pub(super) keys: BTreeMap<u8, usize>,
    pub(super) shared: BTreeMap<i32, usize>,
    /// Runs that ended before the store was so long in service have expired.
    day: Duration,
}

/// A reader, and where it is.
pub(super) struct Held {
    pub(super) reader: Reader,
    pub(super) run: usize,
    /// The next sequence; `None` where only the engine knows where it begins.
    pub(super) next: Option<u64>,
    /// How many it still wants.
    pub(super) left: u64,
}

impl<S: Shelf> World<S> {
    pub(crate) async fn begin(shelf: S) -> Self {
        let (worker, clock) = (Worker::default(), Arc::new(AtomicU64::new(1)));
        let store = Taken::from(&shelf, Duration::ZERO, Duration::ZERO);
        let engine = engine(&worker, &clock, &store).await;
        Self {
            shelf,
            worker,
            clock,
            store,
            engine,
            random: 0,
            runs: Vec::new(),
            readers: Vec::new(),
            keys: BTreeMap::new(),
            shared: BTreeMap::new(),
            day: Duration::ZERO,
        }
    }

    pub(crate) async fn apply(&mut self, op: Op) {
        match op {
            Op::Start { asked, linger, limit } => self.start(asked, linger, limit).await,
            Op::StartTwice { asked, linger } => self.start_twice(asked, linger).await,
            Op::Work { run, job, step } => self.work(run, job, step),
            Op::Read { reader } => self.read(reader).await,
            Op::Leave { reader } => {
                if let Some(at) = one_of(reader, self.readers.len()) {
                    self.leave(at);
                }
            }
            Op::Resume { run, from, linger, limit } => {
                if let Some(run) = one_of(run, self.runs.len()) {
                    self.resume(run, from, linger, limit).await;
                }
            }
            Op::Stop { run } => {
                if let Some(run) = one_of(run, self.runs.len()) {
                    self.runs[run].may_end(Kind::Stopped);
                    let stopped = patient("stopping", self.engine.stop(&ME, &self.runs[run].name)).await;
                    let is_told = self.saw(run, stopped);
                    assert!(!is_told || self.runs[run].ended.is_some(), "it was stopped");
                }
            }
            Op::Look { run } => {
                if let Some(run) = one_of(run, self.runs.len()) {
                    self.look(run).await;
                }
            }
            Op::Pass { tens } => self.pass(Duration::from_secs(10 * u64::from(tens))).await,
            Op::Clock { millis } => self.clock.store(millis, SeqCst),
            Op::Rest => {
                for _ in 0..20 {
                    nap();
                    tokio::task::yield_now().await;
                }
            }
            Op::Restart { how, is_next_day } => self.restart(how, is_next_day).await,
        }
    }

    /// Ends all jobs, reads everything to its end, and looks whether it is the same after a restart.
    pub(crate) async fn finish(mut self) {
        for run in self.runs.iter_mut().filter(|run| run.ended.is_none()) {
            (0..run.traits.jobs).for_each(|job| run.work(job, Step::End));
        }
        while !self.readers.is_empty() {
            self.take(0).await;
        }
        for run in 0..self.runs.len() {
            self.until_ended(run).await;
        }
        self.restart(How::Ordered, false).await;
        for run in 0..self.runs.len() {
            self.resume(run, From::After(0), Linger::Unset, 0).await;
            if !self.readers.is_empty() {
                while !self.take(0).await {}
                self.runs[run].check_whole();
            }
        }
        self.check_list().await;
        // Those that have expired are looked for once a second.
        let began = std::time::Instant::now();
        while self.runs.iter().any(|run| run.is_gone != run.is_old) {
            assert!(began.elapsed() < PATIENCE, "what has expired goes");
            advance(Duration::from_secs(1)).await;
            for run in 0..self.runs.len() {
                self.look(run).await;
            }
        }
        self.check_list().await;
        self.end_engine().await;
    }

    fn work(&mut self, run: u8, job: u8, step: Step) {
        let mut under_way: Vec<_> = self.runs.iter_mut().filter(|run| run.ended.is_none()).collect();
        if let Some(run) = one_of(run, under_way.len()) {
            let run = &mut *under_way[run];
            let job = usize::from(job) % run.traits.jobs;
            run.work(job, step);
        }
    }

    async fn read(&mut self, reader: u8) {
        let Some(at) = one_of(reader, self.readers.len()) else { return };
        for _ in 0..4 {
            let held = &mut self.readers[at];
            let run = &self.runs[held.run];
            let is_due = run.ended.is_some() || held.next.is_some_and(|next| next <= run.tail);
            if is_due {
                if self.take(at).await {
                    return;
                }
            } else {
                let next = now(Box::pin(held.reader.next())).await;
                let Some(next) = next else { return };
                if self.given(at, next).await {
                    return;
                }
            }
        }
    }

    /// Waits for the next thing that a reader is given; says whether it was the last.
    async fn take(&mut self, at: usize) -> bool {
        let next = patient("reading", self.readers[at].reader.next()).await;
        self.given(at, next).await
    }

    /// A reader was given something; says whether that was all, and then it is gone.
    async fn given(&mut self, at: usize, delivery: Delivery) -> bool {
        let held = &mut self.readers[at];
        let run = &mut self.runs[held.run];
        match delivery {
            Delivery::Chunk(chunk) => {
                let next = *held.next.get_or_insert(chunk.first().get());
                assert_eq!(chunk.first().get(), next, "{}: a reader wants response {next}", run.name);
                let count = chunk.last().get() - next + 1;
                assert!(count <= held.left, "{}: more than the limit", run.name);
                run.hear(&chunk);
                (held.next, held.left) = (Some(next + count), held.left - count);
                if held.left > 0 {
                    return false;
                }
                if let Some(told) = now(Box::pin(held.reader.next())).await {
                    let Delivery::Finished(finish) = told else { panic!("{}: beyond the limit: {told:?}", run.name) };
                    self.finished(at, &finish);
                }
            }
            Delivery::Finished(finish) => self.finished(at, &finish),
        }
        self.leave(at);
        true
    }

    fn finished(&mut self, at: usize, finish: &Finish) {
        let held = &self.readers[at];
        let run = &mut self.runs[held.run];
        let last = finish.last_sequence.get();
        assert!(held.next.is_none_or(|next| next == last + 1), "{}: {finish:?}", run.name);
        match (&finish.end, &finish.left) {
            (Some(end), None) => run.saw_end(end, finish.jobs_failed, last),
            (None, None | Some(Leave::Enough)) => assert_eq!(held.left, 0, "{}: {finish:?}", run.name),
            _ => panic!("{}: {finish:?}", run.name),
        }
    }

    fn leave(&mut self, at: usize) {
        let held = self.readers.swap_remove(at);
        self.runs[held.run].detach();
    }

    /// Somebody was told what a run is, or that it is gone; says whether it is there.
    fn saw(&mut self, run: usize, told: Result<RunInfo, Refusal>) -> bool {
        let run = &mut self.runs[run];
        match told {
            Ok(info) => {
                assert!(!run.is_gone, "{}: it was gone", run.name);
                run.saw(&info, self.day);
                true
            }
            Err(Refusal::UnknownRun { .. }) => {
                assert!(run.is_old || run.is_gone, "{}: it is gone, and had not expired", run.name);
                run.is_gone = true;
                false
            }
            Err(refusal) => panic!("{}: {refusal}", run.name),
        }
    }

    async fn look(&mut self, run: usize) {
        let told = patient("looking", self.engine.run(&ME, &self.runs[run].name)).await;
        self.saw(run, told);
    }

    async fn until_ended(&mut self, run: usize) {
        let name = self.runs[run].name.clone();
        let told = patient("the end of a run", async {
            loop {
                match self.engine.run(&ME, &name).await {
                    Ok(info) if info.record.ended.is_none() => tokio::task::yield_now().await,
                    told => return told,
                }
            }
        });
        let told = told.await;
        self.saw(run, told);
    }

    async fn pass(&mut self, time: Duration) {
        advance(time).await;
        for run in 0..self.runs.len() {
            if self.runs[run].stop_where_deserted(Instant::now()) {
                self.until_ended(run).await;
            }
        }
    }

    async fn restart(&mut self, how: How, is_next_day: bool) {
        if how == How::Killed {
            self.store.take_away();
            self.look_once_more().await;
        }
        self.end_engine().await;
        if how == How::Ordered {
            self.store.take_away();
        }
        self.store = Taken::from(&self.shelf, self.day, if is_next_day { DAY } else { Duration::ZERO });
        if is_next_day {
            self.day = self.store.in_service();
        }
        self.engine = engine(&self.worker, &self.clock, &self.store).await;
        for run in 0..self.runs.len() {
            self.runs[run].restarted(LINGER_AFTER_RESTART);
            self.look(run).await;
        }
    }

    /// What readers are given of a store that is gone, they keep.
    async fn look_once_more(&mut self) {
        for _ in 0..10 {
            nap();
            tokio::task::yield_now().await;
        }
        for held in &mut self.readers {
            let run = &mut self.runs[held.run];
            while let Some(delivery) = now(Box::pin(held.reader.next())).await {
                match delivery {
                    Delivery::Chunk(chunk) => run.hear(&chunk),
                    Delivery::Finished(Finish { end: Some(end), last_sequence, jobs_failed, .. }) => {
                        run.saw_end(&end, jobs_failed, last_sequence.get());
                        break;
                    }
                    Delivery::Finished(_) => break,
                }
            }
        }
    }

    async fn end_engine(&mut self) {
        self.engine.drain();
        self.readers.clear();
        self.engine.suspend();
        self.engine.hurry();
        patient("the end of all jobs", self.engine.drained()).await;
        patient("the end of the committer", self.engine.close()).await;
    }

    /// All that are there are listed, and nothing else.
    async fn check_list(&mut self) {
        let listed = patient("listing", self.engine.list(Filter::default(), None, 1_000)).await.unwrap();
        let names: Vec<_> = listed.iter().map(|info| info.record.id).collect();
        assert!(names.is_sorted_by(|one, next| one > next), "the last started first: {names:?}");
        let listed: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
        let all: BTreeSet<String> = self.runs.iter().map(|run| run.name.clone()).collect();
        assert!(listed.is_subset(&all), "a run that nobody started");
        let missing = self.runs.iter().filter(|run| !run.is_old && !listed.contains(&run.name));
        assert_eq!(missing.map(|run| &run.name).collect::<Vec<_>>(), Vec::<&String>::new(), "all are listed");
        let gone = self.runs.iter().filter(|run| run.is_gone && listed.contains(&run.name));
        assert_eq!(gone.count(), 0, "what is gone is not listed");
    }
}

const ME: Principal = Principal::Anonymous;

/// An engine on this store, with all runs in it taken up.
async fn engine(worker: &Worker, clock: &Arc<AtomicU64>, store: &Arc<Taken>) -> Engine {
    let mut limits = Limits::default();
    limits.linger = LINGER;
    limits.linger_after_restart = LINGER_AFTER_RESTART;
    // So little that readers fall behind, and that large responses are split.
    limits.live_bytes = 4 * 1024;
    limits.response_bytes_max = 32 * 1024;
    let (clock, store) = (clock.clone(), store.clone());
    let engine = Engine::builder(limits)
        .default_source("work", Arc::new(worker.clone()))
        .source_with("shared", Arc::new(worker.clone()), SourceOptions::new().shared(Duration::ZERO))
        .source_with("reused", Arc::new(worker.clone()), SourceOptions::new().shared(REUSE))
        .clock(Clock::new(move || Timestamp::from_millis(clock.load(SeqCst))))
        .store(move || Ok(store.clone()))
        .build()
        .unwrap();
    worker.takes_up(true);
    patient("opening", engine.open()).await.unwrap();
    worker.takes_up(false);
    engine
}

/// One of so many, where there are any.
fn one_of(n: u8, count: usize) -> Option<usize> {
    usize::from(n).checked_rem(count)
}
