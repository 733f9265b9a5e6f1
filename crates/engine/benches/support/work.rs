//! What happens once per response and once per chunk between a job and a reader, so many times. Criterion takes the time of
//! it, and `benches/counts` its instructions.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use outflow_engine::{Delivery, Emitter, Engine, JobError, Source};
use tokio::{runtime::Runtime, sync::Semaphore, task::JoinSet};

use super::{SMALL, Work, block_on, drain, large, many_at_once, one_by_one, plain, reader, runtime, shared};

/// Responses that are emitted at once.
pub(crate) const AT_ONCE: u64 = 64;

pub(crate) fn emit(times: u64) {
    read_all(Work::text(move |emitter| one_by_one(emitter, times)), times);
}

pub(crate) fn emit_all(times: u64) {
    read_all(Work::text(move |emitter| many_at_once(emitter, times)), times);
}

pub(crate) fn emit_large(times: u64) {
    read_all(Work::bytes(move |emitter| large(emitter, times)), times);
}

/// Journals `times` small responses in memory, spread over so many runs at once, and reads them as they become durable.
pub(crate) fn journal(runs: u64, times: u64) {
    let each = times.div_ceil(runs);
    block_on(async {
        let engine = shared(Work::text(move |emitter| many_at_once(emitter, each)));
        let mut readers = JoinSet::new();
        for run in 0..runs {
            let mut reader = reader(&engine, run as i32).await;
            readers.spawn(async move { drain(&mut reader).await });
        }
        while let Some(last) = readers.join_next().await {
            assert_eq!(last.expect("no panic"), each);
        }
    });
}

fn read_all(source: impl Source, times: u64) {
    block_on(async {
        let engine = plain(source);
        assert_eq!(drain(&mut reader(&engine, 1).await).await, times);
    });
}

/// The reader waits for each response: it is woken, takes it, and says that the next one may come.
pub(crate) fn quiet(times: u64) {
    let (source, pace) = paced(times, 1);
    block_on(async {
        let engine = plain(source);
        let mut reader = reader(&engine, 1).await;
        for n in 1..=times {
            pace.add_permits(1);
            let Delivery::Chunk(chunk) = reader.next().await else { panic!("response {n} was not the last") };
            assert_eq!((chunk.first().get(), chunk.last().get()), (n, n), "each alone");
        }
    });
}

/// Commits of 64 responses each to a store in memory, given to so many readers that wait. The next 64 are emitted when the
/// last ones were seen, so that it is certain what is committed together.
pub(crate) fn commits(readers: u64, times: u64) {
    let (source, pace) = paced(times, AT_ONCE);
    block_on(async {
        let engine = shared(source);
        let mut all = Vec::new();
        for _ in 0..readers {
            all.push(reader(&engine, 1).await);
        }
        for n in 1..=times {
            // Only who waits keeps up with a run; who comes later reads from the store.
            let mut nobody = Context::from_waker(Waker::noop());
            assert!(all.iter_mut().all(|reader| reader.poll_next(&mut nobody).is_pending()));
            pace.add_permits(1);
            for reader in &mut all {
                let Delivery::Chunk(chunk) = reader.next().await else { panic!("commit {n} was not the last") };
                assert_eq!(chunk.last().get(), n * AT_ONCE, "what was emitted together comes together");
            }
        }
    });
}

/// Reads an ended run of so many small responses again, from its store in memory.
pub(crate) struct Replay {
    engine: Engine,
    runtime: Runtime,
    responses: u64,
}

impl Replay {
    /// Emits them.
    pub(crate) fn new(responses: u64) -> Self {
        let runtime = runtime();
        let engine = runtime.block_on(async {
            let engine = shared(Work::text(move |emitter| many_at_once(emitter, responses)));
            assert_eq!(drain(&mut reader(&engine, 1).await).await, responses);
            engine
        });
        Self { engine, runtime, responses }
    }

    /// Reads them.
    pub(crate) fn read(&self) {
        let responses = self.runtime.block_on(async { drain(&mut reader(&self.engine, 1).await).await });
        assert_eq!(responses, self.responses);
    }
}

/// A source whose job emits `at_once` small responses for each permit, `times` times.
fn paced(times: u64, at_once: u64) -> (impl Source, Arc<Semaphore>) {
    let pace = Arc::new(Semaphore::new(0));
    let work = {
        let pace = pace.clone();
        move |emitter: Emitter| {
            let pace = pace.clone();
            async move {
                let payloads = vec![SMALL; at_once as usize];
                for _ in 0..times {
                    pace.acquire().await.expect("nobody closes it").forget();
                    emitter.emit_all(&payloads).await?;
                }
                Ok::<(), JobError>(())
            }
        }
    };
    (Work::text(work), pace)
}
