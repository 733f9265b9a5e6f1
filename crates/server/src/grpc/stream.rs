//! What acts on a stream from outside its body: its deadline, a stall, a drain. hyper does not poll a body while the
//! peer's window is shut, so nothing of this can live in the body.
//!
//! The run is released at once. A stream whose window is open then gets its status through the body; one that is
//! stalled can be sent no trailers, so after a short grace its task is dropped, which resets the stream (CANCEL).

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use outflow_engine::{Closer, Leave, Neighbours, Reader};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use slab::Slab;
use tokio::{
    task::AbortHandle,
    time::{Instant, Sleep},
};
use tokio_util::task::TaskTracker;

/// How long a stream that is ended from outside has for taking its status before it is reset.
pub(crate) const STATUS_GRACE: Duration = Duration::from_secs(1);
/// How many seconds a call of somebody's own service has, in a drain, for ending by itself before it is ended. A stream of
/// responses has none, since it is gone on with elsewhere.
pub(super) const CALL_GRACE_SECONDS: u8 = 3;
/// How often stalled streams are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The streams of one worker.
pub(crate) struct Streams {
    live: Mutex<Slab<Arc<StreamControl>>>,
    tasks: TaskTracker,
    /// Counts sweeps, from 1; a body notes it when it begins to wait for the transport.
    sweep: AtomicU64,
    /// A stream was woken that sends its trailers next.
    trailers_follow: AtomicBool,
    /// How long a reader may take nothing.
    stall: Duration,
    /// Connections so far.
    connections: AtomicU32,
}

impl Streams {
    pub(crate) fn new(stall: Duration) -> Arc<Self> {
        Arc::new(Self {
            live: Mutex::default(),
            tasks: TaskTracker::new(),
            sweep: AtomicU64::new(1),
            trailers_follow: AtomicBool::new(false),
            stall,
            connections: AtomicU32::new(0),
        })
    }

    /// What the streams of one more connection have in common.
    pub(crate) fn connection(&self) -> Neighbours {
        Neighbours(self.connections.fetch_add(1, Ordering::Relaxed))
    }

    /// A control for a stream of a connection that is about to begin.
    pub(crate) fn control(self: &Arc<Self>, connection: Neighbours) -> Arc<StreamControl> {
        Arc::new(StreamControl {
            connection,
            streams: self.clone(),
            waiting_since: AtomicU64::new(0),
            untaken: AtomicUsize::new(0),
            body_waits: AtomicBool::new(false),
            grace_seconds: AtomicU8::new(0),
            state: Mutex::default(),
        })
    }

    /// Whether a stream was woken, since this was last asked, that sends its trailers next. Asked before and after a step
    /// of a connection, it says so of the streams of that.
    pub(crate) fn trailers_follow(&self) -> bool {
        let follow = self.trailers_follow.load(Ordering::Relaxed);
        if follow {
            self.trailers_follow.store(false, Ordering::Relaxed);
        }
        follow
    }

    /// Runs `stream` to its end, or until its control ends it, at the latest at its deadline.
    pub(crate) fn spawn<F>(self: &Arc<Self>, stream: F, control: &Arc<StreamControl>, deadline: Option<Instant>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let place = self.live.lock().insert(control.clone());
        control.state.lock().place = Some(place);
        let deadline = deadline.map(|deadline| Box::new(Deadline::new(deadline)));
        let task = StreamTask { stream, deadline, control: control.clone() };
        let task = self.tasks.spawn(task).abort_handle();
        control.state.lock().task = Some(task);
    }

    /// Looks for stalled streams until dropped.
    pub(crate) async fn sweep(&self) {
        let sweeps_max = self.stall.as_secs().max(1);
        let mut interval = tokio::time::interval(SWEEP_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let now = self.sweep.fetch_add(1, Ordering::Relaxed) + 1;
            let stalled = |control: &StreamControl| {
                let since = control.waiting_since.load(Ordering::Relaxed);
                since != 0 && now - since > sweeps_max
            };
            for control in self.select(stalled) {
                control.end(Leave::Stalled(self.stall));
                control.reset();
            }
        }
    }

    /// Ends every stream for `cause`, once the time is over that it has for ending by itself: with a status, or after
    /// [`STATUS_GRACE`] with a reset.
    pub(crate) async fn end_all(&self, cause: Leave) {
        self.tasks.close();
        for second in 0..=CALL_GRACE_SECONDS {
            let grace = |control: &StreamControl| control.grace_seconds.load(Ordering::Relaxed);
            for control in self.select(|control| grace(control) < second) {
                control.reset();
            }
            for control in self.select(|control| grace(control) == second) {
                control.end(cause.clone());
            }
            if tokio::time::timeout(STATUS_GRACE, self.tasks.wait()).await.is_ok() {
                return;
            }
        }
        for control in self.select(|_| true) {
            control.reset();
        }
    }

    /// Collected, since ending a stream may take the lock again.
    fn select(&self, wanted: impl Fn(&StreamControl) -> bool) -> Vec<Arc<StreamControl>> {
        self.live.lock().iter().map(|(_, control)| control).filter(|control| wanted(control)).cloned().collect()
    }
}

