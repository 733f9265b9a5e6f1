//! Outflow serves gRPC server-side streams: one request, many responses, each sent the moment it is ready.
//!
//! This is the library behind the `outflow` program: build a [`Server`], give it sources, and serve.
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
pub use outflow_engine::{
    Among, Cleanup, Code, Durability, EmitError, Emitter, Job, JobError, JobErrors, Limits, MemoryStore, Payload,
    PayloadKind, Placement, Plan, Principal, Refusal, Request, Source, SourceOptions, Sources, SourcesError, Store,
    StoreError, Text,
};
pub use server::{Builder, Hurry, ServeError, ServedSources, Server};
pub use source::supervise_if_asked;
pub use transport::{BindError, IntoListen, Listen, TransportLimits};
