//! A run and its end: what its jobs append, what its reader takes, and the one closing of both. Everything that may
//! race here (the last job's end, a reader's leaving, a deadline, a drain) is decided under one short lock.
//!
//! It knows nothing of how frames look (`journal.rs`) and nothing of transports.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    Budget, Chunk, EmitError, End, Finish, JobError, JobIndex, Leave, Limits, Payload, PayloadKind, Refusal, RunId,
    Sequence,
    frame::{Field, Part, payload_bytes_max},
    journal::{Content, Journal},
};

/// What came of an attempt to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It is in the journal; `sealed` where that filled a block.
    Appended { sealed: bool },
    /// It does not fit one response: it has to be split.
    TooLong,
    /// The window is full: wait for room.
    Full,
    /// The run has ended.
    Closed,
}

/// What a reader is given next.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Responses, in order, each exactly once.
    Chunk(Chunk),
    /// Nothing more will come.
    Finished(Finish),
}

/// One execution of a plan. A plain run lives in memory for its one reader, and ends with it.
pub struct Run {
    id: RunId,
    payload: PayloadKind,
    field: Field,
    limits: Arc<Limits>,
    payload_bytes_max: usize,
    state: Mutex<State>,
    /// Tells the driver that the run was closed by somebody else.
    closed: Notify,
    _permit: RunPermit,
}

struct State {
    journal: Journal,
    end: Option<End>,
    reader: Cursor,
    /// Jobs that wait for room.
    waiting: Vec<Waker>,
    jobs_failed: usize,
}

/// Where the reader is.
struct Cursor {
    /// The next sequence it wants.
    next: Sequence,
    /// The last sequence it wants at all.
    last_wanted: Sequence,
    /// Set while it waits.
    waker: Option<Waker>,
    /// Why it is given no more, although the run had not ended.
    left: Option<Leave>,
    /// It was told the end.
    finished: bool,
}

/// How many responses of [`Emitter::emit_all`] are appended under one lock.
const APPEND_AT_ONCE: usize = 64;

impl Run {
    pub(crate) fn new(
        id: RunId,
        payload: PayloadKind,
        last_wanted: Sequence,
        limits: Arc<Limits>,
        budget: Budget,
        permit: RunPermit,
    ) -> Self {
        let reader = Cursor { next: Sequence(1), last_wanted, waker: None, left: None, finished: false };
        Self {
            id,
            payload,
            field: match payload {
                PayloadKind::Text | PayloadKind::Lossy => Field::Result,
                PayloadKind::Bytes => Field::Data,
            },
            payload_bytes_max: payload_bytes_max(&limits),
            limits,
            state: Mutex::new(State {
                journal: Journal::new(budget),
                end: None,
                reader,
                waiting: Vec::new(),
                jobs_failed: 0,
            }),
            closed: Notify::new(),
            _permit: permit,
        }
    }

    /// This run's name.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// Makes `payload` what this run's kind has.
    #[inline]
    fn check(&self, payload: &mut Payload<'_>) -> Result<(), EmitError> {
        if payload.is_text || self.payload == PayloadKind::Bytes { Ok(()) } else { self.check_text(payload) }
    }

    fn check_text(&self, payload: &mut Payload<'_>) -> Result<(), EmitError> {
        match (std::str::from_utf8(payload.content.as_slice()), self.payload) {
            (Ok(_), _) => payload.is_text = true,
            (Err(_), PayloadKind::Lossy) => {
                *payload = String::from_utf8_lossy(payload.content.as_slice()).into_owned().into();
            }
            (Err(error), _) => return Err(EmitError::NotText { at: error.valid_up_to() }),
        }
        Ok(())
    }

