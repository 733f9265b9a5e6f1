//! The store in a directory: what is committed goes to the live journal, what has ended or grown old there moves to the
//! archive, and whoever asks is answered from both. It owns the directory and the thread that moves.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use outflow_engine::{Batch, Chunk, Durability, Filter, Key, Room, RunId, RunRecord, Sequence, Store, StoreError};
use parking_lot::{Condvar, Mutex};

use super::{
    archive::{Archive, Moved},
    data::{self, Asked, Moment},
    directory::{self, Claimed},
    files::{Directory, Files},
    log::{self, Base, Deleted, Index, Log, Lookup, Opened, Size, Snapshot},
};

/// How large the store may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Bytes of the live journal. Default 256 MiB; at this bound jobs of journaled runs wait for the archive.
    pub(crate) journal_bytes: u64,
    /// Bytes of one segment of it. Default 16 MiB.
    pub(crate) segment_bytes: u32,
    /// Bytes of all runs, in journal and archive. Default 64 GiB; close to this bound ended runs are deleted, oldest
    /// first.
    pub(crate) bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { journal_bytes: 256 << 20, segment_bytes: 16 << 20, bytes_max: 64 << 30 }
    }
}

/// How long a commit waits for the archive where the journal is at its bound.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long without a commit, what has ended leaves the journal.
const QUIET: Duration = Duration::from_secs(5);
/// How long the moving thread leaves a failing archive alone.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of frames that one transaction of the archive takes, about.
pub(super) const MOVED_BYTES: usize = 8 << 20;
/// Runs that one transaction takes.
const MOVED_RUNS: usize = 1_024;
/// Runs that one transaction deletes.
const DELETED_RUNS: usize = 256;
/// Runs of the journal that are looked at under one lock.
const LOOKED_AT: usize = 1_024;

/// Opens the store in the directory at `path`, which is made where it is not there.
///
/// # Errors
/// Where the directory is another's, or of a newer format, or in use, or cannot be written.
pub(crate) fn open(path: &Path, settings: Settings) -> Result<Arc<dyn Store>, StoreError> {
    let cannot = |error: &std::io::Error| {
        let place = path.display();
        StoreError::Failed(format!("cannot use the data directory {place}: {error}; name another one with --data"))
    };
    let files: Arc<dyn Files> = Arc::new(Directory::open(path).map_err(|error| cannot(&error))?);
    let claimed = directory::claim(&*files)?;
    let archive = Archive::open(&path.join(directory::ARCHIVE))?;
    let mut store = Embedded::start(files, claimed, archive, settings)?;
    let shared = store.shared.clone();
    let asked = Asked::listen(path, move |question, is_ending| data::answer(question, || shared.moment(), is_ending));
    match asked {
        Ok(asked) => store.asked = Some(asked),
        Err(error) => tracing::warn!("no command can ask this server for a backup of {}: {error}", path.display()),
    }
    Ok(Arc::new(store))
}

/// The store in a directory.
pub(super) struct Embedded {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Answers commands about the directory.
    asked: Option<Asked>,
    /// Released last.
    _claimed: Claimed,
}

struct Shared {
    log: Log,
    index: Mutex<Index>,
    archive: Archive,
    bytes_max: u64,
    work: Mutex<Work>,
    changed: Condvar,
}

struct Work {
    committed: Instant,
    is_pressed: bool,
    is_stopped: bool,
}

impl Embedded {
    fn start(
        files: Arc<dyn Files>,
        claimed: Claimed,
        archive: Archive,
        settings: Settings,
    ) -> Result<Self, StoreError> {
        let size = Size {
            segment_bytes: settings.segment_bytes,
            segments_max: (settings.journal_bytes / u64::from(settings.segment_bytes)).max(4) as usize,
            patience: PATIENCE,
            ahead: true,
        };
        let Opened { log, mut index, findings } = log::open(files, claimed.id, size, &archive)?;
        if !findings.is_empty() {
            tracing::error!(
                "{} places of the live journal are damaged; `outflow data check` names them",
                findings.len()
            );
        }
        index.serve_until(archive.in_service());
        let work = Work { committed: Instant::now(), is_pressed: false, is_stopped: false };
        let shared = Arc::new(Shared {
            log,
            index: Mutex::new(index),
            archive,
            bytes_max: settings.bytes_max,
            work: Mutex::new(work),
            changed: Condvar::new(),
        });
        let mut store = Self { shared, threads: Vec::new(), asked: None, _claimed: claimed };
        store.spawn("outflow-segments", |shared| shared.log.prepare_until_stopped())?;
        store.spawn("outflow-archive", Shared::move_until_stopped)?;
        Ok(store)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce(&Shared) + Send + 'static) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || work(&shared));
        let thread = thread.map_err(|error| StoreError::Failed(format!("cannot start a thread: {error}")))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.asked.take());
        self.shared.work.lock().is_stopped = true;
        self.shared.changed.notify_all();
        self.shared.log.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked, which is a bug");
            }
        }
    }
}

