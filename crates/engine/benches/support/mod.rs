//! What the benchmarks of the engine stand on: a source made of a function, an engine of that one source, and readers that
//! are read to their end. What is done with them is in `work.rs`. Other packages' benchmarks compile both, too.

#![allow(dead_code, reason = "each benchmark uses its part of it")]

pub(crate) mod work;

use std::{sync::Arc, time::Duration};

use outflow_engine::{
    Delivery, Emitter, Engine, Job, JobError, Limits, PayloadKind, Placement, Plan, Reader, Refusal, Request, Source,
    SourceOptions,
};
use tokio::runtime::{Builder, Runtime};

/// The bytes of a small response: as long as those in the documentation's tables.
pub(crate) const SMALL: &str = "a response of 24 bytes..";
const _: () = assert!(SMALL.len() == 24);

/// The bytes of a large one.
pub(crate) const LARGE_BYTES: usize = 64 * 1024;

/// A source of one job, which runs beside its reader.
pub(crate) struct Work<F> {
    payload: PayloadKind,
    work: F,
}

impl<F, R> Work<F>
where
    F: Fn(Emitter) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), JobError>> + Send + 'static,
{
    /// Its job emits text.
    pub(crate) fn text(work: F) -> Self {
        Self { payload: PayloadKind::Text, work }
    }

    /// Its job emits bytes.
    pub(crate) fn bytes(work: F) -> Self {
        Self { payload: PayloadKind::Bytes, work }
    }
}

impl<F, R> Source for Work<F>
where
    F: Fn(Emitter) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), JobError>> + Send + 'static,
{
    fn plan(&self, _request: &Request) -> Result<Plan, Refusal> {
        let work = self.work.clone();
        Ok(Plan::new().job(Job::new(work)).payload(self.payload).placement(Placement::Reader))
    }
}

/// An engine whose runs live and die with their reader.
pub(crate) fn plain(source: impl Source) -> Engine {
    Engine::builder(Limits::default()).default_source("work", Arc::new(source)).build().unwrap()
}

/// An engine whose runs are journaled in memory, and joined by who asks for the same.
pub(crate) fn shared(source: impl Source) -> Engine {
    let options = SourceOptions::new().shared(Duration::from_secs(60));
    Engine::builder(Limits::default())
        .source_with("work", Arc::new(source), options)
        .default_to("work")
        .build()
        .unwrap()
}

/// A reader of the run for `id`.
pub(crate) async fn reader(engine: &Engine, id: i32) -> Reader {
    // Nobody has to guess these.
    engine.fetch(&Request::new(id), id.unsigned_abs().into()).await.expect("nothing is refused here")
}

/// Reads to the end, and gives the last sequence.
pub(crate) async fn drain(reader: &mut Reader) -> u64 {
    let mut last = 0;
    loop {
        match reader.next().await {
            Delivery::Chunk(chunk) => last = chunk.last().get(),
            Delivery::Finished(finish) => {
                assert!(finish.end.is_some(), "it was not cut");
                return last;
            }
        }
    }
}

/// A runtime of this thread.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime starts")
}

/// Runs it on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

/// Emits `times` small responses, one by one.
pub(crate) async fn one_by_one(emitter: Emitter, times: u64) -> Result<(), JobError> {
    for _ in 0..times {
        emitter.emit(SMALL).await?;
    }
    Ok(())
}

/// Emits `times` small responses, 64 at once.
pub(crate) async fn many_at_once(emitter: Emitter, times: u64) -> Result<(), JobError> {
    let payloads = [SMALL; 64];
    let mut left = times as usize;
    while left > 0 {
        let now = left.min(payloads.len());
        emitter.emit_all(&payloads[..now]).await?;
        left -= now;
    }
    Ok(())
}

/// Emits `times` large responses that share their bytes.
pub(crate) async fn large(emitter: Emitter, times: u64) -> Result<(), JobError> {
    let payload = bytes::Bytes::from(vec![7; LARGE_BYTES]);
    for _ in 0..times {
        emitter.emit(&payload).await?;
    }
    Ok(())
}
