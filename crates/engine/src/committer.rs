//! Group commit over all runs: one thread takes what every run has, makes it durable together, and shows it. There is no
//! timer: what arrives during one commit is the next batch. It knows runs and the store, not what is in their records.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::{
    Batch, Clock, Leave, Limits, Record, Room, RunId, Store, StoreError,
    bell::{Alarms, Woken},
    living::Living,
    run::{Committed, Gather, Run},
};

/// From so many runs on, a commit waits until whom the last one woke has run: a fast disk would otherwise wake every
/// reader for a handful of responses a thousand times a second, and the readers' threads drown in small frames.
const PACED_RUNS_MIN: usize = 32;
/// But not longer than this.
const PACE_MAX: Duration = Duration::from_millis(20);
/// A commit takes no further run once it has so many bytes: what a store writes at once is bounded, and so is how long
/// everybody waits for it.
const COMMIT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long to leave a store alone that failed, at first and at last.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What runs hand to the committer.
pub(crate) enum Item {
    /// This run has something that is not durable.
    Run(Arc<Run>),
    /// Nobody reads this run and it has ended.
    Forget(RunId),
    /// These are to be deleted; the sender is told when they are.
    Delete(Vec<RunId>, oneshot::Sender<()>),
}

/// The way to the committer. Every run is in it at most once, so it is as long as there are runs.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    pushed: Condvar,
}

#[derive(Default)]
struct State {
    items: Vec<Item>,
    is_closed: bool,
    /// Nothing is taken any more.
    is_over: bool,
    /// Why nothing can be made durable just now.
    failing: Option<String>,
    /// Somebody waits for a run to be stopped while nothing else can be made durable.
    stop_is_asked: bool,
}

/// Why the committer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GoOn {
    /// The time has passed.
    Later,
    /// Somebody waits for a run to be stopped.
    ToStop,
    /// The queue was closed.
    Closed,
}

impl Queue {
    pub(crate) fn push(&self, item: Item) {
        let mut state = self.state.lock();
        if state.is_over {
            // A run in the queue holds the queue: neither would ever be dropped.
            drop(state);
            return drop(item);
        }
        state.items.push(item);
        drop(state);
        self.pushed.notify_one();
    }

    /// Has runs that were stopped looked at before the next attempt at a store that fails.
    pub(crate) fn stop_soon(&self) {
        let mut state = self.state.lock();
        state.stop_is_asked = state.failing.is_some();
        drop(state);
        self.pushed.notify_one();
    }

    /// Why nothing can be made durable just now.
    pub(crate) fn failing(&self) -> Option<String> {
        self.state.lock().failing.clone()
    }

    /// The committer ends once it has done what there is.
    fn close(&self) {
        self.state.lock().is_closed = true;
        self.pushed.notify_one();
    }

    /// What there is, once there is something; `false` where nothing more will come.
    fn take(&self, items: &mut Vec<Item>) -> bool {
        let mut state = self.state.lock();
        while state.items.is_empty() {
            if state.is_closed {
                return false;
            }
            self.pushed.wait(&mut state);
        }
        items.append(&mut state.items);
        true
    }

    fn take_more(&self, items: &mut Vec<Item>) {
        items.append(&mut self.state.lock().items);
    }

    /// What comes until then, or until somebody waits for a stop.
    fn take_until(&self, until: Instant, items: &mut Vec<Item>) -> GoOn {
        let mut state = self.state.lock();
        let why = loop {
            if state.is_closed {
                break GoOn::Closed;
            }
            if mem::take(&mut state.stop_is_asked) {
                break GoOn::ToStop;
            }
            if self.pushed.wait_until(&mut state, until).timed_out() {
                break GoOn::Later;
            }
        };
        items.append(&mut state.items);
        why
    }

    /// Nothing is taken any more: what is in the queue is let go.
    fn end(&self) {
        let mut state = self.state.lock();
        state.is_over = true;
        let items = mem::take(&mut state.items);
        drop(state);
        drop(items);
    }
}

/// The committing thread.
pub(crate) struct Committer {
    queue: Arc<Queue>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Committer {
    /// Starts it.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(crate) fn start(
        queue: Arc<Queue>,
        store: Arc<dyn Store>,
        living: Arc<Living>,
        clock: Clock,
        limits: Arc<Limits>,
    ) -> Result<Self, StoreError> {
        let mut work = Work {
            queue: queue.clone(),
            base: store.in_service(),
            since: Instant::now(),
            store,
            living,
            clock,
            limits,
            batch: Batch::default(),
            alarms: Alarms::default(),
            woken: None,
        };
        let thread = std::thread::Builder::new().name("outflow-commit".into()).spawn(move || {
            work.run();
            work.queue.end();
        });
        let thread = thread.map_err(|error| StoreError::Failed(format!("cannot start a thread: {error}")))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Makes durable what there is, and ends the thread.
    pub(crate) fn stop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the committer's thread panicked, which is a bug");
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // The thread ends by itself, when it has done what there is; a store that does not answer keeps nobody here.
        self.queue.close();
    }
}

struct Work {
    queue: Arc<Queue>,
    store: Arc<dyn Store>,
    living: Arc<Living>,
    clock: Clock,
    limits: Arc<Limits>,
    /// How long the store had been in service, and since when it is now.
    base: Duration,
    since: Instant,
    batch: Batch,
    alarms: Alarms,
    woken: Option<Woken>,
}

/// What one commit is about.
#[derive(Default)]
struct Group {
    runs: Vec<Arc<Run>>,
    /// Runs that are to be committed after these.
    later: Vec<Arc<Run>>,
    deletions: Vec<(Vec<RunId>, oneshot::Sender<()>)>,
}

