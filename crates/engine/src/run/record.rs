//! What makes a run a journaled one: the records that are on their way into the store, how far they have come, and who
//! is waiting for that. Nothing of the run is seen before it is durable. How they get there is in `commit.rs`.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    mem,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{From, Run};
use crate::{
    Chunk, JobIndex, Key, Record, Refusal, RunId, RunRecord, Sequence, Start,
    committer::{Item, Queue},
    frame::Part,
    window::Window,
};

/// The journaled side of a run's state.
#[expect(clippy::struct_excessive_bools, reason = "each is a step that happens once, and they happen in any order")]
pub(super) struct Recording {
    pub(super) queue: Arc<Queue>,
    /// In the committer's queue, or on its way back there.
    pub(super) is_queued: bool,
    /// Records that come before the frames that wait: the start, starts of jobs, what readers ask for.
    pub(super) before: Vec<Record>,
    /// Records that come behind them: ends of jobs.
    pub(super) after: Vec<Record>,
    /// Given to the committer and not durable yet, or refused by the store.
    pub(super) in_flight: Vec<Record>,
    /// The end was given to the committer.
    pub(super) end_is_recorded: bool,

    /// The last sequence that is durable, which is the last one that anybody sees.
    pub(super) visible: Sequence,
    pub(super) first: Sequence,
    /// The run's record is durable.
    pub(super) is_started: bool,
    /// Its request was refused meanwhile.
    pub(super) is_abandoned: bool,
    /// The end is durable.
    pub(super) is_ended: bool,
    pub(super) jobs_started: Vec<JobIndex>,

    pub(super) window: Window,
    /// Readers counted in the window.
    pub(super) live: u32,
    pub(super) attached: u32,

    pub(super) linger: Duration,
    /// When the last reader left; not while there is one.
    pub(super) deserted_at: Option<Instant>,

    /// Bytes of all frames ever.
    pub(super) bytes: u64,
    /// Rings when something became durable that is waited for by other than readers; only while somebody waits.
    durable: Option<Arc<Notify>>,

    // Boxed, since most runs have neither.
    endless: Option<Box<Endless>>,
    taken_up: Option<Box<TakenUp>>,
}

/// What an endless run keeps of itself.
struct Endless {
    /// About so many bytes.
    keep: u64,
    /// Places at which its head can be dropped, with the bytes before them.
    marks: VecDeque<(Sequence, u64)>,
}

/// What a restart left of a run that it took up.
struct TakenUp {
    /// Readers have time to come back.
    stops_not_before: Instant,
    /// Jobs that are done again, and what is known of their responses.
    repeating: BTreeMap<JobIndex, Repeating>,
}

/// What a job emitted before a restart: how many responses, and a digest of them in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repeating {
    left: u64,
    expected: u64,
    digest: DefaultHasher,
    emitted: Emitted,
}

/// What a job emitted before a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emitted {
    /// How many values: a response that is the part of one does not count, its last part does.
    pub values: u64,
    /// Bytes of all payloads.
    pub bytes: u64,
    /// The end of the last response's payload, at most [`Emitted::TAIL_BYTES_MAX`] bytes.
    pub tail: Vec<u8>,
    /// The last response was a part of a value that goes on.
    pub is_open: bool,
}

impl Emitted {
    /// How much of the last payload is kept.
    pub const TAIL_BYTES_MAX: usize = 1024;
}

/// What a response of a job that is done again is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// As far as it can be told, one that is there.
    Known,
    /// Not what was there.
    Differs,
}

impl Repeating {
    /// Counts one journaled response.
    pub(crate) fn expect(&mut self, payload: &[u8], part: Part) {
        self.left += 1;
        digest(&mut self.digest, payload, part);
        let emitted = &mut self.emitted;
        emitted.is_open = part == Part::GoesOn;
        emitted.values += u64::from(!emitted.is_open);
        emitted.bytes += payload.len() as u64;
        emitted.tail.clear();
        emitted.tail.extend_from_slice(&payload[payload.len().saturating_sub(Emitted::TAIL_BYTES_MAX)..]);
    }

    /// Turns from counting to checking off.
    pub(crate) fn begin(&mut self) {
        self.expected = mem::take(&mut self.digest).finish();
    }
}

fn digest(digest: &mut DefaultHasher, payload: &[u8], part: Part) {
    (part as u8).hash(digest);
    payload.hash(digest);
}

/// How finely the head of an endless run is dropped: in so many pieces of what is kept.
const MARKS: u64 = 16;

impl Recording {
    pub(super) fn begin(start: Arc<Start>, queue: Arc<Queue>) -> Self {
        let linger = start.linger;
        let mut recording = Self::new(queue, linger);
        recording.before.push(Record::Started(start));
        recording
    }

