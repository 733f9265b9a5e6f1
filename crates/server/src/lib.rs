//! Outflow serves gRPC server-side streams: one request, many responses, each sent the moment it is ready.
//!
//! This is the library behind the `outflow` program: build a [`Server`], give it sources, and serve. The page of
//! [`Source`] is the guide to writing one.
//!
//! ```no_run
#![doc = include_str!("../../../examples/primes.rs")]
//! ```

#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
mod grpc;
mod memory;
mod server;
mod shutdown;
pub mod source;
#[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "`outflow data` is the only one to use some of it"))]
mod store;
mod succession;
mod transport;

pub use config::{Config, ConfigError};
// The guide stands at the re-export, where rustdoc shows it before what the engine says of the trait and runs its examples:
// they use `outflow`, which the engine does not know.
#[doc = include_str!("guide.md")]
#[doc(inline)]
pub use outflow_engine::Source;
#[doc(inline)]
pub use outflow_engine::{
    Among, Cleanup, Code, Durability, EmitError, Emitted, Emitter, Job, JobError, JobErrors, JobIndex, Limits,
    MemoryStore, Payload, PayloadKind, Placement, Plan, Planning, Principal, Refusal, Request, SourceOptions,
    Sources, SourcesError, Store, StoreError, Text,
};
pub use server::{Builder, Hurry, ServeError, ServedSources, Server};
pub use source::supervise_if_asked;
pub use transport::{BindError, IntoListen, Listen, TransportLimits};