impl Work {
    fn run(&mut self) {
        let mut items = Vec::new();
        let mut group = Group::default();
        while !group.later.is_empty() || self.queue.take(&mut items) {
            group.runs.append(&mut group.later);
            self.queue.take_more(&mut items);
            if items.len() >= PACED_RUNS_MIN
                && let Some(woken) = self.woken.take()
            {
                woken.have_run(PACE_MAX);
                self.queue.take_more(&mut items);
            }
            self.sort(&mut items, &mut group);
            if !self.commit(&mut group) {
                return;
            }
        }
    }

    fn sort(&self, items: &mut Vec<Item>, group: &mut Group) {
        for item in items.drain(..) {
            match item {
                Item::Run(run) => group.runs.push(run),
                Item::Forget(run) if self.living.forget(run) => {
                    group.deletions.push((vec![run], oneshot::channel().0));
                }
                Item::Forget(_) => {}
                Item::Delete(runs, done) => group.deletions.push((runs, done)),
            }
        }
    }

    /// Makes it durable, however long that takes; `false` where the queue was closed before it could.
    fn commit(&mut self, group: &mut Group) -> bool {
        self.gather(Gather::All, group);
        match self.write(Room::Ordinary) {
            Ok(()) => {
                self.committed(group);
                true
            }
            Err(error) => self.commit_later(group, &error),
        }
    }

    /// Waits for a store that failed. Nothing is lost meanwhile: every run keeps what it gave.
    #[cold]
    fn commit_later(&mut self, group: &mut Group, error: &StoreError) -> bool {
        tracing::error!("responses cannot be made durable, and wait: {error}");
        self.queue.state.lock().failing = Some(error.to_string());
        let since = Instant::now();
        let mut pause = RETRY_AFTER.0;
        let mut items = Vec::new();
        loop {
            // Also what a large commit did not take waits for the store.
            group.runs.append(&mut group.later);
            self.commit_stops(group);
            if since.elapsed() >= self.limits.patience {
                group.runs.iter().for_each(|run| run.cut(&Leave::StoreFailing));
            }
            let until = Instant::now() + pause;
            let is_last = loop {
                let why = self.queue.take_until(until, &mut items);
                self.sort(&mut items, group);
                match why {
                    GoOn::ToStop => self.commit_stops(group),
                    GoOn::Later => break false,
                    GoOn::Closed => break true,
                }
            };
            pause = (pause * 2).min(RETRY_AFTER.1);
            self.gather(Gather::All, group);
            match self.write(Room::Ordinary) {
                Ok(()) => {
                    tracing::warn!("responses can be made durable again");
                    self.queue.state.lock().failing = None;
                    self.committed(group);
                    return true;
                }
                Err(error) if is_last => {
                    tracing::error!("what was not durable is lost, and was shown to nobody: {error}");
                    return false;
                }
                Err(error) => self.queue.state.lock().failing = Some(error.to_string()),
            }
        }
    }

    /// What a full store still takes, and gets room from: ends of runs that were stopped, and deletions.
    fn commit_stops(&mut self, group: &mut Group) {
        self.gather(Gather::Stops, group);
        if !self.batch.records.is_empty() && self.write(Room::Reserve).is_ok() {
            let mut stopped = Group {
                runs: group.runs.extract_if(.., |run| run.is_stopping()).collect(),
                later: Vec::new(),
                deletions: mem::take(&mut group.deletions),
            };
            self.committed(&mut stopped);
        }
    }

    fn gather(&mut self, wanted: Gather, group: &mut Group) {
        self.batch.records.clear();
        self.batch.in_service = self.base + self.since.elapsed();
        let now = (self.clock.now(), self.batch.in_service);
        let mut bytes = 0;
        let mut taken = 0;
        while taken < group.runs.len() && bytes < COMMIT_BYTES_MAX {
            bytes += group.runs[taken].gather(wanted, now, &mut self.alarms, &mut self.batch.records);
            taken += 1;
        }
        if wanted == Gather::All {
            group.later.extend(group.runs.drain(taken..));
        }
        let deleted = group.deletions.iter().flat_map(|(runs, _)| runs);
        self.batch.records.extend(deleted.map(|run| (*run, Record::Deleted)));
        // Jobs that wait for room write while the disk does.
        self.alarms.go_off();
    }

    fn write(&self, room: Room) -> Result<(), StoreError> {
        if self.batch.records.is_empty() { Ok(()) } else { self.store.commit(&self.batch, room) }
    }

    fn committed(&mut self, group: &mut Group) {
        // Shared bytes are let go where they are no longer needed, not with the next commit.
        self.batch.records.clear();
        let mut abandoned = Vec::new();
        for run in group.runs.drain(..) {
            match run.committed(&mut self.alarms) {
                Committed::Over if self.living.forget(run.id()) => abandoned.push(run.id()),
                Committed::UnderWay | Committed::Over => {}
                Committed::Dropped => self.living.drop_run(run.id()),
            }
        }
        self.woken = Some(self.alarms.go_off());
        for (runs, done) in group.deletions.drain(..) {
            self.living.deleted(&runs);
            // Whoever asked may be gone.
            _ = done.send(());
        }
        if !abandoned.is_empty() {
            self.queue.push(Item::Delete(abandoned, oneshot::channel().0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays_in_a_queue_whose_committer_has_ended() {
        let queue = Queue::default();
        let deletion = || {
            let (done, deleted) = oneshot::channel();
            (Item::Delete(Vec::new(), done), deleted)
        };
        let (before, after) = (deletion(), deletion());
        queue.push(before.0);
        queue.end();
        queue.push(after.0);
        for mut deleted in [before.1, after.1] {
            assert_eq!(deleted.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        }
    }
}
