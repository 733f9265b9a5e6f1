//! `outflow runs`: what runs a server keeps, how one is getting on, and how it is stopped. It asks and says; how a run
//! looks is `table.rs`'s.

use std::io::{self, Write as _};

use clap::{Args, Subcommand, ValueEnum};
use outflow_client::{CallError, Client, Code, ConnectError, Run, RunFilter};

use super::{
    Exit, continuation, log,
    table::{Table, details, json, stopped},
};

/// Runs asked for at once; servers answer with fewer where they like.
const PAGE: u64 = 500;

/// What runs a server keeps, newest first, and how each is getting on.
///
/// Kept are journaled runs, those with linger, a key, or a source that says so: while they run, and afterwards until they
/// expire.
#[derive(Args)]
#[command(after_help = "\
Examples:
  outflow runs                                 all of them, newest first
  outflow runs --state running --source log    what this source is at
  outflow runs --max 20                        the last twenty that were started
  outflow runs show ID                         all that is known of one
  outflow runs stop ID                         stop its jobs, for all its readers
  outflow runs --state running --json | jq -r .run_id | xargs -r outflow runs stop

What a run has to say is read by `outflow fetch --run ID`.

LAST is the last response, JOBS how many jobs and how many of them failed, READERS who reads it now. A run that expires
can be deleted from then on.

Exit codes: 0 it is done, 1 the server refused or failed, 2 usage, 69 no connection.")]
pub(super) struct Runs {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only runs in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only runs of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Not more than the newest so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Print a JSON object for each run, one a line, with the fields of the contract's message
    #[arg(long, global = true)]
    json: bool,
    /// Ask this server
    #[arg(long, global = true, value_name = "URL", env = "OUTFLOW_SERVER", default_value = continuation::SERVER)]
    server: String,
}

