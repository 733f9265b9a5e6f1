//! What jobs do to a run: they append, wait for room, and end. HOT, once per response.

use std::{future::poll_fn, sync::Arc, task::Poll};

use super::{Run, State, record::Repeat};
use crate::{
    Code, End, JobError, JobIndex, Payload, PayloadKind, Record, bell::Alarm, frame::Part, journal::Content,
    payload::NotText,
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

/// How many responses of [`Emitter::emit_all`](crate::Emitter::emit_all) are appended under one lock.
pub(crate) const APPEND_AT_ONCE: usize = 64;

impl Run {
    /// Makes `payload` what this run's kind has.
    #[inline]
    fn check(&self, payload: &mut Payload<'_>) -> Result<(), NotText> {
        if payload.is_text || self.payload == PayloadKind::Bytes { Ok(()) } else { self.check_text(payload) }
    }

    fn check_text(&self, payload: &mut Payload<'_>) -> Result<(), NotText> {
        match (std::str::from_utf8(payload.content.as_slice()), self.payload) {
            (Ok(_), _) => payload.is_text = true,
            (Err(_), PayloadKind::Lossy) => {
                *payload = String::from_utf8_lossy(payload.content.as_slice()).into_owned().into();
            }
            (Err(error), _) => return Err(NotText { at: error.valid_up_to() }),
        }
        Ok(())
    }

    /// Appends `payload`, or its first part, which is then taken from it.
    #[inline]
    pub(crate) fn append(
        self: &Arc<Self>,
        job: JobIndex,
        payload: &mut Payload<'_>,
        part: Part,
    ) -> Result<Attempt, NotText> {
        self.check(payload)?;
        let mut state = self.state.lock();
        if let Some(refused) = self.refuse(&state) {
            return Ok(refused);
        }
        let attempt = if payload.content.as_slice().len() <= self.payload_bytes_max {
            self.write(&mut state, job, &mut payload.content, part)
        } else {
            let mut first = self.split_first(payload);
            match self.write(&mut state, job, &mut first, Part::GoesOn) {
                Attempt::Appended { .. } => Attempt::TooLong,
                refused => refused,
            }
        };
        let alarm = self.announce(&mut state);
        drop(state);
        if let Some(alarm) = alarm {
            alarm.wake();
        }
        Ok(attempt)
    }

    /// Appends from the front of `payloads` under one lock, and says how many and what stopped it there.
    pub(crate) fn append_many<P>(self: &Arc<Self>, job: JobIndex, payloads: &[P]) -> Result<(usize, Attempt), NotText>
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
            match self.write(&mut state, job, &mut payload.content, Part::Last) {
                Attempt::Appended { sealed } => any_sealed |= sealed,
                refused => {
                    outcome = Ok(Some(refused));
                    break;
                }
            }
            taken += 1;
        }
        let alarm = if taken > 0 || state.is_closed { self.announce(&mut state) } else { None };
        drop(state);
        if let Some(alarm) = alarm {
            alarm.wake();
        }
        outcome.map(|stopped| (taken, stopped.unwrap_or(Attempt::Appended { sealed: any_sealed })))
    }

    /// Appends one response, or checks it off where it was journaled before a restart; refuses what would be more than
    /// the run may have, and ends the run.
    #[inline]
    fn write(self: &Arc<Self>, state: &mut State, job: JobIndex, content: &mut Content<'_>, part: Part) -> Attempt {
        if let Some(recording) = &mut state.recording
            && let Some(repeat) = recording.repeat(job, content.as_slice(), part)
        {
            if repeat == Repeat::Differs {
                self.interrupt(state, job);
            }
            // Already there, with its number. Another turn for others, as if it had filled a block.
            return Attempt::Appended { sealed: true };
        }
        let Some(left) = state.output.left.checked_sub(content.as_slice().len() as u64) else {
            self.end_too_long(state);
            return Attempt::Closed;
        };
        state.output.left = left;
        Attempt::Appended { sealed: state.journal.append(job, self.field, content, part) }
    }

    /// Ends the run because its jobs emit more than their plan allows.
    #[cold]
    fn end_too_long(self: &Arc<Self>, state: &mut State) {
        state.is_closed = true;
        let max = state.output.max;
        let reason =
            format_args!("the run reached its source's output_limit ({max} bytes); ask for less, or raise it");
        state.end = Some(Box::new(End::Failed(JobError::new(Code::ResourceExhausted, reason))));
        self.tell_driver();
    }

    /// Ends the run because a job that is done again does not do the same.
    #[cold]
    fn interrupt(self: &Arc<Self>, state: &mut State, job: JobIndex) {
        state.is_closed = true;
        let reason = "was begun again after a restart, and what it emits is not what it had emitted before";
        state.end = Some(Box::new(End::Interrupted(format!("job {job} {reason}"))));
        self.enqueue(state);
        self.tell_driver();
    }

    /// Has what was appended seen: by the reader of a plain run at once, by others once it is durable.
    #[inline]
    fn announce(self: &Arc<Self>, state: &mut State) -> Option<Alarm> {
        if state.recording.is_none() {
            // The one reader it has.
            return state.readers.get_mut(0).and_then(|reader| reader.alarm.take());
        }
        self.enqueue(state);
        None
    }

    /// Resolves when there is room in the window, or the run was closed.
    pub(crate) async fn room(&self) {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            if state.is_closed || state.journal.has_room(&self.limits) {
                return Poll::Ready(());
            }
            // All of them are woken together, so the list never outgrows the tasks that wait.
            if !state.waiting.iter().any(|alarm| alarm.is_for(cx.waker())) {
                // A commit wakes the jobs of many runs, and rings for them together. In a plain run its reader wakes them where
                // it takes what is there; a bell would have them wait until all else has had its turn.
                let is_plain = state.recording.is_none();
                state.waiting.push(if is_plain { Alarm::alone(cx.waker()) } else { Alarm::new(cx.waker()) });
            }
            Poll::Pending
        })
        .await;
    }

    #[inline]
    fn refuse(&self, state: &State) -> Option<Attempt> {
        if state.is_closed {
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

    /// Records how a job ended; an error becomes a response in its place.
    pub(crate) fn job_ended(self: &Arc<Self>, job: JobIndex, outcome: Result<(), JobError>) -> Option<JobError> {
        let mut state = self.state.lock();
        if state.is_closed {
            // It failed because the run was closed, or too late to be told.
            if outcome.is_ok() {
                tracing::info!("finishing request number : {job}");
            }
            return None;
        }
        if state.recording.as_ref().is_some_and(|recording| recording.is_repeating(job)) {
            self.interrupt(&mut state, job);
            return None;
        }
        let error = outcome.err().map(|error| error.bounded(self.limits.error_bytes_max));
        if let Some(error) = &error {
            state.jobs_failed += 1;
            state.journal.append_error(job, error);
        }
        if let Some(recording) = &mut state.recording {
            recording.after.push(Record::JobEnded(job, error.clone()));
        }
        let alarm = if error.is_some() || state.recording.is_some() { self.announce(&mut state) } else { None };
        drop(state);
        if let Some(alarm) = alarm {
            alarm.wake();
        }
        match &error {
            None => tracing::info!("finishing request number : {job}"),
            Some(error) => tracing::warn!("request number : {job} failed: {error}"),
        }
        error
    }
}
