//! The configuration file: read, checked, and turned into a server's builder before any port is bound. It knows TOML
//! and the names of settings, and nothing of what they do.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use outflow_engine::{Limits, PayloadKind, SourceOptions};
use serde::Deserialize;

use crate::{
    Listen, Server, TransportLimits,
    server::Builder,
    source::{Delimiter, Exec, ExecError, Simulate, SimulateSettings, Split},
};

/// A checked configuration.
#[derive(Debug, Default)]
pub(crate) struct Config {
    /// Empty: the default addresses.
    pub(crate) listen: Vec<Listen>,
    /// Where journaled runs are kept, where the file says so.
    pub(crate) data: Option<String>,
    workers: Option<usize>,
    limits: LimitsFile,
    sources: Vec<SourceFile>,
}

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{}: {problem}", path.display())]
    Value { path: PathBuf, problem: String },
    #[error("source `{name}`: {source}")]
    Exec { name: String, source: ExecError },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    listen: Vec<String>,
    data: Option<String>,
    workers: Option<usize>,
    #[serde(default)]
    limits: LimitsFile,
    #[serde(default)]
    source: Vec<toml::Table>,
}

/// A store smaller than this cannot hold the live journal's segments.
const DATA_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// What of the bounds can be set; defaults and reasons are with the types they end up in.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsFile {
    connections_max: Option<usize>,
    streams_per_connection: Option<u32>,
    stall_time: Option<Time>,
    runs_max: Option<usize>,
    response_bytes_max: Option<usize>,
    window_bytes: Option<usize>,
    budget_bytes: Option<usize>,
    run_bytes_max: Option<u64>,
    linger: Option<Time>,
    keep_time: Option<Time>,
    patience: Option<Time>,
    data_bytes_max: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Time(Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let time = humantime::parse_duration(&text);
        time.map(Self).map_err(|_| format!("`{text}` is no time; write it as 250ms, 1s or 5m"))
    }
}

/// One `[[source]]`: what all kinds have, and the kind's own settings.
#[derive(Debug)]
struct SourceFile {
    name: String,
    default: bool,
    options: SourceOptions,
    kind: Kind,
}

/// How its runs are kept.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KeptFile {
    shared: bool,
    reuse: Option<Time>,
    linger: Option<Time>,
    keep: Option<u64>,
}

impl KeptFile {
    /// Takes what is about keeping from a source's table.
    fn take(table: &mut toml::Table) -> Result<SourceOptions, String> {
        let names = ["shared", "reuse", "linger", "keep"];
        let kept: toml::Table = names.iter().filter_map(|name| table.remove_entry(*name)).collect();
        let kept: Self = kept.try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
        let mut options = SourceOptions::new();
        match (kept.shared, kept.reuse) {
            (true, reuse) => options = options.shared(reuse.map_or(Duration::ZERO, |Time(reuse)| reuse)),
            (false, Some(_)) => return Err("reuse is about shared runs: add shared = true, or remove it".into()),
            (false, None) => {}
        }
        if let Some(Time(linger)) = kept.linger {
            options = options.linger(linger);
        }
        match kept.keep {
            Some(0) => return Err("keep = 0: it is the bytes of an endless run that are kept, at least 1".into()),
            Some(bytes) => options = options.keep_bytes(bytes),
            None => {}
        }
        Ok(options)
    }
}

