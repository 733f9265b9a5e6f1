//! What can go wrong while connecting and while fetching, in words for the person who reads it.
//!
//! Owns: the two errors and their texts. Must not know: how each is noticed.

use std::{error::Error, fmt, io, iter::successors, sync::Arc, time::Duration};

use crate::{
    Code, Status,
    call::REQUEST_BYTES_MAX,
    decode::DecodeError,
    frames::FrameError,
    head::{Durability, resumable},
};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address cannot be read. Trying again is of no use.
    #[error("{address:?} is no address: {reason}; give http://host:port, host:port or unix:/path")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A setting is out of its range. Trying again is of no use.
    #[error("{setting} is {value}, and must be {allowed}")]
    Setting {
        /// The builder's method.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        allowed: String,
    },
    /// The host's name gave no address. Trying again helps where the name service was away.
    #[error("the host of {address} could not be found; is its name right?")]
    Resolve {
        /// Where to.
        address: String,
        /// What the name service said.
        source: io::Error,
    },
    /// None of the host's addresses took the connection. Trying again later makes sense.
    #[error("no connection to {address} ({}); is a server listening there?", list(.attempts))]
    Unreachable {
        /// Where to.
        address: String,
        /// What was tried, in this order; never empty.
        attempts: Vec<Attempt>,
    },
    /// The connection that the caller gave is dead, and only the caller can make another.
    #[error("the connection to {address} is dead, and was given by the caller: give another")]
    Given {
        /// Where to.
        address: String,
    },
    /// HTTP/2 could not be begun on the connection.
    #[error("{address} took the connection, but HTTP/2 could not be begun on it")]
    Handshake {
        /// Where to.
        address: String,
        /// What HTTP/2 said.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// One address of a host, and why there is no connection to it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The address, or the socket's path.
    pub to: String,
    /// What the system said; of kind `TimedOut` where it said nothing in time.
    pub error: io::Error,
}

fn list(attempts: &[Attempt]) -> String {
    let attempts: Vec<_> = attempts.iter().map(|attempt| format!("{}: {}", attempt.to, attempt.error)).collect();
    attempts.join("; ")
}

/// Why a request was not answered, or not to its end.
///
/// Only [`Refused`](Self::Refused) and [`Status`](Self::Status) are the server's answer. After any of these the stream
/// is over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The server answered with a status instead of a stream, and gave no response; Outflow then started nothing. Try
    /// again where the code is `UNAVAILABLE`, or the status has a retry delay; else the request itself must change.
    #[error("{address} refused the request: {status}")]
    Refused {
        /// Which server.
        address: Arc<str>,
        /// Its answer.
        status: Status,
    },
    /// The stream ended with a status that is not `OK`. With an [outcome](crate::Responses::outcome) it is the run's,
    /// final, and the same for every reader; without one the stream was cut, and the run may go on.
    #[error("{position}, ended with {status}")]
    Status {
        /// How far the stream came.
        position: Box<Position>,
        /// The server's answer.
        status: Status,
    },
    /// The stream broke: no status was received. The run may go on; where the position is
    /// [resumable](Position::is_resumable) it can be read on, else it can only be asked for anew.
    #[error("{position}, broke: {cause}; {}", advice(.position))]
    Break {
        /// How far the stream came.
        position: Box<Position>,
        /// What was noticed.
        cause: BreakCause,
        /// What the connection said of it, where it said something.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// What was received is not what the contract says. The server, or something between, is wrong or of another
    /// kind; trying again the same way is of no use, except where [`code`](Self::code) says `UNAVAILABLE`.
    #[error("{position}, is not as the contract says: {violation}")]
    Protocol {
        /// How far the stream came.
        position: Box<Position>,
        /// What is wrong.
        violation: Box<Violation>,
    },
    /// The caller's deadline passed, and the server did not say so in time, or could not. The run may go on.
    #[error("waited too long: {position}, had not ended after {deadline:?}; allow more time or ask for less")]
    WaitedTooLong {
        /// How far the stream came.
        position: Box<Position>,
        /// What the caller allowed.
        deadline: Duration,
    },
    /// The stream broke, and every attempt to go on failed [for as long as that was
    /// wanted](crate::ClientBuilder::give_up_after). The run may go on; the text says how to.
    #[error("{position}, broke, and {attempts} attempts to go on within {waited:.0?} were in vain, the last one because: {}; {}", .last.what_happened(), way_on(.position, .key.as_deref()))]
    GaveUp {
        /// How far the stream came.
        position: Box<Position>,
        /// How often it was asked for again.
        attempts: u32,
        /// How long that was from the first break.
        waited: Duration,
        /// The idempotency key that the request has, given or made: with it, the same request finds the run whose name
        /// was not received.
        key: Option<String>,
        /// What came of the last attempt.
        #[source]
        last: Box<FetchError>,
    },
    /// The request is larger than servers take. Nothing was sent.
    #[error("the request has {bytes} bytes, more than {REQUEST_BYTES_MAX}; give fewer or shorter parameters")]
    RequestTooLarge {
        /// Its length, encoded.
        bytes: usize,
    },
}

