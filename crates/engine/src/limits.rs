//! Every bound of the engine, with its reason. It knows numbers only.

use std::time::Duration;

use crate::Budget;

/// Bounds on requests, runs and memory. Reaching one gives a clear refusal or makes somebody wait; nothing grows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Longest encoded response, in bytes; a larger payload is split with `partial`. Default 1 MiB, at most
    /// [`Limits::RESPONSE_BYTES_CEILING`]: at 4 MiB stock gRPC clients refuse a message.
    pub response_bytes_max: usize,
    /// Bytes of a run that may wait for its reader before its jobs wait. Default 96 KiB: one block of 64 KiB that is
    /// being sent, and half of one that is being filled; measured, more brings nothing.
    pub window_bytes: usize,
    /// What is left of `window_bytes` once the byte budget is used up. Default 16 KiB: one HTTP/2 DATA frame.
    pub window_bytes_min: usize,
    /// Bytes that all runs together may hold, in windows and in chunks handed to the transport, before every
    /// window shrinks to `window_bytes_min`. Default 256 MiB.
    pub budget_bytes: usize,
    /// Runs alive at once. Default 100,000.
    pub runs_max: usize,
    /// Readers of one run at once. Default 100,000.
    pub readers_max: usize,
    /// Bytes of the frames of one journaled run; a run that reaches it ends `failed`, with at most `window_bytes` and a
    /// response more. Default 16 GiB.
    pub run_bytes_max: u64,
    /// Bytes of a journaled run's newest responses that are held for readers who keep up; who falls further behind
    /// reads from the store. Default 1 MiB; 64 KiB once the byte budget is used up.
    pub live_bytes: usize,
    /// Bytes that a reader of the store reads at once; one read is handed out while the next is under way. Default
    /// 1 MiB; 64 KiB at first, and once the byte budget is used up.
    pub read_bytes: usize,
    /// How long a journaled run goes on without a reader where neither request nor source says. Default 30 s.
    pub linger: Duration,
    /// How long at least a run goes on without a reader after a restart. Default 60 s.
    pub linger_after_restart: Duration,
    /// How long an ended journaled run is kept. Default 24 h. Its linger and its source's `reuse` may keep it longer, a
    /// full store less long, oldest first.
    pub keep_time: Duration,
    /// How long readers wait for what cannot be made durable before they are cut, and requests before they are refused.
    /// Default 10 s.
    pub patience: Duration,
    /// Bytes of an idempotency key, of printable ASCII. Default 128.
    pub key_bytes_max: usize,
    /// Jobs of one plan. Default 10,000.
    pub jobs_max: usize,
    /// Jobs of one run under way at once; the others wait. Default 64; a plan may ask for less.
    pub jobs_at_once: usize,
    /// Parameters of one request. Default 64.
    pub parameters_max: usize,
    /// Bytes of one parameter's name. Default 128.
    pub parameter_name_bytes_max: usize,
    /// Bytes of one parameter's value. Default 64 KiB.
    pub parameter_value_bytes_max: usize,
    /// Bytes of a job error's message; more is cut at the end. Default 2 KiB: it also travels in a trailer, and
    /// clients limit metadata to 8 KiB after percent-encoding.
    pub error_bytes_max: usize,
}

impl Limits {
    /// No configuration may allow longer responses than this, in bytes: 4 MiB less room for the prefix.
    pub const RESPONSE_BYTES_CEILING: usize = 4 * 1024 * 1024 - 1024;
    /// Shortest heartbeat a request may ask for.
    pub const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
    /// What is left of `live_bytes` and `read_bytes` once the byte budget is used up: one block.
    pub(crate) const BLOCK_BYTES: usize = 64 * 1024;
    /// Longest duration a request may carry: ten years, so that adding one to a clock cannot overflow.
    pub const DURATION_MAX: Duration = Duration::from_hours(10 * 365 * 24);
}

impl Limits {
    /// What may be held for the live readers of a run.
    pub(crate) fn live_bytes_max(&self, budget: &Budget) -> usize {
        if budget.has_room() { self.live_bytes } else { Self::BLOCK_BYTES }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            response_bytes_max: 1024 * 1024,
            window_bytes: 96 * 1024,
            window_bytes_min: 16 * 1024,
            budget_bytes: 256 * 1024 * 1024,
            runs_max: 100_000,
            readers_max: 100_000,
            run_bytes_max: 16 * 1024 * 1024 * 1024,
            live_bytes: 1024 * 1024,
            read_bytes: 1024 * 1024,
            linger: Duration::from_secs(30),
            linger_after_restart: Duration::from_secs(60),
            keep_time: Duration::from_hours(24),
            patience: Duration::from_secs(10),
            key_bytes_max: 128,
            jobs_max: 10_000,
            jobs_at_once: 64,
            parameters_max: 64,
            parameter_name_bytes_max: 128,
            parameter_value_bytes_max: 64 * 1024,
            error_bytes_max: 2 * 1024,
        }
    }
}
