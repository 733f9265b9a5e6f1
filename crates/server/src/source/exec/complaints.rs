//! What a command writes to stderr, read to its end whatever becomes of it: the last lines for its job's error, or all of
//! it, up to a rate, into the server's log.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{io::AsyncReadExt as _, net::unix::pipe::Receiver, time::Instant};

/// How much of the end is kept. It goes into trailers, where 8 KiB is what everybody allows.
const BYTES_MAX: usize = 1024;
const LINES_MAX: usize = 10;
/// A longer line is logged in parts.
const LOGGED_BYTES_MAX: usize = 1024;
/// Lines of one source that are logged within a second, of all its commands together.
const LOGGED_MAX: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);
/// Read at the end of a command, whatever still comes from those that it left behind.
const REST_BYTES_MAX: usize = 64 * 1024;

/// The last lines.
#[derive(Debug, Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        self.0.drain(..self.0.len().saturating_sub(BYTES_MAX));
    }

    /// As text.
    pub(super) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_MAX)..].join("\n").trim().to_owned()
    }
}

/// What of a source is logged.
#[derive(Debug)]
pub(super) struct LineLog {
    name: String,
    rate: Mutex<Rate>,
}

#[derive(Debug)]
struct Rate {
    since: Instant,
    logged: u32,
    left_out: u64,
}

impl LineLog {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), rate: Mutex::new(Rate { since: Instant::now(), logged: 0, left_out: 0 }) }
    }

    fn line(&self, line: &[u8]) {
        let left_out = {
            let mut rate = self.rate.lock();
            let left_out = rate.take();
            if left_out.is_none() {
                return;
            }
            left_out
        };
        if let Some(lines @ 1..) = left_out {
            tracing::warn!("{}: {lines} lines left out, more than {LOGGED_MAX} in a second", self.name);
        }
        let line = String::from_utf8_lossy(line.trim_ascii_end());
        // What moves cursors or begins lines means nothing in a log.
        let line = line.replace(|character: char| character.is_control() && character != '\t', "\u{fffd}");
        tracing::info!("{}: {line}", self.name);
    }
}

impl Rate {
    /// Whether one more line may be logged, and then how many were left out before it.
    fn take(&mut self) -> Option<u64> {
        if self.since.elapsed() >= SECOND {
            (self.since, self.logged) = (Instant::now(), 0);
        }
        if self.logged == LOGGED_MAX {
            self.left_out += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Where it goes.
pub(super) enum Complaints {
    /// It is kept, for the error.
    Kept(Tail),
    /// It is logged. The line that has not ended yet is kept.
    Logged(Arc<LineLog>, Vec<u8>),
}

impl Complaints {
    fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Kept(tail) => tail.add(bytes),
            Self::Logged(log, begun) => {
                for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                    begun.extend_from_slice(piece);
                    while begun.ends_with(b"\n") || begun.len() >= LOGGED_BYTES_MAX {
                        let rest = begun.split_off(begun.len().min(LOGGED_BYTES_MAX));
                        log.line(begun);
                        *begun = rest;
                    }
                }
            }
        }
    }

    /// Reads until everybody has closed it. An error ends it like an end: there is nobody to tell, and the exit status says
    /// what matters.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it has taken all that it read.
    pub(super) async fn read(&mut self, from: &mut Receiver) {
        let mut read = [0; 4096];
        while let Ok(bytes @ 1..) = from.read(&mut read).await {
            self.add(&read[..bytes]);
        }
    }

    /// Takes what is there, when the command has ended: one that it left behind may keep the pipe open for ever.
    pub(super) fn read_rest(&mut self, from: &Receiver) {
        let (mut read, mut all) = ([0; 4096], 0);
        while all < REST_BYTES_MAX
            && let Ok(bytes @ 1..) = from.try_read(&mut read)
        {
            self.add(&read[..bytes]);
            all += bytes;
        }
        if let Self::Logged(log, begun) = self
            && !begun.is_empty()
        {
            log.line(&std::mem::take(begun));
        }
    }

    /// What is kept for the error.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Kept(tail) => tail.text(),
            Self::Logged(..) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_complaints_the_last_lines_are_kept() {
        let mut tail = Tail::default();
        (0..1_000).for_each(|n| tail.add(format!("line {n}\n").as_bytes()));
        let kept = tail.text();
        assert_eq!(kept.lines().count(), LINES_MAX);
        assert!(kept.ends_with("line 998\nline 999"), "{kept}");
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_logged_up_to_a_rate_and_what_is_left_out_is_counted() {
        let mut rate = Rate { since: Instant::now(), logged: 0, left_out: 0 };
        let logged = (0..LOGGED_MAX + 7).filter(|_| rate.take() == Some(0)).count();
        assert_eq!(logged, LOGGED_MAX as usize);
        tokio::time::advance(SECOND).await;
        assert_eq!((rate.take(), rate.take()), (Some(7), Some(0)));
    }
}
