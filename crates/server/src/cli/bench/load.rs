//! The load: connections that are opened before anything is measured, a thread each, and the time that it takes. It
//! knows nothing of what goes over a connection.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use socket2::{SockAddr, Socket};
use tokio::{sync::mpsc, time::sleep};

use super::{
    super::wait::{Interrupt, interrupted},
    http2::{Call, Lost, Windows},
    tally::Tally,
    target::{Target, connect},
    worker::{Done, Worker},
};

/// A connection's thread holds little on its stack; there may be thousands.
const STACK_BYTES: usize = 1 << 18;

/// How many calls are made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Amount {
    /// So many in all.
    Calls(u64),
    /// As many as fit.
    For(Duration),
}

/// What is asked, of whom, and how.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) target: Target,
    pub(super) addresses: Vec<SockAddr>,
    pub(super) connections: usize,
    /// At once on each of them.
    pub(super) streams: usize,
    pub(super) amount: Amount,
    /// The framed request of each call.
    pub(super) request: Arc<[u8]>,
    pub(super) call: Call,
    pub(super) windows: Windows,
}

/// What came of it.
pub(super) struct Measured {
    pub(super) tally: Tally,
    pub(super) time: Duration,
    pub(super) cpu_time: Duration,
    /// What ended it early, of whatever connection.
    pub(super) failures: Vec<String>,
    /// How many streams the server allows at once on a connection.
    pub(super) streams_max: usize,
    pub(super) is_interrupted: bool,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotMeasured {
    #[error("{0}")]
    Connect(#[from] Lost),
    #[error("interrupted before anything was measured")]
    Interrupted,
    #[error("cannot start: {0}")]
    System(#[source] io::Error),
}

/// What all connections share.
struct Shared {
    is_over: AtomicBool,
    /// Calls that no connection has taken.
    calls_left: AtomicU64,
    /// The connections' sockets, by which whoever waits at one is woken.
    sockets: Vec<Mutex<Option<Socket>>>,
}

/// A connection's place.
pub(super) struct Post {
    pub(super) load: Arc<Load>,
    shared: Arc<Shared>,
    number: usize,
}

impl Post {
    /// A new socket, instead of the last one.
    pub(super) fn connect(&self) -> io::Result<Socket> {
        let socket = connect(&self.load.addresses)?;
        let mut place = self.shared.sockets[self.number].lock();
        *place = Some(socket.try_clone()?);
        // Who ends it all looks at the sockets after it has said so.
        if self.is_over() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(socket) }
    }

    /// Whether no more is to be measured.
    pub(super) fn is_over(&self) -> bool {
        self.shared.is_over.load(Relaxed)
    }

    /// Takes a call on itself, where there is one to make.
    pub(super) fn claim(&self) -> bool {
        match self.load.amount {
            Amount::For(_) => !self.is_over(),
            Amount::Calls(_) => {
                self.shared.calls_left.fetch_update(Relaxed, Relaxed, |calls| calls.checked_sub(1)).is_ok()
            }
        }
    }
}

/// The threads of a load.
struct Crew {
    shared: Arc<Shared>,
    threads: Vec<(SyncSender<u64>, JoinHandle<Option<Done>>)>,
    opened: mpsc::Receiver<Result<(), Lost>>,
    /// It never has anything: it closes with the last thread.
    done: mpsc::Receiver<()>,
}

/// Opens the connections, makes the calls, and measures.
pub(super) async fn run(load: Arc<Load>, interrupt: &Interrupt) -> Result<Measured, NotMeasured> {
    let mut crew = Crew::muster(&load)?;
    let opened = async {
        for _ in 0..load.connections {
            crew.opened.recv().await.expect("each connection says how it went")?;
        }
        Ok(())
    };
    tokio::select! {
        opened = opened => opened.map_err(NotMeasured::Connect)?,
        () = interrupted(Some(interrupt)) => return Err(NotMeasured::Interrupted),
    }

    let (began, cpu_time) = (Instant::now(), cpu_time());
    crew.start(&load);
    let time = async {
        match load.amount {
            Amount::For(time) => sleep(time).await,
            Amount::Calls(_) => std::future::pending().await,
        }
    };
    let is_interrupted = tokio::select! {
        _ = crew.done.recv() => false,
        () = time => false,
        () = interrupted(Some(interrupt)) => true,
    };
    crew.end();
    _ = crew.done.recv().await;
    let (time, cpu_time) = (began.elapsed(), self::cpu_time().saturating_sub(cpu_time));
    Ok(crew.reckon(time, cpu_time, is_interrupted))
}

impl Crew {
    fn muster(load: &Arc<Load>) -> Result<Self, NotMeasured> {
        let begun = load.connections as u64 * load.streams as u64;
        let shared = Arc::new(Shared {
            is_over: AtomicBool::new(false),
            calls_left: AtomicU64::new(match load.amount {
                Amount::Calls(calls) => calls.saturating_sub(begun),
                Amount::For(_) => 0,
            }),
            sockets: (0..load.connections).map(|_| Mutex::new(None)).collect(),
        });
        let (tell_opened, opened) = mpsc::channel(load.connections);
        let (tell_done, done) = mpsc::channel(1);
        let mut threads = Vec::with_capacity(load.connections);
        for number in 0..load.connections {
            let (start, started) = sync_channel(1);
            let post = Post { load: load.clone(), shared: shared.clone(), number };
            let (tell_opened, tell_done) = (tell_opened.clone(), tell_done.clone());
            let thread = thread::Builder::new().name(format!("connection {number}")).stack_size(STACK_BYTES);
            let thread = thread.spawn(move || {
                let done = work(post, &tell_opened, &started);
                drop(tell_done);
                done
            });
            threads.push((start, thread.map_err(NotMeasured::System)?));
        }
        Ok(Self { shared, threads, opened, done })
    }

    /// The first calls are dealt out, so that none of them waits for a connection that is slow to begin.
    fn start(&self, load: &Load) {
        let streams = load.streams as u64;
        for (number, (start, _)) in self.threads.iter().enumerate() {
            let calls = match load.amount {
                Amount::Calls(calls) => {
                    let connections = load.connections as u64;
                    let dealt = calls / connections + u64::from((number as u64) < calls % connections);
                    dealt.min(streams)
                }
                Amount::For(_) => streams,
            };
            // It fails where the thread is gone, which is known by then.
            _ = start.try_send(calls);
        }
    }

    /// Ends what is under way.
    fn end(&self) {
        self.shared.is_over.store(true, Relaxed);
        for socket in &self.shared.sockets {
            if let Some(socket) = &*socket.lock() {
                // It fails where it is not connected any more.
                _ = socket.shutdown(std::net::Shutdown::Both);
            }
        }
    }

    fn reckon(self, time: Duration, cpu_time: Duration, is_interrupted: bool) -> Measured {
        let mut measured = Measured {
            tally: Tally::new(),
            time,
            cpu_time,
            failures: Vec::new(),
            streams_max: usize::MAX,
            is_interrupted,
        };
        for (_, thread) in self.threads {
            let Some(done) = thread.join().expect("a connection tells its failures") else { continue };
            measured.tally.add(done.tally);
            measured.failures.extend(done.failure);
            measured.streams_max = measured.streams_max.min(done.streams_max);
        }
        measured
    }
}

/// A connection's life: opened, started, done. None where it was not started.
fn work(post: Post, opened: &mpsc::Sender<Result<(), Lost>>, started: &Receiver<u64>) -> Option<Done> {
    let (worker, told) = match Worker::open(post) {
        Ok(worker) => (Some(worker), Ok(())),
        Err(lost) => (None, Err(lost)),
    };
    // Both fail where nobody waits any more.
    opened.blocking_send(told).ok()?;
    let calls = started.recv().ok()?;
    Some(worker?.run(calls))
}

/// What this process has used so far, of all cores.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}
