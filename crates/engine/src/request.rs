//! A fetch, parsed once from the contract's message and valid from then on. It knows the fields and their bounds,
//! not who answers.

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use outflow_proto::protobuf;

use crate::{Limits, Refusal};

/// Who asks. Everybody is anonymous until there is authentication; runs and keys belong to a principal from the
/// first day, so that nothing has to be moved then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Principal {
    /// Nobody said who they are.
    #[default]
    Anonymous,
}

/// What a client asks: an id, and how it wants to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    id: i32,
    source: Option<String>,
    parameters: BTreeMap<String, String>,
    principal: Principal,
    limit: Option<NonZeroU64>,
    heartbeat: Option<Duration>,
}

impl Request {
    /// A plain request for `id`, answered by the source that claims it.
    pub fn new(id: i32) -> Self {
        Self {
            id,
            source: None,
            parameters: BTreeMap::new(),
            principal: Principal::Anonymous,
            limit: None,
            heartbeat: None,
        }
    }

    /// Parses the message of the contract.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] names the first field that is out of its bounds; [`Refusal::Unsupported`] one that asks
    /// for what is not built yet. Nothing is ignored.
    pub fn parse(message: protobuf::Request, principal: Principal, limits: &Limits) -> Result<Self, Refusal> {
        // What is wrong is said before what is missing: it stays wrong on any server.
        let heartbeat = message.heartbeat.map(|d| duration("heartbeat", d)).transpose()?;
        if let Some(heartbeat) = heartbeat
            && heartbeat < Limits::HEARTBEAT_MIN
        {
            return Err(Refusal::invalid("heartbeat", "is shorter than 100 ms, the shortest there is"));
        }
        message.linger.map(|d| duration("linger", d)).transpose()?;
        if message.after != 0 && message.run_id.is_empty() {
            return Err(Refusal::invalid("after", "needs run_id: it is a place in a run"));
        }
        if message.after != 0 && message.last != 0 {
            return Err(Refusal::invalid("last", "excludes after: both say where to begin"));
        }
        parameters(&message.parameters, limits)?;

        let unsupported = [
            ("run_id", !message.run_id.is_empty()),
            ("after", message.after != 0),
            ("linger", message.linger.is_some()),
            ("idempotency_key", !message.idempotency_key.is_empty()),
            ("last", message.last != 0),
        ];
        if let Some((field, _)) = unsupported.into_iter().find(|(_, asked)| *asked) {
            return Err(Refusal::Unsupported { field });
        }

        Ok(Self {
            id: message.id,
            source: Some(message.source).filter(|name| !name.is_empty()),
            parameters: message.parameters,
            principal,
            limit: NonZeroU64::new(message.limit),
            heartbeat,
        })
    }

    /// This request with one more parameter.
    #[must_use]
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.insert(name.into(), value.into());
        self
    }

    /// This request, for a reader that has enough after `limit` responses; 0: no limit.
    #[must_use]
    pub fn limited(mut self, limit: u64) -> Self {
        self.limit = NonZeroU64::new(limit);
        self
    }

    /// What is asked for.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Who is to answer, where the request says so.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// The parameters for the source, in the order of their names.
    pub fn parameters(&self) -> &BTreeMap<String, String> {
        &self.parameters
    }

    /// Who asks.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// How many responses this reader wants at the most.
    pub fn limit(&self) -> Option<NonZeroU64> {
        self.limit
    }

    /// After how long a silence this reader wants a sign of life.
    pub fn heartbeat(&self) -> Option<Duration> {
        self.heartbeat
    }
}

/// The field `field` as a duration that a clock can be moved by.
fn duration(field: &'static str, value: prost_types::Duration) -> Result<Duration, Refusal> {
    // By hand: `prost_types` overflows at the smallest numbers.
    let seconds = u64::try_from(value.seconds).ok();
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let (Some(seconds), Some(nanos)) = (seconds, nanos) else {
        return Err(Refusal::invalid(field, "is negative, or has more than 999,999,999 nanoseconds"));
    };
    let value = Duration::new(seconds, nanos);
    if value > Limits::DURATION_MAX {
        return Err(Refusal::invalid(field, "is longer than ten years"));
    }
    Ok(value)
}

