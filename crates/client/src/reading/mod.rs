//! One request from its first attempt to the end of its run, whatever breaks between them. HOT.
//!
//! Owns: where the request stands (asked, open, broken and waiting, over), and the way through these to the next response.
//! Must not know: how a stream is read, how a request is made, how long to wait.

mod asking;
mod breaks;

use std::{
    error::Error,
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use outflow_proto::protobuf;
use prost::Message as _;
use tokio::time::Sleep;

use crate::{
    BreakCause, Durability, Event, Fetch, FetchError, Outcome, Position, Response, Violation,
    ask::Asking,
    call,
    event::Listener,
    fetch::to_proto,
    head::Head,
    link::Link,
    numbering::{By, Numbering},
    resume::Outage,
    stream::{Came, Stream},
    timers::Deadline,
};

/// A request that is being answered.
pub(crate) struct Reading {
    state: State,
    numbering: Numbering,
    /// What the server told of the run, once it did.
    head: Option<Head>,
    /// What to ask for; where to begin and how much is left is put into it each time.
    request: protobuf::Request,
    resumes: bool,
    /// How the request broke that was not answered and may have been carried out all the same, where it names no run.
    unanswered: Option<BreakCause>,
    /// The time since the stream broke; it is over when something was received.
    outage: Option<Outage>,
    /// What ended the stream after responses that had to be given first.
    failed: Option<FetchError>,
    outcome: Option<Outcome>,
    deadline: Option<Deadline>,
    unsupported: Vec<&'static str>,
    listener: Option<Listener>,
    link: Arc<Link>,
}

/// Where a request stands. Whatever leaves `Open` drops the stream, and so resets it where it has not ended.
enum State {
    /// It was asked, and there are no headers yet.
    Asked(Asking),
    Open(Stream),
    /// It broke, and is asked again then.
    Waiting(Pin<Box<Sleep>>),
    Over,
}

impl Reading {
    /// Begins. Nothing is sent before it is polled.
    pub(crate) fn begin(link: Arc<Link>, fetch: Fetch) -> Result<Self, FetchError> {
        let policy = &link.settings().resume;
        let resumes = policy.is_on && fetch.is_resuming();
        let unsupported = fetch.beyond_a_plain_server();
        let (mut request, time_allowed, listener) = fetch.into_parts();
        if resumes {
            let names_run = !request.run_id.is_empty();
            if request.linger.is_some() && !names_run && request.idempotency_key.is_empty() {
                // What finds the run if the stream breaks before the headers that name it. Only here: a key has a run
                // journaled, which a plain request does not ask for.
                request.idempotency_key = format!("{:032x}", rand::random::<u128>());
            }
            if names_run || !request.idempotency_key.is_empty() {
                // A network that has forgotten a connection is as silent as a run that has nothing to say.
                request.heartbeat.get_or_insert_with(|| to_proto(policy.heartbeat));
            }
        }
        let bytes = request.encoded_len();
        if bytes > call::REQUEST_BYTES_MAX {
            return Err(FetchError::RequestTooLarge { bytes });
        }
        let mut reading = Self {
            state: State::Over,
            numbering: Numbering::new(By::Server, &request),
            head: None,
            request,
            resumes,
            unanswered: None,
            outage: None,
            failed: None,
            outcome: None,
            deadline: time_allowed.map(Deadline::start),
            unsupported,
            listener,
            link,
        };
        reading.ask();
        Ok(reading)
    }

    pub(crate) fn run_id(&self) -> Option<&str> {
        self.head.as_ref()?.run_id.as_deref()
    }

    pub(crate) fn durability(&self) -> Option<Durability> {
        self.head.as_ref()?.durability
    }

    pub(crate) fn expected_bytes(&self) -> Option<u64> {
        self.head.as_ref()?.expected_bytes
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.numbering.is_plain()
    }

    pub(crate) fn unsupported(&self) -> &[&'static str] {
        if self.is_plain() { &self.unsupported } else { &[] }
    }

    pub(crate) fn last_sequence(&self) -> u64 {
        self.numbering.last()
    }

    pub(crate) fn position(&self) -> Position {
        Position {
            address: Arc::clone(self.link.name()),
            run_id: self.run_id().map(str::to_owned),
            durability: self.durability(),
            last_sequence: self.last_sequence(),
        }
    }

    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    pub(crate) fn state_name(&self) -> &'static str {
        match &self.state {
            State::Asked(_) => "asked",
            State::Open(_) => "open",
            State::Waiting(_) => "waiting",
            State::Over => "over",
        }
    }

    /// Gives an error back, to be given again when there is time for it.
    pub(crate) fn put_back(&mut self, error: FetchError) {
        self.failed = Some(error);
    }

    /// Everything that reading is made of: the next response, or the end.
    #[inline]
    pub(crate) fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Response, FetchError>>> {
        loop {
            let State::Open(stream) = &mut self.state else {
                match ready!(self.poll_opened(cx)) {
                    Ok(()) if matches!(self.state, State::Over) => return Poll::Ready(self.failed.take().map(Err)),
                    Ok(()) => continue,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            };
            match stream.received(&mut self.numbering) {
                Ok(Some(response)) => {
                    if self.numbering.is_plain() && self.numbering.is_full() {
                        // Nobody told the server that this is enough; the reset does.
                        self.state = State::Over;
                        self.outcome = Some(Outcome::Limit { last_sequence: self.numbering.last() });
                    }
                    return Poll::Ready(Some(Ok(response)));
                }
                Ok(None) => {}
                Err(violation) => {
                    self.state = State::Over;
                    return Poll::Ready(Some(Err(self.violated(violation))));
                }
            }
            match ready!(stream.poll(cx, self.deadline.as_mut())) {
                Came::More => {}
                other => {
                    if let Err(error) = self.closed(other) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        }
    }

    /// Waits until the stream is open, or over. After an error it is over.
    pub(crate) fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FetchError>> {
        loop {
            let done = match &mut self.state {
                State::Open(_) | State::Over => return Poll::Ready(Ok(())),
                // The answer first: one that is there is worth more than a deadline that has just passed.
                State::Asked(asking) => match asking.as_mut().poll(cx) {
                    Poll::Ready(Ok(answered)) => self.answered(answered),
                    Poll::Ready(Err(why)) => self.not_answered(why),
                    Poll::Pending => {
                        let deadline = self.deadline.as_mut();
                        ready!(deadline.map_or(Poll::Pending, |deadline| deadline.poll(cx)));
                        Err(self.waited_too_long())
                    }
                },
                State::Waiting(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    if self.deadline.as_ref().is_some_and(Deadline::is_over) {
                        Err(self.waited_too_long())
                    } else {
                        self.ask();
                        Ok(())
                    }
                }
            };
            if let Err(error) = done {
                self.state = State::Over;
                return Poll::Ready(Err(error));
            }
        }
    }

    fn tell(&self, event: impl FnOnce(&Self) -> Event) {
        if let Some(Listener(listener)) = &self.listener {
            listener(&event(self));
        }
    }

    fn violated(&self, violation: Violation) -> FetchError {
        FetchError::Protocol { position: Box::new(self.position()), violation: Box::new(violation) }
    }

    fn broke(&self, cause: BreakCause, source: Option<Box<dyn Error + Send + Sync>>) -> FetchError {
        FetchError::Break { position: Box::new(self.position()), cause, source }
    }

    fn waited_too_long(&self) -> FetchError {
        let deadline = self.deadline.as_ref().map(Deadline::allowed).unwrap_or_default();
        FetchError::WaitedTooLong { position: Box::new(self.position()), deadline }
    }
}