/// One stream, as seen from outside. Body and transport touch it on the thread of their worker only, so what they count
/// needs no atomic steps.
///
/// In this order, since what is touched for every chunk fits into one line of a processor's cache, and a thousand streams
/// do not fit into the cache.
#[repr(C)]
pub(crate) struct StreamControl {
    /// Bytes that the transport was handed and has not taken.
    untaken: AtomicUsize,
    /// The sweep in which the transport last took some of what it has; 0 while it has nothing.
    waiting_since: AtomicU64,
    streams: Arc<Streams>,
    /// Beside the lock rather than behind it, for the same reason.
    body_waits: AtomicBool,
    /// How many seconds it has in a drain for ending by itself.
    grace_seconds: AtomicU8,
    connection: Neighbours,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Ends the reader of the stream, once it has one.
    closer: Option<Closer>,
    /// Boxed, since most streams are never ended from outside.
    ended: Option<Box<Leave>>,
    task: Option<AbortHandle>,
    /// The body, while it waits for all to be taken; of a call of a service, who waits for what that says.
    body: Option<Waker>,
    /// Where it is among those of its worker, while its task is there.
    place: Option<usize>,
}

impl StreamControl {
    /// Puts the stream's reader under this control.
    pub(super) fn attach(&self, reader: &mut Reader) {
        reader.woken_with(self.connection);
        let closer = reader.closer();
        let mut state = self.state.lock();
        match state.ended.as_deref().cloned() {
            Some(cause) => closer.close(cause),
            None => state.closer = Some(closer),
        }
    }

    /// The stream is a call that may end by itself in a drain, within this time.
    pub(super) fn has_grace(&self, seconds: u8) {
        self.grace_seconds.store(seconds, Ordering::Relaxed);
    }

    /// Ready with the cause once the stream has to end, where no reader is told.
    pub(super) fn poll_ended(&self, cx: &Context<'_>) -> Poll<Leave> {
        let mut state = self.state.lock();
        if let Some(cause) = state.ended.as_deref() {
            return Poll::Ready(cause.clone());
        }
        state.body = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The transport was handed so many bytes.
    pub(super) fn handed_over(&self, bytes: usize) {
        let untaken = self.untaken.load(Ordering::Relaxed);
        self.untaken.store(untaken + bytes, Ordering::Relaxed);
        if untaken == 0 {
            self.waiting_since.store(self.streams.sweep.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// HTTP/2 took so many of them, or dropped them.
    pub(super) fn took(&self, bytes: usize) {
        let untaken = self.untaken.load(Ordering::Relaxed) - bytes;
        self.untaken.store(untaken, Ordering::Relaxed);
        if untaken > 0 {
            self.waiting_since.store(self.streams.sweep.load(Ordering::Relaxed), Ordering::Relaxed);
            return;
        }
        self.waiting_since.store(0, Ordering::Relaxed);
        if self.body_waits.load(Ordering::Relaxed) {
            let waker = self.state.lock().body.take();
            if let Some(waker) = waker {
                self.streams.trailers_follow.store(true, Ordering::Relaxed);
                waker.wake();
            }
        }
    }

    /// Ready once HTTP/2 has taken all that it was handed.
    pub(super) fn poll_all_taken(&self, cx: &Context<'_>) -> Poll<()> {
        if self.untaken.load(Ordering::Relaxed) == 0 {
            return Poll::Ready(());
        }
        self.state.lock().body = Some(cx.waker().clone());
        self.body_waits.store(true, Ordering::Relaxed);
        Poll::Pending
    }

    fn end(&self, cause: Leave) {
        let (closer, body) = {
            let mut state = self.state.lock();
            state.ended.get_or_insert_with(|| Box::new(cause.clone()));
            (state.closer.take(), state.body.take())
        };
        if let Some(closer) = closer {
            closer.close(cause);
        }
        if let Some(body) = body {
            body.wake();
        }
    }

    fn reset(&self) {
        if let Some(task) = &self.state.lock().task {
            task.abort();
        }
    }
}

pin_project! {
    /// A stream's task with its deadline. In this order, since the deadline is looked at whenever the task is woken, and
    /// is so next to the task's head.
    #[repr(C)]
    struct StreamTask<F> {
        // Boxed, since most streams have none.
        deadline: Option<Box<Deadline>>,
        #[pin]
        stream: F,
        control: Arc<StreamControl>,
    }

    impl<F> PinnedDrop for StreamTask<F> {
        fn drop(this: Pin<&mut Self>) {
            // Not within `if let`, where the lock would be held for too long: `live` is taken first elsewhere.
            let place = this.control.state.lock().place.take();
            if let Some(place) = place {
                this.control.streams.live.lock().remove(place);
            }
        }
    }
}

impl<F: Future<Output = ()>> Future for StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if let Some(deadline) = this.deadline
            && deadline.poll(this.control, cx).is_ready()
        {
            return Poll::Ready(());
        }
        ready!(this.stream.poll(cx));
        Poll::Ready(())
    }
}

/// When a stream ends at the latest.
struct Deadline {
    timer: Pin<Box<Sleep>>,
    is_over: bool,
}

impl Deadline {
    fn new(at: Instant) -> Self {
        Self { timer: Box::pin(tokio::time::sleep_until(at)), is_over: false }
    }

    /// Ends the stream when it is time; ready when it has taken no status since, and has to be reset.
    fn poll(&mut self, control: &StreamControl, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.timer.as_mut().poll(cx));
        if !self.is_over {
            self.is_over = true;
            control.end(Leave::Deadline);
            self.timer.as_mut().reset(Instant::now() + STATUS_GRACE);
        }
        // The first time this sets the alarm for the grace.
        self.timer.as_mut().poll(cx)
    }
}