fn parameters(parameters: &BTreeMap<String, String>, limits: &Limits) -> Result<(), Refusal> {
    if parameters.len() > limits.parameters_max {
        let problem = format!("has {} entries, at most {} are allowed", parameters.len(), limits.parameters_max);
        return Err(Refusal::invalid("parameters", problem));
    }
    for (name, value) in parameters {
        if name.is_empty() || name.len() > limits.parameter_name_bytes_max {
            let problem =
                format!("has a name of {} bytes, 1 to {} are allowed", name.len(), limits.parameter_name_bytes_max);
            return Err(Refusal::invalid("parameters", problem));
        }
        if value.len() > limits.parameter_value_bytes_max {
            let problem =
                format!("has {} bytes, at most {} are allowed", value.len(), limits.parameter_value_bytes_max);
            return Err(Refusal::invalid(format!("parameters.{name}"), problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(message: protobuf::Request) -> Result<Request, Refusal> {
        Request::parse(message, Principal::Anonymous, &Limits::default())
    }

    fn proto_duration(seconds: i64, nanos: i32) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos }
    }

    #[test]
    fn the_tutorials_request_is_a_plain_one() {
        for id in [0, 1, -1, i32::MIN, i32::MAX] {
            let request = parse(protobuf::Request { id, ..Default::default() }).unwrap();
            assert_eq!(request, Request::new(id));
        }
    }

    #[test]
    fn every_field_not_built_yet_is_refused_by_name() {
        let empty = protobuf::Request::default;
        let cases = [
            ("run_id", protobuf::Request { run_id: "x".into(), ..empty() }),
            ("run_id", protobuf::Request { run_id: "x".into(), after: 1, ..empty() }),
            ("linger", protobuf::Request { linger: Some(proto_duration(0, 0)), ..empty() }),
            ("idempotency_key", protobuf::Request { idempotency_key: "k".into(), ..empty() }),
            ("last", protobuf::Request { last: 1, ..empty() }),
        ];
        for (field, message) in cases {
            assert_eq!(parse(message), Err(Refusal::Unsupported { field }));
        }
    }

    #[test]
    fn a_field_out_of_its_bounds_is_named() {
        let empty = protobuf::Request::default;
        let many = (0..65).map(|n| (n.to_string(), String::new())).collect();
        let cases = [
            ("heartbeat", protobuf::Request { heartbeat: Some(proto_duration(-1, 0)), ..empty() }),
            ("heartbeat", protobuf::Request { heartbeat: Some(proto_duration(i64::MIN, i32::MIN)), ..empty() }),
            ("heartbeat", protobuf::Request { heartbeat: Some(proto_duration(1, 1_000_000_000)), ..empty() }),
            ("linger", protobuf::Request { linger: Some(proto_duration(1, -1)), ..empty() }),
            ("heartbeat", protobuf::Request { heartbeat: Some(proto_duration(0, 99_999_999)), ..empty() }),
            ("heartbeat", protobuf::Request { heartbeat: Some(proto_duration(i64::MAX, 0)), ..empty() }),
            ("linger", protobuf::Request { linger: Some(proto_duration(-1, 0)), ..empty() }),
            ("after", protobuf::Request { after: 1, ..empty() }),
            ("last", protobuf::Request { run_id: "x".into(), after: 1, last: 1, ..empty() }),
            ("parameters", protobuf::Request { parameters: many, ..empty() }),
            ("parameters", protobuf::Request { parameters: [(String::new(), String::new())].into(), ..empty() }),
            ("parameters.a", protobuf::Request { parameters: [("a".into(), "x".repeat(65_537))].into(), ..empty() }),
        ];
        for (expected, message) in cases {
            match parse(message.clone()) {
                Err(Refusal::Invalid { field, .. }) => assert_eq!(field, expected),
                other => panic!("{message:?} gave {other:?}"),
            }
        }
        let shortest = protobuf::Request { heartbeat: Some(proto_duration(0, 100_000_000)), ..empty() };
        assert_eq!(parse(shortest).unwrap().heartbeat(), Some(Duration::from_millis(100)));
    }
}
