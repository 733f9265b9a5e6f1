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
    run: Option<Again>,
    linger: Option<Duration>,
    key: Option<String>,
    limit: Option<NonZeroU64>,
    heartbeat: Option<Duration>,
}

/// Which run a request reads again, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// The run's name as the client wrote it; what is none names no run.
    pub run: String,
    /// From where.
    pub place: Place,
}

/// A place in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind this sequence; 0 is from the start.
    After(u64),
    /// With the last so many responses.
    Last(NonZeroU64),
}

impl Request {
    /// A plain request for `id`, answered by the source that claims it.
    pub fn new(id: i32) -> Self {
        Self {
            id,
            source: None,
            parameters: BTreeMap::new(),
            principal: Principal::Anonymous,
            run: None,
            linger: None,
            key: None,
            limit: None,
            heartbeat: None,
        }
    }

    /// What a run that is taken up again was asked for.
    pub(crate) fn rebuilt(
        id: i32,
        source: &str,
        parameters: BTreeMap<String, String>,
        principal: &Principal,
    ) -> Self {
        let (source, principal) = (Some(source.to_owned()), principal.clone());
        Self { source, parameters, principal, ..Self::new(id) }
    }

    /// Parses the message of the contract.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] names the first field that is out of its bounds, or excludes another. Nothing is ignored.
    pub fn parse(message: protobuf::Request, principal: Principal, limits: &Limits) -> Result<Self, Refusal> {
        let heartbeat = message.heartbeat.map(|d| duration("heartbeat", d)).transpose()?;
        if let Some(heartbeat) = heartbeat
            && heartbeat < Limits::HEARTBEAT_MIN
        {
            return Err(Refusal::invalid("heartbeat", "is shorter than 100 ms, the shortest there is"));
        }
        let linger = message.linger.map(|d| duration("linger", d)).transpose()?;
        parameters(&message.parameters, limits)?;
        let key = Some(message.idempotency_key).filter(|key| !key.is_empty());
        if let Some(key) = &key {
            idempotency_key(key, limits)?;
        }
        let run = Some(message.run_id).filter(|run| !run.is_empty());
        let last = NonZeroU64::new(message.last);
        match (&run, message.after, last) {
            (None, 1.., _) => return Err(Refusal::invalid("after", "needs run_id: it is a place in a run")),
            (None, _, Some(_)) => {
                return Err(Refusal::invalid("last", "needs run_id: a new run has no last responses"));
            }
            (_, 1.., Some(_)) => {
                return Err(Refusal::invalid("last", "excludes after: both say where to begin"));
            }
            _ => {}
        }
        if run.is_some() && key.is_some() {
            return Err(Refusal::invalid("idempotency_key", "excludes run_id: nothing is started"));
        }
        let place = last.map_or(Place::After(message.after), Place::Last);

        Ok(Self {
            id: message.id,
            source: Some(message.source).filter(|name| !name.is_empty()),
            parameters: message.parameters,
            principal,
            run: run.map(|run| Again { run, place }),
            linger,
            key,
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

    /// This request, for a run that goes on for at least so long without a reader.
    #[must_use]
    pub fn lingering(mut self, linger: Duration) -> Self {
        self.linger = Some(linger);
        self
    }

    /// This request, which is never answered by a second run under this key.
    #[must_use]
    pub fn keyed(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// This request, answered by the source of this name.
    #[must_use]
    pub fn answered_by(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// This request, for what the run of this name has from `place` on.
    #[must_use]
    pub fn again(mut self, run: impl Into<String>, place: Place) -> Self {
        self.run = Some(Again { run: run.into(), place });
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

    /// The run to read, where none is to be started.
    pub fn run(&self) -> Option<&Again> {
        self.run.as_ref()
    }

    /// At least how long the jobs are to go on without a reader.
    pub fn linger(&self) -> Option<Duration> {
        self.linger
    }

    /// The key under which no second run is started.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
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

fn idempotency_key(key: &str, limits: &Limits) -> Result<(), Refusal> {
    // Printable ASCII is space to tilde (RFC 20 §5.2).
    if key.len() > limits.key_bytes_max || !key.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        let problem = format!("is not 1 to {} printable ASCII characters", limits.key_bytes_max);
        return Err(Refusal::invalid("idempotency_key", problem));
    }
    Ok(())
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
    fn what_is_asked_for_is_what_is_there() {
        let message = protobuf::Request {
            linger: Some(proto_duration(2, 500_000_000)),
            idempotency_key: " ~".into(),
            limit: 3,
            ..Default::default()
        };
        let request = Request::new(0).lingering(Duration::from_millis(2500)).keyed(" ~").limited(3);
        assert_eq!(parse(message), Ok(request));
        let again = |after, last| protobuf::Request { run_id: "x".into(), after, last, ..Default::default() };
        assert_eq!(parse(again(7, 0)), Ok(Request::new(0).again("x", Place::After(7))));
        assert_eq!(parse(again(0, 0)), Ok(Request::new(0).again("x", Place::After(0))));
        assert_eq!(parse(again(0, 7)), Ok(Request::new(0).again("x", Place::Last(NonZeroU64::new(7).unwrap()))));
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
            ("last", protobuf::Request { last: 1, ..empty() }),
            ("idempotency_key", protobuf::Request { run_id: "x".into(), idempotency_key: "k".into(), ..empty() }),
            ("idempotency_key", protobuf::Request { idempotency_key: "k".repeat(129), ..empty() }),
            ("idempotency_key", protobuf::Request { idempotency_key: "a\nb".into(), ..empty() }),
            ("idempotency_key", protobuf::Request { idempotency_key: "é".into(), ..empty() }),
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
