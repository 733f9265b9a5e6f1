//! Keeps what the allocator holds near to what is used, and gives memory back to the system when a burst is over. glibc keeps
//! what was freed: ten thousand idle streams that had each sent 100 KB held 40 KiB each, for good. It knows how much the runs
//! hold, and nothing of what they are; the store, whose memory is not counted there, says itself when it has let go of some.

use std::time::Duration;

use outflow_engine::Budget;

/// How often to look: a burst that comes back within this time is one burst, and pays for no trimming.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Trimming walks the whole heap, some milliseconds for 100 MB, while others wait to allocate; for less than this it is
/// left.
const WORTH_BYTES: usize = 16 * 1024 * 1024;

/// Looks for the end of bursts until dropped.
pub(crate) async fn give_back(budget: Budget) {
    let mut burst = Burst::default();
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if burst.is_over(budget.take_peak()) {
            // The next look is soon enough for whatever fails here.
            _ = tokio::task::spawn_blocking(trim).await;
        }
    }
}

/// The most that was held at once since memory was last given back.
#[derive(Default)]
struct Burst {
    high: usize,
}

impl Burst {
    /// Whether so much less is held by now that giving back is worth it; `peak` is the most that was held since the last
    /// look.
    fn is_over(&mut self, peak: usize) -> bool {
        self.high = self.high.max(peak);
        let is_over = self.high - peak >= WORTH_BYTES && peak <= self.high / 2;
        if is_over {
            self.high = peak;
        }
        is_over
    }
}

/// glibc gives back the free end of a thread's part of the heap only where that is larger than this, and raises the bound
/// by itself up to 64 MiB for each of them. More than a connection at full speed takes and lets go of in one step, blocks of
/// 64 KiB and what is gathered of them: with 256 KiB, pages went back and were faulted in again for each block wherever these
/// came to lie at the end, and a GiB of responses cost up to three times as much.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const FREE_END_BYTES: libc::c_int = 1024 * 1024;
/// What is smaller comes from the heap: what a reader of the store takes, 1 MiB, is to cost no system calls.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: libc::c_int = 4 * 1024 * 1024;

/// Sets the allocator up for a process in which so many threads have most of the work. A process whose allocator is not
/// glibc's is not touched, and one whose owner has set it up through the environment (`GLIBC_TUNABLES`) neither.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "there is no safe name for it")]
pub(crate) fn set_up(threads: usize) {
    if std::env::var_os("GLIBC_TUNABLES").is_some() {
        return;
    }
    // Each of the others, which are rarely at work, would hold a part of the heap for itself.
    let parts = i32::try_from(threads + 2).unwrap_or(i32::MAX);
    let settings = [
        (libc::M_TRIM_THRESHOLD, FREE_END_BYTES),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
        (libc::M_ARENA_MAX, parts),
    ];
    for (what, value) in settings {
        // SAFETY: mallopt takes two numbers; what it cannot do it leaves (mallopt(3)).
        let is_set = unsafe { libc::mallopt(what, value) } == 1;
        tracing::debug!("the allocator's setting {what} is {value}: {is_set}");
    }
}

/// Other allocators have no such settings.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn set_up(_threads: usize) {}

/// Gives back what is free.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "there is no safe name for it")]
pub(crate) fn trim() {
    // SAFETY: malloc_trim may be called by any thread at any time (malloc_trim(3): MT-Safe).
    let gave_back = unsafe { libc::malloc_trim(0) } == 1;
    tracing::debug!("a burst is over; memory given back to the system: {gave_back}");
}

/// Other allocators give back by themselves, or cannot be asked to.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn memory_is_given_back_once_after_each_burst() {
        let mut burst = Burst::default();
        let mut over = |mib: usize| burst.is_over(mib * MIB);
        let looks = [1, 200, 150, 101, 90, 80, 10, 10, 30, 14, 0].map(&mut over);
        assert_eq!(looks, [false, false, false, false, true, false, true, false, false, true, false]);
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn what_a_busy_thread_frees_it_finds_again_without_a_page_fault() {
        const ROUNDS: usize = 100;
        const BLOCKS: usize = 8;
        const BLOCK_BYTES: usize = 64 * 1024;
        set_up(1);
        let thread = std::thread::spawn(|| {
            let round = || drop(std::hint::black_box([(); BLOCKS].map(|()| vec![1_u8; BLOCK_BYTES])));
            round();
            let before = page_faults();
            (0..ROUNDS).for_each(|_| round());
            page_faults() - before
        });
        // Other tests may have the thread's part of the heap trimmed meanwhile, but not in each round.
        let touched = ROUNDS * BLOCKS * BLOCK_BYTES / 4096;
        let faults = thread.join().unwrap();
        assert!(faults < touched / 10, "{faults} page faults for {touched} pages");
    }

    /// Those of this thread: `minflt` of its `stat`.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn page_faults() -> usize {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, behind_the_name) = stat.rsplit_once(')').unwrap();
        behind_the_name.split_whitespace().nth(7).unwrap().parse().unwrap()
    }

    #[test]
    fn what_is_held_all_the_time_or_is_little_is_no_burst() {
        let mut burst = Burst::default();
        assert!([15, 0, 200, 110, 200, 110].into_iter().all(|mib| !burst.is_over(mib * MIB)));
    }
}
