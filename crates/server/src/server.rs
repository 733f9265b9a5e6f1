//! The server: an engine behind listeners and workers, from binding its ports to its last connection. It knows when
//! things start and end; what they do is theirs.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use outflow_engine::{Engine, LiveSources, Refusal, Sources, SourcesError};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    grpc::Services,
    memory,
    shutdown::Phases,
    transport::{self, BindError, TransportLimits, Worker},
};

mod builder;
mod services;

pub use builder::Builder;
use builder::or_simulate;
use services::Beside;

/// How long open streams and connections have for their end, once the server is told to stop.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// How long jobs and what cleans up after them (a process that ignores TERM) have after that.
const CLEANUP_TIME: Duration = Duration::from_secs(3);
/// How long they have once they are told to hurry, and how long a thread has for its end: ten seconds in all.
const KILL_TIME: Duration = Duration::from_secs(1);

/// Why a server did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// It cannot listen where it should.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its sources cannot stand beside each other.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// What describes the caller's own services is no set of file descriptors.
    #[error("cannot describe the services of `Builder::file_descriptor_set`: {0}")]
    Descriptors(String),
    /// The store cannot be opened.
    #[error("cannot open the store: {0}")]
    Store(String),
    /// The system gives no thread, no runtime, or takes a listener away.
    #[error("cannot serve: {0}")]
    System(#[from] std::io::Error),
}

/// A gRPC server for streams of responses.
///
/// ```no_run
/// # async fn example() -> Result<(), outflow::ServeError> {
/// let server = outflow::Server::builder().bind()?;
/// server.serve(async { _ = tokio::signal::ctrl_c().await }).await?;
/// # Ok(())
/// # }
/// ```
pub struct Server {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    engine: Arc<Engine>,
    compute: Compute,
    limits: TransportLimits,
    workers: usize,
    hurry: Hurry,
    opens_store: bool,
    beside: Beside,
}

/// Ends a server that is shutting down without waiting any longer.
#[derive(Clone, Debug, Default)]
pub struct Hurry(CancellationToken);

impl Hurry {
    /// Connections are dropped where they stand, and what jobs started is killed instead of asked to end.
    pub fn now(&self) {
        self.0.cancel();
    }
}

/// The sources of a [`Server`], which can be replaced while it serves.
#[derive(Clone, Debug)]
pub struct ServedSources(LiveSources);

impl ServedSources {
    /// Has these sources answer from now on; an empty set is that of [`Simulate`](crate::source::Simulate). Runs that are under way keep the plan
    /// that they have. A journaled run that a restart takes up is planned again by the sources that are there then.
    ///
    /// # Errors
    /// [`SourcesError`] where these cannot stand beside each other; then the old ones go on to answer.
    pub fn replace(&self, sources: Sources) -> Result<(), SourcesError> {
        self.0.replace(or_simulate(sources))
    }
}

impl Server {
    /// Begins a server with the defaults.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Where it listens, with the ports that the system chose where port 0 was asked for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle by which the sources are replaced while it serves.
    pub fn sources(&self) -> ServedSources {
        ServedSources(self.engine.sources().clone())
    }

    /// A handle for whoever cannot wait for the end of a shutdown.
    pub fn hurry(&self) -> Hurry {
        self.hurry.clone()
    }

    /// Accepts and answers until `shutdown` resolves; then ends open streams with `UNAVAILABLE` and returns within a
    /// bounded time: at the most 5 seconds for streams and 5 for what jobs leave behind.
    ///
    /// # Errors
    /// [`ServeError::Store`] where the store cannot be opened, [`ServeError::System`] where a thread cannot be started or
    /// a listener fails. A retry needs a new server.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { listeners, engine, compute, limits, workers, hurry, opens_store, beside, .. } = self;
        if opens_store {
            engine.open().await.map_err(|refusal| match refusal {
                // What can be asked of a server that goes on is no advice for one that does not start.
                Refusal::StoreFailing { reason } => ServeError::Store(reason),
                other => ServeError::Store(other.to_string()),
            })?;
        }
        let phases = Phases::default();
        let (health, services) = beside.with(&engine).await;
        let (workers, ended) = start_workers(workers, &services, &limits, &phases)?;

