//! The client of Outflow, a server for gRPC server-side streaming, and of every other server
//! of the same contract: one request, many responses, each received the moment it is ready.
//!
//! ```no_run
//! use std::time::Duration;
//! use outflow_client::{Client, Fetch, Outcome, Payload};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("http://127.0.0.1:50005").await?;
//! let fetch = Fetch::id(1)
//!     .parameter("city", "Oslo")
//!     .limit(100)
//!     .linger(Duration::from_secs(600))
//!     .on_event(|event| eprintln!("{event}"));
//! let mut responses = client.fetch(fetch).await?;
//! while let Some(response) = responses.next().await {
//!     let response = response?;
//!     match response.payload {
//!         Payload::Text(text) => println!("{}: {text}", response.sequence),
//!         Payload::Data(data) => println!("{}: {} bytes", response.sequence, data.len()),
//!         Payload::Error(error) => println!("{}: job {} failed: {error}", response.sequence, response.job),
//!     }
//! }
//! if let Some(Outcome::Limit { last_sequence }) = responses.outcome() {
//!     println!("there may be more after {last_sequence}");
//! }
//! # Ok(()) }
//! ```
//!
//! # What it does about a break
//! With [`linger`](Fetch::linger), an [idempotency key](Fetch::idempotency_key), or from a source that says so, the server
//! journals the run, and the loop above does not notice that its connection was lost, that the server was killed and
//! started again, or that it went silent: the client waits a little, asks for the run after the last response that came,
//! and goes on. It checks that nothing is missing and nothing comes twice. Who wants to know is
//! [told](Fetch::on_event); who does not want it says [`no_resume`](Fetch::no_resume); how long it waits and when it gives
//! up is set in the [`ClientBuilder`].
//!
//! | what happened | what is done |
//! |---|---|
//! | the run ended (`outflow-end`), whatever its status | it is the caller's, with an [`Outcome`] |
//! | the limit was reached | the same |
//! | nothing was received that is a `grpc-status`: lost, reset, silent for three heartbeats, no trailers | asked for again |
//! | `UNAVAILABLE` received without an end: the server drains | asked for again, no sooner than it says |
//! | any other status without an end, such as the caller's own deadline | it is the caller's |
//! | no headers came | asked for again by key or run, or where it is certain that nothing was done; else it is the caller's |
//! | refused, before there was a run | asked for again where it is `UNAVAILABLE` or says when; else it is the caller's |
//! | a plain request (durability `none`), or a plain server, after its headers | it is the caller's: asked again it might be done twice |
//! | a response is missing or comes twice, another run comes | it is the caller's, at once: [`Violation`] |
//!
//! # What an error means
//! Only a status that was received is the server's answer ([`FetchError::Refused`], [`FetchError::Status`]). What a
//! library makes of a dead connection is none: that is a [`FetchError::Break`]. It is why this client stands directly
//! on HTTP/2 and reads the trailers itself. A stream that ends without an error was given whole, or up to the limit:
//! the sequence numbers and the trailers are checked.
//!
//! # Plain servers
//! A server of the contract that is no Outflow, such as the tutorial's, sends no `outflow-run-id`. Each of its messages
//! is a response; this client numbers them, applies the limit by a reset, takes `OK` for a complete end, and never resumes.
//! What it cannot give of what was asked is in [`Responses::unsupported`]. That a server is a plain one shows in its
//! headers; where the stream breaks before them, the server is asked whether it knows runs before the request is sent
//! again, because to a plain one a key means nothing.
//!
//! # What it costs
//! Frames are split where they lie and texts share the buffer that they came in. The windows are large (4 MiB a stream,
//! 16 of them a connection) and HTTP/2 frames may have 128 KiB, because that halves what large responses cost the server,
//! and because a connection whose window a few unread streams can fill stands still; see [`ClientBuilder`]. Where many
//! responses come at once, [`Responses::next_batch`] spares an `await` for each.
//!
//! # Runs
//! [`Client::run`], [`Client::runs`] and [`Client::stop`] tell what runs there are, and stop one.
//!
//! # What it does not do yet
//! TLS.

mod address;
mod ask;
mod call;
mod client;
mod connection;
mod decode;
mod error;
mod event;
mod fetch;
mod frames;
mod head;
mod link;
mod numbering;
mod outcome;
mod reading;
mod response;
mod responses;
mod resume;
mod runs;
mod status;
mod stream;
mod timers;

pub use address::Address;
pub use client::{Client, ClientBuilder};
pub use decode::DecodeError;
pub use error::{Attempt, BreakCause, CallError, ConnectError, FetchError, Position, Violation};
pub use event::Event;
pub use fetch::Fetch;
pub use head::Durability;
pub use outcome::{End, Outcome};
pub use response::{JobError, MessageError, Payload, Response, Text};
pub use responses::Responses;
pub use runs::{Run, RunEnd, RunFilter, Runs};
pub use status::{Code, Status};
