//! From a thread that may block to the job that emits: the job takes whatever is ready, the thread waits where that is too
//! much, and each learns when the other is gone. What a slow thread has made is taken at once; what a fast one makes while
//! the job emits is taken together.

use outflow_engine::JobError;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::rows::Rows;

/// What is between the two. At most [`READY_BYTES`](super::rows::READY_BYTES) and a response.
pub(super) struct Handover<I> {
    state: Mutex<State<I>>,
    /// There is room again, or the job is gone.
    room: Condvar,
    /// There is something, and the job waits for it.
    ready: Notify,
}

struct State<I> {
    rows: Rows,
    /// How the thread ended.
    over: Option<Result<(), JobError>>,
    job_is_gone: bool,
    job_waits: bool,
    /// What interrupts the thread's work.
    interrupt: Option<I>,
}

/// The job is gone, and nobody wants more.
pub(super) struct Gone;

impl<I> Handover<I> {
    pub(super) fn new() -> Self {
        let state =
            State { rows: Rows::new(None), over: None, job_is_gone: false, job_waits: false, interrupt: None };
        Self { state: Mutex::new(state), room: Condvar::new(), ready: Notify::new() }
    }

    /// The thread gives what is ready of `rows`, when there is room for it.
    pub(super) fn give(&self, rows: &mut Rows) -> Result<(), Gone> {
        let mut state = self.state.lock();
        while state.rows.is_full() && !state.job_is_gone {
            self.room.wait(&mut state);
        }
        if state.job_is_gone {
            return Err(Gone);
        }
        rows.move_to(&mut state.rows);
        self.wake(state);
        Ok(())
    }

    /// The thread's work can be interrupted so from now on, or not any more.
    pub(super) fn set_interrupt(&self, interrupt: Option<I>) -> Result<(), Gone> {
        let mut state = self.state.lock();
        state.interrupt = interrupt;
        if state.job_is_gone { Err(Gone) } else { Ok(()) }
    }

    /// The thread has ended so. Only the first word counts.
    pub(super) fn end(&self, outcome: Result<(), JobError>) {
        let mut state = self.state.lock();
        state.over.get_or_insert(outcome);
        self.wake(state);
    }

    fn wake(&self, mut state: parking_lot::MutexGuard<'_, State<I>>) {
        let waits = std::mem::take(&mut state.job_waits);
        drop(state);
        if waits {
            self.ready.notify_one();
        }
    }

    /// The job takes what is ready into `rows`, which is empty, as soon as there is something. With the last of it: how the
    /// thread ended.
    ///
    /// # Cancel safety
    /// Dropped, it has taken nothing.
    pub(super) async fn take(&self, rows: &mut Rows) -> Option<Result<(), JobError>> {
        loop {
            {
                let mut state = self.state.lock();
                if !state.rows.is_empty() || state.over.is_some() {
                    let was_full = state.rows.is_full();
                    state.rows.move_to(rows);
                    let over = state.over.clone();
                    drop(state);
                    if was_full {
                        self.room.notify_one();
                    }
                    return over;
                }
                state.job_waits = true;
            }
            self.ready.notified().await;
        }
    }

    /// The job is gone; what the thread does is interrupted. Whether there is still a thread.
    pub(super) fn leave(&self, interrupt: impl FnOnce(&I)) -> bool {
        let mut state = self.state.lock();
        state.job_is_gone = true;
        // Under the lock, so that it meets no work but this thread's.
        state.interrupt.as_ref().map(interrupt);
        self.room.notify_one();
        state.over.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::source::sql::rows::READY_BYTES;

    fn push(rows: &mut Rows, text: &[u8]) {
        let written = rows.push(|out| {
            out.extend_from_slice(text);
            Ok::<_, ()>(())
        });
        written.unwrap();
    }

    #[tokio::test]
    async fn a_fast_thread_waits_for_a_slow_job_and_nothing_is_lost() {
        let handover = Arc::new(Handover::<()>::new());
        let giver = handover.clone();
        let thread = std::thread::spawn(move || {
            let mut mine = Rows::new(None);
            for n in 0_u32..10_000 {
                push(&mut mine, format!("{n:050}").as_bytes());
                giver.give(&mut mine).ok().unwrap();
            }
            giver.end(Ok(()));
        });
        let (mut rows, mut taken) = (Rows::new(None), 0);
        loop {
            // Never, that the thread has gone on.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let over = handover.take(&mut rows).await;
            assert!(rows.bytes() <= READY_BYTES + 50, "{} bytes", rows.bytes());
            taken += rows.bytes();
            rows = Rows::new(None);
            if over.is_some() {
                break;
            }
        }
        assert_eq!(taken, 10_000 * 50);
        thread.join().unwrap();
    }

    #[test]
    fn a_thread_that_waits_for_room_learns_that_the_job_is_gone() {
        let handover = Arc::new(Handover::<()>::new());
        let giver = handover.clone();
        let thread = std::thread::spawn(move || {
            let mut mine = Rows::new(None);
            loop {
                push(&mut mine, &[b'x'; 1_000]);
                if giver.give(&mut mine).is_err() {
                    return;
                }
            }
        });
        while !handover.state.lock().rows.is_full() {
            std::thread::yield_now();
        }
        assert!(handover.leave(|()| ()));
        thread.join().unwrap();
    }
}