        let places = Arc::new(Semaphore::new(limits.connections_max));
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(transport::accept(
                listener,
                workers.clone(),
                places.clone(),
                limits.clone(),
                phases.drain.clone(),
            ));
        }
        tracing::info!("start server");
        let served = tokio::select! {
            () = shutdown => Ok(()),
            () = memory::give_back(engine.budget().clone()) => unreachable!("it never ends"),
            Some(ended) = accepting.join_next() => ended.unwrap_or_else(|error| Err(std::io::Error::other(error))),
        };

        engine.drain();
        health.not_serving().await;
        phases.drain.cancel();
        while accepting.join_next().await.is_some() {}
        stop(&engine, &workers, &places, &limits, &phases, &hurry).await;
        tokio::join!(wait_for(ended), compute.end());
        engine.close().await;
        Ok(served?)
    }
}

/// The runtime of computing jobs, which may be dropped anywhere.
struct Compute(Option<Runtime>);

impl Compute {
    /// Waits until nothing of it is left, so that the store is nobody's any more. A job that blocks its thread is left
    /// behind.
    async fn end(mut self) {
        let runtime = self.0.take().expect("it ends once");
        _ = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(KILL_TIME)).await;
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits for connections and jobs to end, each for so long, and says what it had to abandon.
async fn stop(
    engine: &Engine,
    workers: &[Worker],
    places: &Semaphore,
    limits: &TransportLimits,
    phases: &Phases,
    Hurry(hurry): &Hurry,
) {
    let all = u32::try_from(limits.connections_max).unwrap_or(u32::MAX);
    // Journaled runs that no restart can take up have the same time.
    let all_ended = async { tokio::join!(places.acquire_many(all), engine.drained()) };
    if ended_in(DRAIN_TIME, all_ended, hurry).await.is_none() {
        let connections: usize = workers.iter().map(Worker::connections).sum();
        if connections > 0 {
            tracing::warn!("{connections} connections had not ended and are dropped");
        }
    }
    phases.abandon.cancel();
    engine.suspend();
    if ended_in(CLEANUP_TIME, engine.drained(), hurry).await.is_none() {
        engine.hurry();
        if ended_in(KILL_TIME, engine.drained(), &CancellationToken::new()).await.is_none() {
            tracing::warn!("jobs did not stop and are abandoned");
        }
    }
    phases.exit.cancel();
}

/// What `work` gives, unless that takes longer than `time` or there is no time at all.
async fn ended_in<T>(time: Duration, work: impl Future<Output = T>, hurry: &CancellationToken) -> Option<T> {
    tokio::select! {
        biased;
        ended = work => Some(ended),
        () = tokio::time::sleep(time) => None,
        () = hurry.cancelled() => None,
    }
}

type Started = (Arc<[Worker]>, Vec<oneshot::Receiver<()>>);

fn start_workers(
    count: usize,
    services: &Services,
    limits: &TransportLimits,
    phases: &Phases,
) -> std::io::Result<Started> {
    let mut workers = Vec::with_capacity(count);
    let mut ended = Vec::with_capacity(count);
    for index in 0..count {
        let (worker, end) = Worker::start(index, services.clone(), limits.clone(), phases.clone())?;
        workers.push(worker);
        ended.push(end);
    }
    Ok((workers.into(), ended))
}

/// Waits for the workers, which were told to end. One whose thread a job blocks is left behind.
async fn wait_for(workers: Vec<oneshot::Receiver<()>>) {
    let all = async {
        for ended in workers {
            if ended.await.is_err() {
                tracing::error!("a worker's thread panicked, which is a bug");
            }
        }
    };
    if tokio::time::timeout(KILL_TIME, all).await.is_err() {
        tracing::warn!("a job blocks a worker's thread, which is abandoned");
    }
}
