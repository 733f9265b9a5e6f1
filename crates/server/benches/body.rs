//! What a stream's body takes between a reader and HTTP/2's frames: with the job and the reader behind it, since there is
//! no chunk without them; what those take alone is `outflow-engine`'s benchmark `journal`.
//!
//! ```text
//! cargo bench -p outflow --bench body
//! ```

#[path = "../../engine/benches/support/mod.rs"]
mod support;
#[path = "../../../benches/counts/src/counted/body.rs"]
mod work;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const RESPONSES: u64 = 256_000;
const LARGE_RESPONSES: u64 = 10_000;

fn body(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("body");
    group.throughput(Throughput::Elements(RESPONSES));
    group.bench_function("small responses", |bencher| bencher.iter(|| work::small(RESPONSES)));
    // Their bytes are shared, so it is not they that take time.
    group.throughput(Throughput::Elements(LARGE_RESPONSES));
    group.bench_function("responses of 64 KiB", |bencher| bencher.iter(|| work::large(LARGE_RESPONSES)));
    group.finish();
}

criterion_group! {
    name = benches;
    // Enough to see a few percent.
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = body
}
criterion_main!(benches);
