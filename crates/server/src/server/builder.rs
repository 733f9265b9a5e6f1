//! What a server is made of, collected before anything of it is there: addresses, sources, store, bounds. It binds the
//! ports, and starts nothing.

use std::{future::Future, net::TcpListener, path::PathBuf, sync::Arc, time::SystemTime};

use outflow_engine::{
    Clock, Engine, Limits, MemoryStore, Source, SourceOptions, Sources, Store, StoreError, Timestamp,
};

use super::{Compute, Hurry, ServeError, Server, services::Beside};
use crate::{
    memory,
    source::Simulate,
    store,
    transport::{self, IntoListen, Listen, TransportLimits},
};

/// Collects what a [`Server`] is made of.
pub struct Builder {
    listen: Vec<Listen>,
    sources: Sources,
    /// The set of sources was given as a whole.
    says_everything: bool,
    limits: Limits,
    transport: TransportLimits,
    workers: usize,
    open_store: StoreOpener,
    opens_store: bool,
    beside: Beside,
}

type StoreOpener = Box<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// What the store in memory holds, in bytes.
const MEMORY_STORE_BYTES: u64 = 256 * 1024 * 1024;

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            listen: Listen::loopback(),
            sources: Sources::new(),
            says_everything: false,
            limits: Limits::default(),
            transport: TransportLimits::default(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            open_store: Box::new(|| Ok(Arc::new(MemoryStore::new(MEMORY_STORE_BYTES)))),
            opens_store: false,
            beside: Beside::default(),
        }
    }

    /// Listens there, and no longer on the default addresses, port 50005 on both loopback addresses.
    #[must_use]
    pub fn listen(mut self, listen: impl IntoIterator<Item = Listen>) -> Self {
        self.listen = listen.into_iter().collect();
        self
    }

    /// Adds a source. While there is none, [`Simulate`] answers every request. One that is alone, and claims no ids,
    /// answers every request that names none; of several, [`Builder::default_to`] says which does.
    #[must_use]
    pub fn source(self, name: impl Into<String>, source: impl Source) -> Self {
        self.source_with(name, source, SourceOptions::default())
    }

    /// Adds a source that answers requests as `options` say.
    #[must_use]
    pub fn source_with(mut self, name: impl Into<String>, source: impl Source, options: SourceOptions) -> Self {
        self.sources = self.sources.source_with(name, source, options);
        self
    }

    /// Has the source of this name answer every request that names none and whose id nobody claims.
    #[must_use]
    pub fn default_to(mut self, name: impl Into<String>) -> Self {
        self.sources = self.sources.default_to(name);
        self
    }

    /// Adds a source that answers every request which names none and whose id nobody claims.
    #[must_use]
    pub fn default_source(mut self, name: impl Into<String>, source: impl Source) -> Self {
        self.sources = self.sources.default_source(name, source);
        self
    }

    /// Has these sources answer, and none that were added before. They say everything: one that is alone is the default
    /// only where it is called so. While the set is empty, [`Simulate`] answers every request.
    #[must_use]
    pub fn sources(mut self, sources: Sources) -> Self {
        self.sources = sources;
        self.says_everything = true;
        self
    }

    /// Keeps journaled runs in this store, which is opened when serving begins. Without it they are kept in memory, up
    /// to 256 MiB, and end with the process.
    #[must_use]
    pub fn store(mut self, open: impl Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync + 'static) -> Self {
        self.open_store = Box::new(open);
        self.opens_store = true;
        self
    }

    /// Keeps journaled runs in this directory, which is made where it is not there, and no other process may use.
    #[must_use]
    pub fn data(self, directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        self.store(move || store::open(&directory, store::Settings::default()))
    }

    /// The same, but the store is opened only when the first journaled run needs it.
    #[must_use]
    pub fn store_when_needed(
        self,
        open: impl Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self { opens_store: false, ..self.store(open) }
    }

    /// Bounds on requests, runs and memory.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Bounds on connections.
    #[must_use]
    pub fn transport_limits(mut self, limits: TransportLimits) -> Self {
        self.transport = limits;
        self
    }

    /// Mounts services of one's own on the same ports: those of `tonic` 0.14, collected in its `Routes`, as
    /// `Routes::new(GreeterServer::new(Greeter))`. `examples/own_services` is a program that does.
    ///
    /// Outflow's own services (`protobuf.StreamService`, `outflow.v1.RunService`, `grpc.health.v1.Health` and
    /// `grpc.reflection`'s) stay its own, also where these have one of the same name. What holds for streams of responses holds
    /// for calls of these:
    ///
    /// - A call ends by its `grpc-timeout`: with `DEADLINE_EXCEEDED`, and its handler is dropped.
    /// - Once the server is told to stop, calls under way have 3 seconds for ending by themselves. Then their handlers are dropped,
    ///   and they end with `UNAVAILABLE`.
    /// - A peer that takes nothing of an answer for [`TransportLimits::stall_time`] is reset.
    /// - Handlers run on the threads that serve connections, so that they must neither block nor compute for long:
    ///   `tokio::task::spawn_blocking` is for that.
    ///
    /// Sizes of messages, compression and interceptors are set at the services, as tonic has it. Called again, it replaces what
    /// was given before.
    #[must_use]
    pub fn routes(mut self, routes: tonic::service::Routes) -> Self {
        self.beside.routes = Some(routes);
        self
    }

    /// Has reflection describe what is in this encoded `FileDescriptorSet` (as `prost-build` and `protoc` write it), and health
    /// tell of its services, beside Outflow's own.
    #[must_use]
    pub fn file_descriptor_set(mut self, encoded: impl Into<Vec<u8>>) -> Self {
        self.beside.describe(encoded.into());
        self
    }

    /// Threads that serve connections, at least 1; by default one for each core.
    /// Jobs of [`Placement::Compute`](crate::Placement::Compute) have as many of their own.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Binds the ports of `place`, and no others, and serves there: [`Builder::bind`] and [`Server::serve`] in one, for who
    /// needs nothing of what lies between.
    ///
    /// ```
    /// # async fn example() -> Result<(), outflow::ServeError> {
    /// let ctrl_c = async { _ = tokio::signal::ctrl_c().await };
    /// outflow::Server::builder().serve("127.0.0.1:50005", ctrl_c).await
    /// # }
    /// ```
    ///
    /// What a place may be is told by [`IntoListen`].
    ///
    /// # Errors
    /// Those of [`Builder::bind`] and [`Server::serve`]; also [`ServeError::Bind`] where `place` is none.
    pub async fn serve(
        mut self,
        place: impl IntoListen,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        self.listen = place.written().resolve().await?;
        self.bind()?.serve(shutdown).await
    }

    /// Binds the ports. Nothing is accepted yet; peers that connect wait in the kernel's queue. Where glibc allocates, its
    /// settings are made for a server, unless `GLIBC_TUNABLES` is set.
    ///
    /// # Errors
    /// [`ServeError::Sources`] where two sources have one name or claim one id, [`ServeError::Bind`] where an address
    /// cannot be had, [`ServeError::Descriptors`] where [`Builder::file_descriptor_set`] was given something else,
    /// [`ServeError::System`] where threads cannot be had.
    pub fn bind(self) -> Result<Server, ServeError> {
        let mut sources = self.sources;
        if !self.says_everything
            && let Some(lone) = sources.lone().map(str::to_owned)
        {
            sources = sources.default_to(lone);
        }
        let sources = or_simulate(sources);
        sources.check()?;
        let beside = self.beside.checked()?;
        let listeners = transport::bind(&self.listen)?;
        // Those that serve, and those that compute.
        memory::set_up(2 * self.workers);
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        let compute = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.workers)
            .thread_name("outflow-jobs")
            .enable_all()
            .build()?;
        let engine = Engine::builder(self.limits)
            .compute(compute.handle().clone())
            .clock(Clock::new(time_of_day))
            .store(self.open_store)
            .sources(sources)
            .build()?;
        Ok(Server {
            listeners,
            addresses,
            engine: Arc::new(engine),
            compute: Compute(Some(compute)),
            limits: self.transport,
            workers: self.workers,
            hurry: Hurry::default(),
            opens_store: self.opens_store,
            beside,
        })
    }
}

/// These sources, or simulated work where there are none.
pub(super) fn or_simulate(sources: Sources) -> Sources {
    if sources.is_empty() { sources.default_source("simulate", Simulate::default()) } else { sources }
}

fn time_of_day() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 is a wrong one, and nothing depends on it.
    Timestamp::from_millis(since_1970.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}
