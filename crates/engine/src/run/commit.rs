//! A run's way through the committer: what it gives to be made durable, and what changes when that is, or when nobody is to
//! wait for it any more. It knows records and the run's state, not who reads it.

use std::{mem, sync::Arc, time::Duration};

use super::{Run, State, record::Recording, wake};
use crate::{Code, End, Ended, JobError, Record, RunId, Timestamp, bell::Alarms, committer::Item};

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
    /// It was given up before anything of it was in the store.
    Dropped,
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

    /// Gives what is to be made durable, in order; says how many bytes of frames that are. What the store refused is
    /// given again, and nothing else with it: of a run that a failing store keeps waiting there is that, and what its
    /// jobs write until their window is full.
    pub(crate) fn gather(
        &self,
        wanted: Gather,
        now: (Timestamp, Duration),
        alarms: &mut Alarms,
        records: &mut Vec<(RunId, Record)>,
    ) -> usize {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(recording) = &mut state.recording else { return 0 };
        if recording.is_dropped() {
            recording.in_flight.clear();
            recording.before.clear();
            return 0;
        }
        if wanted == Gather::Stops {
            if state.end.as_deref() != Some(&End::Stopped) || recording.is_ended || !recording.is_started {
                return 0;
            }
            Self::drop_unseen(state);
        }
        if state.recording.as_ref().is_some_and(|recording| recording.in_flight.is_empty()) {
            self.take(state, now, alarms);
        }
        let Some(recording) = &state.recording else { return 0 };
        records.extend(recording.in_flight.iter().map(|record| (self.id, record.clone())));
        let bytes = |record: &Record| if let Record::Frames(chunk) = record { chunk.len() } else { 0 };
        recording.in_flight.iter().map(bytes).sum()
    }

    /// Takes everything that is not in the store.
    fn take(&self, state: &mut State, (now, in_service): (Timestamp, Duration), alarms: &mut Alarms) {
        let Some(recording) = &mut state.recording else { return };
        recording.in_flight = mem::take(&mut recording.before);
        if !state.journal.is_empty() {
            let mut dropped = None;
            for chunk in state.journal.gather() {
                dropped = recording.count(&chunk).or(dropped);
                recording.in_flight.push(Record::Frames(chunk));
            }
            recording.in_flight.extend(dropped.map(Record::HeadDropped));
            wake(&mut state.waiting, alarms);
            if recording.bytes > self.limits.run_bytes_max && !recording.is_endless() && !state.is_closed {
                state.is_closed = true;
                state.end = Some(Box::new(End::Failed(self.too_long())));
                self.tell_driver();
            }
        }
        // With its place: a job ends seldom.
        recording.in_flight.append(&mut mem::take(&mut recording.after));
        if let Some(end) = &state.end
            && !recording.end_is_recorded
        {
            recording.end_is_recorded = true;
            let ended = Ended { end: (**end).clone(), jobs_failed: state.jobs_failed, at: now, in_service };
            recording.in_flight.push(Record::Ended(ended));
        }
    }

    /// Drops what is not durable of a run that was stopped. What nobody saw, nobody misses; but an error whose response
    /// is dropped was none.
    #[cold]
    fn drop_unseen(state: &mut State) {
        let Some(recording) = &mut state.recording else { return };
        let unseen = recording.in_flight.iter().chain(&recording.after);
        let failures = unseen.filter(|record| matches!(record, Record::JobEnded(_, Some(_)))).count();
        state.jobs_failed -= failures as u32;
        recording.in_flight.clear();
        recording.before.clear();
        recording.after.clear();
        // With the number of failures that is left.
        recording.end_is_recorded = false;
        state.journal.gather().for_each(drop);
        // Who waits for something of that waits in vain.
        recording.tell_others();
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
                Record::KeyBound(_) | Record::LingerRaised(_) => others_wait = true,
                Record::JobEnded(..) | Record::Deleted => {}
            }
        }
        if recording.is_dropped() {
            // It stays queued, so that nothing queues it again.
            return Committed::Dropped;
        }
        recording.window.trim(self.limits.live_bytes_max(state.journal.budget()));
        if recording.visible > seen || recording.is_ended {
            // One that is behind has enough to do.
            let waiting = state.readers.iter_mut().filter(|(_, reader)| reader.is_live || recording.is_ended);
            waiting.for_each(|(_, reader)| reader.sound(alarms));
        }
        if others_wait {
            recording.tell_others();
        }
        let is_more = !recording.before.is_empty()
            || !recording.after.is_empty()
            || !state.journal.is_empty()
            || (state.end.is_some() && !recording.end_is_recorded);
        recording.is_queued = is_more;
        if is_more {
            recording.queue.push(Item::Run(self.clone()));
        }
        if recording.is_ended && recording.attached == 0 { Committed::Over } else { Committed::UnderWay }
    }

    /// Gives up a run that is not durable after a request waited for that long enough. Whoever else waits for it is
    /// refused, too. Says whether it is given up, by this request or by another.
    pub(crate) fn abandon(self: &Arc<Self>) -> bool {
        let mut alarms = Alarms::default();
        {
            let mut state = self.state.lock();
            let Some(recording) = &mut state.recording else { return false };
            if recording.is_started && !recording.is_abandoned {
                return false;
            }
            recording.is_abandoned = true;
            recording.tell_others();
            self.close_locked(&mut state, End::Stopped, &mut alarms);
        }
        alarms.go_off();
        true
    }

    /// Whether it was given up: nobody is to find it.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.state.lock().recording.as_ref().is_some_and(|recording| recording.is_abandoned)
    }

    /// Whether it was stopped and only its end is on its way into the store.
    pub(crate) fn is_stopping(&self) -> bool {
        let state = self.state.lock();
        let stopped = state.end.as_deref() == Some(&End::Stopped);
        let ends = |recording: &Recording| matches!(recording.in_flight[..], [Record::Ended(_)]);
        stopped && state.recording.as_ref().is_some_and(|recording| ends(recording))
    }

    /// Whether its end is durable and nobody reads it.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.recording.as_ref().is_some_and(|recording| recording.is_ended && recording.attached == 0)
    }
}
