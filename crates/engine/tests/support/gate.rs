//! A gate that threads wait at until the test lets them go.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Who waited so long belongs to a test that failed, and is let go so that it can end.
const HELD_AT_MOST: Duration = Duration::from_secs(20);

#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    /// How many may pass a closed gate.
    let_go: usize,
    waiting: usize,
    /// Who came so far, and from which on they pass a closed gate.
    came: usize,
    pass_from: Option<usize>,
}

impl Gate {
    /// Who comes from now on waits.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
    }

    /// Everybody passes.
    pub fn open(&self) {
        let mut state = self.state.lock();
        (state.is_closed, state.let_go, state.pass_from) = (false, 0, None);
        drop(state);
        self.changed.notify_all();
    }

    /// One passes.
    pub fn let_one_go(&self) {
        self.state.lock().let_go += 1;
        self.changed.notify_all();
    }

    /// Who waits goes on waiting, and who comes from now on passes.
    pub fn let_others_pass(&self) {
        let mut state = self.state.lock();
        state.pass_from = Some(state.came);
    }

    /// Resolves when so many wait.
    pub async fn waiting(&self, count: usize) {
        super::until("nobody comes to the gate", || {
            let state = self.state.lock();
            state.waiting == count && state.let_go == 0
        })
        .await;
    }

    /// Whether somebody waits.
    pub fn has_waiting(&self) -> bool {
        self.state.lock().waiting > 0
    }

    /// Waits while it is closed.
    pub fn pass(&self) {
        let until = Instant::now() + HELD_AT_MOST;
        let mut state = self.state.lock();
        state.waiting += 1;
        let number = state.came;
        state.came += 1;
        while state.is_closed
            && state.let_go == 0
            && state.pass_from.is_none_or(|first| number < first)
            && !self.changed.wait_until(&mut state, until).timed_out()
        {}
        state.waiting -= 1;
        state.let_go = state.let_go.saturating_sub(1);
    }
}
