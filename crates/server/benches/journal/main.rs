//! What journaled runs cost: durable before delivered, replay, fan-out, idle runs, and what many small runs take. It owns
//! the options and the order; the server is this program itself, in a process of its own.
//!
//! ```text
//! cargo bench -p outflow --bench journal
//! cargo bench -p outflow --bench journal -- --part many --part quiet --data memory
//! cargo bench -p outflow --bench journal -- --part restart --gib 10
//! ```
//!
//! Everything runs on this machine, over loopback: the CPU seconds are the server's own, while wall time and rate are
//! those of the pair.

#![allow(dead_code, reason = "parts of the client and of the process are shared with `side_by_side`")]

mod crowd;
mod directory;
#[path = "../side_by_side/drain.rs"]
mod drain;
mod keeping_up;
mod latency;
mod memory;
#[path = "../side_by_side/process.rs"]
mod process;
mod replay;
mod restart;
mod server;
mod small;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use tempfile::TempDir;

use process::Process;

/// A failure is a sentence that names its subject; nothing here tries again.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
struct Options {
    /// Measure only these parts; repeatable.
    #[arg(long)]
    part: Vec<Part>,
    /// Rounds of each part that has rounds.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Keep journals in a folder below this one, or in `memory`; by default in cargo's folder for temporary files.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    data: String,
    /// GiB of ended runs that `--part restart` writes first.
    #[arg(long, default_value_t = 10.0)]
    gib: f64,
    /// A hundredth of the work, to see whether it runs.
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` passes to every benchmark; without meaning here.
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the server instead: print the port, then serve until killed.
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A thousand runs at once, a reader each, small responses.
    Many,
    /// One run alone.
    One,
    /// A thousand runs, 100 responses a second each: emit to receipt.
    Paced,
    /// One quiet run: emit to receipt beside the cost of one sync.
    Quiet,
    /// Reading a long run again.
    Replay,
    /// One run, a thousand readers.
    Fanout,
    /// Ten thousand idle runs, before and after a burst.
    Idle,
    /// Whether the archive keeps up with the live journal.
    KeepingUp,
    /// A hundred thousand ended runs of five responses, and a restart.
    Small,
    /// A restart over many GiB, see `--gib`; only where it is asked for.
    Restart,
}

/// What every part works with.
struct Bench {
    data: String,
    rounds: u32,
    /// Divides the work.
    shrink: u64,
}

impl Bench {
    /// A server over an empty store, and the store's folder.
    fn start(&self) -> Outcome<(Process, Option<TempDir>)> {
        if self.data == "memory" {
            return Ok((Self::start_on("memory")?, None));
        }
        let store = TempDir::with_prefix_in("journal", &self.data)?;
        let path = store.path().join("data");
        Ok((Self::start_on(&path.to_string_lossy())?, Some(store)))
    }

    /// A server over this store.
    fn start_on(data: &str) -> Outcome<Process> {
        Process::start_own(TempDir::with_prefix_in("journal", env!("CARGO_TARGET_TMPDIR"))?, &["--serve", data])
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.serve {
        Some(data) => server::serve(data),
        None => measure(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("journal: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Outcome<()> {
    let wanted = |part| options.part.is_empty() || options.part.contains(&part);
    let bench =
        Bench { data: options.data.clone(), rounds: options.rounds, shrink: if options.quick { 100 } else { 1 } };
    println!("journals in {}; client and server share {} cores", bench.data, std::thread::available_parallelism()?);
    if cfg!(debug_assertions) {
        println!("NOT OPTIMIZED: these figures say nothing about a release build");
    }
    if wanted(Part::Many) {
        crowd::many(&bench)?;
    }
    if wanted(Part::One) {
        crowd::one(&bench)?;
    }
    if wanted(Part::Paced) {
        latency::paced(&bench)?;
    }
    if wanted(Part::Quiet) {
        latency::quiet(&bench)?;
    }
    if wanted(Part::Replay) {
        replay::measure(&bench)?;
    }
    if wanted(Part::Fanout) {
        crowd::fan_out(&bench)?;
    }
    if wanted(Part::Idle) {
        memory::idle(&bench)?;
    }
    if wanted(Part::KeepingUp) {
        keeping_up::measure(&bench)?;
    }
    if wanted(Part::Small) {
        small::measure(&bench)?;
    }
    if options.part.contains(&Part::Restart) {
        restart::measure(&bench, options.gib)?;
    }
    Ok(())
}