    /// Appends `payload`, or its first part, which is then taken from it.
    #[inline]
    pub(crate) fn append(&self, job: JobIndex, payload: &mut Payload<'_>, part: Part) -> Result<Attempt, EmitError> {
        self.check(payload)?;
        let mut state = self.state.lock();
        if let Some(refused) = self.refuse(&state) {
            return Ok(refused);
        }
        let attempt = if payload.content.as_slice().len() <= self.payload_bytes_max {
            let sealed = state.journal.append(job, self.field, &mut payload.content, part);
            Attempt::Appended { sealed }
        } else {
            let mut first = self.split_first(payload);
            state.journal.append(job, self.field, &mut first, Part::GoesOn);
            Attempt::TooLong
        };
        let waker = state.reader.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(attempt)
    }

    /// Appends from the front of `payloads` under one lock, and says how many and what stopped it there.
    pub(crate) fn append_many<P>(&self, job: JobIndex, payloads: &[P]) -> Result<(usize, Attempt), EmitError>
    where
        for<'a> &'a P: Into<Payload<'a>>,
    {
        let mut state = self.state.lock();
        let mut any_sealed = false;
        let mut taken = 0;
        let mut outcome = Ok(None);
        for payload in payloads.iter().take(APPEND_AT_ONCE) {
            if let Some(refused) = self.refuse(&state) {
                outcome = Ok(Some(refused));
                break;
            }
            let mut payload = payload.into();
            if let Err(error) = self.check(&mut payload) {
                outcome = Err(error);
                break;
            }
            if payload.content.as_slice().len() > self.payload_bytes_max {
                outcome = Ok(Some(Attempt::TooLong));
                break;
            }
            any_sealed |= state.journal.append(job, self.field, &mut payload.content, Part::Last);
            taken += 1;
        }
        let waker = if taken > 0 { state.reader.waker.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        outcome.map(|stopped| (taken, stopped.unwrap_or(Attempt::Appended { sealed: any_sealed })))
    }

    /// Resolves when there is room in the window, or the run was closed.
    pub(crate) async fn room(&self) {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            if state.end.is_some() || state.journal.has_room(&self.limits) {
                return Poll::Ready(());
            }
            // All of them are woken together, so the list never outgrows the tasks that wait.
            if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    #[inline]
    fn refuse(&self, state: &State) -> Option<Attempt> {
        if state.end.is_some() {
            Some(Attempt::Closed)
        } else if !state.journal.has_room(&self.limits) {
            Some(Attempt::Full)
        } else {
            None
        }
    }

    /// Takes as much from the front of `payload` as one response holds, text between characters.
    fn split_first<'a>(&self, payload: &mut Payload<'a>) -> Content<'a> {
        let mut at = self.payload_bytes_max;
        if self.payload != PayloadKind::Bytes {
            // Checked to be UTF-8: a character starts within the last four bytes.
            while payload.content.as_slice()[at] & 0xc0 == 0x80 {
                at -= 1;
            }
        }
        match &mut payload.content {
            Content::Borrowed(bytes) => {
                let (first, rest) = bytes.split_at(at);
                *bytes = rest;
                Content::Borrowed(first)
            }
            Content::Shared(bytes) => Content::Shared(bytes.split_to(at)),
        }
    }

    /// The next thing for the reader.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Delivery> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let reader = &mut state.reader;
        if reader.left.is_none()
            && let Some(chunk) = state.journal.take(reader.next, reader.last_wanted)
        {
            reader.next = Sequence(chunk.last().0 + 1);
            if reader.next > reader.last_wanted && state.end.is_none() {
                // At once, not when the end is asked for: the work is no longer needed from here on.
                let left = state.leave(Leave::Enough);
                drop(guard);
                self.left(left);
            } else if !state.waiting.is_empty() && state.journal.has_half_room(&self.limits) {
                let waiting = std::mem::take(&mut state.waiting);
                drop(guard);
                waiting.into_iter().for_each(Waker::wake);
            }
            return Poll::Ready(Delivery::Chunk(chunk));
        }
        let given_all = reader.next > state.journal.last();
        if reader.left.is_some() || (state.end.is_some() && (given_all || reader.next > reader.last_wanted)) {
            reader.finished = true;
            let end = if reader.left.is_none() && given_all { state.end.clone() } else { None };
            return Poll::Ready(Delivery::Finished(Finish {
                last_sequence: Sequence(reader.next.0 - 1),
                end,
                jobs_failed: state.jobs_failed,
                left: reader.left,
            }));
        }
        match &mut reader.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// The reader leaves, for the first cause given. A plain run ends with it.
    pub(crate) fn leave(&self, cause: Leave) {
        let left = self.state.lock().leave(cause);
        self.left(left);
    }

