//! `outflow fetch`: asks a server and prints what comes, as it comes. It decides what ends the wait and with which
//! exit code; the client library does the rest.

use std::{
    future::{Future, pending},
    io,
    os::fd::AsFd as _,
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use outflow_client::{Client, ConnectError, FetchError, Outcome, Response, Responses};
use tokio::{
    io::Interest,
    net::unix::pipe,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, timeout_at},
};

use super::{
    Exit, log,
    output::{Format, Output, Printer},
};

/// Who is asked where nothing else is said.
const SERVER: &str = "http://127.0.0.1:50005";
/// Responses taken from the client at once, and printed with one write.
const BATCH_MAX: usize = 4_096;

/// Ask a server and print its responses as they come.
#[derive(Args)]
#[command(after_help = "\
Examples:
  outflow fetch 1                                 five results of the simulated work, one a second
  outflow fetch 1 --limit 2                       two are enough; the server stops the rest
  outflow fetch 1 --within 2500ms                 what is there after 2.5 s; exit code 124
  outflow fetch 1 --patience 10s                  give up when nothing comes for 10 s
  outflow fetch 1 --linger 10m                    the work goes on for ten minutes if you leave
  outflow fetch --run ID --after 2                go on with it where you were
  outflow fetch --run ID --last 10                its last ten responses, and then what comes
  outflow fetch 1 --param jobs=1 --param responses=1000000 --output numbers.txt
  outflow fetch 1 --format json | jq .result

With --linger or --key the server journals the run: it goes on without you, and when you leave it this command says how to
go on with it. It is read again from any place, also after the server was killed and started again.

On a terminal it prints lines as the tutorial's client does; into a pipe or a file only the results, one per line
(bytes as they are, without line ends); errors go to stderr.

