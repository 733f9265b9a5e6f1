//! So many connections and no more, and those that nobody uses at the moment. It knows nothing of what a connection is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A connection that nobody used for so long is closed when another one is put back or looked for.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// The connections to a database.
pub(super) struct Pool<C> {
    places: Arc<Semaphore>,
    /// Those used last are last.
    idle: Mutex<Vec<(Instant, C)>>,
}

/// Leave to have a connection. It goes with the connection, until that is closed or put back.
pub(super) struct Place(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl<C> Pool<C> {
    pub(super) fn new(connections: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(connections)), idle: Mutex::default() }
    }

    /// Waits until there is a place, first come, first served: as long as the run lives, whose limits bound it.
    pub(super) async fn place(&self) -> Place {
        Place(self.places.clone().acquire_owned().await.expect("the semaphore is never closed"))
    }

    /// A connection that was put back. Whoever has a place may have it.
    pub(super) fn idle(&self, _place: &Place) -> Option<C> {
        let mut idle = self.idle.lock();
        let found = idle.pop().map(|(_, connection)| connection);
        let old = Self::old(&mut idle);
        drop(idle);
        // Closing one may take a while.
        drop(old);
        found
    }

    /// Puts back a connection on which nothing is under way.
    pub(super) fn put_back(&self, connection: C, place: Place) {
        let mut idle = self.idle.lock();
        let old = Self::old(&mut idle);
        idle.push((Instant::now(), connection));
        drop(idle);
        drop((old, place));
    }

    fn old(idle: &mut Vec<(Instant, C)>) -> Vec<(Instant, C)> {
        let old = idle.iter().take_while(|(since, _)| since.elapsed() > IDLE_TIME).count();
        idle.drain(..old).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_are_so_many_places_and_what_is_put_back_is_found() {
        let pool = Pool::new(2);
        let (first, second) = (pool.place().await, pool.place().await);
        assert!(tokio::time::timeout(Duration::from_millis(10), pool.place()).await.is_err());
        assert_eq!(pool.idle(&first), None);
        pool.put_back("one", first);
        let third = pool.place().await;
        assert_eq!(pool.idle(&third), Some("one"));
        assert_eq!(pool.idle(&third), None);
        drop(second);
        pool.place().await;
    }
}
