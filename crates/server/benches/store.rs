//! What the stores take, in memory and on disk, behind the trait that the engine knows them by.
//!
//! ```text
//! cargo bench -p outflow --bench store
//! ```
//!
//! The one on disk lies in cargo's folder for temporary files, and syncs: its commits are as fast as that disk.

// What the package does not show, compiled here as it stands there.
#[allow(dead_code, unused_imports, reason = "not all of it is needed")]
#[path = "../src/memory.rs"]
mod memory;
#[allow(dead_code, unused_imports, reason = "as above")]
#[path = "../src/store/mod.rs"]
mod store;
#[allow(dead_code, unused_imports, reason = "as above")]
#[path = "../src/succession.rs"]
mod succession;

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use outflow_engine::{Batch, Chunk, MemoryStore, Record, Room, RunId, Sequence, Start, Store, Timestamp};
use outflow_proto::protobuf::Response;
use prost::Message as _;
use tempfile::TempDir;

/// Responses of 24 bytes to a block of nearly 64 KiB.
const BLOCK_RESPONSES: u64 = 1_750;
const READ_BYTES: usize = 1 << 20;
/// Runs that there are when one is looked up.
const RUNS: usize = 1_000;

/// A store under work: each commit begins some runs and deletes those of the commit before, so that it never grows.
struct Filled {
    store: Arc<dyn Store>,
    batch: Batch,
    runs_ever: u64,
    last: Vec<RunId>,
    _directory: Option<TempDir>,
}

impl Filled {
    fn in_memory() -> Self {
        Self::new(Arc::new(MemoryStore::new(1 << 30)), None)
    }

    fn on_disk() -> Self {
        let directory = TempDir::with_prefix_in("store", env!("CARGO_TARGET_TMPDIR")).expect("a folder is made");
        let store = store::open(&directory.path().join("data"), store::Settings::default());
        Self::new(store.expect("an empty folder is opened"), Some(directory))
    }

    fn new(store: Arc<dyn Store>, directory: Option<TempDir>) -> Self {
        Self { store, batch: Batch::default(), runs_ever: 0, last: Vec::new(), _directory: directory }
    }

    /// One commit of so many runs that begin, with these responses each.
    fn commit(&mut self, runs: usize, chunks: &[Chunk]) {
        self.batch.records.clear();
        self.batch.records.extend(self.last.drain(..).map(|run| (run, Record::Deleted)));
        for _ in 0..runs {
            self.runs_ever += 1;
            let run = RunId::journaled(Timestamp::from_millis(self.runs_ever), self.runs_ever.into());
            self.batch.records.push((run, Record::Started(Arc::new(Start::default()))));
            self.batch.records.extend(chunks.iter().map(|chunk| (run, Record::Frames(chunk.clone()))));
            self.last.push(run);
        }
        self.batch.in_service += Duration::from_millis(1);
        self.store.commit(&self.batch, Room::Ordinary).expect("there is room");
    }

    /// Reads all of the run that began last; gives how many bytes those are.
    fn read(&self) -> usize {
        let run = *self.last.last().expect("one was committed");
        let (mut from, mut bytes) = (Sequence::FIRST, 0);
        loop {
            let chunks = self.store.read(run, from, READ_BYTES).expect("it is not damaged");
            let Some(last) = chunks.last().map(Chunk::last) else { return bytes };
            bytes += chunks.iter().map(Chunk::len).sum::<usize>();
            from = Sequence::new(last.get() + 1);
        }
    }
}

/// So many small responses, as the journal frames them.
fn chunk(first: u64, responses: u64) -> Chunk {
    let mut frames = BytesMut::new();
    for sequence in first..first + responses {
        let response = Response { result: "a response of 24 bytes..".into(), sequence, ..Response::default() };
        frames.put_u8(0);
        frames.put_u32(response.encoded_len() as u32);
        response.encode(&mut frames).expect("the buffer grows");
    }
    Chunk::new(Sequence::new(first), Sequence::new(first + responses - 1), [Bytes::from(frames)])
}

fn stores(criterion: &mut Criterion) {
    for (name, make) in [("memory", Filled::in_memory as fn() -> Filled), ("disk", Filled::on_disk)] {
        let mut group = criterion.benchmark_group(format!("store in {name}"));
        let one = [chunk(1, 1)];
        let mut filled = make();
        group.throughput(Throughput::Elements(1));
        group.bench_function("commit of one response", |bencher| bencher.iter(|| filled.commit(1, &one)));

        let some = [chunk(1, 100)];
        group.throughput(Throughput::Elements(64 * 100));
        group.bench_function("commit of 64 runs with 100", |bencher| bencher.iter(|| filled.commit(64, &some)));

        // In memory these are shared, and cost what they would if they were small.
        let block = [chunk(1, BLOCK_RESPONSES)];
        group.throughput(Throughput::Bytes(64 * block[0].len() as u64));
        group.bench_function("commit of 64 runs with a block", |bencher| bencher.iter(|| filled.commit(64, &block)));

        let mut filled = make();
        filled.commit(RUNS, &one);
        group.throughput(Throughput::Elements(RUNS as u64));
        group.bench_function("look-up of a run", |bencher| {
            bencher.iter(|| {
                filled.last.iter().for_each(|run| assert!(black_box(filled.store.find(*run)).unwrap().is_some()))
            });
        });

        let long: Vec<Chunk> = (0..64).map(|n| chunk(n * BLOCK_RESPONSES + 1, BLOCK_RESPONSES)).collect();
        let mut filled = make();
        filled.commit(1, &long);
        group.throughput(Throughput::Bytes(filled.read() as u64));
        group.bench_function("reading a run of 64 blocks", |bencher| bencher.iter(|| black_box(filled.read())));
        group.finish();
    }
}

criterion_group! {
    name = benches;
    // Enough to see a few percent.
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = stores
}
criterion_main!(benches);
