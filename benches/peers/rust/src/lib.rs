//! What the peers have in common: their arguments, what a request asks for, when each response is due, and the stubs.
//! They know nothing of Outflow but its contract, and answer what its `simulate` source answers.

pub mod client;

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_core::Stream;
use tokio::time::{self, Instant, Sleep};

/// What servers of this kind are often run with; beside the system's it took a fifth to two fifths off the cost of large
/// responses, and never added any.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Messages and service for tonic.
#[allow(missing_docs, clippy::pedantic, reason = "generated")]
pub mod tonic_stubs {
    tonic::include_proto!("protobuf");
}

/// Messages and service for connectrpc.
#[allow(missing_docs, unexpected_cfgs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod connect_stubs {
    connectrpc::include_generated!();
}

/// The address behind `--listen`, the only argument there is.
pub fn listen_address() -> Result<SocketAddr, String> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--listen", address] => address.parse().map_err(|problem| format!("--listen {address}: {problem}")),
        _ => Err("usage: --listen ADDRESS:PORT (port 0: any)".into()),
    }
}

/// Says that the server can be reached, in the words that its starter waits for.
pub fn announce(address: SocketAddr) {
    println!("listening on {address}");
}

/// What one request asks for.
#[derive(Clone, Debug)]
pub struct Workload {
    responses: u64,
    every: Duration,
    stamp: bool,
    /// What each response says; with a stamp, what it says behind that.
    text: String,
}

impl Workload {
    /// Reads a request's parameters; those that only Outflow has a use for are taken and mean nothing.
    pub fn parse<'a>(id: i32, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let (mut responses, mut size, mut every, mut stamp) = (5, 0, Duration::ZERO, false);
        for (name, value) in parameters {
            let wrong = || format!("{name}={value}");
            match name {
                "responses" => responses = value.parse().map_err(|_| wrong())?,
                "size" => size = value.parse().map_err(|_| wrong())?,
                "every" => every = humantime::parse_duration(value).map_err(|_| wrong())?,
                "stamp" => stamp = value.parse().map_err(|_| wrong())?,
                "jobs" | "step" | "batch" => {}
                _ => return Err(wrong()),
            }
        }
        let mut text = if stamp { String::new() } else { format!("Request #0 For Id:{id}") };
        text.extend(std::iter::repeat_n('.', size));
        Ok(Self { responses, every, stamp, text })
    }

    /// How many responses there are.
    pub fn responses(&self) -> u64 {
        self.responses
    }

    /// How long after the first response this one is due; none where all are due at once.
    pub fn due(&self, sequence: u64) -> Option<Duration> {
        let every_nanos = u64::try_from(self.every.as_nanos()).unwrap_or(u64::MAX);
        (every_nanos > 0).then(|| Duration::from_nanos(every_nanos.saturating_mul(sequence - 1)))
    }

    /// What the response says that is emitted now.
    pub fn text(&self) -> String {
        if self.stamp { format!("{}{}", stamp(), self.text) } else { self.text.clone() }
    }

    /// The one text of all responses; none where each has its own.
    pub fn shared_text(&self) -> Option<&str> {
        (!self.stamp).then_some(&self.text)
    }
}

/// Nanoseconds since the Unix epoch, 19 digits.
fn stamp() -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    format!("{:019}", since_epoch.as_nanos())
}

/// The sequence numbers of a workload, each ready when it is due. It wakes nobody where nothing is waited for, so that
/// a server takes as many at once as it has room for.
pub struct Schedule {
    workload: Workload,
    begin: Instant,
    next: u64,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Schedule {
    /// The schedule of a workload that begins now.
    pub fn new(workload: Workload) -> Self {
        Self { workload, begin: Instant::now(), next: 1, sleep: None }
    }
}

impl Stream for Schedule {
    /// Sequence and text.
    type Item = (u64, String);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let sequence = self.next;
        if sequence > self.workload.responses {
            return Poll::Ready(None);
        }
        if let Some(due) = self.workload.due(sequence) {
            let due = self.begin + due;
            if Instant::now() < due {
                let sleep = self.sleep.get_or_insert_with(|| Box::pin(time::sleep_until(due)));
                if sleep.deadline() != due {
                    sleep.as_mut().reset(due);
                }
                std::task::ready!(sleep.as_mut().poll(context));
            }
        }
        self.next += 1;
        Poll::Ready(Some((sequence, self.workload.text())))
    }
}