impl Base for Archive {
    fn find(&self, run: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.find(run)
    }

    fn unended(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.unended()
    }
}

impl Store for Embedded {
    fn durability(&self) -> Durability {
        Durability::Disk
    }

    fn in_service(&self) -> Duration {
        self.shared.index.lock().in_service()
    }

    fn commit(&self, batch: &Batch, room: Room) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.log.commit(batch, room, |segments, places| {
            let mut index = shared.index.lock();
            index.begin(segments);
            index.serve_until(batch.in_service);
            for ((run, record), place) in batch.records.iter().zip(places) {
                index.add(*run, record, *place);
            }
        })?;
        let is_pressed = shared.is_pressed();
        let mut work = shared.work.lock();
        work.committed = Instant::now();
        if is_pressed && !work.is_pressed {
            work.is_pressed = true;
            shared.changed.notify_all();
        }
        Ok(())
    }

    fn find(&self, run: RunId) -> Result<Option<RunRecord>, StoreError> {
        {
            let index = self.shared.index.lock();
            if index.is_deleted(run) {
                return Ok(None);
            }
            if let Some(found) = index.find(run) {
                return found.map(Some).map_err(StoreError::Damaged);
            }
        }
        // What left the journal meanwhile is here.
        self.shared.archive.find(run)
    }

    fn bound(&self, key: &Key) -> Result<Option<RunId>, StoreError> {
        let bound = self.shared.index.lock().bound(key);
        let bound = if bound.is_some() { bound } else { self.shared.archive.bound(key)? };
        Ok(bound.filter(|run| !self.shared.index.lock().is_deleted(*run)))
    }

    fn read(&self, run: RunId, from: Sequence, bytes_max: usize) -> Result<Vec<Chunk>, StoreError> {
        let found = self.shared.index.lock().look_up(run, from, bytes_max);
        match found {
            Lookup::Nothing => Ok(Vec::new()),
            Lookup::Journal(extents) => log::read(&extents, run, from, bytes_max),
            Lookup::Archive => self.shared.archive.read(run, from, bytes_max),
            Lookup::Damaged(what) => Err(StoreError::Damaged(what)),
        }
    }

    fn list(&self, filter: &Filter, before: Option<RunId>, max: usize) -> Result<Vec<RunRecord>, StoreError> {
        // The journal first: what moves between the two looks is seen twice, and never missed.
        let mut found = BTreeMap::new();
        let mut next = before;
        loop {
            let (records, more) = self.shared.index.lock().list(filter, next, LOOKED_AT);
            found.extend(records.into_iter().map(|record| (record.id, record)));
            next = more;
            if next.is_none() || found.len() >= max {
                break;
            }
        }
        let mut next = before;
        let mut from_archive = 0;
        while from_archive < max {
            let records = self.shared.archive.list(filter, next, max)?;
            let is_last = records.len() < max;
            next = records.last().map(|record| record.id).or(next);
            let index = self.shared.index.lock();
            for record in records.into_iter().filter(|record| !index.knows(record.id)) {
                from_archive += 1;
                found.entry(record.id).or_insert(record);
            }
            if is_last {
                break;
            }
        }
        Ok(found.into_values().rev().take(max).collect())
    }

    fn unended(&self) -> Result<Vec<RunRecord>, StoreError> {
        Ok(self.shared.index.lock().unended())
    }

    fn ended_first(&self, behind: Option<(Duration, RunId)>, max: usize) -> Result<Vec<RunRecord>, StoreError> {
        let place =
            |record: &RunRecord| (record.ended.as_ref().map_or(Duration::ZERO, |ended| ended.in_service), record.id);
        let in_journal = self.shared.index.lock().ended_first(behind, max);
        let mut found: BTreeMap<_, _> = in_journal.into_iter().map(|record| (place(&record), record)).collect();
        let mut next = behind;
        let mut from_archive = 0;
        while from_archive < max {
            let records = self.shared.archive.ended_first(next, max)?;
            let is_last = records.len() < max;
            next = records.last().map(place).or(next);
            let index = self.shared.index.lock();
            for record in records.into_iter().filter(|record| !index.knows(record.id)) {
                from_archive += 1;
                found.entry(place(&record)).or_insert(record);
            }
            if is_last {
                break;
            }
        }
        Ok(found.into_values().take(max).collect())
    }

    fn bytes(&self) -> u64 {
        let (journal, doomed) = self.shared.index.lock().bytes();
        (self.shared.archive.bytes() + journal).saturating_sub(doomed)
    }

    fn bytes_max(&self) -> u64 {
        self.shared.bytes_max
    }
}

