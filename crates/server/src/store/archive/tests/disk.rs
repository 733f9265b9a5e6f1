//! A disk in memory that loses, tears and reorders what was not synced, refuses, and is full. After a sync that failed
//! it is as Linux: what was written is read back, is never written to the disk, and the next sync says that all is well.

use std::{collections::BTreeSet, io, ops::Range, sync::Arc};

use parking_lot::Mutex;
use rand::{Rng, RngExt as _, rngs::SmallRng};
use redb::StorageBackend;

use super::super::room::Backing;

/// What is written as a whole or not at all.
const SECTOR_BYTES: usize = 512;
/// What a file system gives to a file.
const EXTENT_BYTES: u64 = 4096;

/// One thing that was done to the disk.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Write(u64, Vec<u8>),
    SetLength(u64),
    Sync,
}

/// Which operation fails, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// So many operations are done before.
    pub(super) after: usize,
    pub(super) kind: io::ErrorKind,
}

/// The disk. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// What is read.
    seen: Vec<u8>,
    /// What a crash leaves.
    durable: Vec<u8>,
    /// Sectors that differ, where a sync would write them.
    dirty: BTreeSet<usize>,
    operations: Vec<Operation>,
    failure: Option<Failure>,
    /// Extents that the file has, and how many there are for it.
    extents: BTreeSet<u64>,
    extents_max: Option<usize>,
    /// Extents that are kept beside the file.
    kept: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("bytes", &self.seen.len()).finish_non_exhaustive()
    }
}

impl Disk {
    /// A disk with this on it.
    pub(super) fn with(image: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.0.lock().extents = (0..(image.len() as u64).div_ceil(EXTENT_BYTES)).collect();
        disk.0.lock().durable.clone_from(&image);
        disk.0.lock().seen = image;
        disk
    }

    pub(super) fn backing(&self) -> Arc<dyn Backing> {
        Arc::new(self.clone())
    }

    pub(super) fn fail(&self, failure: Failure) {
        let mut state = self.0.lock();
        let after = state.operations.len() + failure.after;
        state.failure = Some(Failure { after, ..failure });
    }

    /// Nothing fails any more.
    pub(super) fn heal(&self) {
        self.0.lock().failure = None;
    }

    /// From now on the file gets no more than so many bytes beyond what it has.
    pub(super) fn fill_up(&self, left: u64) {
        let mut state = self.0.lock();
        state.extents_max = Some(state.extents.len() + state.kept + (left / EXTENT_BYTES) as usize);
    }

    /// The disk has room again.
    pub(super) fn has_room(&self) {
        self.0.lock().extents_max = None;
    }

    /// All that was done, in order.
    pub(super) fn operations(&self) -> Vec<Operation> {
        self.0.lock().operations.clone()
    }

    pub(super) fn operations_count(&self) -> usize {
        self.0.lock().operations.len()
    }

    /// What is left when everything that was not synced is lost.
    pub(super) fn durable(&self) -> Vec<u8> {
        self.0.lock().durable.clone()
    }

    /// What lies on it, to be changed behind everybody's back.
    pub(super) fn image(&self) -> Vec<u8> {
        self.0.lock().seen.clone()
    }
}

/// What a crash after these operations may leave: all that was synced, and of the rest any sectors, in any order.
pub(super) fn crash(operations: &[Operation], random: &mut SmallRng) -> Vec<u8> {
    let mut image = Vec::new();
    let synced = operations.iter().rposition(|operation| matches!(operation, Operation::Sync)).map_or(0, |at| at + 1);
    for operation in &operations[..synced] {
        apply(&mut image, operation);
    }
    // Now and then everything is lost, or nothing.
    let kept = [0.0, 1.0, 0.5, 0.9, 0.1][random.random_range(0..5)];
    let mut sectors = Vec::new();
    for operation in &operations[synced..] {
        match operation {
            Operation::SetLength(_) if random.random_bool(kept) => apply(&mut image, operation),
            Operation::Write(offset, bytes) => {
                let pieces = bytes.chunks(SECTOR_BYTES).enumerate();
                sectors.extend(pieces.map(|(n, bytes)| (*offset as usize + n * SECTOR_BYTES, bytes)));
            }
            _ => {}
        }
    }
    if random.random_bool(0.5) {
        for n in (1..sectors.len()).rev() {
            sectors.swap(n, random.random_range(0..=n));
        }
    }
    for (offset, bytes) in sectors {
        if random.random_bool(kept) {
            // What is written behind the end makes a file longer.
            let end = offset + bytes.len();
            if image.len() < end {
                image.resize(end, 0);
            }
            image[offset..end].copy_from_slice(bytes);
        }
    }
    image
}