#[derive(Debug)]
enum Kind {
    Simulate(SimulateSettings),
    Exec(ExecFile),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecFile {
    command: Vec<String>,
    #[serde(default)]
    split: SplitFile,
    payload: Option<PayloadFile>,
}

/// `"lines"`, `"chunks"` or `{ delimiter = "…" }`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"lines\", \"chunks\" or { delimiter = \"…\" } is wanted")]
enum SplitFile {
    #[default]
    Lines,
    Chunks,
    Delimiter(String),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PayloadFile {
    Text,
    Lossy,
    Bytes,
}

impl SourceFile {
    fn parse(mut table: toml::Table) -> Result<Self, String> {
        let Some(toml::Value::String(name)) = table.remove("name") else {
            return Err("a source has no `name`".into());
        };
        if name.is_empty() || name.len() > 64 {
            return Err("a source's name has 1 to 64 bytes".into());
        }
        let named = |problem: String| format!("source `{name}`: {problem}");
        let default = match table.remove("default") {
            None => false,
            Some(toml::Value::Boolean(default)) => default,
            Some(other) => return Err(named(format!("default = {other}: true or false is wanted"))),
        };
        let options = KeptFile::take(&mut table).map_err(named)?;
        let kind = table.remove("kind");
        let kind = match kind.as_ref().and_then(toml::Value::as_str) {
            Some("simulate") => {
                let settings: SimulateSettings =
                    table.try_into().map_err(|error: toml::de::Error| named(error.message().into()))?;
                settings.check().map_err(named)?;
                Kind::Simulate(settings)
            }
            Some("exec") => {
                Kind::Exec(table.try_into().map_err(|error: toml::de::Error| named(error.message().into()))?)
            }
            Some(other) => return Err(named(format!("kind `{other}` is not known; there are exec and simulate"))),
            None => return Err(named("it has no `kind`; there are exec and simulate".into())),
        };
        Ok(Self { name, default, options, kind })
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`] with the file, and where in it.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let file = toml::from_str(&text)
            .map_err(|source| ConfigError::Syntax { path: path.into(), source: Box::new(source) })?;
        Self::check(file).map_err(|problem| ConfigError::Value { path: path.into(), problem })
    }

    fn check(file: File) -> Result<Self, String> {
        let listen = file.listen.iter().map(|text| text.parse()).collect::<Result<Vec<Listen>, _>>();
        let listen = listen.map_err(|problem| format!("listen: {problem}"))?;
        if file.workers == Some(0) {
            return Err("workers = 0: it is at least 1".into());
        }
        file.limits.check()?;
        let sources = file.source.into_iter().map(SourceFile::parse).collect::<Result<Vec<_>, _>>()?;
        let mut names = BTreeSet::new();
        if let Some(twice) = sources.iter().find(|source| !names.insert(&source.name)) {
            return Err(format!("two sources are called `{}`; rename one", twice.name));
        }
        let defaults: Vec<_> = sources.iter().filter(|source| source.default).map(|source| &source.name).collect();
        if let [first, second, ..] = defaults[..] {
            return Err(format!("`{first}` and `{second}` are both the default source; choose one"));
        }
        if file.data.as_deref() == Some("") {
            return Err("data = \"\": it is a directory, or `memory`".into());
        }
        Ok(Self { listen, data: file.data, workers: file.workers, limits: file.limits, sources })
    }

    /// Bytes of all journaled runs, where the file says so.
    pub(crate) fn data_bytes_max(&self) -> Option<u64> {
        self.limits.data_bytes_max
    }

    /// A server's builder with all of it.
    ///
    /// # Errors
    /// [`ConfigError::Exec`] for a command that is not there.
    pub(crate) fn into_builder(self) -> Result<Builder, ConfigError> {
        let mut server = Server::builder().limits(self.limits.engine()).transport_limits(self.limits.transport());
        if !self.listen.is_empty() {
            server = server.listen(self.listen);
        }
        if let Some(workers) = self.workers {
            server = server.workers(workers);
        }
        for SourceFile { name, default, options, kind } in self.sources {
            if default {
                server = server.default_to(&name);
            }
            server = match kind {
                Kind::Simulate(settings) => server.source_with(name, Simulate::new(settings), options),
                Kind::Exec(exec) => {
                    let exec = exec.source().map_err(|source| ConfigError::Exec { name: name.clone(), source })?;
                    server.source_with(name, exec, options)
                }
            };
        }
        Ok(server)
    }
}

impl ExecFile {
    fn source(self) -> Result<Exec, ExecError> {
        let exec = Exec::new(&self.command)?.split(match self.split {
            SplitFile::Lines => Split::Lines,
            SplitFile::Chunks => Split::Chunks,
            SplitFile::Delimiter(bytes) => Split::Delimiter(Delimiter::new(bytes)?),
        });
        Ok(if let Some(payload) = self.payload { exec.payload(payload.into()) } else { exec })
    }
}

impl From<PayloadFile> for PayloadKind {
    fn from(payload: PayloadFile) -> Self {
        match payload {
            PayloadFile::Text => PayloadKind::Text,
            PayloadFile::Lossy => PayloadKind::Lossy,
            PayloadFile::Bytes => PayloadKind::Bytes,
        }
    }
}

impl LimitsFile {
    fn check(&self) -> Result<(), String> {
        let at_least_one = [
            ("connections_max", self.connections_max),
            ("streams_per_connection", self.streams_per_connection.map(|streams| streams as usize)),
            ("runs_max", self.runs_max),
        ];
        for (name, value) in at_least_one {
            if value == Some(0) {
                return Err(format!("limits.{name} = 0: it is at least 1"));
            }
        }
        if let Some(connections) = self.connections_max
            && connections > tokio::sync::Semaphore::MAX_PERMITS.min(u32::MAX as usize)
        {
            return Err(format!("limits.connections_max = {connections} is more than any machine has"));
        }
        if let Some(bytes) = self.response_bytes_max
            && !(1024..=Limits::RESPONSE_BYTES_CEILING).contains(&bytes)
        {
            let ceiling = Limits::RESPONSE_BYTES_CEILING;
            return Err(format!("limits.response_bytes_max = {bytes}: 1024 to {ceiling} is allowed"));
        }
        if let Some(Time(time)) = self.stall_time
            && time < Duration::from_secs(1)
        {
            return Err("limits.stall_time: it is at least 1s".into());
        }
        if let Some(bytes) = self.data_bytes_max
            && bytes < DATA_BYTES_MIN
        {
            return Err(format!("limits.data_bytes_max = {bytes}: it is at least {DATA_BYTES_MIN}"));
        }
        Ok(())
    }

    fn engine(&self) -> Limits {
        let mut limits = Limits::default();
        set(&mut limits.runs_max, self.runs_max);
        set(&mut limits.response_bytes_max, self.response_bytes_max);
        set(&mut limits.window_bytes, self.window_bytes);
        set(&mut limits.budget_bytes, self.budget_bytes);
        set(&mut limits.run_bytes_max, self.run_bytes_max);
        set(&mut limits.linger, self.linger.map(|Time(time)| time));
        set(&mut limits.keep_time, self.keep_time.map(|Time(time)| time));
        set(&mut limits.patience, self.patience.map(|Time(time)| time));
        limits
    }

    fn transport(&self) -> TransportLimits {
        let mut limits = TransportLimits::default();
        set(&mut limits.connections_max, self.connections_max);
        set(&mut limits.streams_per_connection, self.streams_per_connection);
        set(&mut limits.stall_time, self.stall_time.map(|Time(time)| time));
        limits
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Config, String> {
        let file = toml::from_str(text).map_err(|error| error.to_string())?;
        Config::check(file)
    }

    #[test]
    fn a_whole_file_is_understood() {
        let config = check(
            r#"
            listen = ["127.0.0.1:0", "[::1]:0"]
            workers = 3

            [limits]
            streams_per_connection = 7
            stall_time = "90s"
            budget_bytes = 1_000_000

            [[source]]
            name = "slow"
            kind = "simulate"
            step = "2s"
            jobs = 3

            [[source]]
            name = "log"
            kind = "exec"
            default = true
            command = ["echo", "{id}"]
            payload = "lossy"
            "#,
        )
        .unwrap();
        assert_eq!(config.limits.transport().streams_per_connection, 7);
        assert_eq!(config.limits.transport().stall_time, Duration::from_secs(90));
        assert_eq!(config.limits.engine().budget_bytes, 1_000_000);
        let [Kind::Simulate(slow), Kind::Exec(log)] = [&config.sources[0].kind, &config.sources[1].kind] else {
            panic!("{:?}", config.sources)
        };
        assert_eq!((slow.step, slow.jobs), (Duration::from_secs(2), 3));
        assert_eq!(
            (&log.command[..], config.sources[1].default),
            (&["echo".to_owned(), "{id}".to_owned()][..], true)
        );
        config.into_builder().unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let simulate = "[[source]]\nname = 'a'\nkind = 'simulate'\n";
        let cases = [
            ("lisen = []", "lisen"),
            ("listen = ['nowhere']", "nowhere"),
            ("workers = 0", "workers"),
            ("[limits]\nruns_max = 0", "runs_max"),
            ("[limits]\nresponse_bytes_max = 5_000_000", "response_bytes_max"),
            ("[limits]\nstall_time = 'soon'", "soon"),
            ("[[source]]\nname = 'a'\nkind = 'file'", "file"),
            ("[[source]]\nname = 'a'\nkind = 'exec'\ncommand = ['x']\ncolour = 1", "colour"),
        ];
        for (text, named) in cases {
            let problem = check(text).unwrap_err();
            assert!(problem.contains(named), "{text}: {problem}");
        }
        for (more, named) in [("jbos = 1", "jbos"), ("step = 'soon'", "soon"), ("jobs = 1001", "jobs_max")] {
            let problem = check(&format!("{simulate}{more}")).unwrap_err();
            assert!(problem.contains(named), "{more}: {problem}");
        }
        let problem = check(&format!("{simulate}{simulate}")).unwrap_err();
        assert!(problem.contains("two sources"), "{problem}");
    }

    #[test]
    fn a_command_that_is_not_there_is_named_with_its_source() {
        let text = "[[source]]\nname = 'a'\nkind = 'exec'\ncommand = ['no-such-command-anywhere']";
        let Err(error) = check(text).unwrap().into_builder() else { panic!("it was found") };
        assert!(error.to_string().contains("`a`") && error.to_string().contains("no-such-command"), "{error}");
    }
}
