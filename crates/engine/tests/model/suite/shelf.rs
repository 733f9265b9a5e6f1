//! A store that can be taken away from its engine at any moment, as a killed process loses it.

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use outflow_engine::{Batch, Chunk, Durability, Filter, Key, Room, RunId, RunRecord, Sequence, Store, StoreError};

use super::{Shelf, patience::nap};

/// A store, as long as it is there.
pub(crate) struct Taken {
    store: RwLock<Option<Arc<dyn Store>>>,
    durability: Durability,
    bytes_max: u64,
    /// How long it has been in service at least, whatever it says itself.
    in_service: Duration,
}

impl Taken {
    /// Takes the store from its shelf, as if it had been in service for so long at least, and so much longer.
    pub(crate) fn from(shelf: &impl Shelf, at_least: Duration, later: Duration) -> Arc<Self> {
        let store = shelf.open();
        let (durability, bytes_max) = (store.durability(), store.bytes_max());
        let in_service = store.in_service().max(at_least) + later;
        Arc::new(Self { store: RwLock::new(Some(store)), durability, bytes_max, in_service })
    }

    /// Nothing is read or written from now on, and nothing is under way. `kept` references to the store are others'.
    pub(crate) fn take_away(&self, kept: usize) {
        let store = self.store.write().unwrap().take().expect("it is taken away once");
        let others = Arc::downgrade(&store);
        drop(store);
        while others.strong_count() > kept {
            nap();
        }
    }

    fn there(&self) -> Result<Arc<dyn Store>, StoreError> {
        let store = self.store.read().unwrap();
        store.clone().ok_or_else(|| StoreError::Failed("the store was taken away".into()))
    }
}

impl Store for Taken {
    fn durability(&self) -> Durability {
        self.durability
    }

    fn in_service(&self) -> Duration {
        self.there().map_or(self.in_service, |store| store.in_service().max(self.in_service))
    }

    fn commit(&self, batch: &Batch, room: Room) -> Result<(), StoreError> {
        // A disk takes its time, in which the engine goes on, or is killed.
        nap();
        self.there()?.commit(batch, room)
    }

    fn find(&self, run: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.there()?.find(run)
    }

    fn bound(&self, key: &Key) -> Result<Option<RunId>, StoreError> {
        self.there()?.bound(key)
    }

    fn read(&self, run: RunId, from: Sequence, bytes_max: usize) -> Result<Vec<Chunk>, StoreError> {
        self.there()?.read(run, from, bytes_max)
    }

    fn list(&self, filter: &Filter, before: Option<RunId>, max: usize) -> Result<Vec<RunRecord>, StoreError> {
        self.there()?.list(filter, before, max)
    }

    fn unended(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.there()?.unended()
    }

    fn ended_first(&self, behind: Option<(Duration, RunId)>, max: usize) -> Result<Vec<RunRecord>, StoreError> {
        self.there()?.ended_first(behind, max)
    }

    fn bytes(&self) -> u64 {
        self.there().map_or(0, |store| store.bytes())
    }

    fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}
