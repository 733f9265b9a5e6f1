//! What the engine's tests stand on: a store with gates and faults, jobs that do what the test says, and readers that are
//! read to their end.

#![allow(dead_code, unused_imports, unreachable_pub, missing_docs, reason = "each test file uses its part of it")]

pub mod gate;
pub mod puppet;
pub mod store;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use outflow_engine::{
    Clock, Delivery, Engine, Finish, Limits, Place, Reader, Refusal, Request, RunId, Source, SourceOptions, Timestamp,
};
use outflow_proto::protobuf::Response;
use prost::Message as _;
pub use puppet::Puppets;
pub use store::{GatedStore, Reserve};

/// Nothing here takes so long; what does, hangs.
pub const HANGS_AFTER: Duration = Duration::from_secs(15);
/// A linger that no test outlives.
pub const LONG: Duration = Duration::from_secs(600);

/// What `future` gives, which does not hang.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS_AFTER, future).await.unwrap_or_else(|_| panic!("this hangs: {what}"))
}

/// Waits until it is so.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    within(what, async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// An engine over `store`, with one source.
pub fn engine(store: &Arc<GatedStore>, source: Arc<dyn Source>) -> Engine {
    engine_with(store, source, SourceOptions::new(), Limits::default())
}

pub fn engine_with(
    store: &Arc<GatedStore>,
    source: Arc<dyn Source>,
    options: SourceOptions,
    limits: Limits,
) -> Engine {
    let store = store.clone();
    // Names of runs begin with their start: later ones sort behind.
    let clock = Clock::new(|| Timestamp::from_millis(NUMBERS.load(SeqCst)));
    let engine = Engine::builder(limits).source_with("test", source, options).default_to("test").clock(clock);
    engine.store(move || Ok(store.clone())).build().unwrap()
}

/// Limits under which a store that fails is noticed soon.
pub fn impatient() -> Limits {
    let mut limits = Limits::default();
    limits.patience = Duration::from_millis(50);
    limits
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A number that no other run has.
pub fn number() -> u128 {
    u128::from(NUMBERS.fetch_add(1, SeqCst)) << 64
}

/// What a request is answered with.
pub async fn fetch(engine: &Engine, request: &Request) -> Result<Reader, Refusal> {
    within("a fetch", engine.fetch(request, number())).await
}

/// A reader of a run that is journaled and goes on without one for long.
pub async fn start(engine: &Engine) -> Reader {
    fetch(engine, &Request::new(1).lingering(LONG)).await.unwrap()
}

/// A request for a run again, behind `after`.
pub fn again(run: RunId, after: u64) -> Request {
    Request::new(0).again(run.to_string(), Place::After(after))
}

/// The responses in `bytes`, as any client decodes them.
pub fn decode(mut bytes: &[u8]) -> Vec<Response> {
    let mut responses = Vec::new();
    while let Some((prefix, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes(*prefix.last_chunk().unwrap()) as usize;
        responses.push(Response::decode(&rest[..length]).unwrap());
        bytes = &rest[length..];
    }
    responses
}

/// What a reader is given next.
pub enum Given {
    Responses(Vec<Response>),
    End(Finish),
}

/// What `reader` is given next.
pub async fn next(reader: &mut Reader) -> Given {
    match within("a reader's next step", reader.next()).await {
        Delivery::Chunk(chunk) => Given::Responses(decode(&chunk.into_parts().flatten().collect::<Vec<u8>>())),
        Delivery::Finished(finish) => Given::End(finish),
    }
}

/// The next `count` results of `reader`.
pub async fn results(reader: &mut Reader, count: usize) -> Vec<String> {
    let mut results = Vec::new();
    while results.len() < count {
        match next(reader).await {
            Given::Responses(responses) => results.extend(responses.into_iter().map(|response| response.result)),
            Given::End(finish) => panic!("it ends after {results:?}: {finish:?}"),
        }
    }
    assert_eq!(results.len(), count, "more than was wanted: {results:?}");
    results
}

/// All that is left for `reader`, numbered without a gap, and how its stream ended.
pub async fn rest(reader: &mut Reader) -> (Vec<Response>, Finish) {
    let mut all: Vec<Response> = Vec::new();
    loop {
        match next(reader).await {
            Given::Responses(responses) => all.extend(responses),
            Given::End(finish) => {
                assert!(all.windows(2).all(|two| two[0].sequence + 1 == two[1].sequence), "there is a gap: {all:?}");
                return (all, finish);
            }
        }
    }
}

/// How the stream of `reader` ended, before which it is given nothing.
pub async fn finish(reader: &mut Reader) -> Finish {
    match next(reader).await {
        Given::End(finish) => finish,
        Given::Responses(responses) => panic!("it is given {responses:?}"),
    }
}

/// There is nothing for `reader` now.
#[track_caller]
pub fn is_shown_nothing(reader: &mut Reader) {
    let shown = reader.next().now_or_never();
    assert!(shown.is_none(), "it is given {shown:?}");
}
