//! Wakes many tasks of one thread by one notification. A wake-up across threads is a system call; a commit that wakes a
//! thousand readers would pay a thousand of them. It knows tasks, not what they wait for.

use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Tasks that are woken before what they woke in their turn has run: a connection that was given something by a thousand
/// streams before it could write any of it would keep place for a thousand frames.
const WOKEN_AT_ONCE: usize = 256;
/// So many are woken together at least, where there are as many: each time costs a turn of the thread.
const WOKEN_AT_LEAST: usize = 32;

/// Tasks that wake the same other task, the streams of one connection for example. They are woken one after the other, so
/// that it has something from all of them when it runs, and before what they touched has left the processor's caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbours(pub u32);

thread_local! {
    static HERE: RefCell<Option<Bell>> = const { RefCell::new(None) };
}

/// One thread's bell: others put wakers beside it and ring once; a task on that thread then wakes them all.
#[derive(Clone, Default)]
pub struct Bell(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Default)]
struct State {
    wakers: Vec<(Neighbours, Waker)>,
    ringer: Option<Waker>,
    rings: u64,
    settled: u64,
    is_gone: bool,
}

impl Bell {
    /// Tasks that begin to wait on this thread are from now on woken by this bell, as long as [`Bell::ringing`] is
    /// polled on it.
    pub fn hang(&self) {
        HERE.with(|here| *here.borrow_mut() = Some(self.clone()));
    }

    /// Wakes whom others put here, until dropped. It runs on the thread of the tasks, as a task of the same runtime.
    pub async fn ringing(&self) {
        let _gone = Gone(self);
        let mut wakers = Vec::new();
        loop {
            let rings = poll_fn(|cx| {
                let mut state = self.0.state.lock();
                if state.wakers.is_empty() {
                    match &mut state.ringer {
                        Some(ringer) => ringer.clone_from(cx.waker()),
                        none => *none = Some(cx.waker().clone()),
                    }
                    return Poll::Pending;
                }
                std::mem::swap(&mut wakers, &mut state.wakers);
                Poll::Ready(state.rings)
            })
            .await;
            if wakers.len() > WOKEN_AT_LEAST {
                wakers.sort_by_key(|(neighbours, _)| *neighbours);
            }
            while !wakers.is_empty() {
                wakers.drain(..first_batch(&wakers)).for_each(|(_, waker)| waker.wake());
                // Behind all that were just woken: the queue of a thread is first in, first out.
                tokio::task::yield_now().await;
            }
            // A burst is no reason to keep its place.
            wakers.shrink_to(1_024);
            self.0.state.lock().settled = rings;
            self.0.settled.notify_all();
        }
    }

    /// Puts `wakers` here and rings, if nobody had. What it gives can be waited for.
    fn ring(&self, wakers: &mut Vec<(Neighbours, Waker)>) -> Rung {
        let mut state = self.0.state.lock();
        if state.is_gone {
            drop(state);
            wakers.drain(..).for_each(|(_, waker)| waker.wake());
            return Rung { bell: self.clone(), ring: 0 };
        }
        let was_silent = state.wakers.is_empty();
        state.wakers.append(wakers);
        state.rings += 1;
        let ring = state.rings;
        let ringer = if was_silent { state.ringer.take() } else { None };
        drop(state);
        if let Some(ringer) = ringer {
            ringer.wake();
        }
        Rung { bell: self.clone(), ring }
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// How many of `wakers`, with neighbours next to each other, to wake first: all of some neighbours, if they are not too many.
fn first_batch(wakers: &[(Neighbours, Waker)]) -> usize {
    let mut batch = 0;
    for neighbours in wakers.chunk_by(|a, b| a.0 == b.0) {
        batch += neighbours.len();
        if batch >= WOKEN_AT_LEAST {
            break;
        }
    }
    batch.min(WOKEN_AT_ONCE)
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bell")
    }
}

/// Whoever is still waiting when a thread ends its runtime is woken the usual way, and nobody waits for it.
struct Gone<'a>(&'a Bell);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let inner = &self.0.0;
        let mut state = inner.state.lock();
        state.is_gone = true;
        state.settled = u64::MAX;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        inner.settled.notify_all();
        for (_, waker) in wakers {
            waker.wake();
        }
    }
}

