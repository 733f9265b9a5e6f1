//! A store whose commits and reads a test can hold, let go and make fail, and of which it sees what was committed.

use std::{sync::Arc, time::Duration};

use outflow_engine::{
    Batch, Chunk, Durability, Filter, Key, MemoryStore, Record, Room, RunId, RunRecord, Sequence, Store, StoreError,
};
use parking_lot::Mutex;

use super::gate::Gate;

/// Whether a store that fails still takes what may use the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    There,
    Gone,
}

/// A store in memory, with gates.
pub struct GatedStore {
    inner: MemoryStore,
    durability: Durability,
    state: Mutex<State>,
    /// Before a commit reaches the store.
    pub commits: Gate,
    /// After it did, before the engine is told.
    pub shown: Gate,
    /// Before frames are read.
    pub reads: Gate,
    /// After a key was looked up, before the engine is told.
    pub lookups: Gate,
}

#[derive(Default)]
struct State {
    fault: Option<(StoreError, Reserve)>,
    refuses_ends: bool,
    attempts: usize,
    lookups: usize,
    finds: usize,
    committed: Vec<(RunId, Record)>,
}

impl GatedStore {
    pub fn new() -> Arc<Self> {
        Self::of_bytes(256 * 1024 * 1024)
    }

    /// One that is full with so many bytes.
    pub fn of_bytes(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self::over(MemoryStore::new(bytes_max), Durability::Memory))
    }

    /// One whose runs a restarted engine would find: those that the test leaves in it.
    pub fn like_a_disk() -> Arc<Self> {
        Arc::new(Self::over(MemoryStore::new(256 * 1024 * 1024), Durability::Disk))
    }

    fn over(inner: MemoryStore, durability: Durability) -> Self {
        let (commits, shown, reads, lookups) = Default::default();
        Self { inner, durability, state: Mutex::default(), commits, shown, reads, lookups }
    }

    /// Commits are refused from now on, also the one that waits at the gate.
    pub fn fail(&self, error: StoreError, reserve: Reserve) {
        self.state.lock().fault = Some((error, reserve));
    }

    pub fn fill(&self, reserve: Reserve) {
        self.fail(StoreError::Full("the disk is full".into()), reserve);
    }

    pub fn break_down(&self) {
        self.fail(StoreError::Failed("the disk does not answer".into()), Reserve::Gone);
    }

    /// Commits with the end of a run in them are refused from now on, others not.
    pub fn refuse_ends(&self) {
        self.state.lock().refuses_ends = true;
    }

    /// It takes everything again.
    pub fn recover(&self) {
        let mut state = self.state.lock();
        (state.fault, state.refuses_ends) = (None, false);
    }

    /// Commits that reached the store, also those that it refused.
    pub fn attempts(&self) -> usize {
        self.state.lock().attempts
    }

    /// Resolves when the store has refused, or taken, `count` more commits.
    pub async fn tried(&self, count: usize) {
        let wanted = self.attempts() + count;
        super::until("no commit is tried", || self.attempts() >= wanted).await;
    }

    /// How often a key was looked up in it.
    pub fn looked_up(&self) -> usize {
        self.state.lock().lookups
    }

    /// How often a run was looked up in it.
    pub fn finds(&self) -> usize {
        self.state.lock().finds
    }

    /// All that was committed, in order.
    pub fn committed(&self) -> Vec<(RunId, Record)> {
        self.state.lock().committed.clone()
    }

    /// How many of the records that were committed `are` so.
    pub fn count(&self, are: impl Fn(&Record) -> bool) -> usize {
        self.state.lock().committed.iter().filter(|(_, record)| are(record)).count()
    }
}

impl Store for GatedStore {
    fn durability(&self) -> Durability {
        self.durability
    }

    fn in_service(&self) -> Duration {
        self.inner.in_service()
    }

    fn commit(&self, batch: &Batch, room: Room) -> Result<(), StoreError> {
        self.commits.pass();
        {
            let mut state = self.state.lock();
            state.attempts += 1;
            match &state.fault {
                Some((_, Reserve::There)) if room == Room::Reserve => {}
                Some((error, _)) => return Err(error.clone()),
                None if state.refuses_ends
                    && batch.records.iter().any(|(_, record)| matches!(record, Record::Ended(_))) =>
                {
                    return Err(StoreError::Failed("no ends".into()));
                }
                None => {}
            }
        }
        self.inner.commit(batch, room)?;
        self.state.lock().committed.extend(batch.records.iter().cloned());
        self.shown.pass();
        Ok(())
    }

    fn find(&self, run: RunId) -> Result<Option<RunRecord>, StoreError> {
        let found = self.inner.find(run);
        self.state.lock().finds += 1;
        found
    }

    fn bound(&self, key: &Key) -> Result<Option<RunId>, StoreError> {
        let bound = self.inner.bound(key);
        self.state.lock().lookups += 1;
        self.lookups.pass();
        bound
    }

    fn read(&self, run: RunId, from: Sequence, bytes_max: usize) -> Result<Vec<Chunk>, StoreError> {
        self.reads.pass();
        self.inner.read(run, from, bytes_max)
    }

    fn list(&self, filter: &Filter, before: Option<RunId>, max: usize) -> Result<Vec<RunRecord>, StoreError> {
        self.inner.list(filter, before, max)
    }

    fn unended(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.inner.unended()
    }

    fn ended_first(&self, behind: Option<(Duration, RunId)>, max: usize) -> Result<Vec<RunRecord>, StoreError> {
        self.inner.ended_first(behind, max)
    }

    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn bytes_max(&self) -> u64 {
        self.inner.bytes_max()
    }
}
