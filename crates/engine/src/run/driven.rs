//! What a run's driver waits for: that a job is gone, or that somebody else changed something. A driver that has nothing to
//! do is put away here.

use std::{
    mem,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::Run;
use crate::{JobError, JobIndex};

/// How a job ended, where it was not stopped.
type Outcome = Option<Result<(), JobError>>;

/// Where a run's driver is. Its lock may be taken inside that of the run's state, never the other way round.
#[derive(Default)]
pub(super) struct Driven(Mutex<State>);

#[derive(Default)]
struct State {
    driver: Driver,
    /// The driver is to look.
    is_changed: bool,
    /// Jobs that are gone, of which the driver was not told yet.
    gone: Vec<(JobIndex, Outcome)>,
}

#[derive(Default)]
enum Driver {
    /// It looks, or there is none.
    #[default]
    Elsewhere,
    /// A task that waits.
    Waits(Waker),
    /// No task: this has it go on.
    PutAway(Box<dyn FnOnce(GoesOn) + Send>),
}

/// Where a driver goes on that was put away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GoesOn {
    /// Within whoever changed something, who holds no lock and may be held up: a job that has ended. Most runs have few
    /// jobs, and a task for each look would cost as much as the run.
    Here,
    /// As a task of its own.
    Apart,
}

impl State {
    /// Takes note of a change, and gives whom to tell.
    fn change(&mut self) -> Driver {
        let driver = mem::take(&mut self.driver);
        // One that goes on looks anyway.
        self.is_changed = !matches!(driver, Driver::PutAway(_));
        driver
    }
}

impl Driver {
    fn tell(self, place: GoesOn) {
        match self {
            Driver::Elsewhere => {}
            Driver::Waits(waker) => waker.wake(),
            Driver::PutAway(go_on) => go_on(place),
        }
    }
}

impl Run {
    /// Ready when the driver is to look, once each time; it has one task.
    pub(crate) fn poll_changed(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.driven.0.lock();
        if mem::take(&mut state.is_changed) {
            return Poll::Ready(());
        }
        state.driver = Driver::Waits(cx.waker().clone());
        Poll::Pending
    }

    /// Keeps the driver, which is no task from here on, until it is to look: then `go_on` is called by whoever changed
    /// something.
    pub(crate) fn put_away(&self, go_on: Box<dyn FnOnce(GoesOn) + Send>) {
        let mut state = self.driven.0.lock();
        if mem::take(&mut state.is_changed) {
            drop(state);
            go_on(GoesOn::Apart);
        } else {
            state.driver = Driver::PutAway(go_on);
        }
    }

    /// Has the driver look.
    pub(crate) fn tell_driver(&self) {
        let driver = self.driven.0.lock().change();
        driver.tell(GoesOn::Apart);
    }

    /// Tells the driver that nothing of a job is left.
    pub(crate) fn job_gone(&self, job: JobIndex, outcome: Outcome) {
        let (driver, place) = {
            let mut state = self.driven.0.lock();
            let place = if outcome.is_some() { GoesOn::Here } else { GoesOn::Apart };
            state.gone.push((job, outcome));
            (state.change(), place)
        };
        driver.tell(place);
    }

    /// Jobs that are gone since this was last asked.
    pub(crate) fn jobs_gone(&self) -> Vec<(JobIndex, Outcome)> {
        mem::take(&mut self.driven.0.lock().gone)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use futures_util::FutureExt as _;

    use super::{super::RunPermit, *};
    use crate::{Budget, Limits, PayloadKind, RunId};

    fn run() -> Run {
        let permit = RunPermit::acquire(&Arc::default(), 1).unwrap();
        Run::plain(RunId::plain(1), PayloadKind::default(), Arc::new(Limits::default()), Budget::new(1), permit)
    }

    #[test]
    fn what_changes_while_a_driver_looks_has_it_look_again() {
        let looks = Arc::new(AtomicUsize::new(0));
        let count = || {
            let looks = looks.clone();
            Box::new(move |_| _ = looks.fetch_add(1, SeqCst))
        };
        let run = run();
        run.put_away(count());
        assert_eq!(looks.load(SeqCst), 0, "nothing changed");
        run.tell_driver();
        assert_eq!(looks.load(SeqCst), 1);
        // It looks now.
        run.job_gone(JobIndex(3), None);
        run.put_away(count());
        assert_eq!(looks.load(SeqCst), 2, "a job was gone before it was put away");
        assert_eq!(run.jobs_gone(), [(JobIndex(3), None)]);
        run.put_away(count());
        assert_eq!(looks.load(SeqCst), 2, "that was told");
    }

    #[tokio::test]
    async fn a_driver_that_waits_is_woken_by_a_change_before_and_after_it_began_to() {
        let run = run();
        let changed = || std::future::poll_fn(|cx| run.poll_changed(cx));
        run.tell_driver();
        assert!(changed().now_or_never().is_some(), "it changed before");
        assert!(changed().now_or_never().is_none(), "once");
        let (woken, ()) = tokio::join!(changed().map(|()| true), async { run.tell_driver() });
        assert!(woken);
    }
}
