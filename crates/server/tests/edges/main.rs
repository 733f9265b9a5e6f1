//! What the design says happens at the edges, of journaled runs and over real sockets: which fields go together, places
//! in a run, who answers, linger, keys, ends, what is kept and for how long, sharing, and restarts.

#[path = "../support/mod.rs"]
mod support;

mod asking;
mod bounds;
mod claims;
mod crowd;
mod ends;
mod fields;
mod kept;
mod keys;
mod lingers;
mod payloads;
mod places;
mod restarts;
mod shared;
