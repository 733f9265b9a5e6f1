//! `outflow fetch`: asks a server and prints what comes, as it comes. It decides what ends the wait and with which
//! exit code; the client library does the rest.

use std::{
    io,
    path::PathBuf,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use clap::Args;
use outflow_client::{Client, Code, ConnectError, Event, FetchError, Response, Responses};

use super::{
    Continuation, Exit, continuation, log,
    output::{
        Asked, Destination, Ending, Existing, Format, Kept, KeptError, Output, Printed, Printer, Stuck, Wanted,
    },
    wait::{Clock, Interrupt, PipeReader, TooLong, at, interrupted},
};

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
  outflow fetch 1 --linger 1h --param jobs=1 --param responses=1000000 --output numbers.txt
  outflow fetch 1 --format json | jq .result

With --linger or --key the server journals the run: it goes on without you, and when you leave it this command says how to
go on with it. It is read again from any place, also after the server was killed and started again: where the stream breaks
this command does that by itself, and says so in one line each (--no-resume: it fails instead). When the stream has been
away for five minutes (--give-up-after) it fails, and says how to go on later.

With --output a file that is half written, because this program, the machine or the network went away, is gone on with
by the same command: FILE.outflow, which is there as long as FILE is not whole, says which run it is and how far it has
come. That takes a run that can be read again: --linger, --key or --run. A file that is whole is never written over,
unless --overwrite says so. In a script, FILE is whole when there is something in it and FILE.outflow is not there.

On a terminal it prints lines as the tutorial's client does; into a pipe or a file only the results, one per line
(bytes as they are, without line ends); errors go to stderr.

Exit codes: 0 the stream ended or had enough, 1 it failed, or broke and could not be gone on with, 2 usage, 69 no
connection to begin with, 124 waited too long, 130 interrupted while the run goes on.")]
pub(super) struct Fetch {
    /// What to ask for, any 32-bit number
    #[arg(allow_negative_numbers = true, required_unless_present = "run", conflicts_with = "run")]
    id: Option<i32>,
    /// Ask this server
    #[arg(long, value_name = "URL", env = "OUTFLOW_SERVER", default_value = continuation::SERVER)]
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
    /// Fail when the stream breaks, instead of going on where it was
    #[arg(long)]
    no_resume: bool,
    /// Fail when the stream broke so long ago and could not be gone on with; else after 5m
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "no_resume")]
    give_up_after: Option<Duration>,
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
    /// Write the results into this file instead of stdout, and go on with it where it is half written
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// With --output: write the file anew, whatever is in it
    #[arg(long, requires = "output")]
    overwrite: bool,
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
    TooLong(#[from] TooLong),
    #[error("cannot write the results: {0}")]
    Write(io::Error),
    #[error("cannot write the results: {0}")]
    Output(#[from] KeptError),
    /// Ctrl-C, while the run goes on without us.
    #[error("interrupted")]
    Interrupted,
    /// The same, while the output took nothing.
    #[error("interrupted while nobody read the results")]
    Stuck,
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
            Failed::Interrupted | Failed::Stuck => Exit::Interrupted,
            Failed::Open(_) | Failed::Receive(_) | Failed::Write(_) | Failed::Output(_) | Failed::System(_) => {
                Exit::Failed
            }
        }
    }

    fn write(error: io::Error) -> Self {
        match error {
            error if error.kind() == io::ErrorKind::BrokenPipe => Self::Closed,
            error if Stuck::is(&error) => Self::Stuck,
            error => Self::Write(error),
        }
    }
}

/// A fetch that ended before its stream did, and what can be done about it.
struct Stopped {
    why: Box<Failed>,
    advice: Option<String>,
}

impl<E: Into<Failed>> From<E> for Stopped {
    fn from(why: E) -> Self {
        Self { why: Box::new(why.into()), advice: None }
    }
}