Exit codes: 0 the stream ended or had enough, 1 it failed, 2 usage, 69 no connection, 124 waited too long, 130
interrupted while the run goes on.")]
pub(super) struct Fetch {
    /// What to ask for, any 32-bit number
    #[arg(allow_negative_numbers = true, required_unless_present = "run", conflicts_with = "run")]
    id: Option<i32>,
    /// Ask this server
    #[arg(long, value_name = "URL", env = "OUTFLOW_SERVER", default_value = SERVER)]
    server: String,
    /// Who is to answer; else the source that claims the id, or the default one
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// A parameter for the source, again for more
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    parameters: Vec<(String, String)>,
    /// Have the run go on for at least so long without a reader
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    linger: Option<Duration>,
    /// The same key and request give the same run, never a second one
    #[arg(long, value_name = "KEY", conflicts_with = "run")]
    key: Option<String>,
    /// Read this run instead of starting one
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// Only what comes after this sequence of the run
    #[arg(long, value_name = "N", requires = "run", conflicts_with = "id")]
    after: Option<u64>,
    /// Begin with the last so many responses of the run
    #[arg(long, value_name = "N", requires = "run", conflicts_with_all = ["after", "id"])]
    last: Option<u64>,
    /// Enough after so many responses
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Cut off the whole stream after so long, connecting included, such as 2500ms or 1m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    within: Option<Duration>,
    /// Give up when the next response does not come within so long; connecting is waiting too
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    patience: Option<Duration>,
    /// How to print; log on a terminal, else plain
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write the results into this file instead of stdout
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Why a fetch ended before its stream did.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("can not connect with server {0}")]
    Connect(#[from] ConnectError),
    #[error("open stream error {0}")]
    Open(#[source] FetchError),
    #[error("cannot receive {0}")]
    Receive(#[source] FetchError),
    #[error("waited too long: {0}")]
    TooLong(String),
    #[error("cannot write the results: {0}")]
    Write(io::Error),
    /// Ctrl-C, while the run goes on without us.
    #[error("interrupted")]
    Interrupted,
    /// Whoever read the results has enough.
    #[error("the pipe is closed")]
    Closed,
    #[error("cannot start: {0}")]
    System(#[source] io::Error),
}

impl Failed {
    fn exit(&self) -> Exit {
        match self {
            Failed::Connect(ConnectError::Address { .. }) => Exit::Usage,
            Failed::Connect(_) => Exit::NoConnection,
            Failed::TooLong(_) => Exit::TooLong,
            Failed::Closed => Exit::Done,
            Failed::Interrupted => Exit::Interrupted,
            Failed::Open(_) | Failed::Receive(_) | Failed::Write(_) | Failed::System(_) => Exit::Failed,
        }
    }

    fn write(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Write(error) }
    }
}

impl Fetch {
    pub(super) fn run(self, filter: &log::Filter) -> Exit {
        let _log = log::start(filter, io::stderr());
        // The connection lives on a thread of its own: printing may block, on a pager for example, and the server's
        // PINGs must be answered all the same.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let fetched = runtime.map_err(Failed::System).and_then(|runtime| {
            let fetched = runtime.block_on(self.fetch());
            // A name service that does not answer would hold up the exit.
            runtime.shutdown_background();
            fetched
        });
        match fetched {
            Ok(()) => Exit::Done,
            Err(failed) => {
                if !matches!(failed, Failed::Closed | Failed::Interrupted) {
                    tracing::error!("{failed}");
                }
                failed.exit()
            }
        }
    }

    async fn fetch(self) -> Result<(), Failed> {
        let clock = Clock {
            within: self.within,
            patience: self.patience,
            end: self.within.map(|time| Instant::now() + time),
        };
        let client = clock.bound(Client::connect(&self.server), "no connection").await??;
        let opening = client.fetch(self.request(&clock));
        let mut responses =
            clock.bound(opening, "no answer").await?.map_err(|error| clock.judge(error, None, Failed::Open))?;
        if !responses.unsupported().is_empty() {
            let fields = responses.unsupported().join(", ");
            tracing::warn!("this is no Outflow server; it is not told, or does not know: {fields}");
        }
        // Not before there is something to write: a failed attempt leaves an older file as it was.
        let output = Output::open(self.output.as_deref()).map_err(Failed::Write)?;
        let format = self.format.unwrap_or(if output.is_terminal() { Format::Log } else { Format::Plain });
        let mut printer = Printer::new(output, format);
        let received = receive(&mut responses, &mut printer, &clock).await;
        if received.is_err() {
            self.say_how_to_go_on(&responses);
        }
        let printed = printer.finish(received.is_ok()).map_err(Failed::write);
        received.and(printed)
    }

    /// A journaled run that has not ended goes on without us.
    fn say_how_to_go_on(&self, responses: &Responses) {
        let position = responses.position();
        let Some(run) = position.run_id.as_ref().filter(|_| position.is_resumable() && responses.outcome().is_none())
        else {
            return;
        };
        let server = if self.server == SERVER { String::new() } else { format!(" --server {}", self.server) };
        let after = position.last_sequence;
        tracing::warn!("the run goes on; continue with: outflow fetch --run {run} --after {after}{server}");
    }

    fn request(&self, clock: &Clock) -> outflow_client::Fetch {
        let mut fetch = match &self.run {
            Some(run) => outflow_client::Fetch::run(run),
            None => outflow_client::Fetch::id(self.id.unwrap_or_default()),
        };
        if let Some(linger) = self.linger {
            fetch = fetch.linger(linger);
        }
        if let Some(key) = &self.key {
            fetch = fetch.idempotency_key(key);
        }
        if let Some(after) = self.after {
            fetch = fetch.after(after);
        }
        if let Some(last) = self.last {
            fetch = fetch.last(last);
        }
        if let Some(source) = &self.source {
            fetch = fetch.source(source);
        }
        for (name, value) in &self.parameters {
            fetch = fetch.parameter(name, value);
        }
        if let Some(limit) = self.limit {
            fetch = fetch.limit(limit);
        }
        if let Some(end) = clock.end {
            fetch = fetch.deadline(end.saturating_duration_since(Instant::now()));
        }
        fetch
    }
}

