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
    record::{DirectoryId, HEADER_BYTES, Header, Salt},
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
    /// How many segments a waiting commit needs prepared.
    wanted: usize,
    /// How often preparing failed, and the last reason.
    failures: u64,
    failure: String,
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
            wanted: READY,
            failures: 0,
            failure: String::new(),
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

    /// Takes back segments that hold nothing that was committed.
    pub(super) fn discard(&self, segments: impl IntoIterator<Item = Arc<Segment>>) {
        self.state.lock().free.extend(segments);
        self.changed.notify_all();
    }

    /// Whether a commit needs more segments than may be prepared.
    pub(super) fn is_short(&self) -> bool {
        let state = self.state.lock();
        let may_be = self.size.segments_max.saturating_sub(state.slots.len());
        state.wanted > state.ready.len() + state.free.len() + may_be
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
        let failures = state.failures;
        while state.ready.len() < wanted {
            if !self.size.ahead {
                drop(state);
                let prepared = self.prepare();
                state = self.state.lock();
                match prepared {
                    Ok(true) => continue,
                    Ok(false) => return Err(self.full(Duration::ZERO)),
                    Err(error) => return Err(store_error(&error, || self.cannot_prepare(&error))),
                }
            }
            if state.failures > failures {
                return Err(StoreError::Full(state.failure.clone()));
            }
            self.changed.notify_all();
            if self.changed.wait_until(&mut state, deadline).timed_out() && state.ready.len() < wanted {
                return Err(self.full(self.size.patience));
            }
        }
        state.wanted = READY;
        let taken = state.ready.drain(..count).map(Arc::new).collect();
        // The next one is prepared while this one is written.
        self.changed.notify_all();
        Ok(taken)
    }

    fn full(&self, waited: Duration) -> StoreError {
        StoreError::Full(format!(
            "the live journal in {} is full ({} segments of {} bytes) and the archive made no room within {waited:?}; \
             try again, or raise its size in the configuration",
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
            let bytes = self.size.segment_bytes;
            let header = Header { directory: self.directory, bytes, number, oldest }.encode();
            let (slot, done) = match task {
                Task::Create(slot) => (slot, self.create(slot, &header)),
                Task::Recycle(segment) => (segment.slot, recycle(segment, &header)),
                Task::Remove(segment) => {
                    let (slot, name) = (segment.slot, name(segment.slot));
                    drop(segment);
                    // The name has to be gone for good before a new file has it.
                    let removed = self.files.remove(&name).and_then(|()| self.files.sync_directory());
                    self.state.lock().slots.remove(&slot);
                    removed?;
                    continue;
                }
            };
            let mut state = self.state.lock();
            match done {
                Ok(file) => {
                    state.ready.push_back(Segment {
                        number,
                        slot,
                        bytes: self.size.segment_bytes,
                        salt: Salt::new(&self.directory, number),
                        file,
                        failed: AtomicBool::new(false),
                        damaged: AtomicBool::new(false),
                    });
                    self.changed.notify_all();
                    return Ok(true);
                }
                Err(error) => {
                    // What is left of it is nobody's; where it cannot be removed it is made anew over it.
                    _ = self.files.remove(&name(slot));
                    state.slots.remove(&slot);
                    return Err(error);
                }
            }
        }
    }

    /// What is to be done for one more segment.
    fn task(&self, state: &mut State) -> Option<Task> {
        let unread = state.free.iter().position(|segment| Arc::strong_count(segment) == 1);
        if let Some(segment) = unread.and_then(|at| state.free.remove(at)) {
            let segment = Arc::into_inner(segment).expect("nobody else can reach a freed segment");
            let is_sound = !segment.failed.load(Ordering::Relaxed) && !segment.damaged.load(Ordering::Relaxed);
            let usable = is_sound && segment.bytes == self.size.segment_bytes;
            return Some(if usable { Task::Recycle(segment) } else { Task::Remove(segment) });
        }
        if state.slots.len() >= self.size.segments_max {
            return None;
        }
        let slot =
            (0..=u32::MAX).find(|slot| !state.slots.contains(slot)).expect("there are more slots than segments");
        state.slots.insert(slot);
        Some(Task::Create(slot))
    }

    fn create(&self, slot: u32, header: &[u8; HEADER_BYTES as usize]) -> io::Result<Arc<dyn File>> {
        let file = self.files.create(&name(slot), u64::from(self.size.segment_bytes))?;
        // The zeros first: a header vouches for the length of the file that it stands in.
        file.sync()?;
        file.write_at(header, 0)?;
        file.sync()?;
        self.files.sync_directory()?;
        Ok(file)
    }
}

/// A freed file under a new number: what is still written in it is valid under none.
fn recycle(segment: Segment, header: &[u8; HEADER_BYTES as usize]) -> io::Result<Arc<dyn File>> {
    segment.file.write_at(header, 0)?;
    segment.file.sync()?;
    Ok(segment.file)
}

/// What went wrong, as a store says it.
pub(in super::super) fn store_error(error: &io::Error, message: impl FnOnce() -> String) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(message()),
        _ => StoreError::Failed(message()),
    }
}
