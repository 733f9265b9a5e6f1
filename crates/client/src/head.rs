//! The head of an answer: what the response headers say before the first response exists.
//!
//! Owns: whether this is gRPC at all, the run's id and durability, and how long it may be. Must not know: responses, trailers, what follows.

use http::{HeaderMap, StatusCode, header};

use crate::{Violation, call::CONTENT_TYPE, status::GRPC_STATUS};

const RUN_ID: &str = "outflow-run-id";
const DURABILITY: &str = "outflow-durability";
const EXPECTED_BYTES: &str = "outflow-expected-bytes";

/// How long a run lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// It lives and dies with its reader.
    None,
    /// It can be resumed while the server's process lives.
    Memory,
    /// It can be resumed, also after the server was killed and restarted.
    Disk,
    /// A word that this version does not know. It is not `none`: it can be resumed.
    Other,
}

/// Whether a run of this durability can be read again.
pub(crate) fn resumable(durability: Option<Durability>) -> bool {
    durability.is_some_and(|durability| durability != Durability::None)
}

/// What an answer's headers say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// `None`: a plain server.
    pub(crate) run_id: Option<String>,
    /// `None` where the server said nothing of it.
    pub(crate) durability: Option<Durability>,
    /// `None` where the server does not know, or says what is no number: it is for progress only.
    pub(crate) expected_bytes: Option<u64>,
}

impl Head {
    pub(crate) fn read(status: StatusCode, headers: &HeaderMap) -> Result<Self, Violation> {
        check_grpc(status, headers)?;
        let run_id = headers.get(RUN_ID).map(|value| match value.to_str() {
            Ok(run_id) if !run_id.is_empty() => Ok(run_id.to_owned()),
            _ => Err(Violation::Trailer {
                name: RUN_ID,
                value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
            }),
        });
        let durability = headers.get(DURABILITY).map(|value| match value.as_bytes() {
            b"none" => Durability::None,
            b"memory" => Durability::Memory,
            b"disk" => Durability::Disk,
            _ => Durability::Other,
        });
        let expected_bytes = headers.get(EXPECTED_BYTES).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Self { run_id: run_id.transpose()?, durability, expected_bytes })
    }
}

/// Whether an answer's headers are gRPC's.
pub(crate) fn check_grpc(status: StatusCode, headers: &HeaderMap) -> Result<(), Violation> {
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let grpc = is_grpc(content_type);
    // A gRPC status is the answer also where a proxy changed the HTTP status (gRPC's
    // http-grpc-status-mapping.md: the mapping is for when no status was received).
    if status != StatusCode::OK && !(grpc && headers.contains_key(GRPC_STATUS)) {
        return Err(Violation::HttpStatus { status });
    }
    if !grpc {
        let received = String::from_utf8_lossy(content_type).into_owned();
        return Err(Violation::ContentType { received });
    }
    Ok(())
}

/// `application/grpc`, also with `+proto` or parameters; `application/grpc-web` and other codecs are something else.
fn is_grpc(content_type: &[u8]) -> bool {
    let Some((name, rest)) = content_type.split_at_checked(CONTENT_TYPE.len()) else {
        return false;
    };
    let codec = rest.strip_prefix(b"+proto").unwrap_or(rest);
    name.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes()) && matches!(codec.first(), None | Some(b';' | b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, pairs: &[(&'static str, &'static str)]) -> Result<Head, Violation> {
        let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Head::read(StatusCode::from_u16(status).unwrap(), &headers.collect())
    }

    #[test]
    fn only_grpc_is_grpc() {
        for good in ["application/grpc", "Application/GRPC", "application/grpc+proto", "application/grpc; a=b"] {
            assert!(read(200, &[("content-type", good)]).is_ok(), "{good}");
        }
        for bad in ["application/grpc-web", "application/grpc+json", "application/json", "", "text/html"] {
            let violation = read(200, &[("content-type", bad)]).unwrap_err();
            assert_eq!(violation, Violation::ContentType { received: bad.to_owned() });
        }
        assert_eq!(read(200, &[]), Err(Violation::ContentType { received: String::new() }));
    }

    #[test]
    fn an_http_status_is_told_unless_a_grpc_status_came_with_it() {
        let grpc = ("content-type", "application/grpc");
        let unavailable = Err(Violation::HttpStatus { status: StatusCode::SERVICE_UNAVAILABLE });
        assert_eq!(read(503, &[grpc]), unavailable);
        assert!(read(503, &[grpc, ("grpc-status", "14")]).is_ok());
        assert_eq!(read(503, &[("content-type", "text/html"), ("grpc-status", "14")]), unavailable);
    }

    #[test]
    fn a_run_and_its_durability_are_read() {
        for (text, durability) in [
            ("none", Some(Durability::None)),
            ("memory", Some(Durability::Memory)),
            ("disk", Some(Durability::Disk)),
            ("eternal", Some(Durability::Other)),
        ] {
            let pairs = [("content-type", "application/grpc"), (RUN_ID, "abc"), (DURABILITY, text)];
            assert!(!resumable(None));
            let head = Head { run_id: Some("abc".into()), durability, expected_bytes: None };
            assert_eq!(read(200, &pairs), Ok(head));
            assert_eq!(resumable(durability), text != "none");
        }
        assert!(read(200, &[("content-type", "application/grpc"), (RUN_ID, "")]).is_err());
    }
}
