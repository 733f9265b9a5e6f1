//! `outflow bench`: makes calls, drains them as cheaply as it can, and says what that came to. Here are its arguments
//! and what becomes of the figures; `load.rs` has the threads and the time, `worker.rs` a connection's calls, `http2/`
//! the client, `tally.rs` the counts, `report.rs` and `plot.rs` how they look.

mod http2;
mod load;
mod plot;
mod report;
mod tally;
mod target;
mod worker;

use std::{io, io::Write as _, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use outflow_proto::protobuf::Request;
use prost::Message as _;

use self::{
    http2::{Call, FRAME_BYTES_DEFAULT, WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MAX, Windows, framed},
    load::{Amount, Load, Measured, NotMeasured},
    report::Report,
    target::{Protocol, Target},
};
use super::{
    Exit, continuation,
    fetch::{duration, parameter},
    log,
    wait::Interrupt,
};

/// The connection's window in those of streams: so many may be unread before it holds up the others.
const STREAMS_PER_CONNECTION_WINDOW: u32 = 16;

/// Measure a server: throughput, times, and whether anything is missing
#[derive(Args)]
#[command(after_help = "\
Examples:
  outflow bench --param jobs=1 --param step=0s --param responses=5000000 --param batch=64
                                               one stream of five million small responses
  outflow bench --connections 64 --streams 4 --for 10s --warm-up 2s --param step=0s --param responses=1000
                                               calls one after another on 256 streams, for ten seconds
  outflow bench --param jobs=1 --param every=1ms --param responses=10000 --param stamp=true --stamps
                                               from emission to receipt, at a thousand responses a second
  outflow bench --run ID --connections 100     a hundred readers of a run that is kept
  outflow bench 7 --server http://host:50051 --calls 1000 --streams 10 --format json | jq .total_us.p99
  outflow bench --window 65535 --frame 16384   as a client asks that sets nothing
  outflow bench --server tcp://127.0.0.1:9000  the raw floor: the framed request, then frames until it is closed

The server may be any that answers protobuf.StreamService/FetchResponse without TLS. Where none of it is said, each stream
makes one call. Connections are opened, and servers greeted, before the clock starts; each has a thread.

What is measured, each as a histogram with three digits:
  first response  from the request to the read that brought the first whole response of the call
  gap             between two reads that brought whole responses of one stream. What comes together counts as one: a
                  server that sends in batches has fewer and longer gaps, and none inside a batch
  total           from the request to the end of a call, whatever its status; not of calls that were cut
  latency         with --stamps, of each response: from the time in its text (19 digits of nanoseconds since 1970, as
                  simulate's stamp=true writes them) to the read that brought it, by this machine's clock

Where the server says which run answers (outflow-run-id), every sequence must follow the one before, and the last must be
the one that the server says it gave. With --for, calls that are under way when the time is over are cut; what they
brought counts. Ctrl-C ends it early, and says what was measured.

Exit codes: 0 all calls ended well or were cut at the end, 1 some did not or a sequence was wrong, 2 usage, 69 no connection
to begin with, 130 interrupted.")]
pub(super) struct Bench {
    /// What to ask for, any 32-bit number
    #[arg(allow_negative_numbers = true, default_value_t = 1, conflicts_with = "run")]
    id: i32,
    /// Measure this server; tcp://HOST:PORT for one that speaks frames alone
    #[arg(long, value_name = "URL", env = "OUTFLOW_SERVER", default_value = continuation::SERVER)]
    server: Target,
    /// Who is to answer; else the source that claims the id, or the default one
    #[arg(long, value_name = "NAME", conflicts_with = "run")]
    source: Option<String>,
    /// A parameter for the source, again for more
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parameter, conflicts_with = "run")]
    parameters: Vec<(String, String)>,
    /// Have each run journaled, and go on for at least so long without a reader
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    linger: Option<Duration>,
    /// Read this run instead of starting one with each call
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// How many connections
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// How many streams at once on each connection, as far as the server allows it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    streams: u32,
    /// How many calls in all; else one for each stream
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "time")]
    calls: Option<u64>,
    /// Make calls for so long, one after another on each stream
    #[arg(long = "for", value_name = "DURATION", value_parser = some_time, id = "time")]
    time: Option<Duration>,
    /// Do the same for so long before, over connections of its own, and forget what was measured
    #[arg(long, value_name = "DURATION", value_parser = some_time)]
    warm_up: Option<Duration>,
    /// Flow-control window of a stream. A connection has 16 of them; where this is at most 65535, only those 65535
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 24, value_parser = clap::value_parser!(u32).range(1..=i64::from(WINDOW_BYTES_MAX)))]
    window: u32,
    /// The largest HTTP/2 frame that the server may send
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(i64::from(FRAME_BYTES_DEFAULT)..1 << 24))]
    frame: u32,
    /// Measure latencies by the stamps in the texts
    #[arg(long)]
    stamps: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Draw the histograms into this file, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people
    Text,
    /// One object
    Json,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Usage(&'static str),
    #[error("can not connect with server {target}: {why}")]
    Connect { target: Target, why: String },
    #[error("{0}")]
    NotMeasured(NotMeasured),
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    #[error("cannot write {}: {why}", file.display())]
    Plot { file: PathBuf, why: io::Error },
    #[error("cannot write the figures: {0}")]
    Write(#[source] io::Error),
}

impl Failed {
    fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Connect { .. } => Exit::NoConnection,
            Self::NotMeasured(NotMeasured::Interrupted) => Exit::Interrupted,
            Self::NotMeasured(_) | Self::System(_) | Self::Plot { .. } | Self::Write(_) => Exit::Failed,
        }
    }
}

