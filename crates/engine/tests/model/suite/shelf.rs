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

    /// Nothing is read or written from now on, nothing is under way, and the store is closed.
    pub(crate) fn take_away(&self) {
        drop(self.store.write().unwrap().take().expect("it is taken away once"));
    }

    /// Asks the store, which nobody takes away meanwhile.
    fn ask<T>(&self, question: impl FnOnce(&dyn Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &*self.store.read().unwrap() {
            Some(store) => question(&**store),
            None => Err(StoreError::Failed("the store was taken away".into())),
        }
    }
}

impl Store for Taken {
    fn durability(&self) -> Durability {
        self.durability
    }

    fn in_service(&self) -> Duration {
        self.ask(|store| Ok(store.in_service())).unwrap_or_default().max(self.in_service)
    }

    fn commit(&self, batch: &Batch, room: Room) -> Result<(), StoreError> {
        // A disk takes its time, in which the engine goes on, or is killed.
        nap();
        self.ask(|store| store.commit(batch, room))
    }

    fn find(&self, run: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.ask(|store| store.find(run))
    }

    fn bound(&self, key: &Key) -> Result<Option<RunId>, StoreError> {
        self.ask(|store| store.bound(key))
    }

    fn read(&self, run: RunId, from: Sequence, bytes_max: usize) -> Result<Vec<Chunk>, StoreError> {
        self.ask(|store| store.read(run, from, bytes_max))
    }

    fn list(&self, filter: &Filter, before: Option<RunId>, max: usize) -> Result<Vec<RunRecord>, StoreError> {
        self.ask(|store| store.list(filter, before, max))
    }

    fn unended(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.ask(<dyn Store>::unended)
    }

    fn ended_first(&self, behind: Option<(Duration, RunId)>, max: usize) -> Result<Vec<RunRecord>, StoreError> {
        self.ask(|store| store.ended_first(behind, max))
    }

    fn bytes(&self) -> u64 {
        self.ask(|store| Ok(store.bytes())).unwrap_or(0)
    }

    fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}
