//! What a caller asks for.
//!
//! Owns: the builder, and which of its wishes a plain server cannot give. Must not know: connections, answers.

use std::{sync::Arc, time::Duration};

use outflow_proto::protobuf;

use crate::{Event, event::Listener};

/// The longest `google.protobuf.Duration`, about 10,000 years; longer ones are sent as this.
const DURATION_SECONDS_MAX: u64 = 315_576_000_000;

/// What is asked for, and how it should be answered.
///
/// Only the id or the run is needed; what is not set is left to the server. What the server says no to is said in its
/// status: nothing but the size is checked here.
///
/// ```
/// use std::time::Duration;
/// use outflow_client::Fetch;
///
/// let new_run = Fetch::id(1).source("exec").parameter("path", "/tmp").limit(100);
/// let go_on = Fetch::run("3k9x0c").after(41).deadline(Duration::from_secs(60));
/// ```
#[derive(Debug, Clone)]
#[must_use = "it asks for nothing until it is given to `Client::fetch`"]
pub struct Fetch {
    request: protobuf::Request,
    deadline: Option<Duration>,
    resumes: bool,
    listener: Option<Listener>,
}

impl Fetch {
    /// Asks for `id`.
    pub fn id(id: i32) -> Self {
        Self::new(protobuf::Request { id, ..Default::default() })
    }

    /// Asks for the run `run_id`, from its start unless [`after`](Self::after) or [`last`](Self::last) is set, instead
    /// of starting one. A plain server knows no runs: from one the answer is an error.
    pub fn run(run_id: impl Into<String>) -> Self {
        Self::new(protobuf::Request { run_id: run_id.into(), ..Default::default() })
    }

    fn new(request: protobuf::Request) -> Self {
        Self { request, deadline: None, resumes: true, listener: None }
    }

    /// Who should answer. Default: the source that claims the id, else the server's default one.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.request.source = source.into();
        self
    }

    /// One parameter for the source. The same key again replaces its value.
    pub fn parameter(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.parameters.insert(key.into(), value.into());
        self
    }

    /// With [`run`](Self::run): only the responses after this sequence. Default 0: all.
    pub fn after(mut self, sequence: u64) -> Self {
        self.request.after = sequence;
        self
    }

    /// Begins with the last so many responses, then follows. Not together with [`after`](Self::after).
    pub fn last(mut self, responses: u64) -> Self {
        self.request.last = responses;
        self
    }

    /// Enough after so many responses. Default 0: no limit. A plain server is told nothing of it: its stream is reset
    /// after so many.
    pub fn limit(mut self, responses: u64) -> Self {
        self.request.limit = responses;
        self
    }

    /// At least how long the jobs go on without a reader, which makes the run resumable. Default: the source's.
    ///
    /// Where the stream resumes and no [key](Self::idempotency_key) is given, the client makes one, so that the run is
    /// also found when the stream breaks before the server has named it.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.request.linger = Some(to_proto(linger));
        self
    }

    /// The same key and request give the same run, never a second one. At most 128 printable ASCII characters.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.request.idempotency_key = key.into();
        self
    }

    /// When the run is silent so long, the server shows that it is alive; at least 100 ms. Default: where the run is
    /// journaled and the stream resumes, [what the client is set to](crate::ClientBuilder::resume_heartbeat); else never.
    ///
    /// Heartbeats are not handed to the caller. A stream on which nothing arrives for three times this long (and at
    /// least a second) is [broken](crate::FetchError::Break): HTTP/2's own PING reaches only the next proxy, this reaches
    /// the server.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.request.heartbeat = Some(to_proto(interval));
        self
    }

    /// Bounds the whole stream, from the call of `fetch` to its end, all attempts together. Default: no bound.
    ///
    /// It is sent as `grpc-timeout`, and the server answers `DEADLINE_EXCEEDED` when it passes. Where that answer does
    /// not come within half a second, the stream is reset and the error is
    /// [`WaitedTooLong`](crate::FetchError::WaitedTooLong). What the caller had not read by then is not given any more.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Does not resume: whatever breaks or cuts the stream is the caller's at once, as
    /// [`FetchError::Break`](crate::FetchError::Break) or [`FetchError::Status`](crate::FetchError::Status).
    pub fn no_resume(mut self) -> Self {
        self.resumes = false;
        self
    }

    /// Is told when the stream breaks and when it goes on, before as well as after `fetch` has returned. It is called in
    /// the middle of reading, and must not block.
    ///
    /// ```
    /// use outflow_client::Fetch;
    ///
    /// let fetch = Fetch::id(1).on_event(|event| eprintln!("{event}"));
    /// ```
    pub fn on_event(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listener = Some(Listener(Arc::new(listener)));
        self
    }

    pub(crate) fn is_resuming(&self) -> bool {
        self.resumes
    }

    /// The message, the time allowed, and who is told of events.
    pub(crate) fn into_parts(self) -> (protobuf::Request, Option<Duration>, Option<Listener>) {
        (self.request, self.deadline, self.listener)
    }

    /// What a plain server cannot give of this, by the names of the fields. `limit` is not among them, because this
    /// client applies it itself, nor `run_id`, which is an error there.
    pub(crate) fn beyond_a_plain_server(&self) -> Vec<&'static str> {
        let request = &self.request;
        [
            ("source", !request.source.is_empty()),
            ("parameters", !request.parameters.is_empty()),
            ("after", request.after != 0),
            ("linger", request.linger.is_some()),
            ("idempotency_key", !request.idempotency_key.is_empty()),
            ("heartbeat", request.heartbeat.is_some()),
            ("last", request.last != 0),
        ]
        .into_iter()
        .filter_map(|(field, asked)| asked.then_some(field))
        .collect()
    }
}

