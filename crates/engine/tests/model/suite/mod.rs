//! Random operations on an engine and its store, against a simple model: requests with linger, with keys and of shared
//! sources, jobs that emit, end and fail, readers that come, leave, and resume anywhere, stops, time that passes, a wall
//! clock that jumps, and restarts, with and without a warning.
//!
//! Time is paused and passes only where the model says so; the committer is a thread of its own, and what it does
//! interleaves as it likes.

mod ops;
mod patience;
mod requests;
mod runs;
mod shelf;
mod work;
mod world;

use std::{env, sync::Arc, time::Duration};

use outflow_engine::Store;
use proptest::{
    collection::vec,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

use world::World;

/// Where a store is found again.
pub(crate) trait Shelf: 'static {
    /// The store as it is now. The one given before is closed.
    fn open(&self) -> Arc<dyn Store>;
}

/// Lets so many random lives of an engine pass, each with a store of its own. `OUTFLOW_TEST_CASES` says another number.
pub(crate) fn check<S: Shelf>(cases: u32, make: impl Fn() -> S) {
    let cases = env::var("OUTFLOW_TEST_CASES").map_or(cases, |cases| cases.parse().unwrap());
    let seed = env::var("OUTFLOW_TEST_SEED").map_or_else(|_| random(), |seed| seed.parse().unwrap());
    println!("OUTFLOW_TEST_SEED={seed}");
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 300,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let bytes: Vec<u8> = [seed; 4].iter().flat_map(|part: &u64| part.to_le_bytes()).collect();
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let checked = runner.run(&vec(ops::op(), 1..50), |ops| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::begin(make()).await;
            for op in ops {
                world.apply(op).await;
            }
            world.finish().await;
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    });
    match checked {
        Ok(()) => {}
        Err(TestError::Fail(reason, ops)) => panic!("{reason}\nOUTFLOW_TEST_SEED={seed}, shrunk to {ops:#?}"),
        Err(error) => panic!("{error}"),
    }
}

/// Random enough for a seed, without a crate for it.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}
