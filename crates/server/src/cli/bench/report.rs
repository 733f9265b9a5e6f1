//! What was measured, for people and for programs. It knows nothing of how.

use std::{collections::BTreeMap, fmt};

use outflow_client::Code;
use serde::Serialize;

use super::{
    super::table::clean,
    load::{Load, Measured},
    tally::Times,
};

/// All that is told; as JSON, one object.
#[derive(Serialize)]
pub(super) struct Report {
    target: String,
    connections: usize,
    streams: usize,
    /// All that were begun: those that ended, by their status, and those that were cut at the end.
    calls: u64,
    cut: u64,
    seconds: f64,
    responses: u64,
    /// Of messages, without prefixes.
    bytes: u64,
    responses_per_second: f64,
    bytes_per_second: f64,
    first_response_us: Summary,
    gap_us: Summary,
    total_us: Summary,
    latency_us: Option<Summary>,
    statuses: BTreeMap<String, u64>,
    /// Calls whose sequences could be checked.
    sequences_checked: u64,
    sequence_errors: u64,
    client_cpu_seconds: f64,
    interrupted: bool,
    /// What the first call of each bad status was told.
    messages: BTreeMap<String, String>,
}

/// A histogram's figures, in microseconds.
#[derive(Serialize, Clone, Copy)]
pub(super) struct Summary {
    count: u64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Summary {
    fn of(times: &Times) -> Self {
        let us = |nanos: u64| nanos as f64 / 1e3;
        let at = |quantile| us(times.value_at_quantile(quantile));
        Self {
            count: times.len(),
            mean: times.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: us(times.max()),
        }
    }
}

impl Report {
    pub(super) fn new(load: &Load, measured: &Measured) -> Self {
        let tally = &measured.tally;
        let seconds = measured.time.as_secs_f64();
        let per_second = |amount: u64| if seconds > 0.0 { amount as f64 / seconds } else { 0.0 };
        let name = |code: i32| Code::from(code).to_string();
        let is_bad = |code: i32| code != Code::OK.value();
        let told = tally.statuses.iter().filter(|(code, status)| is_bad(**code) && !status.message.is_empty());
        Self {
            target: load.target.to_string(),
            connections: load.connections,
            streams: load.streams,
            calls: tally.calls(),
            cut: tally.cut,
            seconds,
            responses: tally.responses,
            bytes: tally.bytes,
            responses_per_second: per_second(tally.responses),
            bytes_per_second: per_second(tally.bytes),
            first_response_us: Summary::of(&tally.first_response),
            gap_us: Summary::of(&tally.gap),
            total_us: Summary::of(&tally.total),
            latency_us: load.call.stamps.then(|| Summary::of(&tally.latency)),
            statuses: tally.statuses.iter().map(|(code, status)| (name(*code), status.calls)).collect(),
            sequences_checked: tally.checked,
            sequence_errors: tally.sequence_errors,
            client_cpu_seconds: measured.cpu_time.as_secs_f64(),
            interrupted: measured.is_interrupted,
            messages: told.map(|(code, status)| (name(*code), status.message.clone())).collect(),
        }
    }

