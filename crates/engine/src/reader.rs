//! One client's cursor over a run: it takes everything that is ready in one chunk, and says how the stream ended. It
//! holds a place in the run and no queue of its own; the run's lock decides what it is given. HOT.

use std::{
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{Chunk, End, Run, RunId, Sequence};

/// What a reader is given next.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Responses, in order, each exactly once.
    Chunk(Chunk),
    /// Nothing more will come.
    Finished(Finish),
}

/// How a reader's stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// The last sequence given to this reader; 0 where it was given none.
    pub last_sequence: Sequence,
    /// The run's end, exactly when it has ended and this reader was given all of it.
    pub end: Option<End>,
    /// Jobs of the run that failed so far.
    pub jobs_failed: usize,
    /// Why this reader's stream ended before its run.
    pub left: Option<Leave>,
}

/// Why a reader left a run that had not ended, or that it had not been given all of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leave {
    /// It went away.
    Gone,
    /// It was given as many responses as it wanted.
    Enough,
    /// Its deadline passed.
    Deadline,
    /// It took nothing for so long.
    Stalled(Duration),
    /// The server shuts down.
    Draining,
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leave::Gone => f.write_str("reader left"),
            Leave::Enough => f.write_str("reader had enough"),
            Leave::Deadline => f.write_str("the reader's deadline passed"),
            Leave::Stalled(time) => write!(f, "reader took nothing for {time:?}"),
            Leave::Draining => f.write_str("server is shutting down"),
        }
    }
}

/// One client's cursor over a run. Dropping it is leaving: a plain run's jobs stop at once.
pub struct Reader {
    run: Arc<Run>,
}

impl Reader {
    pub(crate) fn new(run: Arc<Run>) -> Self {
        Self { run }
    }

    /// The run it reads.
    pub fn run_id(&self) -> RunId {
        self.run.id()
    }

    /// The next chunk, or the end; the task of `cx` is woken when there is one. After the end, the end again.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Delivery> {
        self.run.poll_next(cx)
    }

    /// The next chunk, or the end.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it has taken nothing.
    pub async fn next(&mut self) -> Delivery {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// A handle with which somebody else ends this reader's stream.
    pub fn closer(&self) -> Closer {
        Closer { run: self.run.clone() }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.run.leave(Leave::Gone);
    }
}

/// Ends a reader's stream from outside: at its deadline, when it stalls, at a drain.
#[derive(Clone)]
pub struct Closer {
    run: Arc<Run>,
}

impl Closer {
    /// The reader is given no more, and leaves for this cause; a plain run's jobs stop at once. Nothing happens where
    /// it had left or was told the end before.
    pub fn close(&self, cause: Leave) {
        self.run.leave(cause);
    }
}
