//! A response as the caller gets it: its number, its job, and what it says.
//!
//! Owns the public types, and what a caller makes of one. Must not know: how a response is encoded, streams, statuses of
//! a run.

use std::{fmt, ops::Deref};

use bytes::Bytes;
use bytestring::ByteString;
use prost::Message;

use crate::Code;

/// One response of a run: the unit of delivery.
///
/// Texts and bytes are shared with the buffer that they were received in (up to one HTTP/2 frame, 1 MiB unless set
/// otherwise). A caller that keeps a few small responses for long copies what it needs, and lets the response go.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// 1, 2, 3 … within the run, without gaps, the same for every reader; from a plain server, counted by this client.
    pub sequence: u64,
    /// Which job of the plan, from 0. Always 0 from a plain server.
    pub job: u32,
    /// What it says.
    pub payload: Payload,
    /// The value goes on in this job's next response; it is whole only with its part that is not `partial`. The job's
    /// error or the run's end voids an open one.
    pub partial: bool,
}

impl Response {
    /// The message that the source emitted (`emit_message`), where it has responses of this kind. Fields of type `Bytes`
    /// share the response's buffer.
    ///
    /// A response that says nothing is a message without fields, which is what that is encoded as.
    ///
    /// ```
    /// # async fn example(mut responses: outflow_client::Responses) -> Result<(), Box<dyn std::error::Error>> {
    /// #[derive(Clone, PartialEq, prost::Message)]
    /// struct Reading {
    ///     #[prost(string, tag = "1")]
    ///     sensor: String,
    ///     #[prost(double, tag = "2")]
    ///     celsius: f64,
    /// }
    ///
    /// while let Some(response) = responses.next().await {
    ///     let reading: Reading = response?.decode()?;
    ///     println!("{}: {}", reading.sensor, reading.celsius);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`MessageError`] says what it is instead. Asking again gives the same.
    pub fn decode<M: Message + Default>(&self) -> Result<M, MessageError> {
        let sequence = self.sequence;
        let data = match &self.payload {
            Payload::Error(error) => {
                return Err(MessageError::JobFailed { sequence, job: self.job, error: error.clone() });
            }
            _ if self.partial => return Err(MessageError::Part { sequence, job: self.job }),
            Payload::Text(text) if text.is_empty() => Bytes::new(),
            Payload::Text(_) => return Err(MessageError::Text { sequence }),
            Payload::Data(data) => data.clone(),
        };
        M::decode(data).map_err(|source| MessageError::Malformed { sequence, source })
    }
}

/// Why a response is no message of the kind that was asked for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The job failed, and the response says so. Whether the stream goes on is the source's choice.
    #[error("response {sequence} is no message: job {job} failed: {error}")]
    JobFailed {
        /// The response.
        sequence: u64,
        /// The job.
        job: u32,
        /// How it failed.
        error: JobError,
    },
    /// The response is text: its source emits no messages, or not only.
    #[error("response {sequence} is text and no message; does its source emit messages?")]
    Text {
        /// The response.
        sequence: u64,
    },
    /// The response is a part of something longer. Messages are never split: this is none.
    #[error("response {sequence} is a part of a value that goes on in job {job}'s next response, and no message")]
    Part {
        /// The response.
        sequence: u64,
        /// Whose next response has the next part.
        job: u32,
    },
    /// The bytes are no message of this kind: another one, another version of it, or none.
    #[error("response {sequence} is no message of this kind: {source}")]
    Malformed {
        /// The response.
        sequence: u64,
        /// What is wrong with it.
        source: prost::DecodeError,
    },
}

/// What a response says. A source gives either text or bytes, fixed by its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Text; also where a response says nothing at all.
    Text(Text),
    /// Bytes that are not text. Never empty.
    Data(Bytes),
    /// This job failed, and gives nothing more. Whether the run fails with it is the source's choice.
    Error(JobError),
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobError {
    /// What kind of failure.
    pub code: Code,
    /// What happened, in the source's words; may be empty.
    pub message: Text,
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => write!(f, "{}", self.code),
            message => write!(f, "{}: {message}", self.code),
        }
    }
}

/// UTF-8 text that shares its buffer: cheap to clone, checked once, and a `&str` wherever one is wanted.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(ByteString);

impl Text {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text's bytes, shared.
    pub fn into_bytes(self) -> Bytes {
        self.0.into_bytes()
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl TryFrom<Bytes> for Text {
    type Error = std::str::Utf8Error;

    /// Checks that the bytes are UTF-8, and shares them.
    #[inline]
    fn try_from(bytes: Bytes) -> Result<Self, Self::Error> {
        ByteString::try_from(bytes).map(Self)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(ByteString::from(text))
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Reading {
        #[prost(string, tag = "1")]
        sensor: String,
        #[prost(bytes = "bytes", tag = "2")]
        raw: Bytes,
    }

    fn response(payload: Payload) -> Response {
        Response { sequence: 7, job: 2, payload, partial: false }
    }

    #[test]
    fn a_message_is_given_back_and_shares_its_bytes() {
        let reading = Reading { sensor: "attic".to_owned(), raw: Bytes::from_static(&[0xff; 100]) };
        let data = Bytes::from(reading.encode_to_vec());
        let decoded: Reading = response(Payload::Data(data.clone())).decode().unwrap();
        assert_eq!(decoded, reading);
        assert!(data.as_ptr_range().contains(&decoded.raw.as_ptr()));
        // All fields at their defaults are no bytes at all, and a response without payload reads as empty text.
        assert_eq!(response(Payload::Text(Text::default())).decode(), Ok(Reading::default()));
    }

    #[test]
    fn what_is_no_message_says_what_it_is() {
        let told = |response: Response| response.decode::<Reading>().unwrap_err().to_string();
        assert_eq!(
            told(response(Payload::Text("words".into()))),
            "response 7 is text and no message; does its source emit messages?"
        );
        let error = JobError { code: Code::NOT_FOUND, message: "no such sensor".into() };
        let failed = told(response(Payload::Error(error)));
        assert!(failed.starts_with("response 7 is no message: job 2 failed: "), "{failed}");
        assert!(failed.ends_with("no such sensor"), "{failed}");
        let part = Response { partial: true, ..response(Payload::Data(Bytes::from_static(&[0x0a]))) };
        assert!(matches!(part.decode::<Reading>(), Err(MessageError::Part { sequence: 7, job: 2 })));
        let part = Response { partial: true, ..response(Payload::Text(Text::default())) };
        assert!(matches!(part.decode::<Reading>(), Err(MessageError::Part { .. })));
        let malformed = told(response(Payload::Data(Bytes::from_static(&[0x0a, 9]))));
        assert!(malformed.starts_with("response 7 is no message of this kind: "), "{malformed}");
    }
}
