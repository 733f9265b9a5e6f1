//! `outflow data`: what is done with a data directory as a whole. It says what was found and done; the store does it.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use indicatif::HumanBytes;

use super::{Exit, log, serve};
use crate::store::data;

/// Check, compact or back up a data directory.
///
/// A data directory is what `outflow serve --data DIR` keeps journaled runs in. What is not named is the one that `serve`
/// would use.
#[derive(Args)]
#[command(after_help = "\
Examples:
  outflow data check /var/lib/outflow
  outflow data compact /var/lib/outflow
  outflow data backup /var/lib/outflow /backup/outflow-monday
  outflow serve --data /backup/outflow-monday        serve from a backup: that is all that restoring takes")]
pub(super) struct Data {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Read everything and name what is damaged
    ///
    /// Each finding is a line on stdout, with the run and the responses that it is about. Everything else can be read.
    #[command(after_help = "\
The server that uses the directory must be stopped before. Nothing is changed by what is found.
Exit codes: 0 nothing is damaged, 1 something is, or the directory cannot be read, 2 usage.")]
    Check(One),
    /// Give back to the disk what deleted runs took
    ///
    /// A server uses the room of deleted runs again and gives none of it back.
    #[command(after_help = "\
The server that uses the directory must be stopped before.
Exit codes: 0 it is done, 1 it cannot be done, 2 usage.")]
    Compact(One),
    /// Copy it to a new directory, while it is used
    ///
    /// All that was durable when this began is in the backup, as it was at one moment. Where a server uses the directory,
    /// it makes the backup, and the new directory is its user's.
    #[command(after_help = "\
TARGET appears when it is complete; until then it is called TARGET.partial.
Exit codes: 0 it is done, 1 it cannot be done, 2 usage.")]
    Backup(Backup),
}

#[derive(Args)]
struct One {
    /// The data directory [default: the one that `outflow serve` would use]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

#[derive(Args)]
struct Backup {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The new directory: a place where nothing is
    #[arg(value_name = "TARGET")]
    target: PathBuf,
}

impl Data {
    pub(super) fn run(self, filter: &log::Filter) -> Exit {
        let _log = log::start(filter, io::stderr());
        let done = match self.command {
            Command::Check(One { directory }) => named(directory).and_then(|directory| check(&directory)),
            Command::Compact(One { directory }) => named(directory).and_then(|directory| compact(&directory)),
            Command::Backup(Backup { directory, target }) => backup(&directory, &target),
        };
        done.unwrap_or_else(|error| {
            tracing::error!("{error}");
            Exit::Failed
        })
    }
}

type Done = Result<Exit, Box<dyn std::error::Error>>;

/// The directory that is named, or else the one that is served from.
fn named(directory: Option<PathBuf>) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let served = || serve::default_directory();
    directory.or_else(served).ok_or_else(|| "what is served here is kept in memory; name a directory".into())
}

fn check(directory: &Path) -> Done {
    let mut out = io::stdout().lock();
    let mut found = 0_u64;
    let checked = data::check(directory, &mut |finding| {
        found += 1;
        // Nobody reads on: the exit code still says what was found.
        _ = writeln!(out, "{finding}");
    })?;
    let (runs, bytes) = (checked.runs, HumanBytes(checked.bytes));
    let verdict = match found {
        0 => "nothing is damaged".to_owned(),
        1 => "1 finding".to_owned(),
        found => format!("{found} findings"),
    };
    writeln!(out, "{}: {runs} runs, {bytes}: {verdict}", directory.display())?;
    Ok(if found == 0 { Exit::Done } else { Exit::Failed })
}

fn compact(directory: &Path) -> Done {
    let (before, after) = data::compact(directory)?;
    writeln!(io::stdout(), "{}: {} before, {} now", directory.display(), HumanBytes(before), HumanBytes(after))?;
    Ok(Exit::Done)
}

fn backup(directory: &Path, target: &Path) -> Done {
    data::backup(directory, target)?;
    writeln!(io::stdout(), "{}: a backup of {}", target.display(), directory.display())?;
    Ok(Exit::Done)
}
