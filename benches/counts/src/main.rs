//! How many instructions the hot parts take, for one response or one chunk: counted by callgrind, which runs the program
//! on a processor of its own making, so that the same program gives the same figures on a busy machine and a quiet one.
//! They are compared with `counts.toml`, and a difference beyond the tolerance fails.
//!
//! ```text
//! cargo run --release -p outflow-counts
//! cargo run --release -p outflow-counts -- --only emit --only commit
//! cargo run --release -p outflow-counts -- --record
//! ```
//!
//! Each part of the work is done twice, by processes of their own, the second time twice as often: the difference is what
//! the work takes, without the start of a process, its end, and what is done once. This file owns the order of that; what
//! the work is, is in `counted/`.

use std::{env, process::ExitCode};

mod callgrind;
mod counted;
mod recorded;

// What no package shows, compiled here as it stands there: the names are those that its files know each other by.
#[allow(dead_code, unreachable_pub, reason = "not all of it is counted, and this is no library")]
#[path = "../../../crates/client/src/decode.rs"]
mod decode;
#[allow(dead_code, unreachable_pub, reason = "as above")]
#[path = "../../../crates/engine/src/frame.rs"]
mod frame;
#[allow(dead_code, reason = "as above")]
#[path = "../../../crates/client/src/frames.rs"]
mod frames;
#[allow(dead_code, unreachable_pub, reason = "as above")]
#[path = "../../../crates/client/src/response.rs"]
mod response;
#[allow(dead_code, unreachable_pub, reason = "as above")]
#[path = "../../../crates/client/src/status.rs"]
mod status;
#[path = "../../../crates/engine/benches/support/mod.rs"]
mod support;

// As `frame.rs` and `decode.rs` know them.
use outflow_engine::Limits;
use status::Code;

use counted::{WORK, Work};
use recorded::{Counts, Judgement};

/// A failure is a sentence that names its subject.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match *arguments {
        ["--do", name, times] => be_counted(name, times),
        ["--record"] => record(),
        _ => only(&arguments).and_then(|wanted| compare(&wanted)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("counts: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Does the work: this is what runs under callgrind.
fn be_counted(name: &str, times: &str) -> Outcome<bool> {
    let times = times.parse()?;
    (counted::find(name)?.run)(times);
    Ok(true)
}

/// The work that is named by arguments: all, where none is.
fn only(arguments: &[&str]) -> Outcome<Vec<&'static Work>> {
    let mut wanted = Vec::new();
    for pair in arguments.chunks(2) {
        let ["--only", name] = pair else {
            return Err(format!("{pair:?} is neither `--record` nor `--only NAME`").into());
        };
        wanted.push(counted::find(name)?);
    }
    Ok(if wanted.is_empty() { WORK.iter().collect() } else { wanted })
}

/// Writes down what is counted now.
fn record() -> Outcome<bool> {
    let mut counts = Counts::default();
    for work in WORK {
        let count = callgrind::count(work)?;
        println!("{:<16} {count:>10.1}  {}", work.name, work.unit);
        counts.set(work.name, count);
    }
    counts.write()?;
    Ok(true)
}

/// Whether all are as they were recorded.
fn compare(wanted: &[&Work]) -> Outcome<bool> {
    let recorded = Counts::read()?;
    recorded.has_only(&WORK.iter().map(|work| work.name).collect::<Vec<_>>())?;
    let mut passed = true;
    for work in wanted {
        let was = recorded.of(work.name)?;
        let is = callgrind::count(work)?;
        let judgement = Judgement::of(was, is);
        let change = (is / was - 1.0) * 100.0;
        println!("{:<16} {is:>10.1}  {change:>+6.1} %  {judgement}  {}", work.name, work.unit);
        passed &= judgement == Judgement::Same;
    }
    if !passed {
        eprintln!("{}", recorded::advice()?);
    }
    Ok(passed)
}