impl Shared {
    /// All that the store holds now.
    fn moment(&self) -> Result<Moment<'_, impl Iterator<Item = Result<Moved, StoreError>> + use<>>, StoreError> {
        let index = self.index.lock();
        // Under one lock: what moves to the archive is taken from the index before and noted in it afterwards, so that
        // the archive has nothing newer than the index now, and all that the index no longer has.
        Ok(Moment {
            archive: self.archive.snapshot()?,
            live: index.moment(MOVED_BYTES).into_iter().map(|snapshot| Ok(to_move(snapshot))),
            deleted: index.to_delete(usize::MAX).into_iter().map(|(run, _)| run).collect(),
            in_service: index.in_service(),
        })
    }

    /// Whether so much of the journal is used that the oldest of it has to move.
    fn is_pressed(&self) -> bool {
        self.index.lock().segments() * 2 > self.log.segments_max()
    }

    /// Moves what has to, until stopped.
    fn move_until_stopped(&self) {
        loop {
            let is_quiet = {
                let mut work = self.work.lock();
                while !work.is_stopped && !work.is_pressed && work.committed.elapsed() < QUIET {
                    let rest = QUIET.saturating_sub(work.committed.elapsed());
                    self.changed.wait_for(&mut work, rest);
                }
                if work.is_stopped {
                    return;
                }
                work.committed.elapsed() >= QUIET
            };
            if let Err(error) = self.work_off(is_quiet) {
                tracing::error!("runs cannot be moved to the archive, and stay in the live journal: {error}");
                self.pause(RETRY);
            }
            let is_pressed = self.is_pressed();
            self.work.lock().is_pressed = is_pressed;
            if is_quiet {
                self.pause(QUIET);
            }
        }
    }

    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut work = self.work.lock();
        while !work.is_stopped && !work.is_pressed && !self.changed.wait_until(&mut work, until).timed_out() {}
    }

    fn is_stopped(&self) -> bool {
        self.work.lock().is_stopped
    }

    fn work_off(&self, is_quiet: bool) -> Result<(), StoreError> {
        self.delete()?;
        while self.is_pressed() && !self.is_stopped() {
            let next = |index: &mut Index| index.next_to_move().into_iter().collect();
            if !self.move_some(next)? && !self.free() {
                break;
            }
            self.free();
        }
        while is_quiet && !self.is_stopped() && self.work.lock().committed.elapsed() >= QUIET {
            if !self.move_some(|index| index.next_ended(MOVED_RUNS))? {
                break;
            }
        }
        self.free();
        Ok(())
    }

    /// Moves runs that `next` names, as many as one transaction takes; says whether there were any.
    fn move_some(&self, mut next: impl FnMut(&mut Index) -> Vec<RunId>) -> Result<bool, StoreError> {
        let mut moved = Vec::new();
        let mut bytes = 0;
        let mut seen = std::collections::HashSet::new();
        while bytes < MOVED_BYTES && moved.len() < MOVED_RUNS {
            let snapshots: Vec<Snapshot> = {
                let mut index = self.index.lock();
                let runs = next(&mut index);
                let new = runs.into_iter().filter(|run| seen.insert(*run)).take(MOVED_RUNS);
                new.filter_map(|run| index.snapshot(run, MOVED_BYTES)).collect()
            };
            if snapshots.is_empty() {
                break;
            }
            for snapshot in snapshots {
                bytes += snapshot.extents.bytes() as usize;
                moved.push(to_move(snapshot));
            }
        }
        if moved.is_empty() {
            return Ok(false);
        }
        // Of two that want the same key, the one that started later has it.
        moved.sort_by_key(|moved| moved.record.id);
        let in_service = self.index.lock().in_service();
        let put = self.archive.put(&moved, in_service);
        let mut index = self.index.lock();
        for Moved { record, .. } in &moved {
            match put {
                Ok(()) => index.moved(record),
                Err(_) => index.not_moved(record.id),
            }
        }
        put.map(|()| true)
    }

    /// Frees the oldest segments that nobody needs; says whether there were any.
    fn free(&self) -> bool {
        let mut any = false;
        loop {
            let Some(segment) = self.index.lock().free_oldest() else { return any };
            self.log.free(segment);
            any = true;
        }
    }

    /// Deletes from the archive what was deleted.
    fn delete(&self) -> Result<(), StoreError> {
        while !self.is_stopped() {
            let doomed: Vec<(RunId, Deleted)> = self.index.lock().to_delete(DELETED_RUNS);
            let runs: Vec<RunId> = doomed.into_iter().map(|(run, _)| run).collect();
            if runs.is_empty() {
                break;
            }
            self.archive.delete(&runs)?;
            self.index.lock().deleted(&runs);
        }
        Ok(())
    }
}

/// What the archive is given of a run.
pub(super) fn to_move(snapshot: Snapshot) -> Moved {
    let Snapshot { mut record, extents, first, last, whole, archived_bytes } = snapshot;
    let (chunks, _) = log::salvage(&extents, record.id, first);
    if !whole {
        // It goes on in the journal, and so does what is known of it.
        record.last = last;
        record.bytes = archived_bytes + chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        record.ended = None;
    }
    Moved { record, chunks }
}
