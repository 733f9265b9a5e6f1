//! What is written to the archive: runs that move in, and runs that are deleted. It knows the tables, and not how their
//! rows are laid out.

use std::time::Duration;

use outflow_engine::{Chunk, Key, RunId, Sequence, StoreError};
use redb::ReadableTable as _;

use super::{
    Archive, Moved, Tables,
    blocks::{Assembly, End, Frames, Piece, PieceKey, TAIL_BYTES_MAX, is_worth_merging, piece_key, piece_place},
    ended_key,
    handle::Fault,
    room::Growth,
    row::{self, CHECKSUM_BYTES, Row, StateRow, nanos},
};

/// Pieces that one transaction removes at most: about 64 MiB, which is a tenth of a second; what is put meanwhile waits.
const REMOVED_AT_ONCE: usize = 1024;

impl Archive {
    /// Makes all that is moved durable, together: the records are replaced, the frames appended, and the keys bound.
    ///
    /// # Errors
    /// Nothing is there that was not there before, or all of it; the same may be put again.
    pub(in super::super) fn put(&self, moved: &[Moved], in_service: Duration) -> Result<(), StoreError> {
        let put = || {
            self.write(Growth::OfDisk, |tables, state| {
                state.in_service_nanos = state.in_service_nanos.max(nanos(in_service));
                let mut buffer = Vec::new();
                for moved in moved {
                    tables.put(moved, state, &mut buffer)?;
                }
                Ok(())
            })
        };
        self.handle.use_room(self.bytes(), put)
    }

    /// Deletes runs, their frames, and the keys still bound to them; runs that are not there are passed over. Each is
    /// gone as a whole in the end, but the frames of a long one go before its record, in several transactions.
    ///
    /// # Errors
    /// Some may be deleted; the same may be deleted again.
    pub(in super::super) fn delete(&self, runs: &[RunId]) -> Result<(), StoreError> {
        let mut rest = runs;
        while !rest.is_empty() {
            let deleted = self
                .handle
                .make_room(|| self.write(Growth::OfReserve, |tables, state| tables.delete_some(rest, state)))?;
            rest = &rest[deleted..];
        }
        Ok(())
    }

    /// Makes keys nobody's.
    ///
    /// # Errors
    /// Some may be; the same may be unbound again.
    pub(in super::super) fn unbind(&self, keys: &[Key]) -> Result<(), StoreError> {
        self.handle.make_room(|| {
            self.write(Growth::OfReserve, |tables, _| {
                for Key(key) in keys {
                    tables.keys.remove(&key[..])?;
                }
                Ok(())
            })
        })
    }
}

/// What was removed of a run.
struct Removed {
    pieces: usize,
    /// What they took in the file.
    bytes: u64,
}

