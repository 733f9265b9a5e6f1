//! `outflow config`: checks a configuration file, or writes one to begin with. What is right is the configuration's to know.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use super::{Exit, log};
use crate::config::{Config as File, SAMPLE};

/// Check a configuration file, or write one to begin with
///
/// It is what `outflow serve --config FILE` reads.
#[derive(Args)]
#[command(after_help = "\
Examples:
  outflow config init                    a commented outflow.toml
  outflow config check outflow.toml      what is wrong with it, if anything
  outflow serve --config outflow.toml    serve what it says
  kill -HUP $(pidof outflow)             after a change: its sources are read anew, and runs go on")]
pub(super) struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what is wrong with a file, with its line
    ///
    /// It is what `serve` checks before it binds a port: names, values, ids that two sources claim, parameters, whether
    /// commands and folders are there, and whether secrets can be read.
    #[command(after_help = "Exit codes: 0 it can be served, 1 it cannot, 2 usage.")]
    Check(Check),
    /// Write a commented file
    ///
    /// It serves simulated work and has an example of every kind of source, commented out.
    #[command(after_help = "Exit codes: 0 it is written, 1 it is there already or cannot be written, 2 usage.")]
    Init(Init),
}

#[derive(Args)]
struct Check {
    /// The configuration file
    #[arg(value_name = "FILE", default_value = "outflow.toml")]
    file: PathBuf,
}

#[derive(Args)]
struct Init {
    /// Where to write it; `-` is stdout
    #[arg(value_name = "FILE", default_value = "outflow.toml")]
    file: PathBuf,
}

impl Config {
    pub(super) fn run(self, filter: &log::Filter) -> Exit {
        let _log = log::start(filter, io::stderr());
        let done = match self.command {
            Command::Check(Check { file }) => check(&file),
            Command::Init(Init { file }) => init(&file),
        };
        match done {
            Ok(()) => Exit::Done,
            Err(problem) => {
                tracing::error!("{problem}");
                Exit::Failed
            }
        }
    }
}

fn check(path: &Path) -> Result<(), String> {
    let config = File::read(path).map_err(|error| error.to_string())?;
    let sources = match config.source_names().len() {
        0 => "no source, so that simulate answers".to_owned(),
        1 => "1 source".to_owned(),
        sources => format!("{sources} sources"),
    };
    // Who has closed stdout wants the exit code.
    _ = writeln!(io::stdout(), "{}: good, {sources}", path.display());
    Ok(())
}

fn init(path: &Path) -> Result<(), String> {
    if path == Path::new("-") {
        return io::stdout().write_all(SAMPLE.as_bytes()).map_err(|error| format!("cannot write: {error}"));
    }
    let created = OpenOptions::new().write(true).create_new(true).open(path);
    created.and_then(|mut file| file.write_all(SAMPLE.as_bytes())).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{} is there already; name another file, or - for stdout", path.display())
        }
        _ => format!("cannot write {}: {error}", path.display()),
    })?;
    tracing::info!("wrote {}; serve it by: outflow serve --config {}", path.display(), path.display());
    Ok(())
}