impl Fetch {
    pub(super) fn run(self, filter: &log::Filter) -> Exit {
        let _log = log::start(filter, io::stderr());
        // The connection lives on a thread of its own: printing may block, on a pager for example, and the server's
        // PINGs must be answered all the same.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let fetched = runtime.map_err(|error| Failed::System(error).into()).and_then(|runtime| {
            let fetched = runtime.block_on(self.fetch());
            // A name service that does not answer would hold up the exit.
            runtime.shutdown_background();
            fetched
        });
        let Err(Stopped { why, advice }) = fetched else { return Exit::Done };
        if !matches!(*why, Failed::Closed | Failed::Interrupted | Failed::Stuck) {
            tracing::error!("{why}");
        }
        if let Some(advice) = advice {
            tracing::warn!("{advice}");
        }
        why.exit()
    }

    async fn fetch(self) -> Result<(), Stopped> {
        let clock = Clock::start(self.within, self.patience);
        let existing = if self.overwrite { Existing::Overwrite } else { Existing::Continue };
        let mut to = Destination::claim(self.output.as_deref(), existing, self.wanted())?;
        // Nobody has to say anything about a run that ends with its reader, unless it was to fill a file: then the signal
        // ends this program.
        let listen = || Interrupt::listen().map_err(Failed::System);
        let is_journaled = self.linger.is_some() || self.key.is_some();
        let mut interrupt = to.listens_early(is_journaled).then(listen).transpose()?;
        if let Some(kept) = to.kept().filter(|kept| kept.is_whole()) {
            // A power cut brought the bookmark back.
            return Ok(kept.complete_well()?);
        }
        if let Some(kept) = to.kept().filter(|kept| kept.is_full()) {
            // It was killed between the last response and the end.
            let run = kept.run().map(|(run, _)| run.to_owned());
            let (_, closed) = Printer::new(to.open(run)?, self.format(), None).finish(Ending::Well);
            return Ok(closed.map_err(Failed::write)?);
        }
        // The client library would make one too, but it could not be told.
        let made = (self.linger.is_some() && self.key.is_none()).then(|| format!("{:032x}", rand::random::<u128>()));
        let request = self.request(to.kept(), made.as_deref(), &clock)?;
        let asked = tokio::select! {
            asked = self.ask(request, &clock) => asked,
            () = interrupted(interrupt.as_ref()) => Err(Failed::Interrupted),
        };
        let mut responses = match asked {
            Ok(responses) => responses,
            Err(why) => {
                let advice = match to.kept() {
                    Some(kept) => unanswered(kept, &why)?,
                    None => self.unanswered(&why, made.as_deref()),
                };
                return Err(Stopped { why: Box::new(why), advice });
            }
        };
        // Nobody asked for a key that was made here.
        let is_asked = |field: &&str| self.key.is_some() || *field != "idempotency_key";
        let unsupported: Vec<_> = responses.unsupported().iter().copied().filter(is_asked).collect();
        if !unsupported.is_empty() {
            let fields = unsupported.join(", ");
            tracing::warn!("this is no Outflow server; it is not told, or does not know: {fields}");
        }
        let position = responses.position();
        // Not before there is something to write: a failed attempt leaves an older file as it was.
        let output = to.open(position.run_id.clone().filter(|_| position.is_resumable()))?;
        // Not before that where it is a pipe by name, which may have to wait for its reader.
        if interrupt.is_none() && position.is_resumable() {
            interrupt = Some(listen()?);
        }
        let mut printer = Printer::new(output, self.format(), interrupt.clone());
        printer.expect(responses.expected_bytes().filter(|_| self.is_for_all()));
        let received = receive(&mut responses, &mut printer, &clock, interrupt.as_ref()).await;
        let ending = match &received {
            Ok(()) => Ending::Well,
            Err(Failed::Write(_) | Failed::Closed | Failed::Stuck) => Ending::Unwritten,
            Err(_) if responses.outcome().is_some() => Ending::Failed,
            Err(_) => Ending::Cut,
        };
        let printed = printer.printed();
        let (output, closed) = printer.finish(ending);
        let stopped = match (received, closed) {
            (Ok(()), Ok(())) => return Ok(()),
            (Err(why), Ok(())) => why,
            (Ok(()), Err(error)) => Failed::write(error),
            (Err(why), Err(error)) => {
                tracing::error!("cannot write the results: {error}");
                why
            }
        };
        Err(Stopped { advice: self.how_to_go_on(&stopped, &responses, &output, printed), why: Box::new(stopped) })
    }

    async fn ask(&self, request: outflow_client::Fetch, clock: &Clock) -> Result<Responses, Failed> {
        let mut builder = Client::builder();
        if let Some(time) = self.give_up_after {
            builder = builder.give_up_after(time);
        }
        let client = clock.bound(builder.connect(&self.server), "no connection").await??;
        let asked = clock.bound(client.fetch(request), "no answer").await?;
        asked.map_err(|error| clock.own_deadline(&error, None).map_or_else(|| Failed::Open(error), Failed::TooLong))
    }

    /// A journaled run that has not ended goes on without us, and what could not be written can be read again.
    fn how_to_go_on(&self, why: &Failed, responses: &Responses, output: &Output, printed: Printed) -> Option<String> {
        let position = responses.position();
        let goes_on = if responses.outcome().is_none() { "the run goes on; " } else { "" };
        if is_gone(why) && responses.outcome().is_none() {
            return if let Output::Kept(kept) = output { Some(stays(kept, why)) } else { None };
        }
        if let Output::Kept(kept) = output {
            return if let Some(command) = kept.command() {
                Some(format!("{goes_on}continue with: {command}"))
            } else if kept.is_half() {
                let file = kept.path().display();
                Some(format!("{file} holds only a part, and cannot be gone on with; with --linger it could"))
            } else {
                None
            };
        }
        let is_more = responses.outcome().is_none() || matches!(why, Failed::Write(_) | Failed::Stuck);
        let run = position.run_id.as_deref().filter(|_| position.is_resumable() && is_more)?;
        // What was received and could not be written is asked for again.
        let Printed { responses, last } = printed;
        let (after, last) = if responses > 0 { (last, None) } else { (self.after, self.last) };
        let limit = self.limit.map(|limit| limit - responses);
        let server = &self.server;
        let command = Continuation { run, after, last, output: None, format: self.format, limit, server };
        Some(format!("{goes_on}continue with: {command}"))
    }

    /// There was no answer: what can be done about it. `made` is the key that the request was given here.
    fn unanswered(&self, why: &Failed, made: Option<&str>) -> Option<String> {
        if self.run.is_some() {
            let is_unknown = matches!(why, Failed::Open(error) if error.code() == Some(Code::NOT_FOUND));
            return is_unknown.then(|| "`outflow runs` lists the runs that are kept there".to_owned());
        }
        let may_have_started = match why {
            Failed::Open(error) => error.code().is_none_or(|code| code == Code::DEADLINE_EXCEEDED),
            Failed::Interrupted | Failed::TooLong(_) => true,
            _ => false,
        };
        let with_key = made.map(|key| format!(" with --key {key}")).unwrap_or_default();
        let is_findable = may_have_started && (made.is_some() || self.key.is_some());
        is_findable
            .then(|| format!("whether the run was started is not known; the same command{with_key} goes on with it"))
    }

    /// Whether it asks for a run from its start to its end.
    fn is_for_all(&self) -> bool {
        self.after.is_none() && self.last.is_none() && self.limit.is_none()
    }

    fn format(&self) -> Format {
        let is_seen = self.output.is_none() && Output::Stdout(io::stdout()).is_terminal();
        self.format.unwrap_or(if is_seen { Format::Log } else { Format::Plain })
    }

    fn wanted(&self) -> Wanted {
        let asked = Asked {
            id: self.id,
            source: self.source.clone(),
            parameters: self.parameters.iter().cloned().collect(),
            key: self.key.clone(),
            run: self.run.clone(),
            after: self.after,
            last: self.last,
            limit: self.limit,
        };
        Wanted { server: continuation::name(&self.server).to_owned(), asked, format: self.format() }
    }

    /// What is asked for: what the arguments say, or the rest of what a half-written file lacks.
    fn request(
        &self,
        kept: Option<&mut Kept>,
        made: Option<&str>,
        clock: &Clock,
    ) -> Result<outflow_client::Fetch, KeptError> {
        let half = kept.as_ref().and_then(|kept| kept.run()).map(|(run, sequence)| (run.to_owned(), sequence));
        let responses = kept.as_ref().map_or(0, |kept| kept.responses());
        let mut fetch = match (&half, &self.run) {
            (Some((run, _)), _) | (None, Some(run)) => outflow_client::Fetch::run(run),
            (None, None) => self.anew(kept, made)?,
        };
        // Where the first of the last so many did not come, they are asked for again.
        match (half, self.last) {
            (Some((_, sequence)), None) => fetch = fetch.after(sequence),
            (Some((_, sequence)), Some(_)) if responses > 0 => fetch = fetch.after(sequence),
            (_, Some(last)) => fetch = fetch.last(last),
            (None, None) => fetch = fetch.after(self.after.unwrap_or(0)),
        }
        if let Some(linger) = self.linger {
            fetch = fetch.linger(linger);
        }
        if let Some(limit) = self.limit {
            fetch = fetch.limit(limit - responses);
        }
        if let Some(left) = clock.left() {
            fetch = fetch.deadline(left);
        }
        if self.no_resume {
            fetch = fetch.no_resume();
        }
        Ok(fetch.on_event(teller()))
    }

    /// A new run, or the one that the key finds.
    fn anew(&self, kept: Option<&mut Kept>, made: Option<&str>) -> Result<outflow_client::Fetch, KeptError> {
        let mut fetch = outflow_client::Fetch::id(self.id.unwrap_or_default());
        if let Some(key) = &self.key {
            fetch = fetch.idempotency_key(key);
        } else if let Some(made) = made {
            fetch = match kept {
                Some(kept) => fetch.idempotency_key(kept.key()?),
                None => fetch.idempotency_key(made),
            };
        }
        if let Some(source) = &self.source {
            fetch = fetch.source(source);
        }
        for (name, value) in &self.parameters {
            fetch = fetch.parameter(name, value);
        }
        Ok(fetch)
    }
}