impl Tables<'_> {
    fn put(&mut self, moved: &Moved, state: &mut StateRow, buffer: &mut Vec<u8>) -> Result<(), Fault> {
        let run = moved.record.id;
        let id = run.to_bytes();
        let mut row = Row::new(&moved.record);
        let mut frames = Frames::default();
        let mut have = self.take_up(run, &mut row, &mut frames, state)?;
        self.bind(run, &moved.keys)?;

        for chunk in &moved.chunks {
            let Some(chunk) = new_of(chunk, have) else { continue };
            if !frames.reach(chunk.first().get() - 1) {
                // What is missing between them is missing for ever.
                self.put_blocks(&mut row, run, &mut frames, End::Block, buffer)?;
            }
            have = chunk.last().get();
            frames.push(chunk);
        }
        row.last = row.last.max(have);
        let is_tail = frames.reach(row.last);
        if !is_tail || frames.bytes() >= TAIL_BYTES_MAX {
            if is_worth_merging(row.last_block_bytes as usize, frames.bytes()) {
                self.take_last_block(&mut row, run, &mut frames)?;
            }
            let end = if is_tail { End::Tail } else { End::Block };
            self.put_blocks(&mut row, run, &mut frames, end, buffer)?;
        }
        if !frames.is_empty() {
            row.tail_first = frames.first();
            row.tail = frames.take_tail();
        }
        let dropped = self.remove_frames(run, moved.record.first, REMOVED_AT_ONCE)?;
        row.block_bytes = row.block_bytes.saturating_sub(dropped.bytes);

        match &row.ended {
            Some(ended) => {
                self.ended.insert(&ended_key(ended.in_service_nanos, &id), ())?;
                self.unended.remove(&id)?;
            }
            None => {
                self.unended.insert(&id, ())?;
            }
        }
        let value = row::encode(&id, &row);
        state.bytes += row.footprint(value.len());
        self.runs.insert(&id, &value[..])?;
        Ok(())
    }

    /// Takes up what is known of the run, to be replaced by `row`, and gives the last sequence that is there. A tail goes
    /// to `frames`.
    fn take_up(
        &mut self,
        run: RunId,
        row: &mut Row,
        frames: &mut Frames,
        state: &mut StateRow,
    ) -> Result<u64, Fault> {
        match self.row(run)? {
            Some(Known::Row(old, bytes)) => {
                state.bytes = state.bytes.saturating_sub(old.footprint(bytes));
                if let Some(ended) = &old.ended {
                    self.ended.remove(&ended_key(ended.in_service_nanos, &run.to_bytes()))?;
                }
                row.block_bytes = old.block_bytes;
                row.last_block_bytes = old.last_block_bytes;
                row.last = row.last.max(old.last);
                if let Some(tail) = old.tail_chunk() {
                    frames.push(tail);
                }
                Ok(old.last)
            }
            // The row is damaged, and what its blocks say is all that is known.
            Some(Known::Damaged) => {
                let last = self.blocks(run)?.next_back().transpose()?;
                Ok(last.map_or(0, |(key, _)| piece_place(key.value()).1))
            }
            None => Ok(0),
        }
    }

    /// Binds keys, which are no longer bound to what they were bound to.
    fn bind<'k>(&mut self, run: RunId, keys: impl IntoIterator<Item = &'k Key>) -> Result<(), Fault> {
        for Key(key) in keys {
            let mut value = [0; CHECKSUM_BYTES + RunId::BYTES];
            value[CHECKSUM_BYTES..].copy_from_slice(&run.to_bytes());
            row::seal(key, &mut value);
            self.keys.insert(&key[..], &value)?;
        }
        Ok(())
    }

    /// Deletes as much as one transaction may, and says how many runs are gone.
    fn delete_some(&mut self, runs: &[RunId], state: &mut StateRow) -> Result<usize, Fault> {
        let mut room = REMOVED_AT_ONCE;
        for (deleted, &run) in runs.iter().enumerate() {
            room -= self.remove_frames(run, Sequence::new(u64::MAX), room)?.pieces;
            if room == 0 {
                return Ok(deleted);
            }
            self.delete(run, state)?;
        }
        Ok(runs.len())
    }

    /// Deletes a run that has no blocks (any more).
    fn delete(&mut self, run: RunId, state: &mut StateRow) -> Result<(), Fault> {
        let id = run.to_bytes();
        match self.row(run)? {
            None => {}
            // Its keys, and its place in the order of ends, are not known: they name a run that is not there, and are
            // passed over where they are read.
            Some(Known::Damaged) => {
                self.runs.remove(&id)?;
                self.unended.remove(&id)?;
            }
            Some(Known::Row(row, bytes)) => {
                for key in row.keys() {
                    let is_bound = self.keys.get(&key[..])?.is_some_and(|bound| bound.value().ends_with(&id));
                    if is_bound {
                        self.keys.remove(&key[..])?;
                    }
                }
                match &row.ended {
                    Some(ended) => self.ended.remove(&ended_key(ended.in_service_nanos, &id))?,
                    None => self.unended.remove(&id)?,
                };
                self.runs.remove(&id)?;
                state.bytes = state.bytes.saturating_sub(row.footprint(bytes));
            }
        }
        Ok(())
    }

    /// What is known of a run.
    fn row(&self, run: RunId) -> Result<Option<Known>, Fault> {
        let id = run.to_bytes();
        let Some(value) = self.runs.get(&id)? else { return Ok(None) };
        let value = value.value();
        Ok(Some(row::decode(&id, value).map_or(Known::Damaged, |row| Known::Row(Box::new(row), value.len()))))
    }

    /// The pieces of a run.
    fn blocks(&self, run: RunId) -> Result<redb::Range<'_, &'static PieceKey, &'static [u8]>, Fault> {
        Ok(self.frames.range::<&PieceKey>(&piece_key(run, 0, 0)..=&piece_key(run, u64::MAX, u16::MAX))?)
    }

    /// Writes blocks of the frames; what is left over stays in `frames`.
    fn put_blocks(
        &mut self,
        row: &mut Row,
        run: RunId,
        frames: &mut Frames,
        end: End,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        for block in frames.cut(end)? {
            row.last_block_bytes = block.bytes() as u64;
            frames.take_block(run, &block, buffer, |key, value, bytes| {
                row.block_bytes += bytes;
                self.frames.insert(key, value).map(drop)
            })?;
        }
        Ok(())
    }

    /// Takes the run's last block up again, where the frames follow it.
    fn take_last_block(&mut self, row: &mut Row, run: RunId, frames: &mut Frames) -> Result<(), Fault> {
        let (key, chunk, bytes) = {
            let Some(entry) = self.blocks(run)?.next_back() else { return Ok(()) };
            let (key, value) = entry?;
            let (key, value) = (*key.value(), value.value());
            let chunk = Piece::read(&key, value).and_then(|piece| Assembly::default().add(&piece).ok()?);
            // One that is damaged stays where it is, to be told of.
            let Some(chunk) = chunk.filter(|chunk| frames.follow(chunk.last().get())) else { return Ok(()) };
            (key, chunk, Piece::file_bytes(value.len()))
        };
        self.frames.remove(&key)?;
        frames.push_front(chunk);
        row.block_bytes = row.block_bytes.saturating_sub(bytes);
        Ok(())
    }

    /// Removes blocks that lie before `first` as a whole, at most so many pieces of them.
    fn remove_frames(&mut self, run: RunId, first: Sequence, pieces_max: usize) -> Result<Removed, Fault> {
        let mut removed = Removed { pieces: 0, bytes: 0 };
        if first <= Sequence::FIRST {
            return Ok(removed);
        }
        let range = &piece_key(run, 0, 0)..&piece_key(run, first.get(), 0);
        for entry in self.frames.extract_from_if::<&PieceKey, _>(range, |_, _| true)?.take(pieces_max) {
            removed.pieces += 1;
            removed.bytes += Piece::file_bytes(entry?.1.value().len());
        }
        Ok(removed)
    }
}

/// What is known of a run that has a row.
enum Known {
    /// This, in so many bytes.
    Row(Box<Row>, usize),
    /// Nothing: the row is not what was written.
    Damaged,
}

/// What of `chunk` comes behind `have`.
fn new_of(chunk: &Chunk, have: u64) -> Option<Chunk> {
    if chunk.first().get() > have {
        Some(chunk.clone())
    } else if chunk.last().get() > have {
        Some(chunk.between(Sequence::new(have + 1), chunk.last()))
    } else {
        None
    }
}
