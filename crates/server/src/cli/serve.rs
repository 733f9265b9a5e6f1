//! `outflow serve`: configuration, then ports, then signals. It composes; the server serves.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use outflow_engine::SourceOptions;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use super::{Exit, log};
use crate::{
    Listen,
    config::Config,
    server::{Builder, ServeError, ServedSources},
    source::{Exec, Split},
    store,
};

/// Serve streams until SIGINT or SIGTERM.
///
/// Without a command and without sources in a configuration file, simulated work is served, as in the tutorial: five
/// jobs, the nth takes n seconds.
#[derive(Args)]
#[command(after_help = "\
Examples:
  outflow serve
  outflow serve --listen 127.0.0.1:8080 --listen [::1]:8080
  outflow serve -- sh -c 'for i in 1 2 3; do echo {id} $i; sleep 1; done'
  outflow serve --shared --linger 10m -- ./build.sh {id}
  outflow serve --config outflow.toml
  outflow serve --data /var/lib/outflow

A request's id replaces {id} in the command's arguments. Each line it writes to stdout is a response. When its last reader
has left (and its linger is over), the command and all it started get TERM, and KILL two seconds later.

A request with linger or idempotency_key is journaled: it goes on without its reader, and can be read again from any
place, also after this program was killed and started again. The data directory is made when the first such request
comes; --data memory keeps nothing beyond the process.

On SIGHUP the sources of the configuration file are read anew, or stay as they are where something is wrong with it; runs
under way go on as they began. On SIGINT or SIGTERM open streams end with UNAVAILABLE, and the program within ten seconds; a second signal ends it at
once. Exit codes: 0 stopped by a signal, 1 it could not serve, 2 usage.")]
pub(super) struct Serve {
    /// Listen here, again for more; without it on port 50005 of both loopback addresses
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<String>,
    /// Read this configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep journaled runs in this directory, or in `memory`; without it in outflow's folder for state
    /// (`$XDG_STATE_HOME/outflow`, else `~/.local/state/outflow`)
    #[arg(long, value_name = "DIR", env = "OUTFLOW_DATA")]
    data: Option<PathBuf>,
    /// How the command's output becomes responses: `lines`, `chunks` (what there is, as bytes), or `delimiter=TEXT`, in which
    /// \0, \n, \r, \t, \\ and \xHH stand for a byte
    #[arg(long, value_name = "HOW", default_value_t, requires = "command")]
    split: Split,
    /// Requests with the same id share one run of the command, and who comes late gets all of it
    #[arg(long, requires = "command")]
    shared: bool,
    /// For so long after its end a shared run that is complete is not run again
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "shared")]
    reuse: Option<Duration>,
    /// For so long the command goes on without a reader, and all it writes is journaled
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "command")]
    linger: Option<Duration>,
    /// Answer every request by running this command
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Why there is nothing to serve.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("--listen: {0}")]
    Listen(String),
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    #[error(transparent)]
    Exec(#[from] crate::source::ExecError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("cannot serve: {0}")]
    System(#[from] io::Error),
}

impl Serve {
    pub(super) fn run(self, filter: &log::Filter) -> Exit {
        let _log = log::start(filter, io::stderr());
        match self.serve() {
            Ok(()) => Exit::Done,
            Err(error) => {
                tracing::error!("{error}");
                Exit::Failed
            }
        }
    }

    fn serve(self) -> Result<(), Refused> {
        // All that can be wrong is said before a port is bound.
        let config = self.config.clone();
        let server = self.builder()?;
        raise_open_files();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served: Result<(), Refused> = runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let server = server.bind()?;
            for address in server.addresses() {
                // Not a line that everybody gets: the tutorial's server says `start server` and nothing else.
                tracing::debug!("listening on {address}");
            }
            // Without a file there is nothing to read anew, and whoever closes the terminal means it.
            let reload = config.map(|path| Ok::<_, io::Error>((signal(SignalKind::hangup())?, path))).transpose()?;
            let reloading = reload_sources(reload, server.sources());
            let hurry = server.hurry();
            let (stop, stopped) = oneshot::channel();
            let signals = async {
                let mut stop = Some(stop);
                loop {
                    let name = tokio::select! {
                        _ = interrupt.recv() => "SIGINT",
                        _ = terminate.recv() => "SIGTERM",
                    };
                    if let Some(stop) = stop.take() {
                        tracing::info!("{name}: shutting down; a second one ends it at once");
                        _ = stop.send(());
                    } else {
                        hurry.now();
                    }
                }
            };
            tokio::select! {
                served = server.serve(async { _ = stopped.await }) => served?,
                () = signals => {}
                () = reloading => {}
            }
            Ok(())
        });
        served
    }

    fn builder(self) -> Result<Builder, Refused> {
        let mut config = self.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read)?;
        if !self.listen.is_empty() {
            let listen = self.listen.iter().map(|address| address.parse()).collect::<Result<Vec<Listen>, _>>();
            config.listen = listen.map_err(Refused::Listen)?;
        }
        let data = Data::choose(self.data, config.data.take());
        let settings = config.store_settings();
        let mut server = config.into_builder();
        server = match data {
            Data::Memory => server,
            // Whoever names a directory wants to know at once what is wrong with it.
            Data::Named(path) => server.store(move || store::open(&path, settings)),
            Data::Default(path) if path.exists() => server.store(move || store::open(&path, settings)),
            Data::Default(path) => server.store_when_needed(move || store::open(&path, settings)),
        };
        if !self.command.is_empty() {
            let mut options = SourceOptions::new();
            if self.shared {
                options = options.shared(self.reuse.unwrap_or_default());
            }
            if let Some(linger) = self.linger {
                options = options.linger(linger);
            }
            let exec = Exec::new(&self.command)?.split(self.split);
            server = server.source_with("exec", exec, options).default_to("exec");
        }
        Ok(server)
    }
}

