//! Readers that wait for what is durable next, in one list: a commit wakes a thousand of them without going to each, and
//! what a reader keeps of itself stays with the thread that polls it. HOT, once per chunk and reader.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    task::{RawWakerVTable, Waker},
};

use crate::bell::{Alarm, Alarms, Neighbours};

/// All that wait.
#[derive(Default)]
pub(super) struct Waiting(Vec<Waiter>);

struct Waiter {
    /// The reader's key.
    key: u32,
    neighbours: Neighbours,
    alarm: Alarm,
}

/// Where in the list a reader is, if it is there at all.
#[derive(Clone, Copy)]
pub(super) struct Spot(u32);

impl Spot {
    pub(super) const NOWHERE: Self = Self(u32::MAX);
}

impl Waiting {
    /// The reader waits from now on, and the task of `waker` is woken, which is being polled on this thread.
    pub(super) fn add(&mut self, key: u32, spot: &mut Spot, neighbours: Neighbours, waker: &Waker) {
        if let Some(waiter) = self.0.get_mut(spot.0 as usize).filter(|waiter| waiter.key == key) {
            if !waiter.alarm.is_for(waker) {
                waiter.alarm = Alarm::new(waker);
            }
            return;
        }
        if self.0.is_empty() {
            // Most runs have one reader.
            self.0.reserve_exact(1);
        }
        *spot = Spot(self.0.len() as u32);
        self.0.push(Waiter { key, neighbours, alarm: Alarm::new(waker) });
    }

    /// The reader waits no more, if it did; `moved` is told which reader is at its spot now.
    pub(super) fn remove(&mut self, key: u32, spot: Spot, moved: impl FnOnce(u32)) -> Option<Alarm> {
        let at = spot.0 as usize;
        if self.0.get(at)?.key != key {
            return None;
        }
        let removed = self.0.swap_remove(at);
        if let Some(waiter) = self.0.get(at) {
            moved(waiter.key);
        }
        Some(removed.alarm)
    }

    /// All are to be woken, and wait no more.
    pub(super) fn sound(&mut self, alarms: &mut Alarms) {
        for Waiter { neighbours, alarm, .. } in self.0.drain(..) {
            alarms.add(neighbours, alarm);
        }
    }
}

/// Counts what may be of interest to a reader that waits, before it is woken for it.
#[derive(Default)]
pub(super) struct News(AtomicU32);

impl News {
    /// There is something new. Called under the run's lock, and before anybody is woken for it.
    pub(super) fn add(&self) {
        // Only one thread at a time writes; who is woken sees it, since waking a task orders what came before.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }
}

/// What a reader knows after it was told to wait: for which task, and how much news there had been. As long as both are the
/// same, it need not ask again: asking takes the lock, for which a thousand readers on other threads may be queueing.
#[derive(Default)]
pub(crate) struct Heard(Option<Told>);

struct Told {
    news: u32,
    /// The task's waker, which the list holds while there is no news, so that nothing else can be at its address.
    data: usize,
    vtable: &'static RawWakerVTable,
}

impl Heard {
    /// The reader waits for the task of `waker`, and knows all there is. Called under the run's lock.
    pub(super) fn all(&mut self, news: &News, waker: &Waker) {
        let news = news.0.load(Ordering::Relaxed);
        self.0 = Some(Told { news, data: waker.data().addr(), vtable: waker.vtable() });
    }

    /// Whether there is nothing to ask for.
    pub(super) fn is_all(&self, news: &News, waker: &Waker) -> bool {
        self.0.as_ref().is_some_and(|told| {
            told.news == news.0.load(Ordering::Acquire)
                && told.data == waker.data().addr()
                && std::ptr::eq(told.vtable, waker.vtable())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_stands_in_the_list_once_and_leaves_the_others_where_they_are_found() {
        let (mut waiting, mut spots) = (Waiting::default(), [Spot::NOWHERE; 4]);
        for key in [0, 1, 2, 3, 1] {
            waiting.add(key, &mut spots[key as usize], Neighbours(key), Waker::noop());
        }
        assert_eq!(waiting.0.len(), 4);
        for leaving in [1, 3, 1, 0] {
            let spot = spots[leaving as usize];
            let is_there = waiting.0.iter().any(|waiter| waiter.key == leaving);
            let alarm = waiting.remove(leaving, spot, |moved| spots[moved as usize] = spot);
            assert_eq!(alarm.is_some(), is_there, "{leaving}");
        }
        assert_eq!(waiting.0.iter().map(|waiter| waiter.key).collect::<Vec<_>>(), [2]);
        assert!(waiting.remove(2, spots[2], |_| panic!("nobody is behind the last")).is_some());
    }

    #[test]
    fn there_is_something_to_ask_for_after_news_and_for_another_task() {
        struct Other;
        impl std::task::Wake for Other {
            fn wake(self: std::sync::Arc<Self>) {}
        }
        let (news, mut heard) = (News::default(), Heard::default());
        let (here, there) = (Waker::from(std::sync::Arc::new(Other)), Waker::from(std::sync::Arc::new(Other)));
        assert!(!heard.is_all(&news, &here));
        heard.all(&news, &here);
        assert!(heard.is_all(&news, &here) && heard.is_all(&news, &here.clone()));
        assert!(!heard.is_all(&news, &there));
        news.add();
        assert!(!heard.is_all(&news, &here));
    }
}
