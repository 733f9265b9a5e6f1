//! What streaming costs a server, side by side in one run: `outflow` and what one would write with tonic, each a
//! process of its own, asked by the same draining client. It owns the order of the measurements and the printing;
//! how a server is started and accounted is in `process`, what the peers are in `peers`, the client in `drain`.
//!
//! ```text
//! cargo bench -p outflow --bench side_by_side
//! cargo bench -p outflow --bench side_by_side -- --part stream --only emit_all --only mpsc --rounds 3
//! ```
//!
//! Everything runs on this machine, over loopback, and client and server share its cores: the CPU seconds are the
//! server's own, while wall time and rate are those of the pair.

mod drain;
mod fetches;
mod peers;
mod process;
mod stall;
mod stream;
mod table;

use std::{error::Error, process::ExitCode, thread};

use clap::{Parser, ValueEnum};

use process::{Contender, Way};

/// A failure is a sentence that names its subject; nothing here tries again.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
struct Options {
    /// Rounds of the first part; in each, every server is measured once, one after the other.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Responses of one stream in the first part.
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    responses: u32,
    /// Measure only these servers, by name or by its last word ("outflow `emit_all`" or "`emit_all`"); repeatable.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Measure only these parts; repeatable.
    #[arg(long)]
    part: Vec<Part>,
    /// What `cargo bench` passes to every benchmark; without meaning here.
    #[arg(long, hide = true)]
    bench: bool,
    /// Be this peer instead: print the port, then serve until killed.
    #[arg(long, hide = true)]
    peer: Option<Way>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// CPU seconds of one long stream of small responses.
    Stream,
    /// Memory that a reader costs which stops reading.
    Stall,
    /// A thousand of the tutorial's requests at once.
    Fetches,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match options.peer {
        Some(way) => peers::serve(way),
        None => measure(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("side_by_side: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Outcome<()> {
    let contenders = chosen(&options.only)?;
    let wanted = |part| options.part.is_empty() || options.part.contains(&part);

    let cores = thread::available_parallelism()?;
    println!("{cores} cores, shared by client and server, over loopback; servers are processes of their own");
    println!("tonic's messages carry `result` only, as in the tutorial; outflow's also carry `sequence` and `job`");
    if cfg!(debug_assertions) {
        println!("NOT OPTIMIZED: these figures say nothing about a release build");
    }

    if wanted(Part::Stream) {
        stream::measure(&contenders, options.rounds, options.responses)?;
    }
    if wanted(Part::Stall) {
        stall::measure(&contenders)?;
    }
    if wanted(Part::Fetches) {
        fetches::measure(&contenders)?;
    }
    Ok(())
}

fn chosen(only: &[String]) -> Outcome<Vec<Contender>> {
    let matches = |contender: &Contender, name: &str| {
        contender.name == name || contender.name.split(' ').next_back() == Some(name)
    };
    if let Some(name) = only.iter().find(|name| !process::CONTENDERS.iter().any(|known| matches(known, name))) {
        let known = process::CONTENDERS.map(|contender| contender.name).join(", ");
        return Err(format!("--only {name}: no such server; there are {known}").into());
    }
    Ok(process::CONTENDERS
        .into_iter()
        .filter(|contender| only.is_empty() || only.iter().any(|name| matches(contender, name)))
        .collect())
}
