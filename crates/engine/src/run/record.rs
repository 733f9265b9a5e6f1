//! What makes a run a journaled one: the records that are on their way into the store, how far they have come, and who
//! is waiting for that. Nothing of the run is seen before it is durable.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    mem,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{From, Run, State};
use crate::{
    Chunk, Code, End, Ended, JobError, JobIndex, Key, Record, Refusal, RunId, RunRecord, Sequence, Start, Timestamp,
    bell::Alarms,
    committer::{Item, Queue},
    frame::Part,
    window::Window,
};

/// The journaled side of a run's state.
#[expect(clippy::struct_excessive_bools, reason = "each is a step that happens once, and they happen in any order")]
pub(super) struct Recording {
    queue: Arc<Queue>,
    /// In the committer's queue, or on its way back there.
    is_queued: bool,
    /// Records that come before the frames that wait: the start, starts of jobs, what readers ask for.
    pub(super) before: Vec<Record>,
    /// Records that come behind them: ends of jobs.
    pub(super) after: Vec<Record>,
    /// Given to the committer and not durable yet, or refused by the store.
    in_flight: Vec<Record>,
    /// The end was given to the committer.
    end_is_recorded: bool,

    /// The last sequence that is durable, which is the last one that anybody sees.
    pub(super) visible: Sequence,
    pub(super) first: Sequence,
    /// The run's record is durable.
    is_started: bool,
    /// Its request was refused meanwhile.
    is_abandoned: bool,
    /// The end is durable.
    pub(super) is_ended: bool,
    jobs_started: Vec<JobIndex>,
    /// Rings when something became durable that is waited for by other than readers.
    durable: Arc<Notify>,

    pub(super) window: Window,
    /// Readers counted in the window.
    pub(super) live: usize,
    pub(super) attached: usize,

    pub(super) linger: Duration,
    /// When the last reader left; not while there is one.
    pub(super) deserted_at: Option<Instant>,
    /// Not before: a restarted server gives readers time to come back.
    stops_not_before: Option<Instant>,

    /// Bytes of all frames ever.
    bytes: u64,
    /// Of an endless run, about how much of it is kept.
    keep: Option<u64>,
    /// Places at which its head can be dropped, with the bytes before them.
    marks: VecDeque<(Sequence, u64)>,
    /// Jobs that are done again, and what is known of their responses.
    repeating: Option<BTreeMap<JobIndex, Repeating>>,
}

/// What a job emitted before a restart: how many responses, and a digest of them in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repeating {
    left: u64,
    expected: u64,
    digest: DefaultHasher,
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

/// Which records the committer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gather {
    All,
    /// Only the end of a run that was stopped: for that there is room in a full store, and what was not durable was
    /// seen by nobody.
    Stops,
}

/// What a commit changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    /// It goes on.
    UnderWay,
    /// It has ended and nobody reads it: the store has all there is.
    Over,
    /// Its request was refused before its record could be made durable: it is to be deleted.
    Abandoned,
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
            durable: Arc::default(),
            window: Window::default(),
            live: 0,
            attached: 0,
            linger,
            deserted_at: None,
            stops_not_before: None,
            bytes: 0,
            keep: None,
            marks: VecDeque::new(),
            repeating: None,
        }
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
        Some(self.stops_not_before.map_or(left, |at| left.max(at)))
    }

    /// Nobody reads it and it has ended: the store has all there is.
    pub(super) fn forget(&self, run: RunId) {
        self.queue.push(Item::Forget(run));
    }

    /// Whether a job is done again and has not come as far as it had been.
    pub(super) fn is_repeating(&self, job: JobIndex) -> bool {
        self.repeating.as_ref().is_some_and(|jobs| jobs.contains_key(&job))
    }

    /// Checks off one response of a job that is done again; `None` where it is a new one.
    #[inline]
    pub(super) fn repeat(&mut self, job: JobIndex, payload: &[u8], part: Part) -> Option<Repeat> {
        if self.repeating.is_none() { None } else { self.check_off(job, payload, part) }
    }

    #[cold]
    fn check_off(&mut self, job: JobIndex, payload: &[u8], part: Part) -> Option<Repeat> {
        let jobs = self.repeating.as_mut()?;
        let repeating = jobs.get_mut(&job)?;
        digest(&mut repeating.digest, payload, part);
        repeating.left -= 1;
        if repeating.left > 0 {
            return Some(Repeat::Known);
        }
        let is_same = repeating.digest.finish() == repeating.expected;
        jobs.remove(&job);
        if jobs.is_empty() {
            self.repeating = None;
        }
        Some(if is_same { Repeat::Known } else { Repeat::Differs })
    }

    /// Counts what is on its way; of an endless run, says up to where its head is dropped.
    fn count(&mut self, chunk: &Chunk) -> Option<Sequence> {
        self.bytes += chunk.len() as u64;
        let keep = self.keep?;
        if self.marks.back().is_none_or(|(_, bytes)| self.bytes - bytes >= keep.div_ceil(MARKS)) {
            self.marks.push_back((Sequence(chunk.last().0 + 1), self.bytes));
        }
        let mut dropped = None;
        while let Some((first, bytes)) = self.marks.front()
            && self.bytes - bytes >= keep
        {
            dropped = Some(*first);
            self.marks.pop_front();
        }
        dropped
    }
}

