//! The client of Outflow, a server for gRPC server-side streaming, and of every other server
//! of the same contract: one request, many responses, each received the moment it is ready.
//!
//! ```no_run
//! use outflow_client::{Client, Fetch, Outcome, Payload};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("http://127.0.0.1:50005").await?;
//! let mut responses = client.fetch(Fetch::id(1).parameter("city", "Oslo").limit(100)).await?;
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
//! # What an error means
//! Only a status that was received is the server's answer ([`FetchError::Refused`], [`FetchError::Status`]). What a
//! library makes of a dead connection is none: that is a [`FetchError::Break`]. It is why this client stands directly
//! on HTTP/2 and reads the trailers itself. A stream that ends without an error was given whole, or up to the limit:
//! the sequence numbers and the trailers are checked.
//!
//! # Plain servers
//! A server of the contract that is no Outflow, such as the tutorial's, sends no `outflow-run-id`. Each of its messages
//! is a response; this client numbers them, applies the limit by a reset, and takes `OK` for a complete end. What it
//! cannot give of what was asked is in [`Responses::unsupported`].
//!
//! # What it costs
//! Frames are split where they lie and texts share the buffer that they came in. The windows are large (4 MiB a stream,
//! 16 of them a connection) and HTTP/2 frames may have 1 MiB, because that halves what large responses cost the server,
//! and because a connection whose window a few unread streams can fill stands still; see [`ClientBuilder`]. Where many
//! responses come at once, [`Responses::next_batch`] spares an `await` for each.
//!
//! # Runs
//! [`Client::run`], [`Client::runs`] and [`Client::stop`] tell what runs there are, and stop one.
//!
//! # What it does not do yet
//! TLS; resuming by itself. [`Position`] has what resuming needs:
//! `Fetch::run(run_id).after(last_sequence)`.

mod address;
mod call;
mod client;
mod connection;
mod decode;
mod error;
mod fetch;
mod frames;
mod head;
mod link;
mod numbering;
mod outcome;
mod response;
mod responses;
mod runs;
mod status;
mod timers;

pub use client::{Client, ClientBuilder};
pub use decode::DecodeError;
pub use error::{Attempt, BreakCause, CallError, ConnectError, FetchError, Position, Violation};
pub use fetch::Fetch;
pub use head::Durability;
pub use outcome::{End, Outcome};
pub use response::{JobError, Payload, Response, Text};
pub use responses::Responses;
pub use runs::{Run, RunEnd, RunFilter, Runs};
pub use status::{Code, Status};
