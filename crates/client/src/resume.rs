//! Whether a stream that broke is asked for again, and when.
//!
//! Owns: promise 10 as a table, the back-off, and how long all of it may take. Must not know: how a request is made or
//! an answer read.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Code, FetchError, numbering::Numbering};

/// Longer than anybody waits, and short enough to be counted with.
const DELAY_MAX: Duration = Duration::from_hours(24 * 365);

/// How a client resumes.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) is_on: bool,
    /// The longest wait before the first attempt, and before any: each doubles the one before.
    pub(crate) delay_first: Duration,
    pub(crate) delay_max: Duration,
    pub(crate) give_up_after: Duration,
    /// What is asked for where the caller asks for none, and the run is journaled.
    pub(crate) heartbeat: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            is_on: true,
            delay_first: Duration::from_millis(100),
            delay_max: Duration::from_secs(5),
            give_up_after: Duration::from_mins(5),
            heartbeat: Duration::from_secs(10),
        }
    }
}

impl Policy {
    /// How long to wait after so many attempts: half of it certain, half of it chance, so that those who broke together
    /// do not come back together. `chance` is from 0 to 1.
    fn delay(&self, attempts: u32, chance: f64) -> Duration {
        let longest = self.delay_first.saturating_mul(1 << attempts.min(30)).min(self.delay_max).min(DELAY_MAX);
        longest.mul_f64(0.5 + chance / 2.0)
    }
}

/// What is known of a request when its stream breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There were no headers, and it can be asked again: it names a run, has a key, or was certainly not carried out.
    Repeatable,
    /// There were no headers, and asked again it may be carried out twice.
    Once,
    /// The server told a run that can be read again.
    Resumable,
    /// The server told a run that lives and dies with its reader, or none at all.
    Lost,
}

/// Whether to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the caller's.
    Final,
    /// Again, and not before the server said.
    Again(Option<Duration>),
}

/// Promise 10. A status that came with the run's end is none of its business: nobody asks again after that.
pub(crate) fn judge(error: &FetchError, standing: Standing) -> Verdict {
    use Standing::{Once, Repeatable, Resumable};
    match error {
        FetchError::Break { .. } if matches!(standing, Repeatable | Resumable) => Verdict::Again(None),
        // A proxy that has no server to ask. Its status is no answer of the server's.
        FetchError::Protocol { .. }
            if error.code() == Some(Code::UNAVAILABLE) && matches!(standing, Repeatable | Resumable) =>
        {
            Verdict::Again(None)
        }
        // Nothing was started, so that it does not matter what was asked.
        FetchError::Refused { status, .. } if matches!(standing, Once | Repeatable | Resumable) => {
            let may_be_retried = status.code() == Code::UNAVAILABLE || status.retry_delay().is_some();
            if may_be_retried && !status.forbids_retry() {
                Verdict::Again(status.retry_delay())
            } else {
                Verdict::Final
            }
        }
        // Cut: the server drains, or its store is away.
        FetchError::Status { status, .. } if standing == Resumable && status.code() == Code::UNAVAILABLE => {
            if status.forbids_retry() { Verdict::Final } else { Verdict::Again(status.retry_delay()) }
        }
        _ => Verdict::Final,
    }
}

/// The time from a break until something is received again.
#[derive(Debug)]
pub(crate) struct Outage {
    since: Instant,
    attempts: u32,
    /// How many messages had come by then.
    heard: u64,
}

/// What comes after a break that is no end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Wait(Duration),
    GiveUp,
}

impl Outage {
    pub(crate) fn begin(numbering: &Numbering) -> Self {
        Self { since: Instant::now(), attempts: 0, heard: numbering.heard() }
    }

    /// Whether a response or a heartbeat has come since. Headers are not enough: a server may send them and break, for
    /// ever.
    pub(crate) fn is_over(&self, numbering: &Numbering) -> bool {
        numbering.heard() != self.heard
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(crate) fn lasted(&self) -> Duration {
        self.since.elapsed()
    }

    /// Counts an attempt, and says when it is made.
    pub(crate) fn next(&mut self, policy: &Policy, told: Option<Duration>, chance: f64) -> Next {
        let left = policy.give_up_after.saturating_sub(self.lasted());
        let own = policy.delay(self.attempts, chance);
        let told = told.unwrap_or_default();
        // The last attempt is made when the time is over, unless the server said that this is too early.
        if left.is_zero() || told > left {
            return Next::GiveUp;
        }
        self.attempts += 1;
        // What a server tells to all of its readers must not bring all of them back at once.
        let wait = if told > own { told + own } else { own };
        Next::Wait(wait.min(left))
    }
}

#[cfg(test)]
mod tests {
    use outflow_proto::protobuf::Request;

    use super::*;
    use crate::numbering::By;

    #[test]
    fn delays_double_up_to_their_limit_and_half_of_each_is_chance() {
        let policy = Policy::default();
        let millis = |attempts, chance| policy.delay(attempts, chance).as_millis();
        assert_eq!([0, 1, 2, 3].map(|attempts| millis(attempts, 1.0)), [100, 200, 400, 800]);
        assert_eq!([0, 1, 2, 3].map(|attempts| millis(attempts, 0.0)), [50, 100, 200, 400]);
        assert_eq!([6, 31, u32::MAX].map(|attempts| millis(attempts, 1.0)), [5000; 3]);
        let huge = Policy { delay_first: Duration::MAX, delay_max: Duration::MAX, ..policy };
        assert_eq!(huge.delay(5, 1.0), DELAY_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_made_until_the_time_is_over_and_once_more_then() {
        let policy = Policy { give_up_after: Duration::from_secs(12), ..Policy::default() };
        let mut outage = Outage::begin(&Numbering::new(By::Server, &Request::default()));
        let mut waits = Vec::new();
        while let Next::Wait(wait) = outage.next(&policy, None, 1.0) {
            waits.push(wait.as_millis());
            tokio::time::sleep(wait).await;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 700]);
        assert_eq!((outage.attempts(), outage.lasted().as_secs()), (8, 12));
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_is_asked_no_sooner_than_it_said() {
        let policy = Policy::default();
        let mut outage = Outage::begin(&Numbering::new(By::Server, &Request::default()));
        let told = |millis| Some(Duration::from_millis(millis));
        assert_eq!(outage.next(&policy, told(2000), 0.0), Next::Wait(Duration::from_millis(2050)));
        assert_eq!(outage.next(&policy, told(10), 0.0), Next::Wait(Duration::from_millis(100)));
        // It is not waited for longer than the caller wants to.
        assert_eq!(outage.next(&policy, told(300_001), 0.0), Next::GiveUp);
        assert_eq!(outage.attempts(), 2);
    }
}
