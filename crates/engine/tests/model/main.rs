//! The engine against a simple model, with the store in memory. What the suite knows nothing of is the store, so others
//! pass it, too.

mod suite;

use std::sync::Arc;

use outflow_engine::{MemoryStore, Store};
use suite::Shelf;

/// Keeps one store in memory through all restarts of the engine.
struct Kept(Arc<MemoryStore>);

impl Shelf for Kept {
    fn open(&self) -> Arc<dyn Store> {
        self.0.clone()
    }
}

#[test]
fn whatever_is_asked_of_the_engine_a_simple_model_says_what_comes_of_it() {
    suite::check(300, || Kept(Arc::new(MemoryStore::new(1 << 30))));
}
