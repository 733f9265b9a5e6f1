//! A moment of the archive, and what is done with it as a whole: it is checked row by row, and copied to a new file. It
//! changes nothing.

use std::{
    fmt,
    ops::Bound::{Excluded, Unbounded},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use outflow_engine::{Chunk, RunId, Sequence, StoreError};
use redb::{
    Key, ReadOnlyTable, ReadTransaction, ReadableTable as _, ReadableTableMetadata as _, Table, TableDefinition,
    Value,
};

use super::{
    Archive, ENDED, FRAMES, KEYS, RUNS, RunKey, STATE, UNENDED,
    blocks::{Assembly, Piece, PieceKey, piece_key, piece_place},
    disk::Disk,
    ended_key,
    handle::{Fault, Handle},
    room::Growth,
    row::{self, Row},
};

/// Bytes that one transaction of a copy writes: so much waits in memory.
const COPIED_AT_ONCE: usize = 16 * 1024 * 1024;

/// The archive as it was at one moment, whatever is written to it since. As long as it is held, what was deleted since
/// takes its room in the file.
pub(in super::super) struct Snapshot<'a> {
    handle: &'a Handle,
    transaction: ReadTransaction,
}

/// Something in the archive that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Finding {
    /// The run that is affected, where that is known.
    pub(in super::super) run: Option<RunId>,
    /// The first and last of the responses that cannot be read.
    pub(in super::super) responses: Option<(u64, u64)>,
    /// What is wrong, and what follows from it.
    pub(in super::super) what: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(run) = self.run {
            write!(f, "run {run}: ")?;
        }
        if let Some((first, last)) = self.responses {
            write!(f, "responses {first} to {last}: ")?;
        }
        f.write_str(self.what)
    }
}

/// What a check went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Checked {
    pub(in super::super) runs: u64,
    /// Bytes of frames that are kept and readable.
    pub(in super::super) bytes: u64,
}

/// Bytes of the frames of a chunk behind a sequence.
pub(in super::super) fn kept_bytes(chunk: &Chunk, behind: u64) -> u64 {
    let first = chunk.first().get().max(behind + 1);
    if first > chunk.last().get() { 0 } else { chunk.between(Sequence::new(first), chunk.last()).len() as u64 }
}

impl Archive {
    /// The archive as it is now.
    pub(in super::super) fn snapshot(&self) -> Result<Snapshot<'_>, StoreError> {
        Ok(Snapshot { handle: &self.handle, transaction: self.handle.begin_read()? })
    }

    /// Whether redb finds all pages of the archive at `path` as it wrote them. Nobody else is using it.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where it does not.
    pub(in super::super) fn check_pages(path: &Path) -> Result<(), StoreError> {
        let name = path.display().to_string();
        let disk = Disk::open(path).map_err(|error| StoreError::Failed(format!("cannot open {name}: {error}")))?;
        Handle::check(name, Arc::new(disk))
    }

    /// Removes the archive at `path` with all that belongs to it.
    pub(in super::super) fn remove(path: &Path) {
        Disk::remove(path);
    }

    /// Gives the room back to the disk that the archive does not need. Nobody else is using it.
    pub(in super::super) fn compact(&self) -> Result<(), StoreError> {
        self.handle.compact()
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        self.handle.end_read();
    }
}

