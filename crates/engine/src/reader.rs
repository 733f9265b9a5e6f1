//! One client's cursor over a run: it takes everything that is ready in one chunk, and says how the stream ended. It
//! holds a place in the run and no queue of its own; the run's lock decides what it is given. HOT.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{Delivery, Leave, Run, RunId};

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
