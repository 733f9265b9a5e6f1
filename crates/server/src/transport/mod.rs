//! From sockets to calls: listeners, workers with a runtime each, connections, and the bytes on the wire. It knows
//! HTTP/2 and its abuses; what a call means is `grpc`'s.

mod accept;
mod connection;
mod limits;
mod listen;
mod place;
mod wire;
mod worker;

pub(crate) use accept::accept;
pub use limits::TransportLimits;
pub(crate) use listen::bind;
pub use listen::{BindError, Listen};
pub use place::IntoListen;
pub(crate) use worker::Worker;
