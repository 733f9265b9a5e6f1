//! The command line: what can be asked for, in `clap`'s terms, and which file does it. It parses; it does no work.

mod bench;
mod config;
mod continuation;
mod data;
mod demo;
mod exit;
mod fetch;
mod log;
mod output;
mod runs;
mod serve;
mod table;
mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::{continuation::Continuation, exit::Exit};

/// One request, many responses, each sent the moment it is ready.
///
/// A gRPC server for server-side streams, its client, and a demonstration of both.
#[derive(Parser)]
#[command(name = "outflow", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What to log, to stderr: error, warn, info, debug, trace, or per part as in `info,outflow=debug`
    #[arg(long, global = true, value_name = "FILTER", env = "OUTFLOW_LOG", default_value = "info")]
    log: log::Filter,
}

const EXAMPLES: &str = "\
Examples:
  outflow demo                                 server and client in one process, as in the tutorial
  outflow serve                                serve simulated work on port 50005
  outflow serve -- ./report.sh --id {id}       each request runs this command; each line is a response
  outflow fetch 1                              ask for id 1 and print the responses as they come
  outflow fetch 1 --limit 2                    two responses are enough; the server stops the rest
  outflow fetch 1 --within 2500ms              cut off after so long
  outflow fetch 1 --linger 10m                 the work goes on for ten minutes if you leave
  outflow config init                          a configuration file: commands, files, databases, services
  outflow bench --for 10s                      how much a server does, and how fast
  outflow runs                                 what is going on, and what is kept

`outflow COMMAND --help` says more.";

#[derive(Subcommand)]
enum Command {
    /// Serve streams until SIGINT or SIGTERM
    Serve(serve::Serve),
    /// Ask a server and print its responses as they come
    Fetch(Box<fetch::Fetch>),
    /// What runs a server keeps, and how to stop one
    Runs(runs::Runs),
    /// Check a configuration file, or write one to begin with
    Config(config::Config),
    /// Check, compact or back up what a server keeps
    Data(data::Data),
    /// Measure a server: throughput, times, and whether anything is missing
    Bench(Box<bench::Bench>),
    /// Server and client in one process, with both sides' lines
    Demo(demo::Demo),
}

/// Runs the program: parses its arguments, does what they say, and gives the exit code.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; clap knows, and prints to the right place.
            _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let exit = match arguments.command {
        Command::Serve(serve) => serve.run(&arguments.log),
        Command::Fetch(fetch) => fetch.run(&arguments.log),
        Command::Runs(runs) => runs.run(&arguments.log),
        Command::Config(config) => config.run(&arguments.log),
        Command::Data(data) => data.run(&arguments.log),
        Command::Bench(bench) => bench.run(&arguments.log),
        Command::Demo(demo::Demo {}) => demo::Demo::run(&arguments.log),
    };
    exit.into()
}
