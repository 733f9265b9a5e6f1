//! Every bound of the engine, with its reason. It knows numbers only.

use std::time::Duration;

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
    /// Longest duration a request may carry: ten years, so that adding one to a clock cannot overflow.
    pub const DURATION_MAX: Duration = Duration::from_hours(10 * 365 * 24);
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            response_bytes_max: 1024 * 1024,
            window_bytes: 96 * 1024,
            window_bytes_min: 16 * 1024,
            budget_bytes: 256 * 1024 * 1024,
            runs_max: 100_000,
            jobs_max: 10_000,
            jobs_at_once: 64,
            parameters_max: 64,
            parameter_name_bytes_max: 128,
            parameter_value_bytes_max: 64 * 1024,
            error_bytes_max: 2 * 1024,
        }
    }
}
