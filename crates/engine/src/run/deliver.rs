//! What readers do to a run: they come, take everything that is ready in one chunk, fall behind, and leave. HOT, once per
//! chunk.

use std::{
    num::NonZeroU64,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::{Run, State, wake};
use crate::{
    Chunk, End, Finish, Leave, Limits, Record, Refusal, Sequence,
    bell::{Alarm, Alarms, Neighbours},
};

/// What a reader is given next.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Responses, in order, each exactly once.
    Chunk(Chunk),
    /// Nothing more will come.
    Finished(Finish),
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// Behind this sequence.
    After(Sequence),
    /// With the last so many responses.
    Last(u64),
}

/// A reader's place among those of its run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attached {
    key: u32,
    number: u32,
}

impl Attached {
    fn key(self) -> usize {
        self.key as usize
    }
}

/// What a reader's next step is.
pub(crate) enum Next {
    /// It is given this.
    Delivery(Delivery),
    /// What it wants, from `next` up to `visible`, is in the store and no longer here.
    Behind { next: Sequence, visible: Sequence },
}

/// Where a reader is.
pub(super) struct Cursor {
    /// Tells readers apart that had the same key one after the other.
    number: u32,
    /// Whom it is woken with.
    neighbours: Neighbours,
    /// The next sequence it wants.
    next: Sequence,
    /// The last sequence it wants at all.
    last_wanted: Sequence,
    /// Set while it waits.
    pub(super) alarm: Option<Alarm>,
    /// Why it is given no more, although it had not been told the end. Boxed, since most readers are told the end.
    left: Option<Box<Leave>>,
    /// It was told the end.
    finished: bool,
    /// It is counted in the window of a journaled run.
    pub(super) is_live: bool,
    /// It asked for no certain place, and was given nothing yet: where the head is dropped before it begins, it begins
    /// behind that.
    moves_with_head: bool,
}

impl Cursor {
    /// Has it woken, if it waits.
    #[inline]
    pub(super) fn sound(&mut self, alarms: &mut Alarms) {
        if let Some(alarm) = self.alarm.take() {
            alarms.add(self.neighbours, alarm);
        }
    }

    fn waits(&mut self, alarm: impl FnOnce() -> Alarm, cx: &Context<'_>) {
        if !self.alarm.as_ref().is_some_and(|alarm| alarm.is_for(cx.waker())) {
            self.alarm = Some(alarm());
        }
    }
}