    /// Stops what a reader that left no longer needs.
    fn left(&self, left: Option<Left>) {
        let Some(Left { jobs_under_way, wakers }) = left else { return };
        if jobs_under_way {
            // The driver stops them, and knows how many.
            self.closed.notify_one();
        } else {
            self.report_leaving(0);
        }
        wakers.wake();
    }

    /// Resolves when somebody else than the driver closed the run.
    pub(crate) async fn closed(&self) {
        self.closed.notified().await;
    }

    /// Says that the reader left, and what that stopped.
    pub(crate) fn report_leaving(&self, jobs_stopped: usize) {
        let (left, after) = {
            let state = self.state.lock();
            (state.reader.left, state.reader.next.0 - 1)
        };
        let jobs = if jobs_stopped == 1 { "job" } else { "jobs" };
        match left {
            Some(Leave::Enough) => {
                tracing::info!("reader had enough after response {after}, {jobs_stopped} {jobs} stopped");
            }
            Some(cause) => {
                tracing::warn!("send error: {cause} after response {after}, {jobs_stopped} {jobs} stopped");
            }
            None => {}
        }
    }

    /// Ends the run, unless it had ended before; says whether this did.
    pub(crate) fn close(&self, end: End) -> bool {
        let mut state = self.state.lock();
        let first = state.end.is_none();
        let wakers = state.close(end);
        drop(state);
        wakers.wake();
        first
    }

    /// Records how a job ended; an error becomes a response in its place.
    pub(crate) fn job_ended(&self, job: JobIndex, outcome: Result<(), JobError>) -> Option<JobError> {
        let Err(error) = outcome else {
            tracing::info!("finishing request number : {job}");
            return None;
        };
        let error = error.bounded(self.limits.error_bytes_max);
        let mut state = self.state.lock();
        if state.end.is_some() {
            // It failed because the run was closed, or too late to be told.
            return None;
        }
        state.jobs_failed += 1;
        state.journal.append_error(job, &error);
        let waker = state.reader.waker.take();
        drop(state);
        tracing::warn!("request number : {job} failed: {error}");
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(error)
    }
}

impl State {
    fn leave(&mut self, cause: Leave) -> Option<Left> {
        if self.reader.left.is_some() || self.reader.finished {
            return None;
        }
        self.reader.left = Some(cause);
        self.journal.discard();
        Some(Left { jobs_under_way: self.end.is_none(), wakers: self.close(End::Stopped) })
    }

    fn close(&mut self, end: End) -> Wakers {
        if self.end.is_none() {
            self.end = Some(end);
        }
        Wakers { reader: self.reader.waker.take(), jobs: std::mem::take(&mut self.waiting) }
    }
}

/// What a reader's leaving changed.
struct Left {
    jobs_under_way: bool,
    wakers: Wakers,
}

/// Whom to wake once the lock is gone.
#[must_use]
struct Wakers {
    reader: Option<Waker>,
    jobs: Vec<Waker>,
}

impl Wakers {
    fn wake(self) {
        self.reader.into_iter().chain(self.jobs).for_each(Waker::wake);
    }
}

/// A place among the runs alive; given back when the run is dropped.
pub(crate) struct RunPermit(Arc<AtomicUsize>);

impl RunPermit {
    pub(crate) fn acquire(runs: &Arc<AtomicUsize>, max: usize) -> Result<Self, Refusal> {
        let permit = Self(runs.clone());
        if runs.fetch_add(1, Ordering::Relaxed) >= max {
            return Err(Refusal::Exhausted { what: "the limit on runs alive at once", max });
        }
        Ok(permit)
    }
}

impl Drop for RunPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