#[derive(Subcommand)]
enum Command {
    /// All that is known of a run
    #[command(after_help = "\
Examples:
  outflow runs show 01k83182tv5msa5oei5p92vi3ic6t7m0j84d
  outflow runs show 01k83182tv5msa5oei5p92vi3ic6t7m0j84d --json | jq .last_sequence

Exit codes: 0 it is done, 1 there is no such run or the server failed, 2 usage, 69 no connection.")]
    Show {
        /// The run
        #[arg(value_name = "ID", value_parser = run_id)]
        id: String,
    },
    /// Stop the jobs of runs, and say how they ended
    ///
    /// It is done when their ends are recorded. What a run had to say until then can still be read. One that has ended
    /// stays as it is, and may be stopped again.
    #[command(after_help = "\
Examples:
  outflow runs stop 01k83182tv5msa5oei5p92vi3ic6t7m0j84d

Exit codes: 0 all of them have ended, 1 one is not there or the server failed, 2 usage, 69 no connection.")]
    Stop {
        /// The runs
        #[arg(value_name = "ID", required = true, value_parser = run_id)]
        ids: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    /// At work
    Running,
    /// Ended, however
    Ended,
}

/// Why there is no answer, or nobody to give it to.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("can not connect with server {0}")]
    Connect(#[from] ConnectError),
    #[error("{}", explained(.0))]
    Call(#[from] CallError),
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
    #[error("`{0}` is for the list of runs; `show` and `stop` take the runs that they name")]
    Usage(&'static str),
}

impl Failed {
    fn exit(&self) -> Exit {
        match self {
            // Who read the list has enough.
            Failed::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Failed::Connect(ConnectError::Address { .. }) | Failed::Usage(_) => Exit::Usage,
            Failed::Connect(_) | Failed::Call(CallError::NoConnection { .. }) => Exit::NoConnection,
            Failed::Call(_) | Failed::Write(_) => Exit::Failed,
        }
    }
}

/// The error, and what to do about it where that is not in it.
fn explained(error: &CallError) -> String {
    match error.code() {
        Some(Code::NOT_FOUND) => format!("{error}; `outflow runs` lists those that there are"),
        Some(Code::UNIMPLEMENTED) => format!("{error}; this is no Outflow server, or one that tells of no runs"),
        _ => error.to_string(),
    }
}

impl Runs {
    pub(super) fn run(self, filter: &log::Filter) -> Exit {
        let _log = log::start(filter, io::stderr());
        // The connection lives on a thread of its own: printing may block, on a pager for example.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let done = runtime.map_err(Failed::Write).and_then(|runtime| {
            let done = runtime.block_on(self.ask());
            // A name service that does not answer would hold up the exit.
            runtime.shutdown_background();
            done
        });
        done.unwrap_or_else(|failed| {
            let exit = failed.exit();
            if exit != Exit::Done {
                tracing::error!("{failed}");
            }
            exit
        })
    }

    async fn ask(self) -> Result<Exit, Failed> {
        let of_list =
            [("--state", self.state.is_some()), ("--source", self.source.is_some()), ("--max", self.max.is_some())];
        if let (Some(_), Some((name, _))) = (&self.command, of_list.into_iter().find(|(_, is_given)| *is_given)) {
            return Err(Failed::Usage(name));
        }
        let client = Client::connect(&self.server).await?;
        match &self.command {
            None => self.list(&client).await,
            Some(Command::Show { id }) => self.show(&client, id).await,
            Some(Command::Stop { ids }) => self.stop(&client, ids).await,
        }
    }

    async fn list(&self, client: &Client) -> Result<Exit, Failed> {
        let mut left = self.max.unwrap_or(u64::MAX);
        let mut filter = RunFilter::all().page_size(left.min(PAGE) as u32);
        filter = match self.state {
            Some(State::Running) => filter.running(),
            Some(State::Ended) => filter.ended(),
            None => filter,
        };
        if let Some(source) = &self.source {
            filter = filter.source(source);
        }
        let mut pages = client.runs(filter);
        let (mut table, mut out) = (Table::default(), io::stdout().lock());
        let mut found = false;
        while left > 0
            && let Some(mut page) = pages.next_page().await?
        {
            page.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= page.len() as u64;
            found |= !page.is_empty();
            let text = if self.json { page.iter().map(json).collect() } else { table.rows(&page) };
            // A page at a time, so that who has seen enough need not wait for the others.
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        if !found && !self.json {
            let such = if self.state.is_some() || self.source.is_some() { "such " } else { "" };
            tracing::info!(
                "no {such}run is kept there; those with --linger or --key are, and those of sources that say so"
            );
        }
        Ok(Exit::Done)
    }

    async fn show(&self, client: &Client, id: &str) -> Result<Exit, Failed> {
        let run = client.run(id).await?;
        let text = if self.json { json(&run) } else { details(&run, &self.server) };
        io::stdout().write_all(text.as_bytes())?;
        Ok(Exit::Done)
    }

    async fn stop(&self, client: &Client, ids: &[String]) -> Result<Exit, Failed> {
        let mut exit = Exit::Done;
        for id in ids {
            let run: Run = match client.stop(id).await.map_err(Failed::Call) {
                Ok(run) => run,
                // The others are stopped all the same, where there is somebody to ask.
                Err(failed) if failed.exit() == Exit::Failed => {
                    tracing::error!("{failed}");
                    exit = Exit::Failed;
                    continue;
                }
                Err(failed) => return Err(failed),
            };
            let text = if self.json { json(&run) } else { stopped(&run) };
            io::stdout().write_all(text.as_bytes())?;
        }
        Ok(exit)
    }
}

/// As the contract has it; anything else names no run anywhere.
fn run_id(text: &str) -> Result<String, String> {
    let is_one =
        !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    if is_one {
        Ok(text.into())
    } else {
        Err("a run's id has 1 to 64 of 0-9 and a-z; `outflow runs` lists them".into())
    }
}
