//! A gRPC call as it goes on the wire, and a call with one answer.
//!
//! Owns: the HTTP request, its timeout, and reading the one message of a unary answer. Must not know: what is asked or
//! answered, streams.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header, uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use prost::Message;
use tokio::time::timeout;

use crate::{
    CallError, Code, Status, Violation,
    connection::Connection,
    frames::{FrameError, Frames},
    head::check_grpc,
    link::Link,
    status::GRPC_STATUS,
    timers::GRACE,
};

/// The streaming method.
pub(crate) const FETCH: &str = "/protobuf.StreamService/FetchResponse";
pub(crate) const CONTENT_TYPE: &str = "application/grpc";
pub(crate) const USER_AGENT: &str = concat!("outflow-client/", env!("CARGO_PKG_VERSION"));

/// The largest request that is sent: what gRPC servers take unless told otherwise. A greater one is refused here, with
/// a clear text, instead of being refused there after it was sent.
pub(crate) const REQUEST_BYTES_MAX: usize = 4 << 20;

/// A message with gRPC's prefix.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("no message is so long"));
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

/// The HTTP request of a call.
pub(crate) fn request(
    authority: &uri::Authority,
    path: &'static str,
    frame: Bytes,
    deadline: Option<Duration>,
) -> Request<Full<Bytes>> {
    let uri = uri::Builder::new().scheme("http").authority(authority.clone()).path_and_query(path);
    let mut http = Request::new(Full::new(frame));
    *http.method_mut() = Method::POST;
    *http.version_mut() = Version::HTTP_2;
    *http.uri_mut() = uri.build().expect("an authority and a path are a URI");
    let headers = http.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if let Some(deadline) = deadline {
        headers.insert("grpc-timeout", grpc_timeout(deadline));
    }
    http
}

/// gRPC over HTTP/2, "Timeout": at most eight digits and a unit, so the finest unit that fits, rounded up: the server
/// must not be in a greater hurry than the caller.
fn grpc_timeout(deadline: Duration) -> HeaderValue {
    const DIGITS_MAX: u128 = 99_999_999;
    const UNITS: [(u128, char); 6] = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    // The grammar wants a positive number; the shortest wait there is is one nanosecond.
    let nanos = deadline.as_nanos().max(1);
    let (count, unit) = UNITS
        .into_iter()
        .map(|(unit, letter)| (nanos.div_ceil(unit), letter))
        .find(|(count, _)| *count <= DIGITS_MAX)
        .unwrap_or((DIGITS_MAX, 'H'));
    HeaderValue::try_from(format!("{count}{unit}")).expect("digits and a letter are a header value")
}

/// Asks for one answer, which may be asked for twice: where the connection turns out to be dead, once more on a new one.
pub(crate) async fn unary<Q, A>(link: &Link, path: &'static str, message: &Q) -> Result<A, CallError>
where
    Q: Message,
    A: Message + Default,
{
    let (address, allowed) = (link.name(), link.settings().call_timeout);
    let answered = timeout(allowed.saturating_add(GRACE), async {
        let mut is_fresh = false;
        loop {
            let connection = link.connection().await.map_err(|source| CallError::NoConnection { source })?;
            match once(link, &connection, path, message).await {
                Err(CallError::Lost { .. }) if !is_fresh => link.replace(&connection),
                answered => return answered,
            }
            is_fresh = true;
        }
    });
    match answered.await {
        Ok(answered) => answered,
        Err(_) => Err(CallError::WaitedTooLong { address: Arc::clone(address), allowed }),
    }
}

async fn once<Q, A>(link: &Link, connection: &Connection, path: &'static str, message: &Q) -> Result<A, CallError>
where
    Q: Message,
    A: Message + Default,
{
    let address = link.name();
    let lost = |source: hyper::Error| CallError::Lost { address: Arc::clone(address), source: Some(source.into()) };
    let violated = |violation| CallError::Protocol { address: Arc::clone(address), violation: Box::new(violation) };
    let asked = request(link.authority(), path, frame(message), Some(link.settings().call_timeout));
    let answer = connection.sender().send_request(asked).await.map_err(lost)?;
    check_grpc(answer.status(), answer.headers()).map_err(violated)?;
    let (messages, trailers) =
        read(answer, link.settings().message_bytes_max).await.map_err(|error| match error {
            Unread::Lost(source) => lost(source),
            Unread::Frame(error) => violated(error.into()),
        })?;
    if messages.len() > 1 {
        return Err(violated(Violation::NotOneMessage));
    }
    let status = match Status::received(&trailers) {
        Some(Ok(status)) => status,
        Some(Err(received)) => return Err(violated(Violation::GrpcStatus { received })),
        None => return Err(CallError::Lost { address: Arc::clone(address), source: None }),
    };
    if status.code() != Code::OK {
        return Err(CallError::Refused { address: Arc::clone(address), status });
    }
    let message = messages.into_iter().next().ok_or_else(|| violated(Violation::NotOneMessage))?;
    A::decode(message).map_err(|error| violated(Violation::Message(error.into())))
}

enum Unread {
    Lost(hyper::Error),
    Frame(FrameError),
}

/// The messages of an answer, two at most, and its trailers.
async fn read(answer: Response<Incoming>, message_bytes_max: usize) -> Result<(Vec<Bytes>, HeaderMap), Unread> {
    let (head, mut body) = answer.into_parts();
    let mut frames = Frames::new(message_bytes_max);
    let mut messages = Vec::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.map_err(Unread::Lost)?.into_data() {
            Ok(chunk) => frames.push(chunk),
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
        while let Some(message) = frames.next().map_err(Unread::Frame)? {
            messages.push(message.share(message.bytes()));
            if messages.len() > 1 {
                return Ok((messages, HeaderMap::new()));
            }
        }
    }
    // Trailers-only: the headers are the trailers.
    let trailers = trailers.or_else(|| head.headers.contains_key(GRPC_STATUS).then_some(head.headers));
    Ok((messages, trailers.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_the_finest_unit_that_fits_rounded_up() {
        for (deadline, header) in [
            (Duration::ZERO, "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(100), "100000u"),
            (Duration::from_nanos(100_000_001), "100001u"),
            (Duration::from_mins(1), "60000000u"),
            (Duration::from_hours(1), "3600000m"),
            (Duration::from_secs(200_000_000), "3333334M"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(grpc_timeout(deadline), header, "{deadline:?}");
        }
    }
}
