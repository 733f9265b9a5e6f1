//! A response as the caller gets it: its number, its job, and what it says.
//!
//! Owns the public types and nothing of the wire. Must not know: how a message is encoded, streams, statuses of a run.

use std::{fmt, ops::Deref};

use bytes::Bytes;
use bytestring::ByteString;

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
