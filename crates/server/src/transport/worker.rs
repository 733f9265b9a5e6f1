//! One thread with a runtime of its own: the connections handed to it, their streams, and the plain runs behind them
//! all live on it, so that nothing of a plain stream crosses a thread.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use outflow_engine::{Bell, Leave};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    task::JoinSet,
};

use super::{TransportLimits, connection};
use crate::{
    grpc::{Services, Streams},
    shutdown::Phases,
};

/// Threads on which readers' stores are read, at the most.
const BLOCKING_THREADS_MAX: usize = 16;
/// Sockets on their way to a worker.
const HANDED_OVER_MAX: usize = 256;

/// A handle on a worker's thread.
pub(crate) struct Worker {
    sockets: mpsc::Sender<Accepted>,
    connections: Arc<AtomicUsize>,
}

struct Accepted {
    socket: std::net::TcpStream,
    _place: OwnedSemaphorePermit,
    _count: Count,
}

impl Worker {
    /// Starts a worker. Its thread ends with the last of `phases`, which the receiver then tells.
    ///
    /// # Errors
    /// Where the system gives no thread or no runtime.
    pub(crate) fn start(
        index: usize,
        services: Services,
        limits: TransportLimits,
        phases: Phases,
    ) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .enable_all()
            .build()?;
        let (sockets, handed_over) = mpsc::channel(HANDED_OVER_MAX);
        let streams = Streams::new(limits.stall_time);
        let worker = Self { sockets, connections: Arc::default() };
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name(format!("outflow-worker-{index}")).spawn(move || {
            runtime.block_on(run(handed_over, services, streams, limits, phases));
            drop(runtime);
            // Nobody is interested where the server gave up waiting.
            _ = end.send(());
        })?;
        Ok((worker, ended))
    }

    /// How many connections it has.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Gives it a connection.
    ///
    /// # Errors
    /// Where the socket cannot be moved, or the worker is gone.
    pub(crate) async fn hand_over(&self, socket: TcpStream, place: OwnedSemaphorePermit) -> io::Result<()> {
        // Out of this runtime's reactor, into that one's.
        let socket = socket.into_std()?;
        let accepted = Accepted { socket, _place: place, _count: Count::new(&self.connections) };
        self.sockets.send(accepted).await.map_err(|_| io::Error::other("the worker has stopped"))
    }
}

struct Count(Arc<AtomicUsize>);

impl Count {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn run(
    mut handed_over: mpsc::Receiver<Accepted>,
    services: Services,
    streams: Arc<Streams>,
    limits: TransportLimits,
    phases: Phases,
) {
    let mut connections = JoinSet::new();
    // Commits wake all their readers here by one notification.
    let bell = Bell::default();
    bell.hang();
    let mut ringing = JoinSet::new();
    ringing.spawn(async move { bell.ringing().await });
    let mut sweep = std::pin::pin!(streams.sweep());
    loop {
        tokio::select! {
            () = phases.drain.cancelled() => break,
            () = &mut sweep => unreachable!("sweeping never ends"),
            Some(ended) = connections.join_next() => log_panic(ended),
            accepted = handed_over.recv() => match accepted {
                Some(accepted) => {
                    let (services, streams) = (services.clone(), streams.clone());
                    let (limits, phases) = (limits.clone(), phases.clone());
                    connections.spawn(async move {
                        let Accepted { socket, _place, _count } = accepted;
                        match TcpStream::from_std(socket) {
                            Ok(socket) => connection::serve(socket, services, streams, &limits, &phases).await,
                            Err(error) => tracing::debug!("a connection was lost on its way to its worker: {error}"),
                        }
                    });
                }
                None => break,
            },
        }
    }
    // Their sockets close; nobody was told anything yet.
    drop(handed_over);
    streams.end_all(Leave::Draining).await;
    tokio::select! {
        () = async { while let Some(ended) = connections.join_next().await { log_panic(ended) } } => {}
        () = phases.abandon.cancelled() => connections.shutdown().await,
    }
    // What cleans up after jobs runs here, too.
    phases.exit.cancelled().await;
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a connection's task panicked, which is a bug: {error}");
    }
}
