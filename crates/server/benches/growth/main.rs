//! What a response costs as a server has more of something: readers of one run, runs at once, streams on one connection,
//! responses in one run. A cost that grows with one of them is a fault of the design, however small it is at first; it is
//! to be flat, or to grow as a logarithm does.
//!
//! ```text
//! cargo bench -p outflow --bench growth
//! cargo bench -p outflow --bench growth -- --axis runs --plot growth.svg
//! cargo bench -p outflow --bench growth -- --data memory --responses 2000000
//! ```
//!
//! What counts is the server's CPU time, from the operating system's accounting. Server and client share this machine:
//! other programs on it make figures noisy. It takes about two minutes.

#![allow(dead_code, reason = "parts of the client and of the process are shared with `side_by_side`")]

mod axis;
#[path = "../side_by_side/drain.rs"]
mod drain;
mod plot;
#[path = "../side_by_side/process.rs"]
mod process;
mod server;
mod verdict;

use std::{error::Error, fs, path::PathBuf, process::ExitCode};

use clap::Parser;

use axis::Axis;
use verdict::Verdict;

/// A failure is a sentence that names its subject; nothing here tries again.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
struct Options {
    /// Measure only these; repeatable.
    #[arg(long)]
    axis: Vec<Axis>,
    /// Responses that are delivered at each point, about.
    #[arg(long, default_value_t = 6_000_000)]
    responses: u64,
    /// Rounds of each point; the cheapest counts, since what disturbs only adds.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Keep journals in a folder below this one, or in `memory`; by default in cargo's folder for temporary files.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    data: String,
    /// Draw the figures into this file.
    #[arg(long)]
    plot: Option<PathBuf>,
    /// What `cargo bench` passes to every benchmark; without meaning here.
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the server instead: print the port, then serve until killed.
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
}

/// What a response costs at each point of an axis.
struct Series {
    axis: Axis,
    name: &'static str,
    /// How many there are of the axis' thing, and nanoseconds of the server's CPU for each response that is delivered.
    points: Vec<(u64, f64)>,
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
            eprintln!("growth: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Outcome<()> {
    println!("journals in {}; client and server share {} cores", options.data, std::thread::available_parallelism()?);
    if cfg!(debug_assertions) {
        println!("NOT OPTIMIZED: these figures say nothing about a release build");
    }
    let mut all = Vec::new();
    for axis in Axis::ALL.into_iter().filter(|axis| options.axis.is_empty() || options.axis.contains(axis)) {
        println!("\n{}: server CPU per response that is delivered", axis.title());
        for kind in axis.kinds() {
            let mut points = Vec::new();
            for &count in axis.counts() {
                let cost = axis::cheapest(axis, *kind, count, options)?;
                println!("  {:<10} {count:>10}  {cost:>7.1} ns", kind.name());
                points.push((count, cost));
            }
            println!("  {:<10} {}", kind.name(), Verdict::of(&points));
            all.push(Series { axis, name: kind.name(), points });
        }
    }
    if let Some(path) = &options.plot {
        fs::write(path, plot::draw(&all)?)?;
        println!("\ndrawn into {}", path.display());
    }
    Ok(())
}
