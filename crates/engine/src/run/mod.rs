//! A run and its end: what its jobs append, what its readers take, and the one closing of both. Everything that may race
//! here (the last job's end, a reader's leaving or coming, a stop, a deadline, a drain) is decided under one short lock.
//!
//! A plain run lives in memory for its one reader, and ends with it. A journaled run has a [`record::Recording`]: nothing
//! of it is seen by anybody before it is durable, and it goes on without readers for its linger.
//!
//! It knows nothing of how frames look (`journal.rs`) and nothing of transports.

mod append;
mod commit;
mod deliver;
mod driven;
mod permit;
mod record;

use std::{mem, sync::Arc, time::Duration};

use parking_lot::Mutex;
use slab::Slab;
use tokio::time::Instant;

use crate::{
    Budget, End, Leave, Limits, PayloadKind, RunId, RunRecord, Start,
    bell::{Alarm, Alarms, Neighbours},
    committer::Queue,
    frame::{Field, payload_bytes_max},
    journal::Journal,
};

pub(crate) use append::{APPEND_AT_ONCE, Attempt};
pub(crate) use commit::{Committed, Gather};
use deliver::Cursor;
pub use deliver::Delivery;
pub(crate) use deliver::{Attached, From, Next};
use driven::Driven;
pub(crate) use driven::GoesOn;
pub(crate) use permit::RunPermit;
pub use record::Emitted;
use record::Recording;
pub(crate) use record::Repeating;

/// One execution of a plan.
pub struct Run {
    id: RunId,
    payload: PayloadKind,
    field: Field,
    limits: Arc<Limits>,
    payload_bytes_max: usize,
    expected_bytes: Option<u64>,
    state: Mutex<State>,
    driven: Driven,
    _permit: Option<RunPermit>,
}

struct State {
    journal: Journal,
    /// How it ended; set once, by the first cause. Of a journaled run nobody sees it before it is durable. Boxed, since
    /// most of a run's life there is none.
    end: Option<Box<End>>,
    /// Nothing more is appended: it has ended, or was suspended for a restart to take up.
    is_closed: bool,
    readers: Slab<Cursor>,
    /// Readers so far, so that no two are taken for one another.
    readers_ever: u32,
    /// Jobs that wait for room.
    waiting: Vec<Alarm>,
    jobs_failed: u32,
    output: Output,
    /// Why and where the reader of a plain run left.
    last_left: Option<Box<(Leave, u64)>>,
    recording: Option<Box<Recording>>,
}

/// How many bytes of payloads a run may have, and how many of them are left.
struct Output {
    max: u64,
    left: u64,
}

impl Default for Output {
    fn default() -> Self {
        Self { max: u64::MAX, left: u64::MAX }
    }
}

/// Has the jobs go on that wait for room.
fn wake(waiting: &mut Vec<Alarm>, alarms: &mut Alarms) {
    // With their place: a run may be idle for hours after a burst.
    for alarm in mem::take(waiting) {
        alarms.add(Neighbours::default(), alarm);
    }
}

impl Run {
    /// A run for one reader.
    pub(crate) fn plain(
        id: RunId,
        payload: PayloadKind,
        limits: Arc<Limits>,
        budget: Budget,
        permit: RunPermit,
    ) -> Self {
        Self::new(id, payload, limits, budget, Some(permit), None)
    }

    /// A run that begins: its record is on its way into the store.
    pub(crate) fn journaled(
        id: RunId,
        payload: PayloadKind,
        limits: Arc<Limits>,
        budget: Budget,
        permit: RunPermit,
        start: Arc<Start>,
        queue: Arc<Queue>,
    ) -> Self {
        Self::new(id, payload, limits, budget, Some(permit), Some(Recording::begin(start, queue)))
    }

    /// A run as the store has it: one that has ended, or that is about to be taken up again.
    pub(crate) fn stored(
        record: &RunRecord,
        payload: PayloadKind,
        limits: Arc<Limits>,
        budget: Budget,
        permit: Option<RunPermit>,
        queue: Arc<Queue>,
    ) -> Self {
        let recording = Recording::stored(record, queue);
        let run = Self::new(record.id, payload, limits, budget, permit, Some(recording));
        let run = run.expecting(record.start.expected_bytes);
        {
            let mut state = run.state.lock();
            state.journal.go_on_behind(record.last);
            state.jobs_failed = record.jobs.failed;
            if let Some(ended) = &record.ended {
                state.jobs_failed = ended.jobs_failed;
                state.is_closed = true;
                state.end = Some(Box::new(ended.end.clone()));
            }
        }
        run
    }

