//! A progress display on stderr, where the results themselves are out of sight. It counts; it prints no result.

use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use outflow_client::{Payload, Response};

/// A stream that is over sooner shows no progress.
const PROGRESS_AFTER: Duration = Duration::from_millis(500);
/// What is slower is shown as this: a hundred days.
const LEFT_SECONDS_MAX: f64 = 8_640_000.0;

/// How much has come and how fast, on stderr.
pub(super) struct Progress {
    bar: ProgressBar,
    bytes: u64,
    responses: u64,
    /// Bytes that were there before, and about how many there will be in the end.
    before: u64,
    expected: Option<u64>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {msg}").expect("the template is well-formed");
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, bytes: 0, responses: 0, before: 0, expected: None }
    }

    /// About so many bytes will be there in the end, where that is known, and `before` are there already.
    pub(super) fn expect(&mut self, bytes: Option<u64>, before: u64) {
        (self.expected, self.before) = (bytes, before);
    }

    pub(super) fn count(&mut self, response: &Response) {
        self.responses += 1;
        self.bytes += match &response.payload {
            Payload::Text(text) => text.len() as u64,
            Payload::Data(data) => data.len() as u64,
            Payload::Error(_) => 0,
        };
        // Not for every one of millions.
        if self.responses.is_multiple_of(256) || self.bar.elapsed() < PROGRESS_AFTER {
            self.show();
        }
    }

    fn show(&self) {
        self.bar.set_message(self.text(self.bar.elapsed()));
    }

    fn text(&self, elapsed: Duration) -> String {
        let per_second = self.bytes as f64 / elapsed.as_secs_f64().max(0.001);
        let (responses, bytes) = (HumanCount(self.responses), HumanBytes(self.bytes));
        let (rate, time) = (HumanBytes(per_second as u64), HumanDuration(elapsed));
        let there = self.before + self.bytes;
        match self.expected {
            // It is an estimate: one that was too low says nothing any more.
            Some(expected) if there <= expected && expected > 0 => {
                let left = (expected - there) as f64 / per_second.max(1.0);
                let left = HumanDuration(Duration::from_secs_f64(left.min(LEFT_SECONDS_MAX)));
                let percent = there.saturating_mul(100) / expected;
                let (there, expected) = (HumanBytes(there), HumanBytes(expected));
                format!(
                    "{responses} responses, {there} of {expected} ({percent} %), {rate}/s, {time}, about {left} left"
                )
            }
            _ => format!("{responses} responses, {bytes}, {rate}/s, {time}"),
        }
    }

    pub(super) fn finish(&self) {
        self.show();
        if self.bar.elapsed() < PROGRESS_AFTER { self.bar.finish_and_clear() } else { self.bar.finish() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_what_is_left_as_long_as_that_is_known() {
        let mut progress = Progress { bytes: 512, responses: 3, ..Progress::new() };
        let text = |progress: &Progress| progress.text(Duration::from_secs(2));
        assert_eq!(text(&progress), "3 responses, 512 B, 256 B/s, 2 seconds");
        progress.expect(Some(4096), 1024);
        let known = "3 responses, 1.50 KiB of 4.00 KiB (37 %), 256 B/s, 2 seconds, about 10 seconds left";
        assert_eq!(text(&progress), known);
        progress.expect(Some(1000), 600);
        assert_eq!(text(&progress), "3 responses, 512 B, 256 B/s, 2 seconds", "there is more than was expected");
        progress.expect(Some(0), 0);
        assert_eq!(text(&progress), "3 responses, 512 B, 256 B/s, 2 seconds");
        progress = Progress { bytes: 0, ..progress };
        progress.expect(Some(u64::MAX / 200), 0);
        assert!(text(&progress).contains("(0 %)"), "{}", text(&progress));
    }
}
