//! What there is more and more of, and what is asked of a server for it.

use std::{collections::BTreeMap, thread, time::Duration};

use clap::ValueEnum;
use outflow_proto::protobuf::Request;
use tempfile::TempDir;

use crate::{
    Options, Outcome,
    drain::{Connection, Keep, LARGE},
    process::{Process, pause},
};

/// How long jobs wait, so that all streams are open when the first response is emitted, and what opening them took is not
/// counted.
const WAIT: Duration = Duration::from_millis(1_000);
/// After this much of it they are open.
const OPEN: Duration = Duration::from_millis(600);
/// The last responses may be taken before the server has let go of them.
const SETTLE: Duration = Duration::from_millis(50);
/// No run of several is shorter: what its end takes is no part of what grows.
const EACH_MIN: u64 = 20_000;
/// Short runs one after the other.
const SHORT_RUNS_MAX: u64 = 100;
/// Connections over which streams are spread.
const CONNECTIONS: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Axis {
    /// Readers of one run.
    Readers,
    /// Runs at once, a reader each, over eight connections.
    Runs,
    /// Streams at once on one connection.
    Streams,
    /// Responses in one run.
    Length,
}

/// How the runs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Journaled,
}

impl Kind {
    /// Also the name of the source.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Journaled => "journaled",
        }
    }
}

impl Axis {
    pub(crate) const ALL: [Self; 4] = [Axis::Readers, Axis::Runs, Axis::Streams, Axis::Length];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Axis::Readers => "readers of one run",
            Axis::Runs => "runs at once",
            Axis::Streams => "streams on one connection",
            Axis::Length => "responses in one run",
        }
    }

    pub(crate) fn kinds(self) -> &'static [Kind] {
        match self {
            // A plain run has one reader.
            Axis::Readers => &[Kind::Journaled],
            Axis::Streams => &[Kind::Plain],
            Axis::Runs | Axis::Length => &[Kind::Plain, Kind::Journaled],
        }
    }

    pub(crate) fn counts(self) -> &'static [u64] {
        match self {
            Axis::Readers | Axis::Runs | Axis::Streams => &[1, 8, 64, 250, 1_000],
            Axis::Length => &[10_000, 100_000, 1_000_000, 10_000_000],
        }
    }
}

/// What is asked of a server, all at once.
struct Load {
    connections: u64,
    requests: Vec<Request>,
    /// How often, one time after the other.
    times: u64,
    /// Each request waits until all streams are open.
    wait: Duration,
}

impl Load {
    fn of(axis: Axis, kind: Kind, count: u64, responses: u64) -> Self {
        let each = || (responses / count).max(EACH_MIN);
        let (requests, each, connections, times) = match axis {
            Axis::Readers | Axis::Runs => (count, each(), CONNECTIONS.min(count), 1),
            Axis::Streams => (count, each(), 1, 1),
            // Short runs come one after the other, so that there is enough to measure.
            Axis::Length => (1, count, 1, (responses / count).clamp(1, SHORT_RUNS_MAX)),
        };
        let wait = if axis == Axis::Length { Duration::ZERO } else { WAIT };
        let request = |n: u64| Request {
            id: if axis == Axis::Readers { 0 } else { n as i32 },
            source: kind.name().into(),
            parameters: parameters(each, wait),
            ..Request::default()
        };
        Self { connections, requests: (0..requests).map(request).collect(), times, wait }
    }
}

fn parameters(responses: u64, wait: Duration) -> BTreeMap<String, String> {
    let pairs = [("responses", responses.to_string()), ("wait_ms", wait.as_millis().to_string())];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Nanoseconds of the server's CPU for each response that is delivered: the least of all rounds, each on a server and a
/// store of its own.
pub(crate) fn cheapest(axis: Axis, kind: Kind, count: u64, options: &Options) -> Outcome<f64> {
    let load = Load::of(axis, kind, count, options.responses);
    let mut least = f64::MAX;
    for _ in 0..options.rounds.max(1) {
        let directory = TempDir::with_prefix_in("growth", env!("CARGO_TARGET_TMPDIR"))?;
        let cost = if options.data == "memory" {
            cost(&Process::start_own(directory, &["--serve", "memory"])?, &load)
        } else {
            let store = TempDir::with_prefix_in("growth", &options.data)?;
            let data = store.path().join("data");
            cost(&Process::start_own(directory, &["--serve", &data.to_string_lossy()])?, &load)
        };
        least = least.min(cost?);
    }
    Ok(least)
}

fn cost(process: &Process, load: &Load) -> Outcome<f64> {
    // The first run of a process opens the store and loads code.
    let mut first = load.requests[0].clone();
    first.id = -1;
    first.parameters = parameters(1, Duration::ZERO);
    drain(vec![asked(process, &[&first])?])?;

    let mut delivered = 0;
    let mut cpu = Duration::ZERO;
    for time in 0..load.times {
        let requests: Vec<Request> = load.requests.iter().cloned().map(|request| again(request, time)).collect();
        let mut before = process.cpu_time()?;
        let mut connections = Vec::new();
        for index in 0..load.connections {
            let its: Vec<&Request> =
                requests.iter().skip(index as usize).step_by(load.connections as usize).collect();
            connections.push(asked(process, &its)?);
        }
        if !load.wait.is_zero() {
            pause(OPEN);
            before = process.cpu_time()?;
        }
        delivered += drain(connections)?;
        if !load.wait.is_zero() || time + 1 == load.times {
            pause(SETTLE);
        }
        cpu += process.cpu_time()?.since(&before);
    }
    Ok(cpu.as_nanos() as f64 / delivered as f64)
}

/// The same for another run.
fn again(request: Request, time: u64) -> Request {
    Request { id: request.id + 10_000 * time as i32, ..request }
}

/// A connection on which all of these are asked for.
fn asked(process: &Process, requests: &[&Request]) -> Outcome<Connection> {
    let mut connection = Connection::open(process.address, LARGE)?;
    for request in requests {
        connection.fetch(request, Keep::Nothing)?;
    }
    Ok(connection)
}

/// Reads all streams to their end, and gives how many responses came.
fn drain(connections: Vec<Connection>) -> Outcome<u64> {
    let threads: Vec<_> = connections
        .into_iter()
        .map(|connection| {
            thread::spawn(move || -> Outcome<u64> {
                Ok(connection.finish()?.iter().map(|stream| stream.messages.count).sum())
            })
        })
        .collect();
    let mut delivered = 0;
    for thread in threads {
        delivered += thread.join().expect("no panic")?;
    }
    Ok(delivered)
}
