//! One client's cursor over a run: replay and live in one loop. It takes everything that is ready in one chunk, goes back
//! to the store where it has fallen behind, and says how the stream ended. It holds a place in the run and no queue of its
//! own; the run's lock decides what it is given. HOT.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
};

use crate::{
    Delivery, Durability, Leave, Neighbours, Run, RunId, Sequence, Store,
    replay::Replay,
    run::{Attached, Next},
};

/// One client's cursor over a run. Dropping it is leaving: a plain run's jobs stop at once, a journaled run goes on for
/// its linger.
pub struct Reader {
    run: Arc<Run>,
    place: Attached,
    /// Of a journaled run.
    store: Option<Arc<dyn Store>>,
    /// Only while it is behind.
    replay: Option<Box<Replay>>,
}

impl Reader {
    /// The one reader of a plain run.
    pub(crate) fn plain(run: Arc<Run>, place: Attached) -> Self {
        Self { run, place, store: None, replay: None }
    }

    /// One reader of a journaled run.
    pub(crate) fn journaled(run: Arc<Run>, place: Attached, store: Arc<dyn Store>) -> Self {
        Self { run, place, store: Some(store), replay: None }
    }

    /// Has it woken next to its neighbours: readers whose tasks wake the same other task.
    pub fn woken_with(&mut self, neighbours: Neighbours) {
        self.run.seat(self.place, neighbours);
    }

    /// The run it reads.
    pub fn run_id(&self) -> RunId {
        self.run.id()
    }

    pub(crate) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// About how many bytes the payloads of its run will have together, where its source knew.
    pub fn expected_bytes(&self) -> Option<u64> {
        self.run.expected_bytes()
    }

    /// What its run outlives.
    pub fn durability(&self) -> Durability {
        self.store.as_ref().map_or(Durability::None, |store| store.durability())
    }

    /// The next chunk, or the end; the task of `cx` is woken when there is one. After the end, the end again.
    #[inline]
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Delivery> {
        let next = match self.run.poll_next(self.place, cx) {
            Poll::Ready(Next::Behind { next, visible }) => return self.poll_replay(next, visible, cx),
            Poll::Ready(Next::Delivery(delivery)) => Poll::Ready(delivery),
            Poll::Pending => Poll::Pending,
        };
        // It has caught up, and may now wait for hours.
        if self.replay.is_some() {
            self.replay = None;
        }
        next
    }

    #[cold]
    fn poll_replay(&mut self, next: Sequence, visible: Sequence, cx: &mut Context<'_>) -> Poll<Delivery> {
        let store = self.store.as_ref().expect("what is behind is in a store");
        let replay = self.replay.get_or_insert_with(|| Box::new(Replay::new(self.run.clone(), store.clone())));
        let upto = visible.min(self.run.last_wanted(self.place));
        match ready!(replay.poll(next, upto, cx)) {
            Ok(chunk) => {
                self.run.passed(self.place, chunk.last());
                Poll::Ready(Delivery::Chunk(chunk))
            }
            Err(Leave::HeadDropped(head)) if self.run.begin_at_head(self.place, head) => {
                self.replay = None;
                self.poll_next(cx)
            }
            Err(cause) => {
                self.run.leave(self.place, cause);
                match self.run.poll_next(self.place, cx) {
                    Poll::Ready(Next::Delivery(delivery)) => Poll::Ready(delivery),
                    _ => unreachable!("a reader that left is told so"),
                }
            }
        }
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
        Closer { run: self.run.clone(), place: self.place }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.run.detach(self.place);
    }
}

/// Ends a reader's stream from outside: at its deadline, when it stalls, at a drain.
#[derive(Clone)]
pub struct Closer {
    run: Arc<Run>,
    place: Attached,
}

impl Closer {
    /// The reader is given no more, and leaves for this cause; a plain run's jobs stop at once. Nothing happens where
    /// it had left or was told the end before.
    pub fn close(&self, cause: Leave) {
        self.run.leave(self.place, cause);
    }
}
