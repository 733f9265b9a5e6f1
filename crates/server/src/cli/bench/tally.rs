//! What was measured: counts, statuses and times, of one connection and then of all together. It knows nothing of how
//! responses come.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hdrhistogram::Histogram;
use outflow_client::Code;

use super::http2::{Came, Messages};

/// Times in nanoseconds, to three digits.
pub(super) type Times = Histogram<u64>;

/// Calls that ended with a status, and what the first of them said.
#[derive(Default)]
pub(super) struct Status {
    pub(super) calls: u64,
    pub(super) message: String,
}

pub(super) struct Tally {
    /// Calls that ended, by the number of their status.
    pub(super) statuses: BTreeMap<i32, Status>,
    /// Calls that were under way when the time was over.
    pub(super) cut: u64,
    /// Calls whose sequences were checked.
    pub(super) checked: u64,
    pub(super) sequence_errors: u64,
    pub(super) responses: u64,
    pub(super) bytes: u64,
    pub(super) first_response: Times,
    pub(super) gap: Times,
    pub(super) total: Times,
    pub(super) latency: Times,
}

impl Tally {
    pub(super) fn new() -> Self {
        let times = || Times::new(3).expect("three digits are allowed");
        Self {
            statuses: BTreeMap::new(),
            cut: 0,
            checked: 0,
            sequence_errors: 0,
            responses: 0,
            bytes: 0,
            first_response: times(),
            gap: times(),
            total: times(),
            latency: times(),
        }
    }

    /// All calls that were begun.
    pub(super) fn calls(&self) -> u64 {
        self.statuses.values().map(|status| status.calls).sum::<u64>() + self.cut
    }

    /// Whether all is as it should be.
    pub(super) fn is_well(&self) -> bool {
        self.sequence_errors == 0 && self.statuses.keys().all(|code| *code == Code::OK.value())
    }

    /// A read at this time brought that of a call which was asked for then. HOT, once per read and stream.
    pub(super) fn came(&mut self, came: Came, asked: Instant, now: Instant) {
        match came {
            Came::Nothing => {}
            Came::First => record(&mut self.first_response, now.saturating_duration_since(asked)),
            Came::More(gap) => record(&mut self.gap, gap),
        }
    }

    /// Responses with these stamps were read just now.
    pub(super) fn stamped(&mut self, stamps: &mut Vec<u64>) {
        if stamps.is_empty() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for stamp in stamps.drain(..) {
            record(&mut self.latency, now.saturating_sub(Duration::from_nanos(stamp)));
        }
    }

    /// A call ended with this status.
    pub(super) fn ended(&mut self, code: Code, message: impl Into<String>, took: Duration) {
        record(&mut self.total, took);
        let status = self.statuses.entry(code.value()).or_default();
        status.calls += 1;
        if status.calls == 1 {
            status.message = message.into();
        }
    }

    /// The messages of a call that ended or was cut. `is_run`: their sequences were checked.
    pub(super) fn messages(&mut self, messages: &Messages, is_run: bool) {
        self.responses += messages.count;
        self.bytes += messages.bytes;
        if is_run {
            self.checked += 1;
            self.sequence_errors += messages.sequence_errors;
        }
    }

    /// Adds what another connection measured.
    pub(super) fn add(&mut self, other: Self) {
        for (code, status) in other.statuses {
            let ours = self.statuses.entry(code).or_default();
            if ours.calls == 0 {
                ours.message = status.message;
            }
            ours.calls += status.calls;
        }
        self.cut += other.cut;
        self.checked += other.checked;
        self.sequence_errors += other.sequence_errors;
        self.responses += other.responses;
        self.bytes += other.bytes;
        for (ours, other) in [
            (&mut self.first_response, other.first_response),
            (&mut self.gap, other.gap),
            (&mut self.total, other.total),
            (&mut self.latency, other.latency),
        ] {
            ours.add(other).expect("it grows as it has to");
        }
    }
}

/// Counts a time.
fn record(times: &mut Times, time: Duration) {
    // A histogram that grows as it has to holds what fits into 63 bits: nanoseconds of centuries do.
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(i64::MAX as u64);
    times.record(nanos).expect("it grows as it has to");
}
