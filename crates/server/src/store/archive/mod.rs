//! The archive: records, keys and frames of runs that left the live journal, in redb, where they are looked up. It owns
//! its file and what is in it, as `docs/format.md` says, and must not know the live journal.

mod blocks;
mod disk;
mod handle;
mod put;
mod read;
mod room;
mod row;
mod snapshot;
#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use outflow_engine::{Chunk, Key, RunId, RunRecord, StoreError};
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use self::{
    blocks::PieceKey,
    disk::Disk,
    handle::{Fault, Handle},
    room::Growth,
    row::{CHECKSUM_BYTES, Row, StateRow, nanos},
};

pub(super) use room::Backing;
pub(super) use snapshot::{Snapshot, kept_bytes};

/// The format of the archive. A newer one is refused.
const VERSION: u32 = 1;

/// A run's id, as keys have it.
type RunKey = [u8; RunId::BYTES];
/// Nanoseconds in service at a run's end, big-endian, and the run.
type EndedKey = [u8; 8 + RunId::BYTES];
/// Checksum and run.
type BoundValue = [u8; CHECKSUM_BYTES + RunId::BYTES];

/// Run → [`Row`].
const RUNS: TableDefinition<'_, &RunKey, &[u8]> = TableDefinition::new("runs");
/// Run, last sequence, piece → frames.
const FRAMES: TableDefinition<'_, &PieceKey, &[u8]> = TableDefinition::new("frames");
/// Key → run.
const KEYS: TableDefinition<'_, &[u8], &BoundValue> = TableDefinition::new("keys");
/// The runs that ended, in the order in which they did.
const ENDED: TableDefinition<'_, &EndedKey, ()> = TableDefinition::new("ended");
/// The runs that did not end.
const UNENDED: TableDefinition<'_, &RunKey, ()> = TableDefinition::new("unended");
/// [`STATE_KEY`] → [`StateRow`].
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
const STATE_KEY: &str = "state";

/// Records, keys and frames of runs, in one file.
///
/// One thread writes; any number read beside it, and see what was written before their call began.
#[derive(Debug)]
pub(super) struct Archive {
    handle: Handle,
    /// As in the state's row.
    in_service_nanos: AtomicU64,
    bytes: AtomicU64,
}

/// A run, or what was added to one, on its way into the archive.
#[derive(Clone, Debug)]
pub(super) struct Moved {
    /// The run as of now; its `last` is the last of `chunks`, or of what was moved before where there are none.
    pub(super) record: RunRecord,
    /// What follows the frames that the archive has. What it has already is passed over, so that a move whose answer
    /// was lost can be made again. Where sequences that the record keeps are missing, reading there is
    /// [`StoreError::Damaged`] ever after.
    pub(super) chunks: Vec<Chunk>,
    /// Keys that are bound to it from now on, and no longer to whom they were bound to.
    pub(super) keys: Vec<Key>,
}

