//! The segments of the live journal as files: prepared ahead of need at their full size, used, freed and used again
//! under a new number. It owns which files there are and how many there may be. It knows nothing of records.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use outflow_engine::{Room, StoreError};
use parking_lot::{Condvar, Mutex};

use super::{
    super::files::{File, Files},
    record::{DirectoryId, Header, Salt},
};

/// A segment file's name is this, its slot, and [`SUFFIX`].
const PREFIX: &str = "live-";
const SUFFIX: &str = ".journal";
/// Segments that are kept prepared: the next one, and the reserve.
const READY: usize = 2;
/// How long after a failed attempt a segment is prepared again where nobody waits for one.
const RETRY: Duration = Duration::from_secs(1);

/// The file name of a slot.
pub(super) fn name(slot: u32) -> String {
    format!("{PREFIX}{slot:03}{SUFFIX}")
}

/// The slot that a file of this name is; `None` where it is no segment.
pub(super) fn slot(file: &str) -> Option<u32> {
    let slot = file.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()?;
    (name(slot) == file).then_some(slot)
}

/// A segment that was put aside has this name, its number, 0 where that is not known, its slot, which of several that would
/// have one name, and [`SUFFIX`].
const ASIDE_PREFIX: &str = "damaged-";

fn name_aside(number: u64, slot: u32, copy: u32) -> String {
    format!("{ASIDE_PREFIX}{number}-{slot:03}-{copy}{SUFFIX}")
}

/// The number of the segment that was put aside in a file of this name; `None` where none was.
pub(super) fn number_aside(file: &str) -> Option<u64> {
    file.strip_prefix(ASIDE_PREFIX)?.strip_suffix(SUFFIX)?.split('-').next()?.parse().ok()
}

/// Puts a segment aside for whoever can make something of it: it is never looked at again, nor written.
fn put_aside(files: &dyn Files, segment: &Segment) -> io::Result<()> {
    let names = files.list()?;
    let mut aside = (0..).map(|copy| name_aside(segment.number, segment.slot, copy));
    let aside = aside.find(|aside| !names.contains(aside)).expect("there are more names than files");
    files.rename(&name(segment.slot), &aside)?;
    files.sync_directory()?;
    tracing::error!("{segment:?} of the live journal in {} is damaged, and kept aside as {aside}", files.place());
    Ok(())
}

/// One file under one number. It is freed when the last reader has let go of it.
pub(in super::super) struct Segment {
    /// Segments are numbered in the order of their use; a file that is used again gets a new number.
    pub(super) number: u64,
    pub(super) slot: u32,
    pub(super) bytes: u32,
    pub(super) salt: Salt,
    pub(super) file: Arc<dyn File>,
    /// A write or sync failed: the file is never written again.
    pub(super) failed: AtomicBool,
    /// What was written there is not what lies there: the file is kept aside and never written again.
    pub(super) damaged: AtomicBool,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} in {}", self.number, name(self.slot))
    }
}

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
    stopped: bool,
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

    /// Whether a commit needs more segments than may be prepared.
    pub(super) fn is_short(&self) -> bool {
        let state = self.state.lock();
        let may_be = self.size.segments_max.saturating_sub(state.slots.len());
        state.wanted > state.ready.len() + state.free.len() + may_be
    }

    /// Notes that the archive refuses to take anything: who waits for a segment does so in vain.
    pub(super) fn is_refused(&self, why: &str) {
        let mut state = self.state.lock();
        state.refusals += 1;
        why.clone_into(&mut state.refusal);
        self.changed.notify_all();
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
                 segments); commit less at once, or raise its size in the configuration",
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
            "the live journal in {} is full ({} segments of {} bytes), and has to wait for the archive: {why}; try again, \
             or raise its size in the configuration",
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
            if state.ready.len() >= state.wanted {
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
                Task::Remove(segment) => self.remove(segment)?,
            }
        }
    }

    /// What is to be done for one more segment.
    fn task(&self, state: &mut State) -> Option<Task> {
        let is_usable = |segment: &Segment| {
            let is_sound = !segment.failed.load(Ordering::Relaxed) && !segment.damaged.load(Ordering::Relaxed);
            is_sound && segment.bytes == self.size.segment_bytes
        };
        // One that counted is missed until it is told that it does no more; a new header tells that by itself.
        let (oldest, told) = (state.oldest, state.told);
        let may_go = |segment: &Segment| is_usable(segment) || segment.number >= oldest || segment.number < told;
        let is_unread = |segment: &Arc<Segment>| Arc::strong_count(segment) == 1;
        let next = state.free.iter().position(|segment| is_unread(segment) && may_go(segment));
        if let Some(segment) = next.and_then(|at| state.free.remove(at)) {
            let segment = Arc::into_inner(segment).expect("nobody else can reach a freed segment");
            return Some(if is_usable(&segment) { Task::Recycle(segment) } else { Task::Remove(segment) });
        }
        if state.slots.len() < self.size.segments_max {
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

/// What went wrong, as a store says it.
pub(in super::super) fn store_error(error: &io::Error, message: impl FnOnce() -> String) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(message()),
        _ => StoreError::Failed(message()),
    }
}
