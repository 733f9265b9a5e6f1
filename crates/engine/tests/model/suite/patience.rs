//! Waiting while time is paused: for the committer and the threads that read, which have a time of their own.

use std::{
    future::poll_fn,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

/// Longer than anything here takes on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// What has not come by then may be waiting for a timer of a few milliseconds.
const NUDGED_AFTER: Duration = Duration::from_millis(100);

/// What `work` gives, which must not take long.
pub(crate) async fn patient<T>(what: &str, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let mut work = pin!(work);
    loop {
        if let Some(done) = now(work.as_mut()).await {
            return done;
        }
        assert!(began.elapsed() < PATIENCE, "{what} takes too long");
        nap();
        tokio::task::yield_now().await;
        if began.elapsed() > NUDGED_AFTER {
            // So little that it is no step towards anything that the model waits for.
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }
}

/// What `work` gives, where it does so at once.
pub(crate) async fn now<T>(mut work: impl Future<Output = T> + Unpin) -> Option<T> {
    poll_fn(|cx| {
        let polled = std::pin::Pin::new(&mut work).poll(cx);
        Poll::Ready(if let Poll::Ready(done) = polled { Some(done) } else { None })
    })
    .await
}

/// Lets other threads have a processor for a moment.
pub(crate) fn nap() {
    #[expect(clippy::disallowed_methods, reason = "time is paused, and other threads' is not")]
    std::thread::sleep(Duration::from_micros(20));
}