    fn new(
        id: RunId,
        payload: PayloadKind,
        limits: Arc<Limits>,
        budget: Budget,
        permit: Option<RunPermit>,
        recording: Option<Recording>,
    ) -> Self {
        Self {
            id,
            payload,
            field: match payload {
                PayloadKind::Text | PayloadKind::Lossy => Field::Result,
                PayloadKind::Bytes => Field::Data,
            },
            payload_bytes_max: payload_bytes_max(&limits),
            expected_bytes: None,
            limits,
            state: Mutex::new(State {
                journal: Journal::new(budget),
                end: None,
                is_closed: false,
                // Most runs have one.
                readers: Slab::with_capacity(1),
                readers_ever: 0,
                waiting: Vec::new(),
                jobs_failed: 0,
                output: Output::default(),
                last_left: None,
                recording: recording.map(Box::new),
            }),
            driven: Driven::default(),
            _permit: permit,
        }
    }

    /// This run, which is told to have about so many bytes of payload.
    pub(crate) fn expecting(self, bytes: Option<u64>) -> Self {
        Self { expected_bytes: bytes, ..self }
    }

    /// About how many bytes its payloads will have together, where its source knew.
    pub(crate) fn expected_bytes(&self) -> Option<u64> {
        self.expected_bytes
    }

    /// Whether it has text or bytes.
    pub(crate) fn payload_kind(&self) -> PayloadKind {
        self.payload
    }

    /// The longest payload of one response.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    /// Has the run end `failed` rather than have more than `max` bytes of payloads, of which it has so many.
    pub(crate) fn limit_output(&self, max: u64, bytes: u64) {
        self.state.lock().output = Output { max, left: max.saturating_sub(bytes) };
    }

    /// This run's name.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// Whether nothing more is appended.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// Ends the run, unless it had ended before; says whether this did.
    pub(crate) fn close(self: &Arc<Self>, end: End) -> bool {
        let mut alarms = Alarms::default();
        let closed = self.close_locked(&mut self.state.lock(), end, &mut alarms);
        alarms.go_off();
        closed
    }

    fn close_locked(self: &Arc<Self>, state: &mut State, end: End, alarms: &mut Alarms) -> bool {
        if state.is_closed {
            return false;
        }
        state.is_closed = true;
        state.end = Some(Box::new(end));
        wake(&mut state.waiting, alarms);
        match &mut state.recording {
            None => state.readers.iter_mut().for_each(|(_, reader)| reader.sound(alarms)),
            // Who reads it is told when that is durable.
            Some(_) => self.enqueue(state),
        }
        true
    }

    /// Nothing more is appended, though the run has not ended: it is taken up again after a restart.
    pub(crate) fn suspend(&self) {
        let mut alarms = Alarms::default();
        {
            let mut state = self.state.lock();
            state.is_closed = true;
            wake(&mut state.waiting, &mut alarms);
        }
        alarms.go_off();
    }

    /// Stops the run where its last reader left a linger ago, and is still gone; otherwise says when to look again.
    /// That nobody came meanwhile and that it stops is one step.
    pub(crate) fn close_if_deserted(self: &Arc<Self>, now: Instant) -> Deserted {
        let mut alarms = Alarms::default();
        let deserted = {
            let mut state = self.state.lock();
            match state.recording.as_ref().and_then(|recording| recording.stops_at()) {
                None => Deserted::No,
                Some(at) if at > now => Deserted::Until(at),
                Some(_) => {
                    self.close_locked(&mut state, End::Stopped, &mut alarms);
                    Deserted::Stopped
                }
            }
        };
        alarms.go_off();
        deserted
    }

    /// How long its jobs go on without a reader.
    pub(crate) fn linger(&self) -> Duration {
        self.state.lock().recording.as_ref().map_or(Duration::ZERO, |recording| recording.linger)
    }

    /// Says that the reader of a plain run left, and what that stopped.
    pub(crate) fn report_leaving(&self, jobs_stopped: u32) {
        let left = self.state.lock().last_left.clone();
        let jobs = if jobs_stopped == 1 { "job" } else { "jobs" };
        match left.as_deref() {
            Some((Leave::Enough, after)) => {
                tracing::info!("reader had enough after response {after}, {jobs_stopped} {jobs} stopped");
            }
            Some((cause, after)) => {
                tracing::warn!("send error: {cause} after response {after}, {jobs_stopped} {jobs} stopped");
            }
            None => {}
        }
    }
}

/// Whether a run goes on without readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deserted {
    /// It has readers, or needs none.
    No,
    /// It is stopped at this time, unless somebody comes.
    Until(Instant),
    /// It was, just now.
    Stopped,
}
