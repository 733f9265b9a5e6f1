//! What a reader takes: one that waits for each response, many that keep up with one run, and one that reads an ended run
//! again.
//!
//! ```text
//! cargo bench -p outflow-engine --bench reader
//! ```

mod support;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::work;

const WAITED_FOR: u64 = 10_000;
const COMMITS: u64 = 500;
const READ_AGAIN: u64 = 1_000_000;

fn reader(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reader");
    group.throughput(Throughput::Elements(WAITED_FOR));
    group.bench_function("waits for each response", |bencher| bencher.iter(|| work::quiet(WAITED_FOR)));
    for readers in [1, 16, 256] {
        // What is delivered, to all of them together.
        group.throughput(Throughput::Elements(readers * COMMITS * work::AT_ONCE));
        let name = format!("{readers} wait for commits of {}", work::AT_ONCE);
        group.bench_function(name, |bencher| bencher.iter(|| work::commits(readers, COMMITS)));
    }
    // Chunk by chunk, and shared with the store: what a store on disk makes of it is the server's benchmark.
    group.throughput(Throughput::Elements(READ_AGAIN));
    let replay = work::Replay::new(READ_AGAIN);
    group.bench_function("reads a run again", |bencher| bencher.iter(|| replay.read()));
    group.finish();
}

criterion_group! {
    name = benches;
    // Enough to see a few percent.
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = reader
}
criterion_main!(benches);
