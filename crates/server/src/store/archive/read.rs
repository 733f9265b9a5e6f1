//! What is read from the archive: as `trait Store` says of each. It knows the tables, and not how their rows are laid
//! out.
//!
//! A row that is not what was written is told to whoever asks for it. Where many are asked for it is left out, so that
//! one damaged run does not hide the others or hold up their deletion; `outflow data check` names it.

use std::time::Duration;

use outflow_engine::{Chunk, Filter, Key, RunId, RunRecord, Sequence, StoreError};
use redb::{ReadTransaction, ReadableTable as _};

use super::{
    Archive, ENDED, EndedKey, FRAMES, KEYS, RUNS, RunKey, UNENDED,
    blocks::{Assembly, Piece, PieceKey, piece_key},
    ended_key,
    handle::Fault,
    row::{self, Row, nanos},
};

impl Archive {
    /// See [`outflow_engine::Store::find`].
    pub(in super::super) fn find(&self, run: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.handle.read(|transaction| {
            let row = self.row(transaction, run)?;
            Ok(row.map(|row| row.record(run)).transpose()?)
        })
    }

    /// Bytes that a run takes, as [`Archive::bytes`] counts them; 0 where it is not there, or its record is damaged.
    pub(in super::super) fn bytes_of(&self, run: RunId) -> Result<u64, StoreError> {
        let id = run.to_bytes();
        self.handle.read(|transaction| {
            let Some(value) = transaction.open_table(RUNS)?.get(&id)? else { return Ok(0) };
            let row = row::decode::<Row>(&id, value.value());
            Ok(row.map_or(0, |row| row.footprint(value.value().len())))
        })
    }

    /// See [`outflow_engine::Store::bound`].
    pub(in super::super) fn bound(&self, Key(key): &Key) -> Result<Option<RunId>, StoreError> {
        self.handle.read(|transaction| {
            let Some(value) = transaction.open_table(KEYS)?.get(&key[..])? else { return Ok(None) };
            let Some(id) = row::unseal(key, value.value()) else {
                return Err(self.damaged("a key that a run is bound to").into());
            };
            let id: RunKey = id.try_into().expect("what follows the checksum is a run's id");
            // A run whose row was damaged left its keys when it was deleted.
            let is_there = transaction.open_table(RUNS)?.get(&id)?.is_some();
            Ok(is_there.then(|| RunId::from_bytes(id)))
        })
    }

    /// See [`outflow_engine::Store::read`].
    pub(in super::super) fn read(
        &self,
        run: RunId,
        from: Sequence,
        bytes_max: usize,
    ) -> Result<Vec<Chunk>, StoreError> {
        self.handle.read(|transaction| {
            let Some(row) = self.row(transaction, run)? else { return Ok(Vec::new()) };
            let from = from.get();
            if from <= row.dropped || from > row.last {
                return Ok(Vec::new());
            }
            let tail = row.tail_chunk();
            let mut wanted = Wanted { next: from, chunks: Vec::new(), bytes: 0, bytes_max };
            let blocks_end = tail.as_ref().map_or(row.last + 1, |tail| tail.first().get());
            if from < blocks_end {
                wanted.take_blocks(transaction, run)?;
            }
            if let Some(tail) = tail {
                wanted.take(tail);
            }
            if wanted.chunks.is_empty() {
                return Err(self.damaged(&format!("run {run} at response {from}")).into());
            }
            Ok(wanted.chunks)
        })
    }

    /// See [`outflow_engine::Store::list`].
    pub(in super::super) fn list(
        &self,
        filter: &Filter,
        before: Option<RunId>,
        max: usize,
    ) -> Result<Vec<RunRecord>, StoreError> {
        self.handle.read(|transaction| {
            let runs = transaction.open_table(RUNS)?;
            let end = before.map_or([u8::MAX; RunId::BYTES], RunId::to_bytes);
            let mut found = Vec::new();
            for entry in runs.range::<&RunKey>(..&end)?.rev() {
                if found.len() >= max {
                    break;
                }
                let (key, value) = entry?;
                let Some(record) = self.listed(key.value(), value.value()) else { continue };
                if filter.wants(&record) {
                    found.push(record);
                }
            }
            Ok(found)
        })
    }