pub(crate) fn to_proto(duration: Duration) -> prost_types::Duration {
    let sendable = duration.min(Duration::from_secs(DURATION_SECONDS_MAX));
    sendable.try_into().expect("10,000 years are no overflow")
}

/// As [`to_proto`] made it: neither part is ever negative.
pub(crate) fn from_proto(duration: &prost_types::Duration) -> Duration {
    Duration::new(duration.seconds.unsigned_abs(), duration.nanos.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_longer_than_protobuf_knows_is_sent_as_its_longest() {
        for (given, sent) in [
            (Duration::MAX, Duration::from_secs(DURATION_SECONDS_MAX)),
            (Duration::new(3, 999_999_999), Duration::new(3, 999_999_999)),
            (Duration::ZERO, Duration::ZERO),
        ] {
            assert_eq!(from_proto(&to_proto(given)), sent);
        }
    }

    #[test]
    fn every_wish_is_in_the_message() {
        let second = Duration::from_secs(1);
        let fetch = Fetch::id(-7)
            .source("exec")
            .parameter("k", "old")
            .parameter("k", "new")
            .after(1)
            .last(2)
            .limit(3)
            .linger(second)
            .idempotency_key("key")
            .heartbeat(2 * second)
            .deadline(second);
        let expected = protobuf::Request {
            id: -7,
            source: "exec".into(),
            parameters: [("k".into(), "new".into())].into(),
            run_id: String::new(),
            after: 1,
            limit: 3,
            linger: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            idempotency_key: "key".into(),
            heartbeat: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
            last: 2,
        };
        assert_eq!(fetch.request, expected);
        assert_eq!(fetch.deadline, Some(second));
        assert_eq!(Fetch::run("r").request.run_id, "r");
        assert_eq!(
            fetch.beyond_a_plain_server(),
            ["source", "parameters", "after", "linger", "idempotency_key", "heartbeat", "last"]
        );
        assert!(Fetch::id(1).limit(3).deadline(second).beyond_a_plain_server().is_empty());
    }
}
