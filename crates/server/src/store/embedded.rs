//! The store in a directory: what is committed goes to the live journal, what has ended or grown old there moves to the
//! archive, and whoever asks is answered from both. It owns the directory and the threads; what the moving one does is in
//! `mover.rs`.

use std::{collections::BTreeMap, path::Path, sync::Arc, thread::JoinHandle, time::Duration};

use outflow_engine::{
    Batch, Chunk, Durability, Filter, Key, Record, Room, RunId, RunRecord, Sequence, Store, StoreError,
};
use parking_lot::{Condvar, Mutex};

use super::{
    archive::{Archive, Moved},
    data::{self, Asked, Moment},
    directory::{self, Claimed},
    files::{Directory, Files},
    log::{self, Base, Index, Log, Lookup, Opened, Size, Snapshot, Unread},
    mover::Work,
};
use crate::succession::Succession;

/// How large the store may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Bytes of the live journal. Default 256 MiB; at this bound jobs of journaled runs wait for the archive.
    pub(crate) journal_bytes: u64,
    /// Bytes of one segment of it. Default 16 MiB.
    pub(crate) segment_bytes: u32,
    /// Bytes of memory for what is known of the live journal, beside runs that have no end. Default 88 MiB; at this bound, too,
    /// jobs of journaled runs wait for the archive.
    pub(crate) index_bytes: usize,
    /// Bytes of all runs, in journal and archive. Default 64 GiB; close to this bound ended runs are deleted, oldest
    /// first.
    pub(crate) bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { journal_bytes: 256 << 20, segment_bytes: 16 << 20, index_bytes: 88 << 20, bytes_max: 64 << 30 }
    }
}

/// How long a commit waits for the archive where the journal is at its bound.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long frames that the disk does not read are waited for, until they count as lost.
const UNREAD_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of frames that one transaction of the archive takes, about.
pub(super) const MOVED_BYTES: usize = 8 << 20;
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
    let mut store = Embedded::open(files, |name| Archive::open(&path.join(name)), settings, Workers::Threads)?;
    // Nothing is taken up before this is returned.
    store.succession = Some(Succession::begin(path).map_err(|error| {
        let place = path.display();
        StoreError::Failed(format!("the runs in the data directory {place} cannot be taken up: {error}"))
    })?);
    let shared = store.shared.clone();
    let asked = Asked::listen(path, move |question, is_ending| data::answer(question, || shared.moment(), is_ending));
    match asked {
        Ok(asked) => store.asked = Some(asked),
        Err(error) => tracing::warn!("no command can ask this server for a backup of {}: {error}", path.display()),
    }
    Ok(Arc::new(store))
}

/// Who prepares segments, and moves what leaves the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workers {
    /// Threads of the store.
    Threads,
    /// Whoever commits prepares, and moving is asked for.
    #[cfg(test)]
    Caller,
}

/// The store in a directory.
pub(super) struct Embedded {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Answers commands about the directory.
    asked: Option<Asked>,
    /// The commands of whoever had the directory before are gone, and the next one waits for ours.
    succession: Option<Succession>,
    /// Released last.
    _claimed: Claimed,
}

/// What the threads share.
pub(super) struct Shared {
    pub(super) log: Log,
    pub(super) index: Mutex<Index>,
    pub(super) archive: Archive,
    bytes_max: u64,
    /// Bytes that the index may take, beside what is known of runs that have no end.
    pub(super) index_bytes: usize,
    /// How long a commit waits for the archive.
    pub(super) patience: Duration,
    /// How long frames that the disk does not read are waited for.
    pub(super) unread_patience: Duration,
    pub(super) work: Mutex<Work>,
    /// There is work, or the mover has done some.
    pub(super) changed: Condvar,
}