impl Archive {
    /// Opens the archive at `path`, or makes it. That takes milliseconds, whatever its size and however it was left.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where a newer version wrote it or the disk refuses, [`StoreError::Damaged`] where it is
    /// no archive.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let disk = Disk::open(path).map_err(|error| StoreError::Failed(format!("cannot open {name}: {error}")))?;
        Self::open_on(name, Arc::new(disk))
    }

    /// Lets go of memory, where nobody used it for so long; says whether that may have been much. To be called every few
    /// seconds.
    pub(super) fn rest(&self, idle: Duration) -> bool {
        self.handle.rest(idle)
    }

    /// Opens the archive on `backing`, or makes it; messages call it `name`.
    pub(super) fn open_on(name: String, backing: Arc<dyn Backing>) -> Result<Self, StoreError> {
        let handle = Handle::open(name, backing)?;
        // Also where nothing is to be made: a process that was killed may have left a commit that can be read and is not
        // durable yet, and this makes it so before anybody relies on it.
        let state = handle.make_room(|| {
            handle.write(Growth::OfReserve, |transaction| {
                // All tables are made at once, so that no reader meets one that is not there.
                let mut tables = Tables::open(transaction)?;
                let state = match tables.state()? {
                    Some(state) if state.version > VERSION => return Err(newer(handle.name(), state.version).into()),
                    Some(state) => state,
                    None => tables.count(handle.name())?,
                };
                tables.set_state(&state)?;
                Ok(state)
            })
        })?;
        let (in_service_nanos, bytes) = (state.in_service_nanos.into(), state.bytes.into());
        Ok(Self { handle, in_service_nanos, bytes })
    }

    /// How long the store had been in service when this was last written to.
    pub(super) fn in_service(&self) -> Duration {
        Duration::from_nanos(self.in_service_nanos.load(Ordering::Relaxed))
    }

    /// Bytes that all its runs take, about. The file may be longer: freed space is used again and not given back.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Writes what `write` does to the tables and to the state in one durable transaction.
    fn write<T>(
        &self,
        growth: Growth,
        write: impl Fn(&mut Tables<'_>, &mut StateRow) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let (given, state) = self.handle.write(growth, |transaction| {
            let mut tables = Tables::open(transaction)?;
            let mut state =
                StateRow { version: VERSION, in_service_nanos: nanos(self.in_service()), bytes: self.bytes() };
            let given = write(&mut tables, &mut state)?;
            tables.set_state(&state)?;
            Ok((given, state))
        })?;
        // Readers of these want an estimate, and nothing is published through them.
        self.in_service_nanos.store(state.in_service_nanos, Ordering::Relaxed);
        self.bytes.store(state.bytes, Ordering::Relaxed);
        Ok(given)
    }
}

/// The tables, to be written.
struct Tables<'a> {
    runs: Table<'a, &'static RunKey, &'static [u8]>,
    frames: Table<'a, &'static PieceKey, &'static [u8]>,
    keys: Table<'a, &'static [u8], &'static BoundValue>,
    ended: Table<'a, &'static EndedKey, ()>,
    unended: Table<'a, &'static RunKey, ()>,
    state: Table<'a, &'static str, &'static [u8]>,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, Fault> {
        Ok(Self {
            runs: transaction.open_table(RUNS)?,
            frames: transaction.open_table(FRAMES)?,
            keys: transaction.open_table(KEYS)?,
            ended: transaction.open_table(ENDED)?,
            unended: transaction.open_table(UNENDED)?,
            state: transaction.open_table(STATE)?,
        })
    }

    /// The state; `None` where there is none yet, or it is not what was written.
    fn state(&self) -> Result<Option<StateRow>, Fault> {
        let row = self.state.get(STATE_KEY)?;
        Ok(row.and_then(|row| row::decode(STATE_KEY.as_bytes(), row.value())))
    }

    fn set_state(&mut self, state: &StateRow) -> Result<(), Fault> {
        self.state.insert(STATE_KEY, &row::encode(STATE_KEY.as_bytes(), state)[..])?;
        Ok(())
    }

    /// The state as the runs tell it, where it was lost: the only time that anything walks the runs.
    fn count(&self, name: &str) -> Result<StateRow, Fault> {
        let mut state = StateRow { version: VERSION, ..StateRow::default() };
        for entry in self.runs.iter()? {
            let (key, value) = entry?;
            let Some(row) = row::decode::<Row>(key.value(), value.value()) else { continue };
            state.bytes += row.footprint(value.value().len());
            let in_service = row.ended.map_or(0, |ended| ended.in_service_nanos);
            state.in_service_nanos = state.in_service_nanos.max(in_service);
        }
        if state.bytes > 0 {
            tracing::warn!(archive = name, "its state was lost, and is made again from its runs");
        }
        Ok(state)
    }
}

fn newer(name: &str, version: u32) -> StoreError {
    StoreError::Failed(format!(
        "{name} is of format {version}, and this version of outflow reads none newer than {VERSION}; use the one that \
         wrote it, or a newer one"
    ))
}

/// A run's place in the order of ends.
fn ended_key(in_service_nanos: u64, run: &RunKey) -> EndedKey {
    let mut key = [0; 8 + RunId::BYTES];
    key[..8].copy_from_slice(&in_service_nanos.to_be_bytes());
    key[8..].copy_from_slice(run);
    key
}
