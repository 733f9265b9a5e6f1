//! A gRPC status as it was received: code, message, when to try again.
//!
//! Owns: reading it from headers or trailers, without trusting them: whatever stands there, nothing panics. Must not
//! know: streams, runs, what a caller should do about a status.

use std::{fmt, time::Duration};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::HeaderMap;
use prost::Message as _;

pub(crate) const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";
const GRPC_DETAILS: &str = "grpc-status-details-bin";
const GRPC_PUSHBACK: &str = "grpc-retry-pushback-ms";

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// A code of gRPC (`google.rpc.Code`), also one that this version has no name for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(i32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Code = Code($value);)*

            /// The name that gRPC's documentation gives it, such as `NOT_FOUND`; `None` where it gives none.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Success.
    OK = 0;
    /// Cancelled; of a run: stopped.
    CANCELLED = 1;
    /// An error that says no more about itself.
    UNKNOWN = 2;
    /// The request is not valid, and never will be.
    INVALID_ARGUMENT = 3;
    /// The time allowed was over.
    DEADLINE_EXCEEDED = 4;
    /// No such run, source or id, or not the caller's.
    NOT_FOUND = 5;
    /// It exists, with another content.
    ALREADY_EXISTS = 6;
    /// Not allowed to this caller.
    PERMISSION_DENIED = 7;
    /// A limit was reached.
    RESOURCE_EXHAUSTED = 8;
    /// Not in this state.
    FAILED_PRECONDITION = 9;
    /// Aborted; of a run: interrupted.
    ABORTED = 10;
    /// A position that does not exist.
    OUT_OF_RANGE = 11;
    /// The server does not know the method, or how the message is encoded.
    UNIMPLEMENTED = 12;
    /// Something broke that must not break.
    INTERNAL = 13;
    /// Not now; later it may be.
    UNAVAILABLE = 14;
    /// Data is lost or damaged.
    DATA_LOSS = 15;
    /// Not said who is calling, or not believed.
    UNAUTHENTICATED = 16;
}

impl Code {
    /// The number on the wire.
    pub fn value(self) -> i32 {
        self.0
    }

    /// What stands for an HTTP status where no gRPC status was received (gRPC's `http-grpc-status-mapping.md`).
    pub fn of_http(status: http::StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }
}

impl From<i32> for Code {
    fn from(value: i32) -> Self {
        Self(value)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "code {}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A status that the server sent: its answer, and not something that this client made up.
///
/// Displayed as `UNAVAILABLE: the server is draining (try again in 2s)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status(Box<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    code: Code,
    message: String,
    retry_delay: Option<Duration>,
    /// A negative pushback.
    forbids_retry: bool,
    details: Bytes,
}

impl Status {
    /// What kind of answer.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What happened, in the server's words; may be empty.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// After how long to try again, where the server said so: `grpc-retry-pushback-ms`, else `RetryInfo` in the
    /// details. A negative pushback means "not again", and is `None`.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_delay
    }

    /// Whether the server said that this must not be tried again.
    pub(crate) fn forbids_retry(&self) -> bool {
        self.0.forbids_retry
    }

    /// An encoded `google.rpc.Status` with the details (field violations, for example); empty where none were sent
    /// or they could not be read.
    pub fn details(&self) -> &Bytes {
        &self.0.details
    }

    /// Reads the status from headers or trailers. `None`: there is none.
    ///
    /// # Errors
    /// There is one, and it is no number: the value as it stands.
    pub fn received(headers: &HeaderMap) -> Option<Result<Self, String>> {
        let code = headers.get(GRPC_STATUS)?.as_bytes();
        let Some(code) = parse_code(code) else {
            return Some(Err(String::from_utf8_lossy(code).into_owned()));
        };
        let message = headers.get(GRPC_MESSAGE).map(|value| percent_decoded(value.as_bytes()));
        let details = headers.get(GRPC_DETAILS).and_then(|value| base64_decoded(value.as_bytes()));
        let details = details.unwrap_or_default();
        // gRPC's retry design: what is no number, or a negative one, means "not again".
        let pushback = headers.get(GRPC_PUSHBACK).map(|ms| ms.to_str().ok().and_then(|ms| ms.parse().ok()));
        let forbids_retry = pushback == Some(None);
        let retry_delay = match pushback {
            Some(pushback) => pushback.map(Duration::from_millis),
            None => retry_info(&details),
        };
        let message = message.unwrap_or_default();
        Some(Ok(Self(Box::new(Parts { code, message, retry_delay, forbids_retry, details }))))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.code)?;
        if !self.0.message.is_empty() {
            write!(f, ": {}", self.0.message)?;
        }
        if let Some(delay) = self.0.retry_delay {
            write!(f, " (try again in {delay:?})")?;
        }
        Ok(())
    }
}

fn parse_code(digits: &[u8]) -> Option<Code> {
    let digits = std::str::from_utf8(digits).ok()?;
    // `parse` would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    digits.parse().ok().map(Code)
}