/// Says when the stream breaks, and when it goes on; not how often that was tried in between.
fn teller() -> impl Fn(&Event) + Send + Sync {
    let is_broken = AtomicBool::new(false);
    move |event| {
        let breaks = matches!(event, Event::Broke { .. });
        if is_broken.swap(breaks, Ordering::Relaxed) == breaks {
            tracing::debug!("{event}");
        } else {
            tracing::warn!("{event}");
        }
    }
}

/// There was no answer to a request whose responses were to be written into `kept`: what that means for it.
fn unanswered(kept: &mut Kept, why: &Failed) -> Result<Option<String>, KeptError> {
    if kept.run().is_some() {
        return Ok(Some(stays(kept, why)));
    }
    // Whether the run was started is not known where the connection was lost: then the key finds it.
    let is_known = matches!(
        why,
        Failed::Connect(_) | Failed::Open(FetchError::Refused { .. } | FetchError::RequestTooLarge { .. })
    );
    if is_known || !kept.has_key() {
        kept.give_up()?;
        return Ok(None);
    }
    let file = kept.path().display();
    Ok(Some(format!("whether the run was started is not known; the same command goes on with it and {file}")))
}

/// What a half-written file is good for whose run did not answer.
fn stays(kept: &Kept, why: &Failed) -> String {
    let advice =
        if is_gone(why) { "--overwrite starts anew, and another --output leaves it" } else { "try again later" };
    format!("{} stays as it is, with {} responses; {advice}", kept.path().display(), kept.responses())
}