/// One ring of a bell.
struct Rung {
    bell: Bell,
    ring: u64,
}

/// A task that waits, and the bell of its thread.
#[derive(Debug)]
pub(crate) struct Alarm {
    waker: Waker,
    bell: Option<Bell>,
}

impl Alarm {
    /// For the task of `waker`, which is being polled on this thread.
    pub(crate) fn new(waker: &Waker) -> Self {
        Self { waker: waker.clone(), bell: HERE.with(|here| here.borrow().clone()) }
    }

    /// For a task that is woken by itself.
    pub(crate) fn alone(waker: &Waker) -> Self {
        Self { waker: waker.clone(), bell: None }
    }

    pub(crate) fn is_for(&self, waker: &Waker) -> bool {
        self.waker.will_wake(waker)
    }

    /// Wakes this one by itself.
    pub(crate) fn wake(self) {
        self.waker.wake();
    }
}

/// Alarms that go off together.
#[derive(Default)]
pub(crate) struct Alarms {
    by_bell: Vec<(Bell, Vec<(Neighbours, Waker)>)>,
    others: Vec<Waker>,
}

impl Alarms {
    /// Has `alarm` go off with the others, and next to those of its neighbours.
    pub(crate) fn add(&mut self, neighbours: Neighbours, Alarm { waker, bell }: Alarm) {
        let Some(bell) = bell else { return self.others.push(waker) };
        match self.by_bell.iter_mut().find(|(known, _)| known.is(&bell)) {
            Some((_, wakers)) => wakers.push((neighbours, waker)),
            None => self.by_bell.push((bell, vec![(neighbours, waker)])),
        }
    }

    /// Wakes all of them, and gives what can be waited for.
    pub(crate) fn go_off(&mut self) -> Woken {
        self.others.drain(..).for_each(Waker::wake);
        let rung = self.by_bell.iter_mut().filter(|(_, wakers)| !wakers.is_empty());
        Woken(rung.map(|(bell, wakers)| bell.ring(wakers)).collect())
    }
}

/// Those that were woken together.
pub(crate) struct Woken(Vec<Rung>);

impl Woken {
    /// Blocks this thread until those on threads with bells have run, at most so long.
    pub(crate) fn have_run(self, at_most: Duration) {
        let until = Instant::now() + at_most;
        for Rung { bell, ring } in self.0 {
            let mut state = bell.0.state.lock();
            while state.settled < ring {
                if bell.0.settled.wait_until(&mut state, until).timed_out() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        task::Wake,
    };

    use super::*;

    /// Counts how often it is woken.
    struct Count(Arc<AtomicUsize>);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[tokio::test]
    async fn one_ring_wakes_all_that_wait_in_batches() {
        let bell = Bell::default();
        bell.hang();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { bell.ringing().await });
        tokio::task::yield_now().await;
        let woken = Arc::new(AtomicUsize::new(0));
        let mut alarms = Alarms::default();
        for task in 0..1_000 {
            let waker = Waker::from(Arc::new(Count(woken.clone())));
            alarms.add(Neighbours(task % 3), Alarm::new(&waker));
        }
        alarms.go_off();
        let mut seen = vec![0];
        while *seen.last().unwrap() < 1_000 && seen.len() < 100 {
            tokio::task::yield_now().await;
            seen.push(woken.load(SeqCst));
        }
        assert_eq!(seen.last(), Some(&1_000), "{seen:?}");
        assert!(seen.windows(2).all(|pair| pair[1] - pair[0] <= WOKEN_AT_ONCE), "{seen:?}");
    }

    #[test]
    fn neighbours_are_woken_together_unless_they_are_too_many() {
        let batches = |counts: &[usize]| {
            let mut wakers = Vec::new();
            for (number, tasks) in counts.iter().enumerate() {
                wakers.extend((0..*tasks).map(|_| (Neighbours(number as u32), Waker::noop().clone())));
            }
            let mut batches = Vec::new();
            while !wakers.is_empty() {
                batches.push(wakers.drain(..first_batch(&wakers)).len());
            }
            batches
        };
        assert_eq!(batches(&[100, 31, 1, 1, 200, 1]), [100, 32, 201, 1]);
        assert_eq!(batches(&[1; 70]), [32, 32, 6]);
        assert_eq!(batches(&[600, 1]), [256, 256, 88, 1]);
    }
}
