//! What a run is: a request becomes a plan, a plan's jobs emit responses, a journal numbers and frames them, and a
//! reader takes them as they become ready.
//!
//! This crate knows bytes, tokio and the messages of the contract. It never sees HTTP, gRPC statuses, files, the
//! environment or the wall clock: those belong to whoever calls it.
//!
//! ```
//! use outflow_engine::{Delivery, Engine, Job, Limits, Plan, Refusal, Request, Source};
//!
//! struct Hello;
//!
//! impl Source for Hello {
//!     fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
//!         let id = request.id();
//!         Ok(Plan::new().job(Job::new(async move |emitter| {
//!             emitter.emit(format!("hello {id}")).await?;
//!             Ok(())
//!         })))
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let engine = Engine::builder(Limits::default()).default_source("hello", Hello).build().unwrap();
//! let mut reader = engine.fetch(&Request::new(1), 7).await.unwrap();
//! let Delivery::Chunk(chunk) = reader.next().await else { panic!("the hello comes first") };
//! assert_eq!((chunk.first().get(), chunk.last().get()), (1, 1));
//! let Delivery::Finished(finish) = reader.next().await else { panic!("then the end") };
//! assert!(finish.end.is_some());
//! # });
//! ```

mod bell;
mod budget;
mod chunk;
mod committer;
mod digest;
mod driver;
mod emitter;
mod end;
mod engine;
mod frame;
mod journal;
mod journaled;
mod keeper;
mod limits;
mod living;
mod memory;
mod parameters;
mod payload;
mod reader;
mod replay;
mod request;
mod restart;
mod run;
mod run_id;
mod source;
mod sources;
mod status;
mod store;
mod task;
mod time;
mod window;

pub use bell::{Bell, Neighbours};
pub use budget::Budget;
pub use chunk::Chunk;
pub use emitter::{Cleanup, Emitter};
pub use end::{End, Finish, Leave};
pub use engine::{Builder, Engine};
pub use frame::{JobIndex, Sequence};
pub use keeper::RunInfo;
pub use limits::Limits;
pub use memory::MemoryStore;
pub use parameters::Parameters;
pub use payload::{EmitError, Payload, PayloadKind, Text};
pub use reader::{Closer, Reader};
pub use request::{Again, Place, Principal, Request};
pub use run::{Delivery, Emitted, Run};
pub use run_id::{NotARunId, RunId};
pub use source::{Among, Job, JobErrors, Placement, Plan, Planning, Shared, Source, SourceOptions};
pub use sources::{LiveSources, Sources, SourcesError};
pub use status::{Code, JobError, Refusal};
pub use store::{Batch, Durability, Ended, Filter, Jobs, Key, Record, Room, RunRecord, Start, Store, StoreError};
pub use time::{Clock, Timestamp};
