//! Whether each response is the one that is due, and whether there are enough. HOT.
//!
//! Owns: sequence numbers and the limit, for a server that numbers and for one that does not, from the first response to
//! the last, whatever breaks between them. Must not know: frames, streams, what a response says.

use outflow_proto::protobuf::Request;

use crate::{Payload, Response, Violation};

/// Who numbers the responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The server; this client checks.
    Server,
    /// This client, because a plain server does not.
    Client,
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    Response,
    Heartbeat,
}

/// The count of one stream, over all its breaks.
#[derive(Debug)]
pub(crate) struct Numbering {
    by: By,
    /// The last one that came, or the request's `after`.
    last: u64,
    /// Whether `last` says which is due next; not where the server chooses the start (`last` in the request).
    start_known: bool,
    given: u64,
    heartbeats: u64,
    /// 0: none.
    limit: u64,
}

impl Numbering {
    pub(crate) fn new(by: By, request: &Request) -> Self {
        let last = match by {
            By::Server => request.after,
            By::Client => 0,
        };
        let start_known = by == By::Client || request.last == 0;
        Self { by, last, start_known, given: 0, heartbeats: 0, limit: request.limit }
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn given(&self) -> u64 {
        self.given
    }

    /// How many messages came that mean something.
    pub(crate) fn heard(&self) -> u64 {
        self.given + self.heartbeats
    }

    /// Whether this client numbers, because the server is a plain one.
    pub(crate) fn is_plain(&self) -> bool {
        self.by == By::Client
    }

    /// Whether `last` says what is due next, so that it can be asked for.
    pub(crate) fn is_start_known(&self) -> bool {
        self.start_known
    }

    /// How many are still wanted; 0: there is no limit. Not asked when [full](Self::is_full).
    pub(crate) fn left(&self) -> u64 {
        self.limit.saturating_sub(self.given)
    }

    /// Whether as many came as were asked for.
    pub(crate) fn is_full(&self) -> bool {
        self.limit != 0 && self.given >= self.limit
    }

    /// Whether what the server calls the last response is what came last.
    pub(crate) fn agrees_with(&self, told: u64) -> bool {
        !self.start_known || told == self.last
    }

    /// Checks a server's number, or gives one.
    #[inline]
    pub(crate) fn admit(&mut self, response: &mut Response) -> Result<Admitted, Violation> {
        match self.by {
            By::Client => response.sequence = self.last + 1,
            By::Server if response.sequence == 0 => return self.heartbeat(response),
            By::Server => self.check(response.sequence)?,
        }
        self.last = response.sequence;
        self.start_known = true;
        self.given += 1;
        Ok(Admitted::Response)
    }

    fn check(&self, received: u64) -> Result<(), Violation> {
        let expected = self.last.wrapping_add(1);
        if self.start_known && received != expected {
            return Err(Violation::Sequence { expected, received });
        }
        if self.is_full() {
            return Err(Violation::OverLimit { received });
        }
        Ok(())
    }

    /// A heartbeat says nothing. One that does is a response that lost its number, and must not be swallowed.
    #[cold]
    fn heartbeat(&mut self, response: &Response) -> Result<Admitted, Violation> {
        match &response.payload {
            Payload::Text(text) if text.is_empty() && response.job == 0 && !response.partial => {
                self.heartbeats += 1;
                Ok(Admitted::Heartbeat)
            }
            _ => Err(Violation::Unnumbered),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(sequence: u64) -> Response {
        Response { sequence, job: 0, payload: Payload::Text("".into()), partial: false }
    }

    fn admit(numbering: &mut Numbering, sequence: u64) -> Result<u64, Violation> {
        let mut response = response(sequence);
        numbering.admit(&mut response).map(|admitted| {
            assert_eq!(admitted, Admitted::Response);
            response.sequence
        })
    }

    #[test]
    fn a_gap_and_a_repeat_are_told_from_the_first_response_on() {
        for (after, wrong) in [(0, 2), (41, 41), (41, 43), (41, 1)] {
            let mut numbering = Numbering::new(By::Server, &Request { after, ..Request::default() });
            let expected = after + 1;
            assert_eq!(admit(&mut numbering, wrong), Err(Violation::Sequence { expected, received: wrong }));
            assert_eq!(admit(&mut numbering, expected), Ok(expected));
            let (expected, received) = (after + 2, after + 1);
            assert_eq!(admit(&mut numbering, received), Err(Violation::Sequence { expected, received }));
            assert_eq!(numbering.last(), after + 1);
        }
    }

    #[test]
    fn with_last_the_server_chooses_the_start_and_nothing_else() {
        let mut numbering = Numbering::new(By::Server, &Request { last: 2, ..Request::default() });
        assert!(numbering.agrees_with(7));
        assert_eq!(admit(&mut numbering, 90), Ok(90));
        assert_eq!(admit(&mut numbering, 92), Err(Violation::Sequence { expected: 91, received: 92 }));
        assert!(!numbering.agrees_with(7));
        assert!(numbering.agrees_with(90));
    }

    #[test]
    fn a_plain_servers_responses_are_counted_whatever_they_carry() {
        let request = Request { after: 5, last: 3, ..Request::default() };
        let mut numbering = Numbering::new(By::Client, &request);
        assert_eq!([0, 0, 17].map(|sequence| admit(&mut numbering, sequence).unwrap()), [1, 2, 3]);
    }

    #[test]
    fn the_limit_counts_responses_and_no_heartbeats() {
        let mut numbering = Numbering::new(By::Server, &Request { limit: 2, ..Request::default() });
        admit(&mut numbering, 1).unwrap();
        assert_eq!(numbering.admit(&mut response(0)), Ok(Admitted::Heartbeat));
        assert!(!numbering.is_full());
        admit(&mut numbering, 2).unwrap();
        assert!(numbering.is_full());
        assert_eq!(admit(&mut numbering, 3), Err(Violation::OverLimit { received: 3 }));
    }

    #[test]
    fn a_response_without_a_number_is_no_heartbeat_if_it_says_something() {
        let mut numbering = Numbering::new(By::Server, &Request::default());
        for loud in [
            Response { job: 1, ..response(0) },
            Response { partial: true, ..response(0) },
            Response { payload: Payload::Text("x".into()), ..response(0) },
            Response { payload: Payload::Data(bytes::Bytes::from_static(b"x")), ..response(0) },
        ] {
            assert_eq!(numbering.admit(&mut loud.clone()), Err(Violation::Unnumbered), "{loud:?}");
        }
    }
}
