//! What answers requests out of the box. Each kind is a file of its own and knows only the engine's `Source`, and the
//! entry of a configuration that it is made of.

mod entry;
mod exec;
mod file;
#[cfg(feature = "http")]
mod http;
mod parameters;
mod simulate;
mod split;
#[cfg(feature = "sql")]
mod sql;
mod template;

use outflow_engine::Source;

pub(crate) use entry::{Entry, Problem, nearest};
pub use exec::{Environment, Exec, ExecError, Stderr, supervise_if_asked};
pub use simulate::{Simulate, SimulateSettings};
pub use split::{Delimiter, Split, SplitError};
pub(crate) use template::Template;

/// Makes a source of its entry.
pub(crate) type Make = fn(&mut Entry<'_>) -> Result<Box<dyn Source>, Problem>;

/// All kinds, by the names that configurations call them.
pub(crate) const KINDS: &[(&str, Make)] = &[
    ("exec", exec::configured),
    ("file", file::configured),
    #[cfg(feature = "http")]
    ("http", http::configured),
    ("simulate", simulate::configured),
    #[cfg(feature = "sql")]
    ("sql", sql::configured),
];

/// Kinds that this build is without.
pub(crate) const LACKING: &[&str] = &[
    #[cfg(not(feature = "http"))]
    "http",
    #[cfg(not(feature = "sql"))]
    "sql",
];
