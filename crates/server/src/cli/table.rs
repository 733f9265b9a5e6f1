//! How runs look: a table, all that is known of one, or JSON. It knows runs, not how they came.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use indicatif::HumanBytes;
use jiff::{Timestamp, Zoned};
use outflow_client::{Durability, End, Run};
use serde::Serialize;

use super::Continuation;

const HEAD: [&str; COLUMNS] = ["RUN", "SOURCE", "ID", "STATE", "LAST", "JOBS", "FAILED", "READERS", "AGE", "EXPIRES"];
const COLUMNS: usize = 10;
/// What is counted stands to the right of its column.
const IS_NUMBER: [bool; COLUMNS] = [false, false, true, false, true, true, true, true, true, true];

/// Runs, one a line, below their columns' names.
#[derive(Default)]
pub(super) struct Table {
    /// As wide as what was widest so far; zeros before the first line.
    widths: [usize; COLUMNS],
}

impl Table {
    /// The next lines.
    pub(super) fn rows(&mut self, runs: &[Run]) -> String {
        let now = SystemTime::now();
        let is_first = self.widths[0] == 0 && !runs.is_empty();
        let mut rows: Vec<[String; COLUMNS]> = Vec::with_capacity(runs.len() + 1);
        if is_first {
            rows.push(HEAD.map(str::to_owned));
        }
        rows.extend(runs.iter().map(|run| row(run, now)));
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for ((cell, width), is_number) in row.iter().zip(self.widths).zip(IS_NUMBER) {
                _ = if is_number { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn row(run: &Run, now: SystemTime) -> [String; COLUMNS] {
    let since = |time: Option<SystemTime>| time.map_or_else(|| "?".into(), |time| ago(now, time));
    [
        clean(&run.run_id),
        clean(&run.source),
        run.id.to_string(),
        run.end.as_ref().map_or_else(|| "running".into(), |end| end.end.to_string()),
        run.last_sequence.to_string(),
        run.jobs.to_string(),
        run.jobs_failed.to_string(),
        run.readers.to_string(),
        since(run.started),
        run.expires.map_or_else(|| "-".into(), |time| until(now, time)),
    ]
}

/// All that is known of a run, for people.
pub(super) fn details(run: &Run, server: &str) -> String {
    let now = SystemTime::now();
    let mut text = String::new();
    let mut line = |name: &str, value: String| _ = writeln!(text, "{name:<12}{value}");
    line("run", clean(&run.run_id));
    line("source", clean(&run.source));
    line("id", run.id.to_string());
    for (name, value) in &run.parameters {
        line("parameter", clean(&format!("{name}={value}")));
    }
    line("state", run.end.as_ref().map_or_else(|| "running".into(), |end| clean(&end.to_string())));
    let kept = HumanBytes(run.bytes);
    line(
        "responses",
        match (run.first_sequence, run.last_sequence) {
            (_, 0) => "none".into(),
            (0 | 1, last) => format!("{last}, {kept}"),
            (first, last) => format!("{first} to {last}, {kept}; what was before is not kept"),
        },
    );
    line(
        "jobs",
        match run.jobs_failed {
            0 => run.jobs.to_string(),
            failed => format!("{}, {failed} failed", run.jobs),
        },
    );
    line("readers", run.readers.to_string());
    line("durability", durability(run).unwrap_or("unknown").into());
    line("linger", run.linger.map_or_else(|| "none".into(), |time| humantime::format_duration(time).to_string()));
    for (name, time) in [("started", run.started), ("ended", run.ended)] {
        if let Some(time) = time {
            line(name, format!("{} ({} ago)", local(time), ago(now, time)));
        }
    }
    if let Some(time) = run.expires {
        line("expires", format!("{} (in {})", local(time), until(now, time)));
    }
    if run.last_sequence > 0 || run.is_running() {
        let run = &run.run_id;
        let command = Continuation { run, after: None, last: None, output: None, format: None, limit: None, server };
        line("read it by", command.to_string());
    }
    text
}

/// What became of a run that was to be stopped, in one line.
pub(super) fn stopped(run: &Run) -> String {
    let (id, last) = (clean(&run.run_id), run.last_sequence);
    match &run.end {
        // It answers when the end is recorded; another server might not.
        None => format!("{id}: still running, after response {last}\n"),
        Some(end) if end.end == End::Stopped => format!("{id}: stopped after response {last}\n"),
        Some(end) => format!("{id}: had ended after response {last}: {}\n", clean(&end.to_string())),
    }
}

/// A run as JSON, on a line.
pub(super) fn json(run: &Run) -> String {
    let mut text = serde_json::to_string(&Json::from(run)).expect("text and numbers have no other form");
    text.push('\n');
    text
}

/// Fields and their words as in the contract's `Run`; times as in RFC 3339, durations as protobuf's JSON has them. What is
/// unset there is not there.
#[derive(Serialize)]
struct Json<'a> {
    run_id: &'a str,
    source: &'a str,
    id: i32,
    parameters: &'a BTreeMap<String, String>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_code: Option<i32>,
    first_sequence: u64,
    last_sequence: u64,
    jobs: u32,
    jobs_failed: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linger: Option<String>,
    readers: u32,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_time: Option<String>,
}

impl<'a> From<&'a Run> for Json<'a> {
    fn from(run: &'a Run) -> Self {
        // All with as many digits, so that they sort as texts.
        let time = |time: Option<SystemTime>| Some(format!("{:.3}", Timestamp::try_from(time?).ok()?));
        let seconds = |time: Duration| match time.subsec_nanos() {
            0 => format!("{}s", time.as_secs()),
            nanos => format!("{}.{nanos:09}s", time.as_secs()),
        };
        let failed = run.end.as_ref().filter(|end| end.end == End::Failed);
        Self {
            run_id: &run.run_id,
            source: &run.source,
            id: run.id,
            parameters: &run.parameters,
            state: if run.is_running() { "running" } else { "ended" },
            end: run.end.as_ref().map(|end| end.end.to_string()),
            end_message: run.end.as_ref().map(|end| end.message.as_str()).filter(|message| !message.is_empty()),
            end_code: failed.map(|end| end.code.value()),
            first_sequence: run.first_sequence,
            last_sequence: run.last_sequence,
            jobs: run.jobs,
            jobs_failed: run.jobs_failed,
            durability: durability(run),
            linger: run.linger.map(seconds),
            readers: run.readers,
            bytes: run.bytes,
            start_time: time(run.started),
            end_time: time(run.ended),
            expire_time: time(run.expires),
        }
    }
}

fn durability(run: &Run) -> Option<&'static str> {
    match run.durability? {
        Durability::None => Some("none"),
        Durability::Memory => Some("memory"),
        Durability::Disk => Some("disk"),
        _ => None,
    }
}

/// Words of others, which must not move a terminal's cursor.
pub(super) fn clean(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// How long ago `time` was; nothing where the clocks of two machines say that it has not come.
fn ago(now: SystemTime, time: SystemTime) -> String {
    short(now.duration_since(time).unwrap_or_default())
}

fn until(now: SystemTime, time: SystemTime) -> String {
    short(time.duration_since(now).unwrap_or_default())
}

/// In the unit in which one thinks of it.
fn short(time: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds}s"),
        seconds if seconds < 100 * MINUTE => format!("{}m", seconds / MINUTE),
        seconds if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        seconds => format!("{}d", seconds / DAY),
    }
}

/// As the log has it.
fn local(time: SystemTime) -> String {
    let time = Zoned::try_from(time).map(|time| time.strftime("%Y/%m/%d %H:%M:%S").to_string());
    time.unwrap_or_else(|_| "far away".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_in_the_unit_in_which_one_thinks_of_it() {
        for (seconds, said) in [
            (0, "0s"),
            (99, "99s"),
            (100, "1m"),
            (5_999, "99m"),
            (6_000, "1h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (u64::MAX, "213503982334601d"),
        ] {
            assert_eq!(short(Duration::from_secs(seconds)), said);
        }
    }

    #[test]
    fn a_strangers_words_stay_on_their_line() {
        assert_eq!(clean("a\nb\u{1b}[2Jü"), "a\\nb\\u{1b}[2Jü");
    }
}