impl Embedded {
    /// Opens the store in `files`, or makes one there; `archive` opens the archive in the file of a name.
    pub(super) fn open(
        files: Arc<dyn Files>,
        archive: impl Fn(&str) -> Result<Archive, StoreError>,
        settings: Settings,
        workers: Workers,
    ) -> Result<Self, StoreError> {
        let claimed = directory::claim(&*files)?;
        let archive = directory::open_archive(&*files, archive)?;
        let is_threaded = workers == Workers::Threads;
        let size = Size {
            segment_bytes: settings.segment_bytes,
            segments_max: (settings.journal_bytes / u64::from(settings.segment_bytes)).max(4) as usize,
            patience: PATIENCE,
            ahead: is_threaded,
        };
        let Opened { log, mut index, findings, interrupted } = log::open(files, claimed.id, size, &archive)?;
        if !findings.is_empty() {
            tracing::error!(
                "{} places of the live journal are damaged; `outflow data check` names them",
                findings.len()
            );
        }
        index.serve_until(archive.in_service());
        let shared = Arc::new(Shared {
            log,
            index: Mutex::new(index),
            archive,
            bytes_max: settings.bytes_max,
            // What lies in the newest segment alone cannot be moved, and must not be waited for.
            index_bytes: settings.index_bytes.max(settings.segment_bytes as usize),
            patience: if is_threaded { PATIENCE } else { Duration::ZERO },
            unread_patience: if is_threaded { UNREAD_PATIENCE } else { Duration::ZERO },
            work: Mutex::new(Work::new(workers)),
            changed: Condvar::new(),
        });
        shared.settle(&interrupted)?;
        let mut store = Self { shared, threads: Vec::new(), asked: None, succession: None, _claimed: claimed };
        if is_threaded {
            store.spawn("outflow-segments", |shared| shared.log.prepare_until_stopped())?;
            store.spawn("outflow-archive", Shared::move_until_stopped)?;
        }
        Ok(store)
    }

    /// What its threads share, for tests that do their work.
    #[cfg(test)]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
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
        if room == Room::Ordinary {
            shared.await_memory()?;
        }
        let held = shared.hold(batch)?;
        let last = shared.index.lock().last_of_ended(batch);
        shared.log.commit(
            batch,
            &last,
            room,
            || shared.wake_mover(),
            |segments, places| {
                let mut index = shared.index.lock();
                index.begin(segments);
                index.serve_until(batch.in_service);
                for ((run, record), place) in batch.records.iter().zip(places) {
                    index.add(*run, record, *place);
                }
                for (run, bytes) in held.iter().flat_map(|held| &held.doomed) {
                    index.is_doomed(*run, *bytes);
                }
            },
        )?;
        shared.committed();
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

/// The ended runs that a commit changes, which the index lets go of afterwards.
struct Held<'a> {
    shared: &'a Shared,
    /// What those that are deleted take in the archive, which counts until it has deleted them.
    doomed: Vec<(RunId, u64)>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.shared.index.lock().release();
    }
}

impl Shared {
    /// Keeps the ended runs that a batch changes in the index, and takes those there that only the archive has: what is
    /// committed of a run is added to what the index knows of it.
    fn hold(&self, batch: &Batch) -> Result<Option<Held<'_>>, StoreError> {
        let of = |is_wanted: fn(&Record) -> bool| -> Vec<RunId> {
            batch.records.iter().filter(|(_, record)| is_wanted(record)).map(|(run, _)| *run).collect()
        };
        let bound = of(|record| matches!(record, Record::KeyBound(_)));
        let deleted = of(|record| matches!(record, Record::Deleted));
        if bound.is_empty() && deleted.is_empty() {
            return Ok(None);
        }
        let absent = self.index.lock().hold(bound);
        // An archive that cannot be read keeps nothing from being deleted.
        let doomed = deleted.into_iter().map(|run| (run, self.archive.bytes_of(run).unwrap_or(0))).collect();
        let held = Held { shared: self, doomed };
        for run in absent {
            match self.archive.find(run) {
                Ok(Some(record)) => self.index.lock().hold_archived(record),
                // One that starts with this batch; or one of which nobody knows any more what it was.
                Ok(None) | Err(StoreError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(held))
    }

    /// All that the store holds now.
    fn moment(&self) -> Result<Moment<'_, impl Iterator<Item = Result<Moved, StoreError>> + use<>>, StoreError> {
        let index = self.index.lock();
        // Under one lock: what moves to the archive is taken from the index before and noted in it afterwards, so that
        // the archive has nothing newer than the index now, and all that the index no longer has.
        Ok(Moment {
            archive: self.archive.snapshot()?,
            live: index.moment(MOVED_BYTES).into_iter().map(|snapshot| to_move(snapshot, Unread::Refused)),
            deleted: index.to_delete(usize::MAX),
            in_service: index.in_service(),
        })
    }
}

/// What the archive is given of a run.
///
/// # Errors
/// As [`log::salvage`].
pub(super) fn to_move(snapshot: Snapshot, unread: Unread) -> Result<Moved, StoreError> {
    let Snapshot { mut record, extents, first, last, whole, archived_bytes, keys } = snapshot;
    let (chunks, _) = log::salvage(&extents, record.id, first, unread)?;
    if !whole {
        // It goes on in the journal, and so does what is known of it.
        record.last = last;
        record.bytes = archived_bytes + chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        record.ended = None;
    }
    Ok(Moved { record, chunks, keys })
}
