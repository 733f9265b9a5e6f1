//! What the clients have in common: their arguments, and what they print, which is what `outflow bench --format json` and
//! the client in Go print. They take no times of single responses, which would cost more than the responses do: what is
//! not known is null.

use std::{env, fmt::Display, time::Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

const USAGE: &str =
    "usage: [-server IP:PORT] [-id N] [-source NAME] [-param NAME=VALUE]... [-calls N, one after the other]";

/// What is asked for, of whom, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the server listens, over plain text.
    pub server: String,
    /// What to ask for.
    pub id: i32,
    /// Who is to answer; empty: the server's default.
    pub source: String,
    /// For the source.
    pub parameters: Vec<(String, String)>,
    /// How many calls, one after the other.
    pub calls: u64,
}

impl Options {
    /// Reads the program's arguments.
    pub fn of_arguments() -> Result<Self, String> {
        Self::parse(env::args().skip(1)).map_err(|problem| format!("{problem}; {USAGE}"))
    }

    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (server, source) = ("127.0.0.1:50005".into(), String::new());
        let mut options = Self { server, id: 1, source, parameters: Vec::new(), calls: 1 };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name}: its value is missing"))?;
            let wrong = |problem: &dyn Display| format!("{name} {value}: {problem}");
            match name.trim_start_matches('-') {
                "id" => options.id = value.parse().map_err(|problem| wrong(&problem))?,
                "calls" => options.calls = value.parse().map_err(|problem| wrong(&problem))?,
                "param" => {
                    let (name, value) = value.split_once('=').ok_or_else(|| wrong(&"NAME=VALUE is wanted"))?;
                    options.parameters.push((name.into(), value.into()));
                }
                "server" => options.server = value,
                "source" => options.source = value,
                "connections" | "streams" if value == "1" => {}
                "connections" | "streams" => return Err(wrong(&"this client has one")),
                _ => return Err(format!("{name}: there is no such option")),
            }
        }
        Ok(options)
    }
}

/// The calls' sum, and what they took.
pub struct Measurement {
    begin: Instant,
    cpu_begin: f64,
    calls: u64,
    responses: u64,
    /// Of the call under way.
    sequence: u64,
    sequence_errors: u64,
}

impl Measurement {
    /// Begins now, with a connection that is there.
    pub fn start() -> Self {
        Self {
            begin: Instant::now(),
            cpu_begin: cpu_seconds(),
            calls: 0,
            responses: 0,
            sequence: 0,
            sequence_errors: 0,
        }
    }

    /// A response came.
    #[inline]
    pub fn received(&mut self, sequence: u64) {
        self.sequence += 1;
        self.sequence_errors += u64::from(sequence != self.sequence);
    }

    /// The call ended well.
    pub fn ended(&mut self) {
        self.calls += 1;
        self.responses += self.sequence;
        self.sequence = 0;
    }

    /// Prints the report.
    ///
    /// # Errors
    /// Where a response was out of sequence.
    pub fn print(self, options: &Options) -> Result<(), String> {
        let Self { calls, responses, sequence_errors, .. } = self;
        let (seconds, cpu_seconds) = (self.begin.elapsed().as_secs_f64(), cpu_seconds() - self.cpu_begin);
        #[allow(clippy::cast_precision_loss, reason = "nobody counts so far")]
        let per_second = responses as f64 / seconds;
        println!(
            r#"{{"target":{:?},"connections":1,"streams":1,"calls":{calls},"seconds":{seconds},"responses":{responses},"bytes":null,"responses_per_second":{per_second},"bytes_per_second":null,"first_response_us":null,"gap_us":null,"total_us":null,"latency_us":null,"statuses":{{"OK":{calls}}},"sequence_errors":{sequence_errors},"client_cpu_seconds":{cpu_seconds}}}"#,
            options.server,
        );
        match sequence_errors {
            0 => Ok(()),
            errors => Err(format!("{errors} responses did not have the sequence that was next")),
        }
    }
}

/// What the operating system has accounted to this process, user and system.
fn cpu_seconds() -> f64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ProcessCPUTime);
    #[allow(clippy::cast_precision_loss, reason = "seconds, exact for millions of years")]
    let (seconds, nanos) = (tv_sec as f64, tv_nsec as f64);
    seconds + nanos / 1e9
}
