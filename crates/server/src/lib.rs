//! Outflow serves gRPC server-side streams: one request, many responses, each sent the moment it is ready.
//!
//! This is the library behind the `outflow` program: build a [`Server`], give it sources, and serve.
//!
//! ```no_run
//! use outflow::{Job, Plan, Refusal, Request, Server, Source};
//!
//! struct Squares;
//!
//! impl Source for Squares {
//!     fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
//!         let id = i64::from(request.id());
//!         Ok(Plan::new().job(Job::new(async move |emitter| {
//!             for n in 0..id {
//!                 emitter.emit((n * n).to_string()).await?;
//!             }
//!             Ok(())
//!         })))
//!     }
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), outflow::ServeError> {
//!     let server = Server::builder().default_source("squares", Squares).bind()?;
//!     server.serve(async { _ = tokio::signal::ctrl_c().await }).await
//! }
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
pub use transport::{BindError, Listen, TransportLimits};
