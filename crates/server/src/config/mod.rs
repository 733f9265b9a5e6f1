//! The configuration file: read, checked, and turned into a server's builder before any port is bound. It knows TOML
//! and the names of settings, and nothing of what they do.
//!
//! `docs/sources.md` has all settings of sources. A program of its own serves what a file says beside what it has itself:
//!
//! ```no_run
//! # use outflow::{Plan, Refusal, Request, Source};
//! # struct Primes;
//! # impl Source for Primes {
//! #     fn plan(&self, _: &Request) -> Result<Plan, Refusal> {
//! #         Ok(Plan::new())
//! #     }
//! # }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = outflow::Config::read("outflow.toml")?;
//! let server = config.into_builder().source("primes", Primes).bind()?;
//! server.serve(async { _ = tokio::signal::ctrl_c().await }).await?;
//! # Ok(())
//! # }
//! ```

mod ids;
mod limits;
mod sources;
#[cfg(test)]
mod tests;

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use outflow_engine::Sources;
use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    Listen, Server,
    server::Builder,
    source::{Entry, Problem},
    store,
};

use limits::LimitsFile;
use sources::Configured;

/// A commented file to begin with: what it says is good, and so is each example in it without its comment.
pub const SAMPLE: &str = include_str!("sample.toml");

/// A checked configuration: what a file says, with its secrets, and commands and folders found.
#[derive(Default)]
pub struct Config {
    /// Empty: the default addresses.
    pub(crate) listen: Vec<Listen>,
    /// Where journaled runs are kept, where the file says so.
    pub(crate) data: Option<String>,
    workers: Option<usize>,
    limits: LimitsFile,
    sources: Vec<Configured>,
}

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// It says something that cannot be.
    #[error("{}{}: {problem}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Where in it, from 1.
        line: Option<usize>,
        /// What is wrong, and what was probably meant.
        problem: String,
    },
}

/// What is in the file beside its sources.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    listen: Vec<String>,
    data: Option<String>,
    workers: Option<usize>,
    limits: LimitsFile,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Time(pub(crate) Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let time = humantime::parse_duration(&text);
        time.map(Self).map_err(|_| format!("`{text}` is no time; write it as 250ms, 1s or 5m"))
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`] with the file, and where in it.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).map_err(|Problem { at, text: problem }| {
            let line = at.map(|at| 1 + text[..at.start.min(text.len())].matches('\n').count());
            ConfigError::Wrong { path: path.into(), line, problem }
        })
    }

    /// Checks `text`, of a file in `folder`.
    fn parse(text: &str, folder: &Path) -> Result<Self, Problem> {
        let document = DeTable::parse(text).map_err(|error| Problem::new(error.span(), error.message()))?;
        let at = document.span();
        let mut document = document.into_inner();
        let sources = document.remove("source").map_or_else(|| Ok(Vec::new()), source_tables)?;
        let mut entry = Entry::new(Spanned::new(at, document), folder, &["source"]);
        let file: File = entry.settings()?;
        file.check(&entry)?;
        let listen = file.listen.iter().enumerate().map(|(n, text)| listen(&entry, &format!("listen.{n}"), text));
        let data = file.data.as_deref().map(|text| entry.constant("data", text)).transpose()?;
        Ok(Self {
            listen: listen.collect::<Result<_, _>>()?,
            data: data.map(|data| data.text()),
            workers: file.workers,
            limits: file.limits,
            sources: sources::read(sources, folder)?,
        })
    }

    /// How journaled runs are kept, where that is on a disk.
    pub(crate) fn store_settings(&self) -> store::Settings {
        let mut settings = store::Settings::default();
        if let Some(bytes) = self.limits.data_bytes_max {
            settings.bytes_max = bytes;
        }
        settings
    }

    /// The names of its sources, in the order of the file.
    pub fn source_names(&self) -> Vec<&str> {
        self.sources.iter().map(Configured::name).collect()
    }

    /// Only its sources, as for [`ServedSources::replace`](crate::ServedSources::replace).
    pub fn into_sources(self) -> Sources {
        self.sources.into_iter().fold(Sources::new(), |sources, source| source.add_to(sources))
    }

    /// A server's builder with all of it. Where the file does not say where journaled runs are kept, that is in memory.
    /// Programs that serve commands say [`supervise_if_asked`](crate::supervise_if_asked) first.
    pub fn into_builder(mut self) -> Builder {
        let settings = self.store_settings();
        let mut server = Server::builder().limits(self.limits.engine()).transport_limits(self.limits.transport());
        if !self.listen.is_empty() {
            server = server.listen(std::mem::take(&mut self.listen));
        }
        if let Some(workers) = self.workers {
            server = server.workers(workers);
        }
        if let Some(data) = self.data.take().filter(|data| data != "memory") {
            server = server.store(move || store::open(data.as_ref(), settings));
        }
        server.sources(self.into_sources())
    }
}

impl File {
    fn check(&self, entry: &Entry<'_>) -> Result<(), Problem> {
        if self.workers == Some(0) {
            return Err(entry.problem("workers", "workers: it is at least 1"));
        }
        if self.data.as_deref() == Some("") {
            return Err(entry.problem("data", "data: it is a directory, or `memory`"));
        }
        self.limits.check().map_err(|(name, problem)| {
            entry.problem(&format!("limits.{name}"), format_args!("limits.{name}: {problem}"))
        })
    }
}

/// An address to listen on, which may hold secrets' places as any text does.
fn listen(entry: &Entry<'_>, key: &str, text: &str) -> Result<Listen, Problem> {
    let text = entry.constant(key, text)?.text();
    text.parse().map_err(|problem| entry.problem(key, format_args!("listen: {problem}")))
}

/// The tables `[[source]]`.
fn source_tables(value: Spanned<DeValue<'_>>) -> Result<Vec<Spanned<DeTable<'_>>>, Problem> {
    let at = value.span();
    let DeValue::Array(values) = value.into_inner() else { return Err(no_list(at)) };
    values.into_iter().map(source_table).collect()
}

fn source_table(value: Spanned<DeValue<'_>>) -> Result<Spanned<DeTable<'_>>, Problem> {
    let at = value.span();
    match value.into_inner() {
        DeValue::Table(table) => Ok(Spanned::new(at, table)),
        _ => Err(no_list(at)),
    }
}

fn no_list(at: Range<usize>) -> Problem {
    Problem::new(Some(at), "source: each source has a table of its own, under [[source]]")
}
