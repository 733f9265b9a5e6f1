//! The segments of the live journal as files: prepared ahead of need at their full size, used, freed and used again
//! under a new number. It owns which files there are and how many there may be. It knows nothing of records.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use outflow_engine::{Room, StoreError};
use parking_lot::{Condvar, Mutex};

use super::{
    super::files::Files,
    record::{DirectoryId, Header, Salt},
    segment::{Segment, name, put_aside},
};

/// Segments that are kept prepared: the next one, and the reserve.
const READY: usize = 2;
/// How many files stay where the archive is given the room of the others.
const KEPT: usize = READY + 2;
/// How long after a failed attempt a segment is prepared again where nobody waits for one.
const RETRY: Duration = Duration::from_secs(1);

/// How large segments are and how many there may be.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Size {
    pub(in super::super) segment_bytes: u32,
    pub(in super::super) segments_max: usize,
    /// How long a commit waits for the archive to free a segment.
    pub(in super::super) patience: Duration,
    /// Whether another thread prepares segments; otherwise whoever needs one does.
    pub(in super::super) ahead: bool,
}

/// All segments that are not in use, and the count of those that are.
pub(super) struct Ring {
    files: Arc<dyn Files>,
    directory: DirectoryId,
    size: Size,
    state: Mutex<State>,
    /// Something changed that a commit or the preparing thread may wait for.
    changed: Condvar,
}

struct State {
    /// Prepared, in the order of their numbers.
    ready: VecDeque<Segment>,
    /// No longer needed; readers may still hold some.
    free: VecDeque<Arc<Segment>>,
    /// To be put aside, and never used.
    aside: Vec<Segment>,
    /// Slots that are files.
    slots: BTreeSet<u32>,
    next_number: u64,
    /// The oldest segment that still counts.
    oldest: u64,
    /// The oldest that counts as a durable header or batch says.
    told: u64,
    /// How many segments a waiting commit needs prepared.
    wanted: usize,
    /// How often preparing failed, and the last reason.
    failures: u64,
    failure: String,
    /// How often the archive refused to take anything, and why it did the last time.
    refusals: u64,
    refusal: String,
    /// The disk had no room for one more file.
    is_full: bool,
    /// The archive is to have what room there is.
    gives_way: bool,
    stopped: bool,
}

impl State {
    /// Whether segments that are freed are removed, and not used again. One that is ready has to say that they do not count.
    fn may_give(&self) -> bool {
        self.gives_way && self.slots.len() > KEPT && !self.ready.is_empty()
    }
}

fn is_unread(segment: &Arc<Segment>) -> bool {
    Arc::strong_count(segment) == 1
}

/// The files that there are on opening.
pub(super) struct Found {
    /// They may be used again.
    pub(super) free: Vec<Segment>,
    /// They are to be put aside.
    pub(super) aside: Vec<Segment>,
    /// All that there are.
    pub(super) slots: BTreeSet<u32>,
    /// The oldest segment that counts.
    pub(super) oldest: u64,
    /// A number that no segment has had.
    pub(super) next_number: u64,
}

enum Task {
    Create(u32),
    Recycle(Segment),
    /// A ready one is to say which segments count by now.
    Tell(Segment),
    Remove(Segment),
}