    pub(super) fn stored(record: &RunRecord, queue: Arc<Queue>) -> Self {
        let is_ended = record.ended.is_some();
        Self {
            visible: record.last,
            first: record.first,
            is_started: true,
            is_ended,
            end_is_recorded: is_ended,
            jobs_started: record.jobs.started.clone(),
            bytes: record.bytes,
            ..Self::new(queue, record.linger)
        }
    }

    fn new(queue: Arc<Queue>, linger: Duration) -> Self {
        Self {
            queue,
            is_queued: false,
            before: Vec::new(),
            after: Vec::new(),
            in_flight: Vec::new(),
            end_is_recorded: false,
            visible: Sequence::NONE,
            first: Sequence::FIRST,
            is_started: false,
            is_abandoned: false,
            is_ended: false,
            jobs_started: Vec::new(),
            window: Window::default(),
            live: 0,
            attached: 0,
            linger,
            deserted_at: None,
            bytes: 0,
            durable: None,
            endless: None,
            taken_up: None,
        }
    }

    /// Has those look who wait for something to be durable, other than readers.
    pub(super) fn tell_others(&mut self) {
        if let Some(durable) = self.durable.take() {
            durable.notify_waiters();
        }
    }

    /// It was given up before anything of it was in the store.
    pub(super) fn is_dropped(&self) -> bool {
        self.is_abandoned && !self.is_started
    }

    /// The first that is kept, also where the store dropped what is before it and this was not told yet.
    pub(super) fn head(&self) -> Sequence {
        let dropped = |record: &Record| if let Record::HeadDropped(first) = record { Some(*first) } else { None };
        self.in_flight.iter().filter_map(dropped).fold(self.first, Sequence::max)
    }

    /// Whether a record that `is` so is on its way into the store.
    fn any_pending(&self, is: impl Fn(&Record) -> bool) -> bool {
        self.before.iter().chain(&self.in_flight).any(is)
    }

    fn raises_linger(&self) -> bool {
        self.any_pending(|record| matches!(record, Record::LingerRaised(_)))
    }

    /// The place behind which a reader begins.
    pub(super) fn begin_at(&self, from: From) -> Result<Sequence, Refusal> {
        match from {
            From::After(after) if after > self.visible => {
                Err(Refusal::BeyondTail { after: after.get(), tail: self.visible.get() })
            }
            // From the start of a run is from the first that is kept, or nobody could begin to read an endless one.
            From::After(Sequence::NONE) => Ok(Sequence(self.first.0 - 1)),
            From::After(after) if after.0 + 1 < self.first.0 => {
                Err(Refusal::BeforeHead { after: after.get(), first: self.first.get() })
            }
            From::After(after) => Ok(after),
            From::Last(count) => Ok(Sequence(self.visible.0.saturating_sub(count).max(self.first.0 - 1))),
        }
    }

    /// When a run without readers is to be stopped.
    pub(super) fn stops_at(&self) -> Option<Instant> {
        let left = self.deserted_at?.checked_add(self.linger)?;
        Some(self.taken_up.as_ref().map_or(left, |taken_up| left.max(taken_up.stops_not_before)))
    }

    /// Nobody reads it and it has ended: the store has all there is.
    pub(super) fn forget(&self, run: RunId) {
        self.queue.push(Item::Forget(run));
    }

    /// Whether a job is done again and has not come as far as it had been.
    pub(super) fn is_repeating(&self, job: JobIndex) -> bool {
        self.taken_up.as_ref().is_some_and(|taken_up| taken_up.repeating.contains_key(&job))
    }

    /// What a job that is done again had emitted.
    fn emitted_before(&self, job: JobIndex) -> Option<Emitted> {
        Some(self.taken_up.as_ref()?.repeating.get(&job)?.emitted.clone())
    }

    /// A job that is done again does not repeat what it had emitted.
    fn go_on(&mut self, job: JobIndex) {
        if let Some(taken_up) = &mut self.taken_up {
            taken_up.repeating.remove(&job);
        }
    }

    /// Checks off one response of a job that is done again; `None` where it is a new one.
    #[inline]
    pub(super) fn repeat(&mut self, job: JobIndex, payload: &[u8], part: Part) -> Option<Repeat> {
        if self.taken_up.is_none() { None } else { self.check_off(job, payload, part) }
    }

    #[cold]
    fn check_off(&mut self, job: JobIndex, payload: &[u8], part: Part) -> Option<Repeat> {
        let jobs = &mut self.taken_up.as_mut()?.repeating;
        let repeating = jobs.get_mut(&job)?;
        digest(&mut repeating.digest, payload, part);
        repeating.left -= 1;
        if repeating.left > 0 {
            return Some(Repeat::Known);
        }
        let is_same = repeating.digest.finish() == repeating.expected;
        jobs.remove(&job);
        Some(if is_same { Repeat::Known } else { Repeat::Differs })
    }

