//! What answers requests out of the box. Each kind is a file of its own and knows only the engine's `Source`.

mod exec;
mod simulate;
mod split;

pub use exec::{Exec, ExecError};
pub use simulate::{Simulate, SimulateSettings};
pub use split::{Delimiter, Split, SplitError};