impl FetchError {
    /// gRPC's code for it: the received one, or what stands for an HTTP status or for the caller's deadline. `None`
    /// for a break, because then the server said nothing, and for the rest.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { status, .. } | Self::Status { status, .. } => Some(status.code()),
            Self::Protocol { violation, .. } => match **violation {
                Violation::HttpStatus { status } => Some(Code::of_http(status)),
                _ => None,
            },
            Self::WaitedTooLong { .. } => Some(Code::DEADLINE_EXCEEDED),
            Self::GaveUp { last, .. } => last.code(),
            Self::Break { .. } | Self::RequestTooLarge { .. } => None,
        }
    }

    /// How far the stream came, where there was one.
    pub fn position(&self) -> Option<&Position> {
        match self {
            Self::Status { position, .. }
            | Self::Break { position, .. }
            | Self::Protocol { position, .. }
            | Self::WaitedTooLong { position, .. }
            | Self::GaveUp { position, .. } => Some(position),
            Self::Refused { .. } | Self::RequestTooLarge { .. } => None,
        }
    }

    /// What happened, without the place and without advice.
    pub(crate) fn what_happened(&self) -> String {
        match self {
            Self::Break { cause, source: Some(source), .. } => {
                // hyper says what it was doing, and only the system below it what went wrong.
                let chain = successors(Some(&**source as &dyn Error), |&error| error.source());
                let mut said: Vec<_> = chain.map(ToString::to_string).collect();
                said.dedup();
                format!("{cause} ({})", said.join(": "))
            }
            Self::Break { cause, source: None, .. } => cause.to_string(),
            Self::Status { status, .. } => format!("it was cut with {status}"),
            Self::Protocol { violation, .. } => violation.to_string(),
            other => other.to_string(),
        }
    }

    /// The received status, where one was received.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Refused { status, .. } | Self::Status { status, .. } => Some(status),
            Self::GaveUp { last, .. } => last.status(),
            _ => None,
        }
    }
}

/// Why there is no answer about runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The server's answer is a status that is not `OK`: `NOT_FOUND` where there is no such run. Trying again makes sense
    /// where the code is `UNAVAILABLE`, or the status has a retry delay.
    #[error("{address} refused: {status}")]
    Refused {
        /// Which server.
        address: Arc<str>,
        /// Its answer.
        status: Status,
    },
    /// There is no connection, and none could be made.
    #[error(transparent)]
    NoConnection {
        /// Why.
        source: Arc<ConnectError>,
    },
    /// The connection was lost before the answer was whole. Asking again does no harm.
    #[error("the connection to {address} was lost before its answer was whole")]
    Lost {
        /// Which server.
        address: Arc<str>,
        /// What the connection said of it, where it said something.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// What was received is not what the contract says: another server, or one without this service.
    #[error("the answer of {address} is not as the contract says: {violation}")]
    Protocol {
        /// Which server.
        address: Arc<str>,
        /// What is wrong.
        violation: Box<Violation>,
    },
    /// No answer came in [time](crate::ClientBuilder::call_timeout).
    #[error("{address} did not answer within {allowed:?}")]
    WaitedTooLong {
        /// Which server.
        address: Arc<str>,
        /// How long it had.
        allowed: Duration,
    },
}

impl CallError {
    /// gRPC's code for it, where the server gave one or it was waited too long.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { status, .. } => Some(status.code()),
            Self::WaitedTooLong { .. } => Some(Code::DEADLINE_EXCEEDED),
            _ => None,
        }
    }
}

/// How far a stream came.
///
/// Displayed as `the stream from 127.0.0.1:50005, run 3k9x0c, after response 41`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Position {
    /// The server.
    pub address: Arc<str>,
    /// The run, where the server told it.
    pub run_id: Option<String>,
    /// How long the run lives, where the server told it.
    pub durability: Option<Durability>,
    /// The sequence of the last response that was received, or the request's `after`.
    pub last_sequence: u64,
}

impl Position {
    /// Whether `Fetch::run(run_id).after(last_sequence)` can go on from here: the server told a run, and a durability
    /// that is not `none`.
    pub fn is_resumable(&self) -> bool {
        self.run_id.is_some() && resumable(self.durability)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the stream from {}", self.address)?;
        if let Some(run_id) = &self.run_id {
            write!(f, ", run {run_id}")?;
        }
        match self.last_sequence {
            0 => f.write_str(", before its first response"),
            last => write!(f, ", after response {last}"),
        }
    }
}