/// Whether the run is not there any more, or not what it was.
fn is_gone(why: &Failed) -> bool {
    let (Failed::Open(error) | Failed::Receive(error)) = why else { return false };
    matches!(error.code(), Some(Code::NOT_FOUND | Code::OUT_OF_RANGE))
}

async fn receive(
    responses: &mut Responses,
    printer: &mut Printer,
    clock: &Clock,
    interrupt: Option<&Interrupt>,
) -> Result<(), Failed> {
    let mut batch: Vec<Response> = Vec::new();
    let reader = PipeReader::of(printer.output());
    loop {
        batch.clear();
        let received = {
            let mut received = pin!(clock.bound(responses.next_batch(&mut batch, BATCH_MAX), "no response"));
            loop {
                tokio::select! {
                    received = &mut received => break received?,
                    () = at(printer.due()) => printer.note().map_err(Failed::write)?,
                    () = reader.gone() => return Err(Failed::Closed),
                    () = interrupted(interrupt) => return Err(Failed::Interrupted),
                }
            }
        };
        match received {
            Ok(0) => return Ok(()),
            Ok(_) => printer.print(&batch).map_err(Failed::write)?,
            Err(error) => {
                let own = clock.own_deadline(&error, responses.outcome());
                return Err(own.map_or_else(|| Failed::Receive(error), Failed::TooLong));
            }
        }
    }
}

/// `NAME=VALUE` for the source.
pub(super) fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write NAME=VALUE".into()),
    }
}

/// A time as people write it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text);
    let duration = duration.map_err(|_| format!("`{text}` is no time; write it as 250ms, 2s or 1m"))?;
    if duration > crate::Limits::DURATION_MAX { Err("longer than ten years".into()) } else { Ok(duration) }
}