fn apply(image: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write(offset, bytes) => image[*offset as usize..][..bytes.len()].copy_from_slice(bytes),
        Operation::SetLength(bytes) => image.resize(*bytes as usize, 0),
        Operation::Sync => {}
    }
}

impl State {
    /// Gives the file what it has not of this range.
    fn extend(&mut self, range: Range<u64>) -> io::Result<()> {
        let range = range.start / EXTENT_BYTES..range.end.div_ceil(EXTENT_BYTES);
        let added: Vec<u64> = range.filter(|extent| !self.extents.contains(extent)).collect();
        if self.extents_max.is_some_and(|max| self.extents.len() + self.kept + added.len() > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.extents.extend(added);
        Ok(())
    }

    fn begin(&mut self, operation: Operation) -> io::Result<()> {
        let is_due = self.failure.is_some_and(|failure| failure.after == self.operations.len());
        if is_due && let Some(failure) = self.failure.take() {
            if matches!(operation, Operation::Sync) {
                self.dirty.clear();
            }
            return Err(failure.kind.into());
        }
        self.operations.push(operation);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock();
        let bytes = state.seen.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        state.begin(Operation::SetLength(len))?;
        state.seen.resize(len as usize, 0);
        // Lengths are durable with the next sync in truth; that they are at once is what a journaling file system may do.
        state.durable.resize(len as usize, 0);
        state.extents.split_off(&len.div_ceil(EXTENT_BYTES));
        let sectors = len as usize / SECTOR_BYTES;
        state.dirty.split_off(&sectors);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.begin(Operation::Sync)?;
        let State { seen, durable, dirty, .. } = &mut *state;
        for sector in std::mem::take(dirty) {
            let range = sector * SECTOR_BYTES..((sector + 1) * SECTOR_BYTES).min(seen.len());
            durable[range.clone()].copy_from_slice(&seen[range]);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        let end = offset + data.len() as u64;
        state.extend(offset..end)?;
        state.begin(Operation::Write(offset, data.to_vec()))?;
        state.seen[offset as usize..end as usize].copy_from_slice(data);
        state.dirty.extend(offset as usize / SECTOR_BYTES..(end as usize).div_ceil(SECTOR_BYTES));
        Ok(())
    }
}

impl Backing for Disk {
    fn extend(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        let before = state.extents.clone();
        let length = state.seen.len() as u64;
        state.extend(length..bytes)?;
        drop(state);
        // As `fallocate` and `ftruncate`: where the second fails, the first is undone.
        self.set_len(bytes).inspect_err(|_| self.0.lock().extents = before)
    }

    fn keep(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        // As `fallocate`: it gives, and never takes.
        let wanted = ((bytes / EXTENT_BYTES) as usize).max(state.kept);
        if state.extents_max.is_some_and(|max| state.extents.len() + wanted > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.kept = wanted;
        Ok(())
    }

    fn give_back(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        state.kept = state.kept.min((bytes / EXTENT_BYTES) as usize);
        Ok(())
    }

    fn kept(&self) -> io::Result<u64> {
        Ok(self.0.lock().kept as u64 * EXTENT_BYTES)
    }
}

/// A seed, printed so that a failure can be seen again with `OUTFLOW_SEED`.
pub(super) fn seed() -> u64 {
    let seed = std::env::var("OUTFLOW_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().next_u64());
    println!("OUTFLOW_SEED={seed}");
    seed
}