impl Snapshot<'_> {
    /// Reads all of it, and tells whatever is not as it was written.
    pub(in super::super) fn check(&self, tell: &mut dyn FnMut(Finding)) -> Result<Checked, StoreError> {
        self.handle.guard(|| {
            let mut checked = Checked::default();
            let runs = self.transaction.open_table(RUNS)?;
            let mut pieces = 0;
            for entry in runs.iter()? {
                let (key, value) = entry?;
                checked.runs += 1;
                pieces += self.check_run(key.value(), value.value(), &mut checked, tell)?;
            }
            for entry in self.transaction.open_table(KEYS)?.iter()? {
                let (key, value) = entry?;
                if row::unseal(key.value(), value.value()).is_none() {
                    let what = "a key is damaged: requests with it fail, until the run that it belongs to is deleted";
                    tell(Finding { run: None, responses: None, what });
                }
            }
            let mut lost = |is_lost: bool, what| {
                if is_lost {
                    tell(Finding { run: None, responses: None, what });
                }
            };
            lost(
                !self.is_whole(RUNS)?,
                "a page is damaged: some runs are not found, and readers of them get NOT_FOUND",
            );
            lost(
                !self.is_whole(KEYS)?,
                "a page is damaged: some keys are not found, and a request with one starts a run",
            );
            let is_ordered = self.is_whole(ENDED)? && self.is_whole(UNENDED)?;
            lost(
                !is_ordered,
                "a page is damaged: some runs are not deleted when their time comes, or not taken up again",
            );
            let all_pieces = self.transaction.open_table(FRAMES)?.len()?;
            lost(
                pieces != all_pieces,
                "a page is damaged: there are responses of runs that are not there, or not all of one",
            );
            Ok(checked)
        })
    }

    /// Whether a table has as many rows as redb counted, and each of them is found. The checksums of pages say less: a
    /// page that was damaged has a right one again once something else in it was changed.
    fn is_whole<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> Result<bool, Fault> {
        let table = self.transaction.open_table(table)?;
        let mut rows = 0;
        for entry in table.iter()? {
            let (key, _) = entry?;
            rows += 1;
            if table.get(key.value())?.is_none() {
                return Ok(false);
            }
        }
        Ok(rows == table.len()?)
    }

    /// Checks a run, and says how many pieces of blocks it has.
    fn check_run(
        &self,
        id: &RunKey,
        value: &[u8],
        checked: &mut Checked,
        tell: &mut dyn FnMut(Finding),
    ) -> Result<u64, Fault> {
        let run = RunId::from_bytes(*id);
        let mut tell = |responses, what| tell(Finding { run: Some(run), responses, what });
        let frames = self.transaction.open_table(FRAMES)?;
        let blocks = frames.range::<&PieceKey>(&piece_key(run, 0, 0)..=&piece_key(run, u64::MAX, u16::MAX))?;
        let Some(row) = row::decode::<Row>(id, value) else {
            tell(None, "its record is damaged: the run cannot be found or read any more");
            return Ok(blocks.count() as u64);
        };
        let is_indexed = match &row.ended {
            Some(ended) => self.transaction.open_table(ENDED)?.get(&ended_key(ended.in_service_nanos, id))?.is_some(),
            None => self.transaction.open_table(UNENDED)?.get(id)?.is_some(),
        };
        if !is_indexed {
            tell(
                None,
                "it is missing in the order of ends: it is not deleted when its time comes, or not taken up again",
            );
        }
        let mut next = row.dropped + 1;
        let mut missing = |next: u64, behind: u64| {
            if next < behind {
                tell(Some((next, behind - 1)), "they are damaged: a reader gets DATA_LOSS there, and all others");
            }
        };
        let mut assembly = Assembly::default();
        let mut pieces = 0;
        for entry in blocks {
            let (key, value) = entry?;
            pieces += 1;
            if piece_place(key.value()).1 < next {
                // A head that was dropped is removed little by little.
                continue;
            }
            let whole = Piece::read(key.value(), value.value()).and_then(|piece| assembly.add(&piece).ok());
            match whole {
                Some(Some(chunk)) => {
                    missing(next, chunk.first().get());
                    checked.bytes += kept_bytes(&chunk, row.dropped);
                    next = chunk.last().get() + 1;
                }
                Some(None) => {}
                None => assembly = Assembly::default(),
            }
        }
        let mut tail_first = row.last + 1;
        if !row.tail.is_empty() {
            tail_first = row.tail_first;
            let (first, last) = (Sequence::new(row.tail_first), Sequence::new(row.last));
            checked.bytes += kept_bytes(&Chunk::new(first, last, [row.tail]), row.dropped);
        }
        missing(next, tail_first);
        Ok(pieces)
    }

    /// Copies it to a new file, which is durable afterwards, until `is_ending` says that there is no more time. What is
    /// damaged is copied as it is.
    ///
    /// # Errors
    /// The new file is gone again.
    pub(in super::super) fn copy(&self, path: &Path, is_ending: &AtomicBool) -> Result<(), StoreError> {
        let name = path.display().to_string();
        if path.exists() {
            return Err(StoreError::Failed(format!("{name} is there already; give a place where nothing is")));
        }
        let disk = Disk::open(path).map_err(|error| StoreError::Failed(format!("cannot write {name}: {error}")))?;
        let copied = Handle::open(name, Arc::new(disk)).and_then(|target| {
            self.copy_table(&target, RUNS, is_ending)?;
            self.copy_table(&target, FRAMES, is_ending)?;
            self.copy_table(&target, KEYS, is_ending)?;
            self.copy_table(&target, ENDED, is_ending)?;
            self.copy_table(&target, UNENDED, is_ending)?;
            self.copy_table(&target, STATE, is_ending)
        });
        if copied.is_err() {
            // Half a copy is no use to anybody, and the first error is the one to be told.
            Disk::remove(path);
        }
        copied
    }

    fn copy_table<K: Key + 'static, V: Value + 'static>(
        &self,
        target: &Handle,
        table: TableDefinition<'_, K, V>,
        is_ending: &AtomicBool,
    ) -> Result<(), StoreError> {
        let source = self.handle.guard(|| Ok(self.transaction.open_table(table)?))?;
        let mut copied = None;
        loop {
            if is_ending.load(Ordering::Acquire) {
                return Err(StoreError::Failed("the server is shutting down; try again".to_owned()));
            }
            copied = target.write(Growth::OfDisk, |transaction| {
                let mut target = transaction.open_table(table)?;
                self.handle.guard(|| copy_some(&source, &mut target, copied.as_deref())).map_err(Fault::Store)
            })?;
            if copied.is_none() {
                return Ok(());
            }
        }
    }
}

/// Copies as many rows behind the given key as one transaction may, and gives the key of the last; `None` where there
/// are no more.
fn copy_some<K: Key + 'static, V: Value + 'static>(
    source: &ReadOnlyTable<K, V>,
    target: &mut Table<'_, K, V>,
    behind: Option<&[u8]>,
) -> Result<Option<Vec<u8>>, Fault> {
    let behind = behind.map_or(Unbounded, |key| Excluded(K::from_bytes(key)));
    let mut bytes = 0;
    for entry in source.range::<K::SelfType<'_>>((behind, Unbounded))? {
        let (key, value) = entry?;
        let (key, value) = (key.value(), value.value());
        bytes += K::as_bytes(&key).as_ref().len() + V::as_bytes(&value).as_ref().len();
        target.insert(&key, &value)?;
        if bytes >= COPIED_AT_ONCE {
            return Ok(Some(K::as_bytes(&key).as_ref().to_vec()));
        }
    }
    Ok(None)
}