impl Bench {
    pub(super) fn run(self, filter: &log::Filter) -> Exit {
        let _log = log::start(filter, io::stderr());
        self.measure().unwrap_or_else(|failed| {
            tracing::error!("{failed}");
            failed.exit()
        })
    }

    fn measure(self) -> Result<Exit, Failed> {
        let load = self.load()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let measured = runtime.block_on(async {
            let interrupt = Interrupt::listen().map_err(NotMeasured::System)?;
            if let Some(time) = self.warm_up {
                let warm_up = Load { amount: Amount::For(time), ..load.clone() };
                if load::run(Arc::new(warm_up), &interrupt).await?.is_interrupted {
                    return Err(NotMeasured::Interrupted);
                }
            }
            load::run(Arc::new(load.clone()), &interrupt).await
        });
        let measured = measured.map_err(|why| match why {
            NotMeasured::Connect(why) => Failed::Connect { target: load.target.clone(), why: why.to_string() },
            why => Failed::NotMeasured(why),
        })?;
        self.tell(&load, &measured)
    }

    fn load(&self) -> Result<Load, Failed> {
        if self.server.protocol == Protocol::Tcp && self.streams > 1 {
            return Err(Failed::Usage("--streams: over raw TCP a connection has one stream; use --connections"));
        }
        let connect = |why: io::Error| Failed::Connect { target: self.server.clone(), why: why.to_string() };
        let addresses = self.server.resolve().map_err(connect)?;
        let linger = self.linger.map(|linger| prost_types::Duration {
            seconds: i64::try_from(linger.as_secs()).expect("at most ten years"),
            nanos: linger.subsec_nanos().cast_signed(),
        });
        let request = Request {
            id: if self.run.is_some() { 0 } else { self.id },
            source: self.source.clone().unwrap_or_default(),
            parameters: self.parameters.iter().cloned().collect(),
            run_id: self.run.clone().unwrap_or_default(),
            linger,
            ..Request::default()
        };
        let (connections, streams) = (self.connections as usize, self.streams as usize);
        let amount = match (self.time, self.calls) {
            (Some(time), _) => Amount::For(time),
            (None, Some(calls)) => Amount::Calls(calls),
            (None, None) => Amount::Calls(connections as u64 * streams as u64),
        };
        let connection_bytes = match self.window {
            0..=WINDOW_BYTES_DEFAULT => WINDOW_BYTES_DEFAULT,
            window => window.saturating_mul(STREAMS_PER_CONNECTION_WINDOW).min(WINDOW_BYTES_MAX),
        };
        Ok(Load {
            target: self.server.clone(),
            addresses,
            connections,
            streams,
            amount,
            request: framed(&request.encode_to_vec()).into(),
            call: Call { stamps: self.stamps, ..Call::default() },
            windows: Windows { stream_bytes: self.window, connection_bytes, frame_bytes_max: self.frame },
        })
    }

    fn tell(&self, load: &Load, measured: &Measured) -> Result<Exit, Failed> {
        for failure in &measured.failures {
            tracing::error!("a connection was lost, and could not be made again: {failure}");
        }
        if measured.streams_max < load.streams {
            let allowed = measured.streams_max;
            tracing::warn!("the server allows {allowed} streams at once on a connection, not {}", load.streams);
        }
        let report = Report::new(load, measured);
        let text = if self.format == Format::Json { format!("{}\n", report.json()) } else { report.to_string() };
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(Failed::Write(error)),
            _ => {}
        }
        if let Some(file) = &self.plot {
            let tally = &measured.tally;
            let curves = [
                ("first response", &tally.first_response),
                ("gap", &tally.gap),
                ("total", &tally.total),
                ("latency", &tally.latency),
            ];
            let written = std::fs::write(file, plot::svg(&report.title(), &curves));
            written.map_err(|why| Failed::Plot { file: file.clone(), why })?;
        }
        Ok(if measured.is_interrupted {
            Exit::Interrupted
        } else if measured.tally.is_well() && measured.failures.is_empty() {
            Exit::Done
        } else {
            Exit::Failed
        })
    }
}

/// A measurement of no time would measure nothing.
fn some_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time.is_zero() { Err("at least a moment is wanted".into()) } else { Ok(time) }
}