async fn receive(responses: &mut Responses, printer: &mut Printer, clock: &Clock) -> Result<(), Failed> {
    let mut batch: Vec<Response> = Vec::new();
    let reader = PipeReader::of(printer.output());
    // Nobody has to say anything about a run that ends with its reader: then the signal ends this program.
    let resumable = responses.position().is_resumable();
    let interrupt = resumable.then(|| signal(SignalKind::interrupt())).transpose();
    let mut interrupt = interrupt.map_err(Failed::System)?;
    loop {
        batch.clear();
        let received = tokio::select! {
            received = clock.bound(responses.next_batch(&mut batch, BATCH_MAX), "no response") => received?,
            () = reader.gone() => return Err(Failed::Closed),
            () = interrupted(interrupt.as_mut()) => return Err(Failed::Interrupted),
        };
        match received {
            Ok(0) => return Ok(()),
            Ok(_) => printer.print(&batch).map_err(Failed::write)?,
            Err(error) => return Err(clock.judge(error, responses.outcome(), Failed::Receive)),
        }
    }
}

async fn interrupted(interrupt: Option<&mut Signal>) {
    match interrupt {
        Some(interrupt) => _ = interrupt.recv().await,
        None => pending().await,
    }
}

/// How long to wait.
struct Clock {
    within: Option<Duration>,
    patience: Option<Duration>,
    /// When `within` is over.
    end: Option<Instant>,
}

impl Clock {
    /// `wait`, unless it takes too long.
    async fn bound<T>(&self, wait: impl Future<Output = T>, missing: &str) -> Result<T, Failed> {
        let patience = self.patience.map(|time| Instant::now() + time);
        // The server and the client library keep `within` themselves once they are asked; here it bounds the rest,
        // with time enough for them to say so first.
        let end = self.end.map(|end| end + Duration::from_secs(1));
        let Some(until) = patience.into_iter().chain(end).min() else { return Ok(wait.await) };
        timeout_at(until, wait).await.map_err(|_| {
            let waited = if Some(until) == patience { self.patience } else { self.within };
            Failed::TooLong(format!("{missing} within {}", humantime::format_duration(waited.unwrap_or_default())))
        })
    }

    /// What a failed fetch means: the caller's own deadline is no failure of the stream.
    fn judge(&self, error: FetchError, outcome: Option<&Outcome>, otherwise: fn(FetchError) -> Failed) -> Failed {
        let own_deadline = match &error {
            FetchError::WaitedTooLong { .. } => true,
            FetchError::Status { status, .. } | FetchError::Refused { status, .. } => {
                outcome.is_none() && self.within.is_some() && status.code() == outflow_client::Code::DEADLINE_EXCEEDED
            }
            _ => false,
        };
        if !own_deadline {
            return otherwise(error);
        }
        let within = humantime::format_duration(self.within.unwrap_or_default());
        Failed::TooLong(format!("the stream had not ended after {within}"))
    }
}

/// Who reads our output, where that is a pipe.
struct PipeReader(Option<pipe::Sender>);

impl PipeReader {
    fn of(output: &Output) -> Self {
        let pipe = output.pipe().and_then(|pipe| pipe.as_fd().try_clone_to_owned().ok());
        // Unchecked: the pipe stays in blocking mode, which it shares with other programs. It is only watched here;
        // where that is impossible, the next write tells.
        Self(pipe.and_then(|pipe| pipe::Sender::from_owned_fd_unchecked(pipe).ok()))
    }

    /// Resolves when nobody reads any more, which the next write would tell too late: it may come in an hour.
    async fn gone(&self) {
        let Some(pipe) = &self.0 else { return pending().await };
        if pipe.ready(Interest::ERROR).await.is_err() {
            pending().await
        }
    }
}

fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write NAME=VALUE".into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text);
    let duration = duration.map_err(|_| format!("`{text}` is no time; write it as 250ms, 2s or 1m"))?;
    if duration > crate::Limits::DURATION_MAX { Err("longer than ten years".into()) } else { Ok(duration) }
}
