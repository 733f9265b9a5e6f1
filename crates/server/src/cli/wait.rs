//! How long a fetch waits, and for whom it works. It knows times and pipes, not what is waited for.

use std::{
    future::{Future, pending},
    io,
    os::fd::AsFd as _,
    sync::Arc,
    time::Duration,
};

use outflow_client::{Code, FetchError, Outcome};
use tokio::{
    io::Interest,
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};

use super::output::Output;

/// What had not come by when.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct TooLong(String);

/// How long to wait.
pub(super) struct Clock {
    within: Option<Duration>,
    patience: Option<Duration>,
    /// When `within` is over.
    end: Option<Instant>,
}

impl Clock {
    /// Starts now: `within` bounds all of it, `patience` each wait.
    pub(super) fn start(within: Option<Duration>, patience: Option<Duration>) -> Self {
        Self { within, patience, end: within.map(|time| Instant::now() + time) }
    }

    /// What is left of `within`.
    pub(super) fn left(&self) -> Option<Duration> {
        self.end.map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// `wait`, unless it takes too long.
    pub(super) async fn bound<T>(&self, wait: impl Future<Output = T>, missing: &str) -> Result<T, TooLong> {
        let patience = self.patience.map(|time| Instant::now() + time);
        // The server and the client library keep `within` themselves once they are asked; here it bounds the rest,
        // with time enough for them to say so first.
        let end = self.end.map(|end| end + Duration::from_secs(1));
        let Some(until) = patience.into_iter().chain(end).min() else { return Ok(wait.await) };
        timeout_at(until, wait).await.map_err(|_| {
            let waited = if Some(until) == patience { self.patience } else { self.within };
            TooLong(format!("{missing} within {}", humantime::format_duration(waited.unwrap_or_default())))
        })
    }

    /// Whether a fetch failed only because the caller's own deadline passed, which is no failure of the stream.
    pub(super) fn own_deadline(&self, error: &FetchError, outcome: Option<&Outcome>) -> Option<TooLong> {
        let is_own = match error {
            FetchError::WaitedTooLong { .. } => true,
            FetchError::Status { status, .. } | FetchError::Refused { status, .. } => {
                outcome.is_none() && self.within.is_some() && status.code() == Code::DEADLINE_EXCEEDED
            }
            _ => false,
        };
        let within = humantime::format_duration(self.within.unwrap_or_default());
        is_own.then(|| TooLong(format!("the stream had not ended after {within}")))
    }
}

/// Who reads our output, where that is a pipe.
pub(super) struct PipeReader(Option<pipe::Sender>);

impl PipeReader {
    pub(super) fn of(output: &Output) -> Self {
        let pipe = output.pipe().and_then(|pipe| pipe.as_fd().try_clone_to_owned().ok());
        // Unchecked: the pipe stays in blocking mode, which it shares with other programs. It is only watched here;
        // where that is impossible, the next write tells.
        Self(pipe.and_then(|pipe| pipe::Sender::from_owned_fd_unchecked(pipe).ok()))
    }

    /// Resolves when nobody reads any more, which the next write would tell too late: it may come in an hour.
    pub(super) async fn gone(&self) {
        let Some(pipe) = &self.0 else { return pending().await };
        if pipe.ready(Interest::ERROR).await.is_err() {
            pending().await
        }
    }
}

/// Ctrl-C, once somebody listens to it: for who waits, and for who is in the middle of something that may take for ever.
#[derive(Clone)]
pub(super) struct Interrupt {
    is_raised: watch::Receiver<bool>,
    /// Never read: it owns the task that listens.
    _listener: Arc<JoinSet<()>>,
}

impl Interrupt {
    /// Listens from now on. From now on, too, the signal does not end the program by itself.
    pub(super) fn listen() -> io::Result<Self> {
        let mut signal = signal(SignalKind::interrupt())?;
        let (raise, is_raised) = watch::channel(false);
        let mut listener = JoinSet::new();
        listener.spawn(async move {
            signal.recv().await;
            _ = raise.send(true);
        });
        Ok(Self { is_raised, _listener: Arc::new(listener) })
    }

    pub(super) fn is_raised(&self) -> bool {
        *self.is_raised.borrow()
    }

    async fn raised(&self) {
        if self.is_raised.clone().wait_for(|is_raised| *is_raised).await.is_err() {
            pending().await
        }
    }
}

/// Resolves with the signal; never where none is listened to.
pub(super) async fn interrupted(interrupt: Option<&Interrupt>) {
    match interrupt {
        Some(interrupt) => interrupt.raised().await,
        None => pending().await,
    }
}

/// Resolves then, or never.
pub(super) async fn at(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => pending().await,
    }
}