    /// What was measured, in a line.
    pub(super) fn title(&self) -> String {
        format!("{}: {} responses in {:.2} s", self.target, grouped(self.responses), self.seconds)
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("it has names, numbers and texts")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: u64, what: &str| format!("{} {what}{}", grouped(n), if n == 1 { "" } else { "s" });
        let (connections, streams) = (plural(self.connections as u64, "connection"), self.streams as u64);
        writeln!(f, "target      {}, {connections}, {} on each", self.target, plural(streams, "stream"))?;
        let mut ends: Vec<_> =
            self.statuses.iter().map(|(name, calls)| format!("{} {name}", grouped(*calls))).collect();
        if self.cut > 0 {
            ends.push(format!("{} cut at the end", grouped(self.cut)));
        }
        let ends = if ends.is_empty() { "none".into() } else { ends.join(", ") };
        writeln!(f, "calls       {} in {:.3} s: {ends}", grouped(self.calls), self.seconds)?;
        for (status, message) in &self.messages {
            writeln!(f, "            {status}: {}", clean(message))?;
        }
        let rate = grouped(self.responses_per_second.round() as u64);
        writeln!(f, "responses   {}, {rate}/s", grouped(self.responses))?;
        writeln!(f, "bytes       {}, {}/s", bytes(self.bytes as f64), bytes(self.bytes_per_second))?;
        match (self.sequences_checked, self.sequence_errors) {
            (0, _) => writeln!(f, "sequences   not checked: no answer said which run it is of")?,
            (checked, 0) => writeln!(f, "sequences   follow without gap or repeat, {}", plural(checked, "stream"))?,
            (checked, errors) => {
                writeln!(f, "sequences   {} in {}", plural(errors, "ERROR"), plural(checked, "stream"))?
            }
        }
        write!(f, "client CPU  {:.3} s", self.client_cpu_seconds)?;
        if self.responses >= 1_000 {
            let each = self.client_cpu_seconds * 1e6 / self.responses as f64;
            write!(f, ", {each:.4} s a million responses")?;
        }
        writeln!(f, "\n")?;
        write!(f, "{:<15}", "")?;
        for head in ["count", "mean", "p50", "p90", "p99", "p99.9", "max"] {
            write!(f, " {head:>9}")?;
        }
        writeln!(f)?;
        for (name, summary) in [
            ("first response", Some(self.first_response_us)),
            ("gap", Some(self.gap_us)),
            ("total", Some(self.total_us)),
            ("latency", self.latency_us),
        ] {
            let Some(summary) = summary else { continue };
            write!(f, "{name:<15} {:>9}", summary.count)?;
            for us in [summary.mean, summary.p50, summary.p90, summary.p99, summary.p999, summary.max] {
                let shown = if summary.count == 0 { "-".into() } else { time(us * 1e3) };
                write!(f, " {shown:>9}")?;
            }
            writeln!(f)?;
        }
        if self.responses > 0 && self.latency_us.is_some_and(|latency| latency.count == 0) {
            writeln!(f, "\nNo text began with a stamp; `simulate` writes them with --param stamp=true")?;
        }
        Ok(())
    }
}

/// A number that can be read: 5,000,000.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn bytes(bytes: f64) -> String {
    scaled(bytes, &[(1.0, "B"), (1024.0, "KiB"), (1024.0, "MiB"), (1024.0, "GiB"), (1024.0, "TiB")])
}

/// A time in nanoseconds that can be read: 12.3 ms.
pub(super) fn time(nanos: f64) -> String {
    scaled(nanos, &[(1.0, "ns"), (1e3, "µs"), (1e3, "ms"), (1e3, "s")])
}

/// Three digits, in the largest of the units in which it is at least one.
fn scaled(amount: f64, units: &[(f64, &str)]) -> String {
    let (mut amount, mut unit) = (amount, units[0].1);
    for (size, next) in &units[1..] {
        if amount < *size {
            break;
        }
        (amount, unit) = (amount / size, next);
    }
    match amount {
        amount if amount.fract() == 0.0 && amount < 1e3 => format!("{amount} {unit}"),
        amount if amount < 10.0 => format!("{amount:.2} {unit}"),
        amount if amount < 100.0 => format!("{amount:.1} {unit}"),
        amount => format!("{amount:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_can_be_read() {
        for (number, shown) in [(0, "0"), (999, "999"), (1_000, "1,000"), (15_612_345, "15,612,345")] {
            assert_eq!(grouped(number), shown);
        }
        for (nanos, shown) in [
            (0.0, "0 ns"),
            (1.0, "1 ns"),
            (1_234.0, "1.23 µs"),
            (45_600_000.0, "45.6 ms"),
            (6e10, "60 s"),
            (9.99e11, "999 s"),
        ] {
            assert_eq!(time(nanos), shown);
        }
        assert_eq!(
            (bytes(1023.0), bytes(1536.0), bytes(2.0 * 1024.0 * 1024.0)),
            ("1023 B".into(), "1.50 KiB".into(), "2 MiB".into())
        );
    }
}
