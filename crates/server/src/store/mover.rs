//! How runs leave the live journal: what has ended, and what holds back its oldest segment, moves to the archive, and what
//! was deleted is deleted there, too. It owns when that is done and how much at once. It runs beside commits and readers.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use outflow_engine::{Key, RunId, StoreError};

use crate::memory;

use super::{
    archive::{Archive, Moved},
    embedded::{MOVED_BYTES, Shared, Workers, to_move},
    log::{Doomed, Index, Snapshot, Unread},
};

/// After so long without a commit, what has ended leaves the journal.
const QUIET: Duration = Duration::from_secs(5);
/// After so long without a look at the archive, it holds no memory.
const IDLE: Duration = Duration::from_secs(20);
/// How long the moving thread leaves a failing archive alone.
const RETRY: Duration = Duration::from_secs(1);
/// Runs that one transaction takes.
const MOVED_RUNS: usize = 1_024;
/// A full archive is given less at once, by so much, down to this share of [`MOVED_BYTES`] and [`MOVED_RUNS`]: it may have
/// room for that.
const LESS: usize = 4;
const SHARE_MIN: usize = 64;
/// Runs that one transaction deletes.
const DELETED_RUNS: usize = 256;

/// What the moving thread is to do.
pub(super) struct Work {
    committed: Instant,
    /// After so long without a commit, what has ended leaves the journal.
    quiet: Duration,
    /// There is something to do now.
    is_wanted: bool,
    /// Runs of which the disk did not read something, and since when.
    unread: HashMap<RunId, Instant>,
    /// How often something was moved, or deleted from the archive.
    done: u64,
    /// Which share of what one transaction takes is moved at once.
    pub(super) share: usize,
    /// How often that failed, and why it did the last time.
    failures: u64,
    failure: String,
    pub(super) is_stopped: bool,
}

impl Work {
    pub(super) fn new(workers: Workers) -> Self {
        let quiet = if workers == Workers::Threads { QUIET } else { Duration::ZERO };
        Self {
            committed: Instant::now(),
            quiet,
            is_wanted: false,
            unread: HashMap::new(),
            done: 0,
            share: 1,
            failures: 0,
            failure: String::new(),
            is_stopped: false,
        }
    }

    fn is_quiet(&self) -> bool {
        self.committed.elapsed() >= self.quiet
    }
}

impl Shared {
    /// Notes that something was committed.
    pub(super) fn committed(&self) {
        let is_wanted = self.is_wanted();
        self.work.lock().committed = Instant::now();
        if is_wanted {
            self.wake_mover();
        }
    }

    /// Lets the moving thread look what there is to do.
    pub(super) fn wake_mover(&self) {
        let mut work = self.work.lock();
        if !work.is_wanted {
            work.is_wanted = true;
            self.changed.notify_all();
        }
    }

    /// Whether there is something to do that does not wait for a quiet time: so much of the journal is used that the
    /// oldest of it has to move, or something was deleted, which counts until the archive has deleted it.
    fn is_wanted(&self) -> bool {
        let index = self.index.lock();
        index.is_anything_doomed() || self.is_pressed(&index)
    }

    fn is_pressed(&self, index: &Index) -> bool {
        index.segments() * 2 > self.log.segments_max() || self.log.is_short() || self.is_large(index)
    }

    /// Whether the index takes so much that what has ended has to leave it.
    fn is_large(&self, index: &Index) -> bool {
        index.memory_to_move() * 2 > self.index_bytes
    }

    /// Waits until the index takes no more than it may: small runs that ended take more of it than of the journal. It is
    /// called by who commits, who borrows the store: the mover is not stopped meanwhile. No lock is held.
    ///
    /// # Errors
    /// [`StoreError::Full`] as soon as the archive refuses, or where it does not take enough in time. Worth another try.
    pub(super) fn await_memory(&self) -> Result<(), StoreError> {
        if self.index.lock().memory_to_move() <= self.index_bytes {
            return Ok(());
        }
        let until = Instant::now() + self.patience;
        let failures = self.work.lock().failures;
        loop {
            // Before it is looked: what is done from now on is another time.
            let done = self.work.lock().done;
            let bytes = self.index.lock().memory_to_move();
            if bytes <= self.index_bytes {
                return Ok(());
            }
            self.wake_mover();
            let mut work = self.work.lock();
            while work.done == done {
                let why = if work.failures > failures {
                    work.failure.clone()
                } else if self.changed.wait_until(&mut work, until).timed_out() && work.done == done {
                    format!("it did not take enough of that within {:?}", self.patience)
                } else {
                    continue;
                };
                return Err(StoreError::Full(format!(
                    "what is known of the live journal takes {bytes} bytes of memory and may take {}, and has to wait for the \
                     archive: {why}; try again",
                    self.index_bytes,
                )));
            }
        }
    }