    /// See [`outflow_engine::Store::unended`].
    pub(in super::super) fn unended(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.handle.read(|transaction| {
            let runs = transaction.open_table(RUNS)?;
            let mut found = Vec::new();
            for entry in transaction.open_table(UNENDED)?.iter()? {
                let (key, _) = entry?;
                let Some(value) = runs.get(key.value())? else { continue };
                found.extend(self.listed(key.value(), value.value()).filter(|record| record.ended.is_none()));
            }
            Ok(found)
        })
    }

    /// See [`outflow_engine::Store::ended_first`].
    pub(in super::super) fn ended_first(
        &self,
        behind: Option<(Duration, RunId)>,
        max: usize,
    ) -> Result<Vec<RunRecord>, StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.handle.read(|transaction| {
            let runs = transaction.open_table(RUNS)?;
            let behind = behind.map(|(in_service, run)| ended_key(nanos(in_service), &run.to_bytes()));
            let behind = behind.as_ref().map_or(Unbounded, Excluded);
            let mut found = Vec::new();
            for entry in transaction.open_table(ENDED)?.range::<&EndedKey>((behind, Unbounded))? {
                if found.len() >= max {
                    break;
                }
                let (key, _) = entry?;
                let (in_service, id) = key.value().split_first_chunk::<8>().expect("a key of 30 bytes");
                let id: &RunKey = id.try_into().expect("22 of 30 are left");
                let Some(value) = runs.get(id)? else { continue };
                // The order is told by the record, whose checksum is right: by a damaged entry nothing is deleted early.
                let in_service = Duration::from_nanos(u64::from_be_bytes(*in_service));
                found.extend(
                    self.listed(id, value.value())
                        .filter(|record| record.ended.as_ref().is_some_and(|ended| ended.in_service == in_service)),
                );
            }
            Ok(found)
        })
    }

    fn row(&self, transaction: &ReadTransaction, run: RunId) -> Result<Option<Row>, Fault> {
        let id = run.to_bytes();
        let Some(value) = transaction.open_table(RUNS)?.get(&id)? else { return Ok(None) };
        let row = row::decode(&id, value.value());
        Ok(Some(row.ok_or_else(|| self.damaged(&format!("the record of run {run}")))?))
    }

    /// One of many; `None` where it cannot be read.
    fn listed(&self, id: &RunKey, value: &[u8]) -> Option<RunRecord> {
        let run = RunId::from_bytes(*id);
        let record = row::decode::<Row>(id, value).map(|row| row.record(run));
        if !matches!(record, Some(Ok(_))) {
            tracing::warn!(archive = self.handle.name(), %run, "a run is left out, since its record cannot be read");
        }
        record?.ok()
    }

    fn damaged(&self, what: &str) -> StoreError {
        let name = self.handle.name();
        StoreError::Damaged(format!(
            "{what} is damaged in {name}; the rest can be read, and `outflow data check` names all that cannot"
        ))
    }
}

/// Chunks, as they are put together.
struct Wanted {
    /// The sequence that comes next.
    next: u64,
    chunks: Vec<Chunk>,
    bytes: usize,
    bytes_max: usize,
}

impl Wanted {
    /// Takes blocks from where the next sequence lies, as long as they are in order and there is room.
    fn take_blocks(&mut self, transaction: &ReadTransaction, run: RunId) -> Result<(), Fault> {
        let frames = transaction.open_table(FRAMES)?;
        let mut assembly = Assembly::default();
        for entry in frames.range::<&PieceKey>(&piece_key(run, self.next, 0)..=&piece_key(run, u64::MAX, u16::MAX))? {
            let (key, value) = entry?;
            // Before it is copied: a call ends with a block that there is no room for.
            if !self.has_room(value.value().len()) {
                break;
            }
            let Some(piece) = Piece::read(key.value(), value.value()) else { break };
            let Ok(whole) = assembly.add(&piece) else { break };
            if whole.is_some_and(|chunk| !self.take(chunk)) {
                break;
            }
        }
        Ok(())
    }

    /// Takes a chunk, where it comes next and there is room; says whether it did.
    fn take(&mut self, chunk: Chunk) -> bool {
        let follows = if self.chunks.is_empty() {
            (chunk.first().get()..=chunk.last().get()).contains(&self.next)
        } else {
            chunk.first().get() == self.next
        };
        let bytes = chunk.len();
        if !follows || !self.has_room(bytes) {
            return false;
        }
        self.next = chunk.last().get() + 1;
        self.bytes += bytes;
        self.chunks.push(chunk);
        true
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.chunks.is_empty() || self.bytes + bytes <= self.bytes_max
    }
}
