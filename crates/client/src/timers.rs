//! The two clocks of a stream: the caller's deadline, and how long silence may last.
//!
//! Owns: when each is over. Must not know: what is waited for, or what is done then.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// How long after the deadline the server's own `DEADLINE_EXCEEDED` may still arrive: a round trip and a busy server.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// How many heartbeats may be missed: one may be late and one be lost on the way, three are no accident.
const HEARTBEATS_MISSED: u32 = 3;
/// Under this, silence is a network's ordinary hiccup, however fast the heart beats.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// The caller's deadline, and a grace for the server to say that it passed.
#[derive(Debug)]
pub(crate) struct Deadline {
    allowed: Duration,
    begun: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Deadline {
    /// Begins now.
    pub(crate) fn start(allowed: Duration) -> Self {
        Self { allowed, begun: Instant::now(), sleep: Box::pin(sleep(allowed.saturating_add(GRACE))) }
    }

    /// What the caller allowed.
    pub(crate) fn allowed(&self) -> Duration {
        self.allowed
    }

    /// What is left of it, by the millisecond: the caller's round number is told to the server as it is.
    pub(crate) fn left(&self) -> Duration {
        let elapsed = self.begun.elapsed().as_millis();
        self.allowed.saturating_sub(Duration::from_millis(elapsed as u64))
    }

    /// When it passes, if the clock reaches so far.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.begun.checked_add(self.allowed)
    }

    /// Whether it has passed. Without an open stream nobody has to say so first.
    pub(crate) fn is_over(&self) -> bool {
        self.begun.elapsed() >= self.allowed
    }

    /// Ready when it passed and the grace is over, too.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }
}

/// How much silence there may be with heartbeats of this interval.
pub(crate) fn silence_limit(heartbeat: Duration) -> Duration {
    heartbeat.saturating_mul(HEARTBEATS_MISSED).max(SILENCE_MIN)
}

/// How long nothing may come. It runs only while the reader waits: a caller that is away, and lets data lie, hears
/// nothing either.
#[derive(Debug)]
pub(crate) struct Silence {
    heartbeat: Duration,
    sleep: Pin<Box<Sleep>>,
    running: bool,
}

impl Silence {
    pub(crate) fn of_heartbeat(heartbeat: Duration) -> Self {
        Self { heartbeat, sleep: Box::pin(sleep(Duration::ZERO)), running: false }
    }

    pub(crate) fn limit(&self) -> Duration {
        silence_limit(self.heartbeat)
    }

    /// Something came.
    pub(crate) fn heard(&mut self) {
        self.running = false;
    }

    /// Nothing came yet: begins to run if it does not, and says whether it is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.running {
            ready!(self.sleep.as_mut().poll(cx));
            if self.sleep.deadline().elapsed() < self.heartbeat {
                return Poll::Ready(());
            }
            // Nobody looked when it was over: the reader was away, its thread was busy, or the machine slept. What
            // came meanwhile may still be with the connection's task, which was not run either.
        }
        self.running = true;
        let now = Instant::now();
        // A sum that the clock cannot hold is a limit that never comes.
        let over = now.checked_add(self.limit()).unwrap_or(now + Duration::from_hours(24 * 365));
        self.sleep.as_mut().reset(over);
        self.sleep.as_mut().poll(cx)
    }
}