/// gRPC over HTTP/2, "Percent-Byte-Encoded": what is no encoding stays as it stands, and what is no UTF-8 is
/// replaced, because a message must never cost the status it explains.
fn percent_decoded(encoded: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |byte: u8| char::from(byte).to_digit(16);
        if let (b'%', [high, low, after @ ..]) = (byte, after)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            decoded.push((high << 4 | low) as u8);
            rest = after;
        } else {
            decoded.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn base64_decoded(encoded: &[u8]) -> Option<Bytes> {
    // Senders may leave the padding out; receivers take both.
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const ENGINE: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    ENGINE.decode(encoded).ok().map(Bytes::from)
}

/// `google.rpc.Status`, as far as it is read here.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

fn retry_info(details: &Bytes) -> Option<Duration> {
    let status = RpcStatus::decode(details.clone()).ok()?;
    let info = status.details.into_iter().find(|any| any.type_url == RETRY_INFO)?;
    let delay = RetryInfo::decode(&*info.value).ok()?.retry_delay?;
    // Not prost-types' conversion: it overflows on a duration that somebody made up.
    let nanos = u32::try_from(delay.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use http::HeaderValue;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn received(pairs: &[(&'static str, &[u8])]) -> Option<Result<Status, String>> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_bytes(value).unwrap());
        }
        Status::received(&headers)
    }

    fn status(pairs: &[(&'static str, &[u8])]) -> Status {
        received(pairs).unwrap().unwrap()
    }

    fn details(seconds: i64, nanos: i32) -> String {
        let info = RetryInfo { retry_delay: Some(prost_types::Duration { seconds, nanos }) };
        let other = prost_types::Any { type_url: "type.googleapis.com/other".into(), value: vec![0xff] };
        let info = prost_types::Any { type_url: RETRY_INFO.into(), value: info.encode_to_vec() };
        BASE64_STANDARD.encode(RpcStatus { details: vec![other, info] }.encode_to_vec())
    }

    #[test]
    fn no_status_is_not_a_status() {
        assert!(received(&[("grpc-message", b"lost")]).is_none());
    }

    #[test]
    fn a_code_without_a_name_is_kept() {
        let status = status(&[("grpc-status", b"99")]);
        assert_eq!((status.code().value(), status.code().name()), (99, None));
        assert_eq!(status.to_string(), "code 99");
        assert_eq!(Code::RESOURCE_EXHAUSTED.to_string(), "RESOURCE_EXHAUSTED");
    }

    #[test]
    fn a_status_that_is_no_number_is_told_as_it_stands() {
        for bad in [&b""[..], b"OK", b"-1", b"+1", b"1 ", b"99999999999", b"\xff"] {
            let told = received(&[("grpc-status", bad)]).unwrap().unwrap_err();
            assert_eq!(told, String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_message_is_decoded_and_what_is_no_encoding_is_kept() {
        for (encoded, decoded) in [
            (&b"plain"[..], "plain"),
            (b"50%25 %e2%82%AC", "50% \u{20ac}"),
            (b"%", "%"),
            (b"%4", "%4"),
            (b"%zz%41", "%zzA"),
            (b"%+1%-1", "%+1%-1"),
            (b"%ff", "\u{fffd}"),
            (b"raw \xc3\xa9", "raw \u{e9}"),
        ] {
            let status = status(&[("grpc-status", b"5"), ("grpc-message", encoded)]);
            assert_eq!(status.message(), decoded);
            assert_eq!(status.to_string(), format!("NOT_FOUND: {decoded}"));
        }
    }

    #[test]
    fn the_retry_delay_comes_from_the_pushback_else_from_the_details() {
        let info = details(2, 500_000_000);
        let in_details = status(&[("grpc-status", b"14"), (GRPC_DETAILS, info.as_bytes())]);
        assert_eq!(in_details.retry_delay(), Some(Duration::from_millis(2500)));
        assert_eq!(in_details.to_string(), "UNAVAILABLE (try again in 2.5s)");
        let unpadded = info.trim_end_matches('=').as_bytes();
        assert!(unpadded.len() < info.len(), "the sample must have padding to lose");
        assert_eq!(status(&[("grpc-status", b"14"), (GRPC_DETAILS, unpadded)]), in_details);

        for (pushback, expected) in [(&b"70"[..], Some(70)), (b"-1", None), (b"soon", None)] {
            let both = [("grpc-status", &b"14"[..]), (GRPC_DETAILS, info.as_bytes()), (GRPC_PUSHBACK, pushback)];
            assert_eq!(status(&both).retry_delay(), expected.map(Duration::from_millis));
        }
    }

    #[test]
    fn bad_details_cost_nothing_but_themselves() {
        for bad in ["***", "=", "/w==", &details(-1, 0), &details(i64::MIN, i32::MIN), &details(1, 1_000_000_000)] {
            let status = status(&[("grpc-status", b"8"), ("grpc-message", b"full"), (GRPC_DETAILS, bad.as_bytes())]);
            assert_eq!((status.code(), status.message()), (Code::RESOURCE_EXHAUSTED, "full"));
            assert_eq!(status.retry_delay(), None, "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

        #[test]
        fn no_headers_panic(message in vec(0x20u8..0x7f, 0..50), details in vec(0x20u8..0x7f, 0..50), raw: Vec<u8>) {
            let raw = BASE64_STANDARD.encode(raw);
            for details in [&details, raw.as_bytes()] {
                let headers = [("grpc-status", &b"2"[..]), ("grpc-message", &message), (GRPC_DETAILS, details)];
                prop_assert_eq!(status(&headers).code(), Code::UNKNOWN);
            }
        }
    }
}