    /// Moves what has to, until stopped.
    pub(super) fn move_until_stopped(&self) {
        loop {
            let is_quiet = {
                let mut work = self.work.lock();
                while !work.is_stopped && !work.is_wanted && work.committed.elapsed() < work.quiet {
                    let rest = work.quiet.saturating_sub(work.committed.elapsed());
                    self.changed.wait_for(&mut work, rest);
                }
                if work.is_stopped {
                    return;
                }
                // Before it is looked what there is to do: what is wanted from now on is another wake-up.
                work.is_wanted = false;
                work.is_quiet()
            };
            if let Err(error) = self.work_off(is_quiet) {
                tracing::error!("runs cannot be moved to the archive, and stay in the live journal: {error}");
                self.failed(&error);
                self.pause(RETRY, Wake::Stopped);
                self.work.lock().is_wanted |= self.is_wanted();
            } else if is_quiet {
                // Both, whatever the first says.
                if self.archive.rest(IDLE) | self.log.rest() {
                    memory::trim();
                }
                self.pause(QUIET, Wake::Wanted);
            }
        }
    }

    /// Tells whoever waits for the archive that it does so in vain.
    fn failed(&self, error: &StoreError) {
        let why = error.to_string();
        self.log.is_refused(&why);
        let mut work = self.work.lock();
        work.failures += 1;
        work.failure = why;
        self.changed.notify_all();
    }

    fn pause(&self, time: Duration, wake: Wake) {
        let until = Instant::now() + time;
        let mut work = self.work.lock();
        let is_over = |work: &Work| work.is_stopped || wake == Wake::Wanted && work.is_wanted;
        while !is_over(&work) && !self.changed.wait_until(&mut work, until).timed_out() {}
    }

    fn is_stopped(&self) -> bool {
        self.work.lock().is_stopped
    }

    /// Does what there is to do now; in a quiet time, all that has ended moves.
    pub(super) fn work_off(&self, is_quiet: bool) -> Result<(), StoreError> {
        self.delete()?;
        while self.is_pressed(&self.index.lock()) && !self.is_stopped() {
            self.delete()?;
            let is_large = self.is_large(&self.index.lock());
            let any_ended = is_large && self.move_some(|index| index.next_ended(MOVED_RUNS))?;
            let any_oldest = self.move_some(|index| index.next_to_move().into_iter().collect())?;
            if !any_ended && !any_oldest && !self.free()? {
                break;
            }
            self.free()?;
        }
        while is_quiet && !self.is_stopped() && self.work.lock().is_quiet() {
            if !self.move_some(|index| index.next_ended(MOVED_RUNS))? {
                break;
            }
        }
        self.free()?;
        // It has all that it was to be given.
        self.log.give_way(false);
        Ok(())
    }

    /// Gives the archive the runs that have an end because of damage, and then puts the damaged files aside: nobody would
    /// find out again that they ended, and what was shown as ended must not go on.
    pub(super) fn settle(&self, interrupted: &[RunId]) -> Result<(), StoreError> {
        let here = |index: &mut Index| interrupted.iter().filter(|run| index.is_here(**run)).copied().collect();
        while self.move_some(here)? {}
        self.log.put_aside()
    }

    /// Moves runs that `next` names, as many as one transaction takes; says whether there were any. A full archive is given
    /// less at once, and the room of segments that are freed by that, until there is nothing left for it: runs that go on lie
    /// beside others that were deleted, whose room is free only when the archive has what lies beside them.
    fn move_some(&self, mut next: impl FnMut(&mut Index) -> Vec<RunId>) -> Result<bool, StoreError> {
        loop {
            let share = self.work.lock().share;
            let moved = self.move_share(share, &mut next);
            match &moved {
                Ok(true) => self.work.lock().share = (share / 2).max(1),
                Err(StoreError::Full(_)) => {
                    self.log.give_way(true);
                    if share < SHARE_MIN {
                        self.work.lock().share = share * LESS;
                        continue;
                    }
                }
                Ok(false) | Err(_) => {}
            }
            return moved;
        }
    }

