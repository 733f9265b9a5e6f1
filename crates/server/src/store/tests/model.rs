//! The engine's model over the store in a directory, which is opened anew after each restart of the engine.

#[path = "../../../../engine/tests/model/suite/mod.rs"]
mod suite;

use std::sync::Arc;

use outflow_engine::Store;
use tempfile::TempDir;

use super::{super::Settings, open};

/// Segments so small that runs move to the archive while they are under way.
const SMALL: Settings =
    Settings { journal_bytes: 8 * 128 * 1024, segment_bytes: 128 * 1024, index_bytes: 96 << 20, bytes_max: 1 << 30 };

impl suite::Shelf for TempDir {
    fn open(&self) -> Arc<dyn Store> {
        open(self.path(), SMALL).unwrap()
    }
}

#[test]
fn whatever_is_asked_of_an_engine_on_disk_a_simple_model_says_what_comes_of_it() {
    suite::check(30, || tempfile::tempdir().unwrap());
}
