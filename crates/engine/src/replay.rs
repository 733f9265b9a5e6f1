//! Reading a run from its store, for a reader that has fallen behind or begins behind: one read is handed out while the
//! next is under way, on a thread that may block. It knows the store, not what the chunks are for.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::task::JoinHandle;

use crate::{Chunk, Leave, Limits, Run, Sequence, Store, StoreError};

/// A reader's way through the store.
pub(crate) struct Replay {
    run: Arc<Run>,
    store: Arc<dyn Store>,
    /// Read, and not handed out yet.
    ready: VecDeque<Chunk>,
    /// Bytes in `ready`.
    ready_bytes: usize,
    reading: Option<Reading>,
    /// How much to read next: little at first, since many read only a little.
    read_bytes: usize,
}

struct Reading {
    task: JoinHandle<Result<Vec<Chunk>, StoreError>>,
    from: Sequence,
}

impl Replay {
    pub(crate) fn new(run: Arc<Run>, store: Arc<dyn Store>) -> Self {
        let read_bytes = Limits::BLOCK_BYTES;
        Self { run, store, ready: VecDeque::new(), ready_bytes: 0, reading: None, read_bytes }
    }

    /// The chunk that begins at `next`, at most to `upto`.
    pub(crate) fn poll(
        &mut self,
        next: Sequence,
        upto: Sequence,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Chunk, Leave>> {
        loop {
            while self.ready.front().is_some_and(|chunk| chunk.last() < next) {
                self.pop();
            }
            if let Some(chunk) = self.ready.front().filter(|chunk| chunk.first() <= next) {
                let given = chunk.between(next, chunk.last().min(upto));
                if given.last() == chunk.last() {
                    self.pop();
                }
                self.read_ahead(given.last(), upto);
                return Poll::Ready(Ok(given));
            }
            if self.reading.as_ref().is_none_or(|reading| reading.from > next) {
                self.ready.clear();
                self.ready_bytes = 0;
                self.read(next);
            }
            if let Err(cause) = ready!(self.poll_read(cx)) {
                return Poll::Ready(Err(cause));
            }
            if self.reading.is_none() && self.ready.front().is_none_or(|chunk| chunk.first() > next) {
                return Poll::Ready(Err(self.run.missing(next)));
            }
        }
    }

    /// Begins the next read once half of the last one is handed out.
    fn read_ahead(&mut self, given: Sequence, upto: Sequence) {
        let last = self.ready.back().map_or(given, Chunk::last);
        if self.reading.is_none() && last < upto && self.ready_bytes <= self.read_bytes / 2 {
            self.read_bytes = (self.read_bytes * 2).min(self.run.read_bytes_max());
            self.read(Sequence(last.0 + 1));
        }
    }

    fn read(&mut self, from: Sequence) {
        let (store, run, bytes) = (self.store.clone(), self.run.id(), self.read_bytes);
        let task = tokio::task::spawn_blocking(move || store.read(run, from, bytes));
        self.reading = Some(Reading { task, from });
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Leave>> {
        let Some(reading) = &mut self.reading else { return Poll::Ready(Ok(())) };
        let read = ready!(Pin::new(&mut reading.task).poll(cx));
        self.reading = None;
        let chunks = read.unwrap_or_else(|error| Err(StoreError::Failed(format!("reading was given up: {error}"))));
        Poll::Ready(match chunks {
            Ok(chunks) => {
                self.ready_bytes += chunks.iter().map(Chunk::len).sum::<usize>();
                self.ready.extend(chunks.into_iter().map(|chunk| self.run.paid(chunk)));
                Ok(())
            }
            Err(StoreError::Damaged(what)) => Err(Leave::Damaged(what)),
            Err(error) => {
                tracing::error!("run {}: cannot read what is journaled: {error}", self.run.id());
                Err(Leave::StoreFailing)
            }
        })
    }

    fn pop(&mut self) {
        if let Some(chunk) = self.ready.pop_front() {
            self.ready_bytes -= chunk.len();
        }
    }
}
