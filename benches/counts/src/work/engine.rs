//! What happens once per response and once per chunk between a job and a reader.

use std::{
    hint::black_box,
    sync::Arc,
    task::{Context, Waker},
};

use outflow_engine::{Delivery, Emitter, JobError, Source};
use tokio::sync::Semaphore;

use crate::{
    frame::{Field, HEAD_BUFFER_BYTES, JobIndex, Part, Sequence, write_head},
    support::{SMALL, Work, block_on, drain, large, many_at_once, one_by_one, plain, reader, shared},
};

/// Responses that are emitted at once.
const AT_ONCE: u64 = 64;
const READERS: u64 = 64;

pub(super) fn frames(times: u64) {
    let mut place = [0; HEAD_BUFFER_BYTES];
    for n in 0..times {
        // Where a run is already long.
        let sequence = black_box(Sequence::new(1_000_000 + n));
        let bytes = write_head(&mut place, sequence, JobIndex::new(0), Field::Result, SMALL.len(), Part::Last);
        black_box((bytes, &mut place));
    }
}

pub(super) fn emit(times: u64) {
    read_all(Work::text(move |emitter| one_by_one(emitter, times)), times);
}

pub(super) fn emit_all(times: u64) {
    read_all(Work::text(move |emitter| many_at_once(emitter, times)), times);
}

pub(super) fn emit_large(times: u64) {
    read_all(Work::bytes(move |emitter| large(emitter, times)), times);
}

fn read_all(source: impl Source, times: u64) {
    block_on(async {
        let engine = plain(source);
        assert_eq!(drain(&mut reader(&engine, 1).await).await, times);
    });
}

/// The reader waits for each response: it is woken, takes it, and says that the next one may come.
pub(super) fn quiet(times: u64) {
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

/// The next 64 are emitted when the last ones were made durable and seen, so that it is certain what is committed
/// together.
pub(super) fn commit(times: u64) {
    commits(1, times);
}

/// As [`commit`], but there are many readers, and one of them is what is counted.
pub(super) fn fan_out(times: u64) {
    commits(READERS, times / READERS);
}

fn commits(readers: u64, times: u64) {
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