    pub(super) fn is_endless(&self) -> bool {
        self.endless.is_some()
    }

    /// Counts what is on its way; of an endless run, says up to where its head is dropped.
    pub(super) fn count(&mut self, chunk: &Chunk) -> Option<Sequence> {
        self.bytes += chunk.len() as u64;
        let Endless { keep, marks } = &mut **self.endless.as_mut()?;
        if marks.back().is_none_or(|(_, bytes)| self.bytes - bytes >= keep.div_ceil(MARKS)) {
            marks.push_back((Sequence(chunk.last().0 + 1), self.bytes));
        }
        let mut dropped = None;
        while let Some((first, bytes)) = marks.front()
            && self.bytes - bytes >= *keep
        {
            dropped = Some(*first);
            marks.pop_front();
        }
        dropped
    }
}

impl Run {
    /// Records that `job` is about to start, and resolves when that is durable.
    pub(crate) async fn record_job_start(self: &Arc<Self>, job: JobIndex) {
        {
            let mut state = self.state.lock();
            if let Some(recording) = &mut state.recording {
                recording.before.push(Record::JobStarted(job));
            }
            self.enqueue(&mut state);
        }
        self.durable(|recording| recording.jobs_started.contains(&job)).await;
    }

    /// Resolves when the run's record is durable, or the run was given up; says which.
    pub(crate) async fn started(&self) -> bool {
        self.durable(|recording| recording.is_started || recording.is_abandoned).await;
        !self.is_abandoned()
    }

    /// Resolves when the run's end is durable, or the run was given up.
    pub(crate) async fn ended(&self) {
        self.durable(|recording| recording.is_ended || recording.is_dropped()).await;
    }

    /// Binds one more key to the run, and resolves when that is durable, or was dropped with what a stop drops.
    pub(crate) async fn bind(self: &Arc<Self>, key: Key) {
        let bound = Record::KeyBound(key);
        {
            let mut state = self.state.lock();
            let Some(recording) = &mut state.recording else { return };
            recording.before.push(bound.clone());
            self.enqueue(&mut state);
        }
        self.durable(|recording| !recording.any_pending(|record| *record == bound) || recording.is_dropped()).await;
    }

    /// Nobody waits for this key any more: it is not to be bound where that is not under way.
    pub(crate) fn withdraw(&self, key: &Key) {
        if let Some(recording) = &mut self.state.lock().recording {
            let is_other = |record: &Record| !matches!(record, Record::KeyBound(bound) if bound == key);
            recording.before.retain(is_other);
            recording.in_flight.retain(is_other);
        }
    }

    /// Resolves when the linger as it was raised is durable.
    pub(crate) async fn linger_raised(&self) {
        self.durable(|recording| !recording.raises_linger() || recording.is_dropped()).await;
    }

    /// Whether a higher linger is on its way into the store.
    pub(crate) fn raises_linger(&self) -> bool {
        self.state.lock().recording.as_ref().is_some_and(|recording| recording.raises_linger())
    }

    async fn durable(&self, is: impl Fn(&Recording) -> bool) {
        loop {
            // Asked for under the lock under which it rings, so that nothing is missed in between.
            let rung = match &mut self.state.lock().recording {
                Some(recording) if !is(recording) => {
                    recording.durable.get_or_insert_default().clone().notified_owned()
                }
                _ => return,
            };
            rung.await;
        }
    }

    /// Prepares the run for being taken up: what its unfinished jobs had emitted, and that readers have until
    /// `stops_not_before` to come back.
    pub(crate) fn take_up(&self, repeating: BTreeMap<JobIndex, Repeating>, stops_not_before: Instant) {
        if let Some(recording) = &mut self.state.lock().recording {
            recording.taken_up = Some(Box::new(TakenUp { stops_not_before, repeating }));
            if recording.attached == 0 {
                recording.deserted_at = Some(Instant::now());
            }
        }
    }

    /// What a job that is begun again had emitted before.
    pub(crate) fn emitted_before(&self, job: JobIndex) -> Option<Emitted> {
        self.state.lock().recording.as_ref()?.emitted_before(job)
    }

    /// A job that is begun again goes on behind what it had emitted.
    pub(crate) fn go_on(&self, job: JobIndex) {
        if let Some(recording) = &mut self.state.lock().recording {
            recording.go_on(job);
        }
    }

    /// Of an endless run, keeps about the last so many bytes.
    pub(crate) fn keep(&self, bytes: Option<u64>) {
        if let Some(recording) = &mut self.state.lock().recording {
            recording.endless = bytes.map(|keep| Box::new(Endless { keep, marks: VecDeque::new() }));
        }
    }
}
