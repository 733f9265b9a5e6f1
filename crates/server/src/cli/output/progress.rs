//! A progress display on stderr, where the results themselves are out of sight. It counts; it prints no result.

use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use outflow_client::{Payload, Response};

/// A stream that is over sooner shows no progress.
const PROGRESS_AFTER: Duration = Duration::from_millis(500);

/// How much has come and how fast, on stderr.
pub(super) struct Progress {
    bar: ProgressBar,
    bytes: u64,
    responses: u64,
}

impl Progress {
    pub(super) fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {msg}").expect("the template is well-formed");
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, bytes: 0, responses: 0 }
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
        let elapsed = self.bar.elapsed();
        let per_second = self.bytes as f64 / elapsed.as_secs_f64().max(0.001);
        self.bar.set_message(format!(
            "{} responses, {}, {}/s, {}",
            HumanCount(self.responses),
            HumanBytes(self.bytes),
            HumanBytes(per_second as u64),
            HumanDuration(elapsed)
        ));
    }

    pub(super) fn finish(&self) {
        self.show();
        if self.bar.elapsed() < PROGRESS_AFTER { self.bar.finish_and_clear() } else { self.bar.finish() }
    }
}