impl Run {
    /// Has the committer come for what is not in the store yet.
    #[inline]
    pub(super) fn enqueue(self: &Arc<Self>, state: &mut State) {
        if let Some(recording) = &mut state.recording
            && !recording.is_queued
        {
            recording.is_queued = true;
            recording.queue.push(Item::Run(self.clone()));
        }
    }

    /// The run's record is on its way into the store from here on.
    pub(crate) fn begin(self: &Arc<Self>) {
        self.enqueue(&mut self.state.lock());
    }

    /// Gives what is to be made durable, and with it what the store refused before, in order; says how many bytes of
    /// frames that are.
    pub(crate) fn gather(
        &self,
        wanted: Gather,
        (now, in_service): (Timestamp, Duration),
        alarms: &mut Alarms,
        records: &mut Vec<(RunId, Record)>,
    ) -> usize {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(recording) = &mut state.recording else { return 0 };
        if wanted == Gather::Stops {
            if state.end != Some(End::Stopped) || recording.is_ended || !recording.is_started {
                return 0;
            }
            // What nobody saw, nobody misses.
            recording.in_flight.retain(|record| matches!(record, Record::Ended(_)));
            recording.before.clear();
            recording.after.clear();
            state.journal.gather().for_each(drop);
        }
        if recording.in_flight.is_empty() {
            recording.in_flight = mem::take(&mut recording.before);
        } else {
            recording.in_flight.append(&mut recording.before);
        }
        if !state.journal.is_empty() {
            let mut dropped = None;
            for chunk in state.journal.gather() {
                dropped = recording.count(&chunk).or(dropped);
                recording.in_flight.push(Record::Frames(chunk));
            }
            recording.in_flight.extend(dropped.map(Record::HeadDropped));
            state.waiting.drain(..).for_each(|alarm| alarms.add(alarm));
            if recording.bytes > self.limits.run_bytes_max && recording.keep.is_none() && !state.is_closed {
                state.is_closed = true;
                state.end = Some(End::Failed(self.too_long()));
                self.tell_driver();
            }
        }
        // With its place: a job ends seldom.
        recording.in_flight.append(&mut mem::take(&mut recording.after));
        if let Some(end) = &state.end
            && !recording.end_is_recorded
        {
            recording.end_is_recorded = true;
            let ended = Ended { end: end.clone(), jobs_failed: state.jobs_failed, at: now, in_service };
            recording.in_flight.push(Record::Ended(ended));
        }
        records.extend(recording.in_flight.iter().map(|record| (self.id, record.clone())));
        let bytes = |record: &Record| if let Record::Frames(chunk) = record { chunk.len() } else { 0 };
        recording.in_flight.iter().map(bytes).sum()
    }

    #[cold]
    fn too_long(&self) -> JobError {
        let max = self.limits.run_bytes_max;
        JobError::new(Code::ResourceExhausted, format_args!("the run reached the limit on bytes of one run ({max})"))
    }

