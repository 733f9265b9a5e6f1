//! From a job to its one reader: what responses take in runs that live with their reader, and in journaled ones.
//!
//! ```text
//! cargo bench -p outflow-engine --bench journal
//! ```

mod support;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::work;

/// Small responses of each iteration: the start of a runtime and of a run count for little.
const RESPONSES: u64 = 256_000;
const LARGE_RESPONSES: u64 = 10_000;

fn journal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    group.throughput(Throughput::Elements(RESPONSES));
    group.bench_function("plain, emit", |bencher| bencher.iter(|| work::emit(RESPONSES)));
    group.bench_function("plain, emit_all", |bencher| bencher.iter(|| work::emit_all(RESPONSES)));
    for runs in [1, 64] {
        let name = format!("in memory, {runs} at once, emit_all");
        group.bench_function(name, |bencher| bencher.iter(|| work::journal(runs, RESPONSES)));
    }
    // Their bytes are shared, so it is not they that take time.
    group.throughput(Throughput::Elements(LARGE_RESPONSES));
    group.bench_function("plain, emit of 64 KiB", |bencher| bencher.iter(|| work::emit_large(LARGE_RESPONSES)));
    group.finish();
}

criterion_group! {
    name = benches;
    // Enough to see a few percent.
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = journal
}
criterion_main!(benches);
