//! Reads the one request message of a call, as "gRPC over HTTP/2" and gRPC's own table of status codes want it:
//! prefix, length, gzip, one message and not two. It knows nothing of what the message says.

use std::{io::Read as _, pin::pin};

use bytes::{Buf, Bytes, BytesMut};
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderName};
use http_body::Body;
use http_body_util::BodyExt as _;
use tonic::Status;

/// Longest request message, in bytes, as it is sent and also unpacked. Default of this server: 1 MiB.
pub(crate) const REQUEST_BYTES_MAX: usize = 1024 * 1024;

const PREFIX_BYTES: usize = 5;
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const IDENTITY: &str = "identity";
const GZIP: &str = "gzip";

/// The only message in `body`.
///
/// # Errors
/// The status for the client: `RESOURCE_EXHAUSTED` for a message over [`REQUEST_BYTES_MAX`], `UNIMPLEMENTED` for none,
/// for two, and for an encoding other than gzip, `INTERNAL` for what is malformed.
pub(crate) async fn read<B>(headers: &HeaderMap, body: B) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let encoding = encoding(headers)?;
    let mut body = pin!(body);
    let mut received = Bytes::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::internal(format!("the request was cut off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if received.is_empty() {
            // All of it, nearly always: taken as it is.
            received = data;
        } else {
            let mut longer = BytesMut::from(received);
            longer.extend_from_slice(&data);
            received = longer.freeze();
        }
        // Judged as it comes: what is refused is not gathered first.
        if let Some(length) = length(&received)?
            && received.len() > PREFIX_BYTES + length
        {
            return Err(Status::unimplemented("more than one request message; this method takes exactly one"));
        }
    }
    match length(&received)? {
        None if received.is_empty() => {
            Err(Status::unimplemented("no request message; this method takes exactly one"))
        }
        Some(length) if received.len() == PREFIX_BYTES + length => {
            let compressed = received[0] == 1;
            received.advance(PREFIX_BYTES);
            match (compressed, encoding) {
                (false, _) => Ok(received),
                (true, Encoding::Gzip) => unpack(&received),
                (true, Encoding::Identity) => {
                    Err(Status::internal("the request says it is compressed, but `grpc-encoding` names no encoding"))
                }
            }
        }
        _ => Err(Status::internal("the request ends inside its message")),
    }
}

#[derive(Clone, Copy)]
enum Encoding {
    Identity,
    Gzip,
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Status> {
    let Some(value) = headers.get(GRPC_ENCODING) else { return Ok(Encoding::Identity) };
    match value.to_str().unwrap_or("?") {
        IDENTITY => Ok(Encoding::Identity),
        GZIP => Ok(Encoding::Gzip),
        other => {
            let shown: String = other.chars().take(32).collect();
            let mut status =
                Status::unimplemented(format!("`grpc-encoding: {shown}` is not known here; send gzip or none"));
            status.metadata_mut().insert("grpc-accept-encoding", "identity,gzip".parse().expect("plain ASCII"));
            Err(status)
        }
    }
}

/// The length that the prefix announces, once it is there.
fn length(received: &[u8]) -> Result<Option<usize>, Status> {
    let Some((flag, rest)) = received.split_first() else { return Ok(None) };
    if *flag > 1 {
        return Err(Status::internal(format!("the message's compressed flag is {flag}; it is 0 or 1")));
    }
    let Some(length) = rest.first_chunk() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > REQUEST_BYTES_MAX { Err(too_long()) } else { Ok(Some(length)) }
}

fn unpack(packed: &[u8]) -> Result<Bytes, Status> {
    let mut message = Vec::new();
    // One byte more than allowed tells a bomb without unpacking it.
    let read = GzDecoder::new(packed).take(REQUEST_BYTES_MAX as u64 + 1).read_to_end(&mut message);
    read.map_err(|error| Status::internal(format!("the request does not unpack as gzip: {error}")))?;
    if message.len() > REQUEST_BYTES_MAX { Err(too_long()) } else { Ok(message.into()) }
}

fn too_long() -> Status {
    Status::resource_exhausted(format!("the request message is longer than {REQUEST_BYTES_MAX} bytes"))
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io::Write as _};

    use flate2::{Compression, write::GzEncoder};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tonic::Code;

    use super::*;

    fn message(flag: u8, payload: &[u8]) -> Vec<u8> {
        let mut message = vec![flag];
        message.extend((payload.len() as u32).to_be_bytes());
        message.extend(payload);
        message
    }

    fn gzip(payload: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(payload).unwrap();
        encoder.finish().unwrap()
    }

    /// What comes of `sent`, in frames of `step` bytes.
    fn read_in_steps(encoding: Option<&'static str>, sent: &[u8], step: usize) -> Result<Bytes, Code> {
        let mut headers = HeaderMap::new();
        if let Some(encoding) = encoding {
            headers.insert("grpc-encoding", encoding.parse().unwrap());
        }
        let frames: Vec<_> =
            sent.chunks(step).map(|part| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(part)))).collect();
        let body = StreamBody::new(futures_util::stream::iter(frames));
        futures_util::FutureExt::now_or_never(super::read(&headers, body))
            .expect("nothing to wait for")
            .map_err(|status| status.code())
    }

    #[test]
    fn one_message_is_read_however_it_is_cut() {
        for step in [1, 2, 4, 5, 6, 100] {
            assert_eq!(read_in_steps(None, &message(0, b"hello"), step).unwrap(), "hello");
            assert_eq!(read_in_steps(Some("identity"), &message(0, b""), step).unwrap(), "");
            assert_eq!(read_in_steps(Some("gzip"), &message(1, &gzip(b"hello")), step).unwrap(), "hello");
            assert_eq!(read_in_steps(Some("gzip"), &message(0, b"hello"), step).unwrap(), "hello");
        }
    }

    #[test]
    fn each_malformed_request_gets_its_status() {
        let two = [message(0, b"a"), message(0, b"b")].concat();
        let oversized = [&[0][..], &(REQUEST_BYTES_MAX as u32 + 1).to_be_bytes()].concat();
        let bomb = gzip(&vec![0; REQUEST_BYTES_MAX + 1]);
        let cases = [
            (None, vec![], Code::Unimplemented),
            (None, two, Code::Unimplemented),
            (None, message(0, b"hello")[..7].to_vec(), Code::Internal),
            (None, vec![0, 0], Code::Internal),
            (None, message(2, b"hello"), Code::Internal),
            (None, message(1, b"hello"), Code::Internal),
            (Some("identity"), message(1, b"hello"), Code::Internal),
            (Some("gzip"), message(1, b"hello"), Code::Internal),
            (Some("snappy"), message(0, b"hello"), Code::Unimplemented),
            (None, oversized, Code::ResourceExhausted),
            (Some("gzip"), message(1, &bomb), Code::ResourceExhausted),
        ];
        for (encoding, sent, code) in cases {
            for step in [1, 3, 1 << 20] {
                assert_eq!(read_in_steps(encoding, &sent, step), Err(code), "{:?}…", &sent[..sent.len().min(8)]);
            }
        }
    }
}