    /// What was gathered is durable: it is seen from now on.
    pub(crate) fn committed(self: &Arc<Self>, alarms: &mut Alarms) -> Committed {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(recording) = &mut state.recording else { return Committed::UnderWay };
        let seen = recording.visible;
        let mut others_wait = false;
        // Taken with its place: most runs have no more records for long.
        for record in mem::take(&mut recording.in_flight) {
            match record {
                Record::Frames(chunk) => {
                    recording.visible = chunk.last();
                    recording.window.push(chunk, recording.live);
                }
                Record::HeadDropped(first) => recording.first = first,
                Record::Started(_) => (recording.is_started, others_wait) = (true, true),
                Record::Ended(_) => (recording.is_ended, others_wait) = (true, true),
                Record::JobStarted(job) => {
                    recording.jobs_started.push(job);
                    others_wait = true;
                }
                Record::KeyBound(_) => others_wait = true,
                Record::JobEnded(..) | Record::LingerRaised(_) | Record::Deleted => {}
            }
        }
        recording.window.trim(self.limits.live_bytes_max(state.journal.budget()));
        if recording.visible > seen || recording.is_ended {
            // One that is behind has enough to do.
            let waiting = state.readers.iter_mut().filter(|(_, reader)| reader.is_live || recording.is_ended);
            waiting.filter_map(|(_, reader)| reader.alarm.take()).for_each(|alarm| alarms.add(alarm));
        }
        if others_wait {
            recording.durable.notify_waiters();
        }
        let is_more = !recording.before.is_empty()
            || !recording.after.is_empty()
            || !state.journal.is_empty()
            || (state.end.is_some() && !recording.end_is_recorded);
        recording.is_queued = is_more;
        if is_more {
            recording.queue.push(Item::Run(self.clone()));
        }
        match (recording.is_ended && recording.attached == 0, recording.is_abandoned) {
            (false, _) => Committed::UnderWay,
            (true, false) => Committed::Over,
            (true, true) => Committed::Abandoned,
        }
    }

    /// Gives up a run whose record could not be made durable, so that it binds no key; says whether that was so still.
    pub(crate) fn abandon(self: &Arc<Self>) -> bool {
        let is_abandoned = match &mut self.state.lock().recording {
            Some(recording) if !recording.is_started => {
                recording.is_abandoned = true;
                true
            }
            _ => false,
        };
        is_abandoned && self.close(End::Stopped)
    }

    /// Whether it was stopped and only its end is on its way into the store.
    pub(crate) fn is_stopping(&self) -> bool {
        let state = self.state.lock();
        let stopped = state.end == Some(End::Stopped);
        let ends = |recording: &Recording| matches!(recording.in_flight[..], [Record::Ended(_)]);
        stopped && state.recording.as_ref().is_some_and(|recording| ends(recording))
    }

    /// Whether its end is durable and nobody reads it.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.recording.as_ref().is_some_and(|recording| recording.is_ended && recording.attached == 0)
    }

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

    /// Resolves when the run's record is durable.
    pub(crate) async fn started(&self) {
        self.durable(|recording| recording.is_started).await;
    }

    /// Resolves when the run's end is durable.
    pub(crate) async fn ended(&self) {
        self.durable(|recording| recording.is_ended).await;
    }

    /// Binds one more key to the run, and resolves when that is durable.
    pub(crate) async fn bind(self: &Arc<Self>, key: Key) {
        {
            let mut state = self.state.lock();
            let Some(recording) = &mut state.recording else { return };
            recording.before.push(Record::KeyBound(key.clone()));
            self.enqueue(&mut state);
        }
        let is_pending = |recording: &Recording| {
            let mut records = recording.before.iter().chain(&recording.in_flight);
            records.any(|record| matches!(record, Record::KeyBound(bound) if *bound == key))
        };
        self.durable(|recording| !is_pending(recording)).await;
    }

    async fn durable(&self, is: impl Fn(&Recording) -> bool) {
        let durable = match &self.state.lock().recording {
            Some(recording) if !is(recording) => recording.durable.clone(),
            _ => return,
        };
        loop {
            let mut rung = std::pin::pin!(durable.notified());
            // Before looking, so that what happens in between is not missed.
            rung.as_mut().enable();
            if self.state.lock().recording.as_ref().is_none_or(|recording| is(recording)) {
                return;
            }
            rung.await;
        }
    }

    /// Prepares the run for being taken up: what its unfinished jobs had emitted, and that readers have until
    /// `stops_not_before` to come back.
    pub(crate) fn take_up(&self, repeating: BTreeMap<JobIndex, Repeating>, stops_not_before: Instant) {
        if let Some(recording) = &mut self.state.lock().recording {
            recording.repeating = Some(repeating).filter(|jobs| !jobs.is_empty());
            recording.stops_not_before = Some(stops_not_before);
            if recording.attached == 0 {
                recording.deserted_at = Some(Instant::now());
            }
        }
    }

    /// Of an endless run, keeps about the last so many bytes.
    pub(crate) fn keep(&self, bytes: Option<u64>) {
        if let Some(recording) = &mut self.state.lock().recording {
            recording.keep = bytes;
        }
    }
}