impl Run {
    /// One more reader, which wants at most `limit` responses; `linger` may raise how long the run goes on without any.
    ///
    /// # Errors
    /// Where nothing can begin at `from`.
    pub(crate) fn attach(
        self: &Arc<Self>,
        from: From,
        limit: Option<NonZeroU64>,
        linger: Option<Duration>,
    ) -> Result<Attached, Refusal> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let after = match &state.recording {
            None => Sequence::NONE,
            Some(recording) => recording.begin_at(from)?,
        };
        if state.readers.len() >= self.limits.readers_max {
            return Err(Refusal::Exhausted { what: "the limit on readers of one run", max: self.limits.readers_max });
        }
        let number = state.readers_ever;
        state.readers_ever = number.wrapping_add(1);
        let key = state.readers.insert(Cursor {
            number,
            neighbours: Neighbours::default(),
            next: Sequence(after.0 + 1),
            last_wanted: Sequence(limit.map_or(u64::MAX, |limit| after.0.saturating_add(limit.get()))),
            alarm: None,
            left: None,
            finished: false,
            is_live: false,
            moves_with_head: from == From::After(Sequence::NONE) || matches!(from, From::Last(_)),
        });
        let mut is_raised = false;
        if let Some(recording) = &mut state.recording {
            recording.attached += 1;
            recording.deserted_at = None;
            if let Some(linger) = linger.filter(|linger| *linger > recording.linger && !state.is_closed) {
                recording.linger = linger;
                // One that waits for the store is not joined by others.
                recording.before.retain(|record| !matches!(record, Record::LingerRaised(_)));
                recording.before.push(Record::LingerRaised(linger));
                is_raised = true;
            }
        }
        if is_raised {
            self.enqueue(state);
        }
        Ok(Attached { key: key as u32, number })
    }

    /// Has the reader woken next to its neighbours.
    pub(crate) fn seat(&self, place: Attached, neighbours: Neighbours) {
        self.state.lock().readers[place.key()].neighbours = neighbours;
    }

    /// Readers attached now.
    pub(crate) fn readers(&self) -> usize {
        let state = self.state.lock();
        state.recording.as_ref().map_or(state.readers.len(), |recording| recording.attached as usize)
    }

    /// The next thing for the reader.
    pub(crate) fn poll_next(self: &Arc<Self>, place: Attached, cx: &mut Context<'_>) -> Poll<Next> {
        let mut state = self.state.lock();
        if state.recording.is_some() {
            return self.poll_durable(&mut state, place, cx);
        }
        let reader = &mut state.readers[place.key()];
        let (next, last_wanted) = (reader.next, reader.last_wanted);
        if reader.left.is_none()
            && let Some(chunk) = state.journal.take(next, last_wanted)
        {
            let mut alarms = Alarms::default();
            self.pass(&mut state, place, chunk.last(), &mut alarms);
            if !state.waiting.is_empty() && state.journal.has_half_room(&self.limits) {
                wake(&mut state.waiting, &mut alarms);
            }
            drop(state);
            alarms.go_off();
            return Poll::Ready(Next::Delivery(Delivery::Chunk(chunk)));
        }
        let last = state.journal.last();
        if let Some(finish) = Self::finish(&mut state, place, last, true) {
            return Poll::Ready(Next::Delivery(finish));
        }
        state.readers[place.key()].waits(|| Alarm::alone(cx.waker()), cx);
        Poll::Pending
    }

    /// The same for a run of which only what is durable is seen.
    fn poll_durable(self: &Arc<Self>, state: &mut State, place: Attached, cx: &Context<'_>) -> Poll<Next> {
        let reader = &mut state.readers[place.key()];
        let recording = state.recording.as_mut().expect("the caller saw it");
        let (next, visible) = (reader.next, recording.visible);
        if reader.left.is_none() && next <= reader.last_wanted {
            let serves = recording.window.serves(next, visible);
            match (reader.is_live, serves) {
                (true, false) => {
                    recording.live -= 1;
                    recording.window.leave(next);
                }
                (false, true) => {
                    recording.live += 1;
                    recording.window.enter(next);
                }
                _ => {}
            }
            reader.is_live = serves;
            if !serves {
                // Nothing new wakes it, but whoever ends its stream does.
                reader.waits(|| Alarm::new(cx.waker()), cx);
                return Poll::Ready(Next::Behind { next, visible });
            }
            if let Some(chunk) = recording.window.take(next, reader.last_wanted) {
                self.pass(state, place, chunk.last(), &mut Alarms::default());
                return Poll::Ready(Next::Delivery(Delivery::Chunk(chunk)));
            }
        }
        let is_told = recording.is_ended;
        if let Some(finish) = Self::finish(state, place, visible, is_told) {
            return Poll::Ready(Next::Delivery(finish));
        }
        state.readers[place.key()].waits(|| Alarm::new(cx.waker()), cx);
        Poll::Pending
    }

    /// The end, where there is one for this reader; `last` is the last response that anybody sees.
    fn finish(state: &mut State, place: Attached, last: Sequence, end_is_told: bool) -> Option<Delivery> {
        let end = state.end.as_deref().filter(|_| end_is_told);
        let reader = &mut state.readers[place.key()];
        let given_all = reader.next > last;
        if reader.left.is_none() && !(end.is_some() && (given_all || reader.next > reader.last_wanted)) {
            return None;
        }
        reader.finished = true;
        let end = if reader.left.is_none() && given_all { end.cloned() } else { None };
        Some(Delivery::Finished(Finish {
            last_sequence: Sequence(reader.next.0 - 1),
            end,
            jobs_failed: state.jobs_failed,
            left: reader.left.as_deref().cloned(),
        }))
    }

    /// The reader was given all up to `last` from the store.
    pub(crate) fn passed(self: &Arc<Self>, place: Attached, last: Sequence) {
        let mut alarms = Alarms::default();
        self.pass(&mut self.state.lock(), place, last, &mut alarms);
        alarms.go_off();
    }

    /// How much a reader still wants.
    pub(crate) fn last_wanted(&self, place: Attached) -> Sequence {
        self.state.lock().readers[place.key()].last_wanted
    }

    fn pass(self: &Arc<Self>, state: &mut State, place: Attached, last: Sequence, alarms: &mut Alarms) {
        let end_is_told = state.recording.as_ref().map_or(state.end.is_some(), |recording| recording.is_ended);
        let reader = &mut state.readers[place.key()];
        reader.next = Sequence(last.0 + 1);
        reader.moves_with_head = false;
        if reader.next > reader.last_wanted && !end_is_told {
            // At once, not when the end is asked for: the work is no longer needed from here on.
            self.leave_locked(state, place, Leave::Enough, alarms);
        }
    }

    /// The reader leaves, for the first cause given. A plain run ends with it.
    pub(crate) fn leave(self: &Arc<Self>, place: Attached, cause: Leave) {
        let mut alarms = Alarms::default();
        self.leave_locked(&mut self.state.lock(), place, cause, &mut alarms);
        alarms.go_off();
    }

    /// All readers leave, since what they wait for cannot be made durable.
    pub(crate) fn cut(self: &Arc<Self>, cause: &Leave) {
        let mut alarms = Alarms::default();
        {
            let mut state = self.state.lock();
            let readers = state.readers.iter();
            let places: Vec<_> =
                readers.map(|(key, reader)| Attached { key: key as u32, number: reader.number }).collect();
            for place in places {
                self.leave_locked(&mut state, place, cause.clone(), &mut alarms);
            }
        }
        alarms.go_off();
    }

    fn leave_locked(self: &Arc<Self>, state: &mut State, place: Attached, cause: Leave, alarms: &mut Alarms) {
        let reader = state.readers.get_mut(place.key());
        let Some(reader) = reader.filter(|reader| reader.number == place.number) else { return };
        if reader.left.is_some() || reader.finished {
            return;
        }
        let (next, after) = (reader.next, reader.next.0 - 1);
        reader.left = Some(Box::new(cause.clone()));
        reader.sound(alarms);
        let was_live = std::mem::take(&mut reader.is_live);
        let Some(recording) = &mut state.recording else {
            state.last_left = Some(Box::new((cause, after)));
            state.journal.discard();
            if self.close_locked(state, End::Stopped, alarms) {
                // The driver stops its jobs, and knows how many.
                self.tell_driver();
            }
            return;
        };
        if was_live {
            recording.live -= 1;
            recording.window.leave(next);
        }
        recording.attached -= 1;
        if recording.attached == 0 && !state.is_closed {
            recording.deserted_at = Some(Instant::now());
            self.tell_driver();
        }
        let goes_on = match (state.is_closed, recording.attached) {
            (true, _) if state.end.is_some() => "the run has ended".to_owned(),
            (true, _) => "the run goes on after a restart".to_owned(),
            (false, 0) => format!("the run goes on for {:?}", recording.linger),
            (false, others) => format!("the run goes on for {others} others"),
        };
        match cause {
            Leave::Enough => tracing::info!("reader had enough after response {after}, {goes_on}"),
            cause => tracing::warn!("send error: {cause} after response {after}, {goes_on}"),
        }
    }

    /// Why what a reader wants at `next` is not in the store.
    pub(crate) fn missing(&self, next: Sequence) -> Leave {
        match &self.state.lock().recording {
            Some(recording) if next < recording.head() => Leave::HeadDropped(recording.head()),
            _ => Leave::Damaged(format!("response {next} of run {} is not there", self.id)),
        }
    }

    /// Has a reader begin at `head` that wants to begin where that is; says whether it does.
    pub(crate) fn begin_at_head(&self, place: Attached, head: Sequence) -> bool {
        let mut state = self.state.lock();
        let reader = &mut state.readers[place.key()];
        if !reader.moves_with_head || reader.left.is_some() {
            return false;
        }
        let moved = head.0 - reader.next.0;
        reader.next = head;
        reader.last_wanted = Sequence(reader.last_wanted.0.saturating_add(moved));
        true
    }

    /// `chunk`, counted in the byte budget until the transport lets it go.
    pub(crate) fn paid(&self, chunk: Chunk) -> Chunk {
        chunk.paid_from(self.state.lock().journal.budget())
    }

    /// How many bytes a reader of the store may read at once, at the most.
    pub(crate) fn read_bytes_max(&self) -> usize {
        let has_room = self.state.lock().journal.budget().has_room();
        if has_room { self.limits.read_bytes } else { Limits::BLOCK_BYTES }
    }

    /// The reader is dropped.
    pub(crate) fn detach(self: &Arc<Self>, place: Attached) {
        let mut alarms = Alarms::default();
        {
            let mut state = self.state.lock();
            self.leave_locked(&mut state, place, Leave::Gone, &mut alarms);
            let reader = state.readers.remove(place.key());
            if let Some(recording) = &mut state.recording {
                if reader.left.is_none() {
                    // It was told the end, and so had not left.
                    recording.attached -= 1;
                    if reader.is_live {
                        recording.live -= 1;
                        recording.window.leave(reader.next);
                    }
                }
                if recording.is_ended && recording.attached == 0 {
                    recording.forget(self.id);
                }
            }
        }
        alarms.go_off();
    }
}