    fn move_share(&self, share: usize, next: &mut impl FnMut(&mut Index) -> Vec<RunId>) -> Result<bool, StoreError> {
        let (bytes_max, runs_max) = (MOVED_BYTES / share, (MOVED_RUNS / share).max(1));
        let (mut moved, mut unread) = (Vec::new(), None);
        let mut bytes = 0;
        let mut seen = std::collections::HashSet::new();
        while bytes < bytes_max && moved.len() < runs_max {
            let snapshots: Vec<Snapshot> = {
                let mut index = self.index.lock();
                let runs = next(&mut index);
                let new = runs.into_iter().filter(|run| seen.insert(*run)).take(runs_max);
                new.filter_map(|run| index.snapshot(run, bytes_max)).collect()
            };
            if snapshots.is_empty() {
                break;
            }
            for snapshot in snapshots {
                let run = snapshot.record.id;
                bytes += snapshot.extents.bytes() as usize;
                match to_move(snapshot, self.patience_with(run)) {
                    Ok(whole) => moved.push(whole),
                    Err(error) => {
                        self.index.lock().not_moved(run);
                        self.work.lock().unread.entry(run).or_insert_with(Instant::now);
                        unread = Some(error);
                    }
                }
            }
        }
        if moved.is_empty() {
            return unread.map_or(Ok(false), Err);
        }
        let in_service = self.index.lock().in_service();
        let put = self.archive.put(&moved, in_service);
        let mut index = self.index.lock();
        for Moved { record, keys, .. } in &moved {
            match put {
                Ok(()) => index.moved(record, keys),
                Err(_) => index.not_moved(record.id),
            }
        }
        drop(index);
        put?;
        self.done(moved.iter().map(|moved| moved.record.id));
        // What could be read is moved, and the rest of it is tried again.
        unread.map_or(Ok(true), Err)
    }

    /// Notes that the archive has something new of these runs, or nothing any more: whoever waits for memory looks again.
    fn done(&self, runs: impl Iterator<Item = RunId>) {
        let mut work = self.work.lock();
        work.done += 1;
        if !work.unread.is_empty() {
            runs.for_each(|run| _ = work.unread.remove(&run));
        }
        self.changed.notify_all();
    }

    /// Whether frames of a run that the disk does not read are still waited for: one bad place must not hold the journal for
    /// ever.
    fn patience_with(&self, run: RunId) -> Unread {
        let since = self.work.lock().unread.get(&run).copied();
        if since.is_some_and(|since| since.elapsed() >= self.unread_patience) {
            Unread::Lost
        } else {
            Unread::Refused
        }
    }

    /// Frees the oldest segments that nobody needs; says whether there were any.
    fn free(&self) -> Result<bool, StoreError> {
        let mut any = false;
        loop {
            let Some(segment) = self.index.lock().free_oldest() else { return Ok(any) };
            if let Err(error) = self.log.free(&segment) {
                self.index.lock().keep(segment);
                return Err(error);
            }
            any = true;
        }
    }

    /// Deletes from the archive what was deleted.
    fn delete(&self) -> Result<(), StoreError> {
        while !self.is_stopped() {
            let doomed = self.index.lock().to_delete(DELETED_RUNS);
            if doomed.is_empty() {
                break;
            }
            let runs = delete(&self.archive, &doomed)?;
            self.index.lock().deleted(&runs);
            self.done(runs.into_iter());
        }
        Ok(())
    }
}

/// What ends a pause early.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    Wanted,
    Stopped,
}

/// Deletes runs from an archive, with the keys that were theirs and that it may have for others.
pub(super) fn delete(archive: &Archive, doomed: &[Doomed]) -> Result<Vec<RunId>, StoreError> {
    let keys: Vec<Key> = doomed.iter().flat_map(|doomed| &doomed.keys).cloned().collect();
    if !keys.is_empty() {
        archive.unbind(&keys)?;
    }
    let runs: Vec<RunId> = doomed.iter().map(|doomed| doomed.run).collect();
    archive.delete(&runs)?;
    Ok(runs)
}
