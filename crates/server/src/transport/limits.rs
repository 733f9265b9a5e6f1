//! Every bound of a connection, with its reason. It knows numbers only.

use std::time::Duration;

/// Bounds on connections and what a peer may do on one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransportLimits {
    /// Connections at once; more wait in the kernel's queue. Default 10,000.
    pub connections_max: usize,
    /// Streams at once on one connection (`SETTINGS_MAX_CONCURRENT_STREAMS`, RFC 9113 §6.5.2). Clients queue beyond
    /// it in silence, so it is not small. Default 1,024.
    pub streams_per_connection: u32,
    /// Bytes of one stream that HTTP/2 may hold for a peer whose window is shut, beside a chunk that it has been given.
    /// Default 64 KiB, one chunk.
    pub send_buffer_bytes: usize,
    /// Bytes that the kernel may hold unsent for a connection (`TCP_NOTSENT_LOWAT`); what is on its way is bounded by
    /// the peer's receive window. Default 96 KiB: with 128 KiB bulk cost up to 1.4 times the CPU, on loopback.
    pub unsent_bytes: u32,
    /// Longest list of request headers, in bytes. Default 16 KiB.
    pub header_bytes_max: u32,
    /// By when a new connection has to have sent HTTP/2's preface and its SETTINGS. Default 10 s.
    pub preface_time: Duration,
    /// A PING is sent so often, to find peers that are gone. Default 30 s.
    pub keepalive_every: Duration,
    /// An unanswered PING ends a connection after so long, and so does data that is not acknowledged
    /// (`TCP_USER_TIMEOUT`). Default 20 s.
    pub keepalive_time: Duration,
    /// A reader that takes nothing for so long is cut, in whole seconds. Default 60 s.
    pub stall_time: Duration,
}

impl TransportLimits {
    /// Streams that a peer may reset before the server has looked at them. h2's default of 20 ends a connection on
    /// the 21st cancel in one read, which a client that cancels a batch of calls does innocently.
    pub(crate) const PENDING_RESETS_MAX: usize = 200;
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            streams_per_connection: 1_024,
            send_buffer_bytes: 64 * 1024,
            unsent_bytes: 96 * 1024,
            header_bytes_max: 16 * 1024,
            preface_time: Duration::from_secs(10),
            keepalive_every: Duration::from_secs(30),
            keepalive_time: Duration::from_secs(20),
            stall_time: Duration::from_secs(60),
        }
    }
}