/// Reads the sources of the file anew at each SIGHUP, or keeps the old ones and says why.
async fn reload_sources(reload: Option<(Signal, PathBuf)>, sources: ServedSources) {
    let Some((mut hangup, path)) = reload else { return std::future::pending().await };
    while hangup.recv().await.is_some() {
        // Commands are looked for, and secrets read.
        let read = tokio::task::spawn_blocking({
            let path = path.clone();
            move || Config::read(&path)
        });
        let replaced = match read.await {
            Ok(Ok(config)) => {
                let names = config.source_names().join(", ");
                sources.replace(config.into_sources()).map(|()| names).map_err(|error| error.to_string())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match replaced {
            Ok(names) if names.is_empty() => {
                tracing::info!("SIGHUP: no source is configured any more; simulate answers")
            }
            Ok(names) => tracing::info!("SIGHUP: the sources are now {names}; runs under way go on as they began"),
            Err(problem) => tracing::error!("SIGHUP: the sources stay as they were: {problem}"),
        }
    }
}

/// The directory that is served from where none is named; `None` where that is memory.
pub(super) fn default_directory() -> Option<PathBuf> {
    match Data::choose(std::env::var_os("OUTFLOW_DATA").map(PathBuf::from), None) {
        Data::Memory => None,
        Data::Named(path) | Data::Default(path) => Some(path),
    }
}

/// Where journaled runs are kept.
enum Data {
    Memory,
    /// In a directory that somebody named.
    Named(PathBuf),
    /// In the platform's folder for state.
    Default(PathBuf),
}

impl Data {
    /// The argument before the configuration file, and that before the default.
    fn choose(argument: Option<PathBuf>, configured: Option<String>) -> Self {
        if let Some(path) = argument.or_else(|| configured.map(PathBuf::from)) {
            return if path == Path::new("memory") { Self::Memory } else { Self::Named(path) };
        }
        // XDG Base Directory Specification, "Environment variables": a relative path is not one.
        let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
        state.map_or_else(
            || {
                tracing::warn!(
                    "there is no home folder: journaled runs are kept in memory, unless --data names a folder"
                );
                Self::Memory
            },
            |state| Self::Default(state.join("outflow")),
        )
    }
}

/// Allows as many open files as the system lets this process have: a connection is one.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!("the limit on open files stays as it was: {error}");
    }
}
