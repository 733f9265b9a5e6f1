//! The phases in which a server ends. It owns the order; what each phase means is its listeners' business.

use tokio_util::sync::CancellationToken;

/// The phases of a shutdown, each entered once and in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phases {
    /// Nothing new is accepted; streams are ended with a status and connections told to go.
    pub(crate) drain: CancellationToken,
    /// What is still open is dropped.
    pub(crate) abandon: CancellationToken,
    /// Jobs and what cleans up after them are done: threads may end.
    pub(crate) exit: CancellationToken,
}
