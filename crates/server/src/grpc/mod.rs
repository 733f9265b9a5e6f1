//! gRPC: which call goes where, and what is not a gRPC call at all. The streaming method is our own; the run service,
//! health, reflection, and what else whoever builds the server has, are tonic's services beside it.

mod body;
mod fetch;
mod message;
mod runs;
mod service;
mod status;
mod stream;

use std::{pin::Pin, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use outflow_engine::Engine;
use tokio::time::Instant;
use tonic::{Status, service::Routes};
use tower::Service as _;

pub(crate) use body::Body;
pub(crate) use runs::{RUN_SERVICE, Runs};
pub(crate) use stream::{StreamControl, Streams};

/// The tutorial's service, as health checks name it.
pub(crate) const STREAM_SERVICE: &str = "protobuf.StreamService";
/// How many seconds a call of our own services beside it has in a drain: they are short, but for watches, which go on
/// elsewhere.
const OWN_GRACE_SECONDS: u8 = 1;
const FETCH_RESPONSE: &str = "/protobuf.StreamService/FetchResponse";
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// An answer on its way.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Everything that this server answers.
#[derive(Clone)]
pub(crate) struct Services {
    engine: Arc<Engine>,
    /// Our own services beside the stream, and their names.
    own: Routes,
    own_names: Arc<[&'static str]>,
    /// Those of whoever built the server, for all other paths.
    others: Option<Routes>,
}

impl Services {
    /// The streaming method over `engine`, `own` for the services of these names, and `others` for all else.
    pub(crate) fn new(engine: Arc<Engine>, own: Routes, names: &[&'static str], others: Option<Routes>) -> Self {
        Self { engine, own: own.prepare(), own_names: names.into(), others: others.map(Routes::prepare) }
    }

    /// Answers one call, whose stream is under `control` and ends by its deadline.
    pub(crate) fn answer(
        &self,
        call: Request<Incoming>,
        control: Arc<StreamControl>,
        deadline: Option<Instant>,
    ) -> Answer {
        if let Some(refusal) = not_grpc(&call) {
            return Box::pin(std::future::ready(refusal));
        }
        let path = call.uri().path();
        if path == FETCH_RESPONSE {
            return Box::pin(fetch::fetch(self.engine.clone(), call, control, deadline));
        }
        if self.own_names.iter().any(|service| is_of(service, path)) {
            control.has_grace(OWN_GRACE_SECONDS);
            return Box::pin(service::answer(self.own.clone().call(call), control));
        }
        let unknown = unknown(path);
        match &self.others {
            Some(others) if !is_of(STREAM_SERVICE, path) => {
                control.has_grace(stream::CALL_GRACE_SECONDS);
                let answer = service::answer(others.clone().call(call), control);
                Box::pin(async move {
                    let answer = answer.await;
                    // What tonic says of a path that no service has, and of a method that its service has not.
                    if status::is_unimplemented(answer.headers()) { body::trailers_only(&unknown) } else { answer }
                })
            }
            _ => Box::pin(std::future::ready(body::trailers_only(&unknown))),
        }
    }
}

/// Whether a path is one of this service.
fn is_of(service: &str, path: &str) -> bool {
    path.strip_prefix('/').and_then(|path| path.strip_prefix(service)).is_some_and(|path| path.starts_with('/'))
}

fn unknown(path: &str) -> Status {
    let shown: String = path.chars().take(100).collect();
    Status::unimplemented(format!("there is no method {shown}; streams are {FETCH_RESPONSE}"))
}

/// The time a call allows itself, from `grpc-timeout` ("gRPC over HTTP/2", Timeout: at most eight digits and a unit).
///
/// # Errors
/// `INVALID_ARGUMENT` for what is not one: ignoring it would turn a bounded call into an endless one.
pub(crate) fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Status> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    let timeout = value.to_str().ok().and_then(timeout).ok_or_else(|| {
        Status::invalid_argument("grpc-timeout: is not 1 to 8 digits and one of the units H, M, S, m, u, n")
    })?;
    Ok(Some(Instant::now() + timeout))
}

fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// A call refused before it was looked at.
pub(crate) fn refuse(status: &Status) -> Answer {
    Box::pin(std::future::ready(body::trailers_only(status)))
}

/// The answer to what is no gRPC call: gRPC servers say 405 to other methods than POST, and 415 to other content
/// types ("gRPC over HTTP/2", Requests).
fn not_grpc<B>(call: &Request<B>) -> Option<Response<Body>> {
    let status = if call.method() != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !is_grpc(call.headers()) {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, header::HeaderValue::from_static("POST"));
    } else {
        headers.insert("accept-post", header::HeaderValue::from_static("application/grpc"));
    }
    Some(response)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = content_type.split(';').next().unwrap_or("").trim_ascii();
    essence.eq_ignore_ascii_case("application/grpc") || essence.eq_ignore_ascii_case("application/grpc+proto")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_as_the_specification_has_it() {
        let cases = [
            ("1S", Some(Duration::from_secs(1))),
            ("2500m", Some(Duration::from_millis(2500))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("0n", Some(Duration::ZERO)),
            ("7u", Some(Duration::from_micros(7))),
            ("3M", Some(Duration::from_secs(180))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("+1S", None),
            ("1", None),
            ("1s", None),
            ("1 S", None),
            ("1é", None),
        ];
        for (text, expected) in cases {
            assert_eq!(timeout(text), expected, "{text:?}");
        }
    }

    #[test]
    fn content_types_of_grpc_are_told_from_others() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=utf-8", true),
            ("application/grpc+json", false),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