impl Ring {
    /// A ring of the files found.
    pub(super) fn new(files: Arc<dyn Files>, directory: DirectoryId, size: Size, found: Found) -> Self {
        let Found { free, aside, slots, oldest, next_number } = found;
        let state = State {
            ready: VecDeque::new(),
            free: free.into_iter().map(Arc::new).collect(),
            aside,
            slots,
            next_number,
            oldest,
            told: oldest,
            wanted: READY,
            failures: 0,
            failure: String::new(),
            refusals: 0,
            refusal: String::new(),
            is_full: false,
            gives_way: false,
            stopped: false,
        };
        Self { files, directory, size, state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn place(&self) -> String {
        self.files.place()
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    pub(super) fn oldest(&self) -> u64 {
        self.state.lock().oldest
    }

    /// Takes back a segment that is needed no more, nor any before it. A damaged one is put aside before that is said
    /// anywhere: whoever opens the journal would take its file for one that may be used again.
    ///
    /// # Errors
    /// Then it still counts.
    pub(super) fn free(&self, segment: &Arc<Segment>) -> io::Result<()> {
        let is_damaged = segment.damaged.load(Ordering::Relaxed);
        if is_damaged {
            put_aside(&*self.files, segment)?;
        }
        let mut state = self.state.lock();
        state.oldest = segment.number + 1;
        if is_damaged {
            state.slots.remove(&segment.slot);
        } else {
            state.free.push_back(segment.clone());
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Puts aside what was found on opening and is not known what it is.
    pub(super) fn put_aside(&self) -> io::Result<()> {
        loop {
            let Some(segment) = self.state.lock().aside.pop() else { return Ok(()) };
            if let Err(error) = put_aside(&*self.files, &segment) {
                self.state.lock().aside.push(segment);
                return Err(error);
            }
            self.state.lock().slots.remove(&segment.slot);
        }
    }

    /// Takes back the segments of a commit that failed, in their order. The last is the first to lose what was written
    /// there: a part of a batch whose earlier parts are gone would look as if these had been lost.
    pub(super) fn discard(&self, segments: Vec<Arc<Segment>>) {
        self.state.lock().free.extend(segments.into_iter().rev());
        self.changed.notify_all();
    }

    /// Notes that a durable batch says which segment is the oldest that counts.
    pub(super) fn is_told(&self, oldest: u64) {
        let mut state = self.state.lock();
        state.told = state.told.max(oldest);
    }

    /// Whether a commit needs more segments than may be prepared, or than there is room for.
    pub(super) fn is_short(&self) -> bool {
        let state = self.state.lock();
        let has_room = !state.is_full && !state.gives_way;
        let may_be = if has_room { self.size.segments_max.saturating_sub(state.slots.len()) } else { 0 };
        let free = if state.may_give() { 0 } else { state.free.len() };
        state.wanted > state.ready.len() + free + may_be
    }

    /// Notes that the archive refuses to take anything: who waits for a segment does so in vain.
    pub(super) fn is_refused(&self, why: &str) {
        let mut state = self.state.lock();
        state.refusals += 1;
        why.clone_into(&mut state.refusal);
        self.changed.notify_all();
    }

    /// Whether the archive is to have the room of segments that are freed, on a disk that is full.
    pub(super) fn give_way(&self, gives_way: bool) {
        let mut state = self.state.lock();
        if state.gives_way != gives_way {
            state.gives_way = gives_way;
            self.changed.notify_all();
        }
    }

    /// So many prepared segments, all or none. Waits for the archive where the bound is reached, and then calls
    /// `is_waiting`.
    pub(super) fn take(
        &self,
        count: usize,
        room: Room,
        is_waiting: impl Fn(),
    ) -> Result<Vec<Arc<Segment>>, StoreError> {
        let wanted = count + usize::from(room == Room::Ordinary);
        if wanted > self.size.segments_max.saturating_sub(1) {
            return Err(StoreError::Full(format!(
                "a batch that takes {count} segments of {} bytes is more than the live journal in {} may ever hold ({} \
                 segments); commit less at once",
                self.size.segment_bytes,
                self.place(),
                self.size.segments_max,
            )));
        }
        let deadline = Instant::now() + self.size.patience;
        {
            let mut state = self.state.lock();
            state.wanted = wanted.max(READY);
        }
        if self.is_short() {
            is_waiting();
        }
        let mut state = self.state.lock();
        let (failures, refusals) = (state.failures, state.refusals);
        while state.ready.len() < wanted {
            if !self.size.ahead {
                drop(state);
                let prepared = self.prepare();
                state = self.state.lock();
                match prepared {
                    Ok(true) => continue,
                    Ok(false) => return Err(self.full("the archive made no room")),
                    Err(error) => return Err(store_error(&error, || self.cannot_prepare(&error))),
                }
            }
            if state.failures > failures {
                return Err(StoreError::Full(state.failure.clone()));
            }
            if state.refusals > refusals {
                return Err(self.full(&state.refusal));
            }
            self.changed.notify_all();
            if self.changed.wait_until(&mut state, deadline).timed_out() && state.ready.len() < wanted {
                return Err(self.full(&format!("the archive made no room within {:?}", self.size.patience)));
            }
        }
        state.wanted = READY;
        let taken = state.ready.drain(..count).map(Arc::new).collect();
        // The next one is prepared while this one is written.
        self.changed.notify_all();
        Ok(taken)
    }

    fn full(&self, why: &str) -> StoreError {
        StoreError::Full(format!(
            "the live journal in {} is full (it may have {} segments of {} bytes, where the disk has room for them), and has to \
             wait for the archive: {why}; try again, or make room on its disk",
            self.place(),
            self.size.segments_max,
            self.size.segment_bytes,
        ))
    }

    fn cannot_prepare(&self, error: &io::Error) -> String {
        format!(
            "no segment of {} bytes could be prepared for the live journal in {}: {error}; make room on its disk",
            self.size.segment_bytes,
            self.place(),
        )
    }

    /// Prepares segments whenever too few are ready, until [`Ring::stop`].
    pub(super) fn prepare_until_stopped(&self) {
        let mut state = self.state.lock();
        while !state.stopped {
            let has_some_to_give = state.may_give() && state.free.iter().any(is_unread);
            if state.ready.len() >= state.wanted && !has_some_to_give {
                self.changed.wait(&mut state);
                continue;
            }
            drop(state);
            let prepared = self.prepare();
            state = self.state.lock();
            match prepared {
                // A freed segment may still be held by a reader, who tells nobody when it lets go.
                Ok(false) if !state.stopped => _ = self.changed.wait_for(&mut state, RETRY),
                Ok(_) => {}
                Err(error) => {
                    let message = self.cannot_prepare(&error);
                    if state.failures == 0 || state.failure != message {
                        tracing::warn!("{message}");
                    }
                    state.failures += 1;
                    state.failure = message;
                    self.changed.notify_all();
                    if !state.stopped {
                        self.changed.wait_for(&mut state, RETRY);
                    }
                }
            }
        }
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Prepares one segment; says whether there was one to prepare.
    pub(super) fn prepare(&self) -> io::Result<bool> {
        loop {
            let (task, number, oldest) = {
                let mut state = self.state.lock();
                let Some(task) = self.task(&mut state) else { return Ok(false) };
                let number = state.next_number;
                state.next_number += 1;
                (task, number, state.oldest)
            };
            match task {
                Task::Create(slot) => return self.create(slot, number, oldest).map(|()| true),
                Task::Recycle(segment) => return self.head(segment, number, oldest).map(|()| true),
                Task::Tell(segment) => {
                    let number = segment.number;
                    self.head(segment, number, oldest)?;
                }
                Task::Remove(segment) => {
                    self.remove(segment)?;
                    let state = self.state.lock();
                    if state.gives_way && state.ready.len() >= state.wanted {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// What is to be done for one more segment.
    fn task(&self, state: &mut State) -> Option<Task> {
        let may_give = state.may_give();
        let is_usable = |segment: &Segment| {
            let is_sound = !segment.failed.load(Ordering::Relaxed) && !segment.damaged.load(Ordering::Relaxed);
            is_sound && segment.bytes == self.size.segment_bytes && !may_give
        };
        // One that counted is missed until it is told that it does no more; a new header tells that by itself.
        let (oldest, told) = (state.oldest, state.told);
        let may_go = |segment: &Segment| is_usable(segment) || segment.number >= oldest || segment.number < told;
        let next = state.free.iter().position(|segment| is_unread(segment) && may_go(segment));
        if let Some(segment) = next.and_then(|at| state.free.remove(at)) {
            let segment = Arc::into_inner(segment).expect("nobody else can reach a freed segment");
            return Some(if is_usable(&segment) { Task::Recycle(segment) } else { Task::Remove(segment) });
        }
        if state.slots.len() < if state.gives_way { KEPT } else { self.size.segments_max } {
            let slot =
                (0..=u32::MAX).find(|slot| !state.slots.contains(slot)).expect("there are more slots than segments");
            state.slots.insert(slot);
            return Some(Task::Create(slot));
        }
        state.free.iter().any(is_unread).then(|| state.ready.pop_back().map(Task::Tell)).flatten()
    }

    fn create(&self, slot: u32, number: u64, oldest: u64) -> io::Result<()> {
        let bytes = self.size.segment_bytes;
        let created = self.files.create(&name(slot), u64::from(bytes)).and_then(|file| {
            // The zeros first: a header vouches for the length of the file that it stands in.
            file.sync()?;
            self.files.sync_directory()?;
            Ok(file)
        });
        self.state.lock().is_full = created.as_ref().is_err_and(is_full);
        let file = created.inspect_err(|_| {
            // What is left of it is nobody's; where it cannot be removed it is made anew over it.
            _ = self.files.remove(&name(slot));
            self.state.lock().slots.remove(&slot);
        })?;
        let segment = Segment {
            number,
            slot,
            bytes,
            salt: Salt::new(&self.directory, number),
            file,
            failed: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
        };
        self.head(segment, number, oldest)
    }

    /// Makes a segment ready under a number: what is still written in it is valid under none.
    fn head(&self, segment: Segment, number: u64, oldest: u64) -> io::Result<()> {
        let header = Header { directory: self.directory, bytes: segment.bytes, number, oldest }.encode();
        let headed = segment.file.write_at(&header, 0).and_then(|()| segment.file.sync());
        let mut state = self.state.lock();
        if headed.is_ok() {
            state.told = state.told.max(oldest);
            state.ready.push_back(Segment { number, salt: Salt::new(&self.directory, number), ..segment });
            self.changed.notify_all();
        } else {
            // It is to be removed before anything else is done: what it held may be there still.
            segment.failed.store(true, Ordering::Relaxed);
            state.free.push_front(Arc::new(segment));
        }
        headed
    }

    /// Takes a file away, for good: a new one may have its name then.
    fn remove(&self, segment: Segment) -> io::Result<()> {
        let removed = match self.files.remove(&name(segment.slot)) {
            // An attempt before this one could not be made durable.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.files.sync_directory(),
            removed => removed.and_then(|()| self.files.sync_directory()),
        };
        let mut state = self.state.lock();
        match removed {
            Ok(()) => _ = state.slots.remove(&segment.slot),
            Err(_) => state.free.push_front(Arc::new(segment)),
        }
        removed
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What went wrong, as a store says it.
pub(in super::super) fn store_error(error: &io::Error, message: impl FnOnce() -> String) -> StoreError {
    if is_full(error) { StoreError::Full(message()) } else { StoreError::Failed(message()) }
}
