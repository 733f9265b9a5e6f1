//! The bounds that a configuration sets. It knows their names and smallest values; what they mean is with the types they end
//! up in.

use std::time::Duration;

use outflow_engine::Limits;
use serde::Deserialize;

use super::Time;
use crate::TransportLimits;

/// A store smaller than this cannot hold the live journal's segments.
const DATA_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// What of the bounds can be set; defaults and reasons are with the types they end up in.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LimitsFile {
    connections_max: Option<usize>,
    streams_per_connection: Option<u32>,
    stall_time: Option<Time>,
    runs_max: Option<usize>,
    response_bytes_max: Option<usize>,
    window_bytes: Option<usize>,
    budget_bytes: Option<usize>,
    run_bytes_max: Option<u64>,
    linger: Option<Time>,
    keep_time: Option<Time>,
    patience: Option<Time>,
    pub(super) data_bytes_max: Option<u64>,
}

impl LimitsFile {
    /// With the setting that is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let at_least_one = [
            ("connections_max", self.connections_max),
            ("streams_per_connection", self.streams_per_connection.map(|streams| streams as usize)),
            ("runs_max", self.runs_max),
        ];
        for (name, value) in at_least_one {
            if value == Some(0) {
                return Err((name, "it is at least 1".into()));
            }
        }
        if let Some(connections) = self.connections_max
            && connections > tokio::sync::Semaphore::MAX_PERMITS.min(u32::MAX as usize)
        {
            return Err(("connections_max", format!("{connections} is more than any machine has")));
        }
        if let Some(bytes) = self.response_bytes_max
            && !(1024..=Limits::RESPONSE_BYTES_CEILING).contains(&bytes)
        {
            let ceiling = Limits::RESPONSE_BYTES_CEILING;
            return Err(("response_bytes_max", format!("1024 to {ceiling} is allowed")));
        }
        if let Some(Time(time)) = self.stall_time
            && time < Duration::from_secs(1)
        {
            return Err(("stall_time", "it is at least 1s".into()));
        }
        if let Some(bytes) = self.data_bytes_max
            && bytes < DATA_BYTES_MIN
        {
            return Err(("data_bytes_max", format!("it is at least {DATA_BYTES_MIN}")));
        }
        Ok(())
    }

    pub(super) fn engine(&self) -> Limits {
        let mut limits = Limits::default();
        set(&mut limits.runs_max, self.runs_max);
        set(&mut limits.response_bytes_max, self.response_bytes_max);
        set(&mut limits.window_bytes, self.window_bytes);
        set(&mut limits.budget_bytes, self.budget_bytes);
        set(&mut limits.run_bytes_max, self.run_bytes_max);
        set(&mut limits.linger, self.linger.map(|Time(time)| time));
        set(&mut limits.keep_time, self.keep_time.map(|Time(time)| time));
        set(&mut limits.patience, self.patience.map(|Time(time)| time));
        limits
    }

    pub(super) fn transport(&self) -> TransportLimits {
        let mut limits = TransportLimits::default();
        set(&mut limits.connections_max, self.connections_max);
        set(&mut limits.streams_per_connection, self.streams_per_connection);
        set(&mut limits.stall_time, self.stall_time.map(|Time(time)| time));
        limits
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}