fn advice(position: &Position) -> String {
    match &position.run_id {
        Some(run_id) if position.is_resumable() => {
            format!("run {run_id} can be read on after response {}", position.last_sequence)
        }
        _ => "it cannot be read on, only asked for again".to_owned(),
    }
}

fn way_on(position: &Position, key: Option<&str>) -> String {
    match key {
        Some(key) if position.run_id.is_none() => {
            format!("the same request with the idempotency key {key} finds its run, if there is one")
        }
        _ => advice(position),
    }
}

/// How a break was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BreakCause {
    /// There was no connection, and none could be made.
    #[error("there is no connection")]
    NoConnection,
    /// The connection was lost, or the stream was reset.
    #[error("the connection was lost or the stream was reset")]
    Lost,
    /// The stream was ended without a `grpc-status`.
    #[error("it was ended without a status")]
    NoStatus,
    /// Nothing was received for three heartbeats, and at least a second.
    #[error("nothing came for {limit:?}, not even a heartbeat")]
    Silent {
        /// How long it was waited.
        limit: Duration,
    },
}

/// How an answer is not as the contract says.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// An HTTP status that is not 200, and no gRPC status.
    #[error("HTTP status {status}; is this a gRPC server, and does it know this service?")]
    HttpStatus {
        /// The status.
        status: http::StatusCode,
    },
    /// The content is not gRPC.
    #[error("its content type is {received:?}, not application/grpc; is this a gRPC server?")]
    ContentType {
        /// What was received; empty where there was none.
        received: String,
    },
    /// `grpc-status` is no number.
    #[error("its grpc-status is {received:?}, which is no code")]
    GrpcStatus {
        /// What was received.
        received: String,
    },
    /// A header or trailer of Outflow's has no value of its kind.
    #[error("its {name} is {value:?}, which is none")]
    Trailer {
        /// The header's or trailer's name.
        name: &'static str,
        /// What was received.
        value: String,
    },
    /// A compressed message, though no compression was offered.
    #[error("a message is compressed, though this client offers no compression")]
    Compressed,
    /// A message's flag is neither 0 nor 1.
    #[error("a message begins with the flag {flag}, which means nothing")]
    Flag {
        /// The flag.
        flag: u8,
    },
    /// A message over the limit.
    #[error("a message has {bytes} bytes, more than the limit of {limit}; raise message_bytes_max if that is right")]
    MessageTooLarge {
        /// Its length.
        bytes: u32,
        /// The client's limit.
        limit: usize,
    },
    /// An answer that is one message has none, or more.
    #[error("it is not one message")]
    NotOneMessage,
    /// An answer about a run has none.
    #[error("it tells of no run")]
    NoRun,
    /// A page of runs says that itself comes next.
    #[error("a page of runs is followed by itself")]
    SamePage,
    /// The stream ended `OK` inside a message.
    #[error("it ended inside a message")]
    Truncated,
    /// A message is no response.
    #[error("a message is no response: {0}")]
    Message(DecodeError),
    /// A response is missing, or came twice.
    #[error("response {received} came where {expected} was due")]
    Sequence {
        /// The one that was due.
        expected: u64,
        /// The one that came.
        received: u64,
    },
    /// A response without a sequence that is no heartbeat, because it says something.
    #[error("a response has no sequence, and yet says something")]
    Unnumbered,
    /// More responses than the limit that was asked for.
    #[error("response {received} came though the limit was reached")]
    OverLimit {
        /// The one that came.
        received: u64,
    },
    /// The server says that it gave another last response than came.
    #[error("the server says that its last response was {told}, and that is not the last that came")]
    LastSequence {
        /// What the server says.
        told: u64,
    },
    /// `OK`, and neither did the run end `complete` nor was the limit reached.
    #[error("it ended with OK, though neither the run was complete nor the limit reached")]
    EndMissing,
    /// Another run than the one that was asked for.
    #[error("run {received} came where {asked} was asked for")]
    OtherRun {
        /// The one that was asked for.
        asked: String,
        /// The one that came.
        received: String,
    },
    /// A run was asked for, and the server is a plain one, which knows no runs: what it sends is something else.
    #[error("run {run_id} was asked for, but this is a plain server, which knows no runs")]
    NoRuns {
        /// The run.
        run_id: String,
    },
}

impl From<FrameError> for Violation {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Compressed => Self::Compressed,
            FrameError::Flag(flag) => Self::Flag { flag },
            FrameError::TooLarge { bytes, limit } => Self::MessageTooLarge { bytes, limit },
        }
    }
}
