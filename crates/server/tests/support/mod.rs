//! The server under test, in this process and behind real sockets; what its sources answer; and, in the files beside
//! this one, the clients that talk to it frame by frame.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its part of it")]

pub mod frames;
pub mod network;
pub mod wire;

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use outflow::{
    Builder, Emitter, Hurry, Job, JobError, Plan, Refusal, Request, ServeError, ServedSources, Server, Source,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::{Event, Subscriber, field::Visit};
use tracing_subscriber::{Layer, filter::LevelFilter, layer::Context, layer::SubscriberExt as _};

/// Longer than anything here takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// By when a server has ended that nobody holds up: less than it waits for connections that do not end.
const CLEAN_END: Duration = Duration::from_secs(4);

/// A server on a port and a thread of its own. Dropped, it is shut down, and has to end soon and without an error in
/// its log.
pub struct TestServer {
    address: SocketAddr,
    hurry: Hurry,
    sources: ServedSources,
    stop: Option<oneshot::Sender<()>>,
    served: mpsc::Receiver<Result<(), ServeError>>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    /// A server as `build` makes it of the defaults; of those, simulated work.
    pub fn start(build: impl FnOnce(Builder) -> Builder) -> Self {
        record_errors();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = build(Server::builder().listen([any.into()])).bind().unwrap();
        let (address, hurry, sources) = (server.addresses()[0], server.hurry(), server.sources());
        let (stop, stopped) = oneshot::channel();
        let (ended, served) = mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            _ = ended.send(runtime.block_on(server.serve(async { _ = stopped.await })));
        });
        Self { address, hurry, sources, stop: Some(stop), served, thread: Some(thread) }
    }

    /// A server with one source, which answers with the plans that `plan` makes.
    pub fn planned(plan: impl Fn(&Request) -> Plan + Send + Sync + 'static) -> Self {
        Self::start(|server| server.default_source("test", planned(plan)))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn hurry(&self) -> Hurry {
        self.hurry.clone()
    }

    pub fn sources(&self) -> &ServedSources {
        &self.sources
    }

    /// Tells it to stop.
    pub fn shut_down(&mut self) {
        _ = self.stop.take().expect("told once").send(());
    }

    /// Waits until it has ended, which it has to in this time.
    pub fn ended_within(&mut self, time: Duration) {
        let served = self.served.recv_timeout(time);
        served.unwrap_or_else(|_| panic!("the server did not end within {time:?}")).unwrap();
        self.thread.take().expect("it ends once").join().unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if self.stop.is_some() {
            self.shut_down();
        }
        if self.thread.is_some() {
            self.ended_within(CLEAN_END);
        }
        let errors = ERRORS.lock();
        assert!(errors.is_empty(), "the server logged errors: {errors:?}");
    }
}

/// What this process logged as an error: nothing that a peer does is one.
static ERRORS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn record_errors() {
    struct Errors;
    struct Text(String);

    impl Visit for Text {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            _ = write!(self.0, "{field}={value:?} ");
        }
    }

    impl<S: Subscriber> Layer<S> for Errors {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut text = Text(String::new());
            event.record(&mut text);
            ERRORS.lock().push(text.0);
        }
    }

    // Another test of this process may have done it before.
    let errors = Errors.with_filter(LevelFilter::ERROR);
    _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(errors));
}

/// A source from a function.
pub struct Planned<F>(pub F);

impl<F> Source for Planned<F>
where
    F: Fn(&Request) -> Result<Plan, Refusal> + Send + Sync + 'static,
{
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        (self.0)(request)
    }
}

/// A source that never refuses.
pub fn planned(plan: impl Fn(&Request) -> Plan + Send + Sync + 'static) -> impl Source {
    Planned(move |request: &Request| Ok(plan(request)))
}

/// A plan of one job.
pub fn one<F, R>(work: F) -> Plan
where
    F: FnOnce(Emitter) -> R + Send + 'static,
    R: Future<Output = Result<(), JobError>> + Send + 'static,
{
    Plan::new().job(Job::new(work))
}

/// A plan of one job, which emits one response and then waits for an hour.
pub fn waiting(alive: &Gauge) -> Plan {
    let alive = alive.clone();
    one(async move |emitter| {
        let _alive = alive.enter();
        emitter.emit("begun").await?;
        tokio::time::sleep(Duration::from_hours(1)).await;
        Ok(())
    })
}

/// A plan of one job, which emits without end, `every` so often.
pub fn trickling(every: Duration) -> Plan {
    one(async move |emitter| {
        loop {
            emitter.emit("drop").await?;
            tokio::time::sleep(every).await;
        }
    })
}

/// How many guards are alive, in jobs for example.
#[derive(Clone, Default)]
pub struct Gauge(Arc<AtomicUsize>);

/// Counts until it is dropped.
pub struct Alive(Gauge);

impl Gauge {
    pub fn enter(&self) -> Alive {
        self.0.fetch_add(1, SeqCst);
        Alive(self.clone())
    }

    pub fn now(&self) -> usize {
        self.0.load(SeqCst)
    }

    /// Waits until it is `wanted`, and says how long that took.
    pub async fn becomes(&self, wanted: usize) -> Duration {
        let began = Instant::now();
        while self.now() != wanted {
            assert!(began.elapsed() < PATIENCE, "{} are alive, not {wanted}", self.now());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        began.elapsed()
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, SeqCst);
    }
}

/// What `work` gives, which has to come in this time.
pub async fn within<T>(time: Duration, work: impl Future<Output = T>) -> T {
    let given = tokio::time::timeout(time, work).await;
    given.unwrap_or_else(|_| panic!("it took longer than {time:?}"))
}
