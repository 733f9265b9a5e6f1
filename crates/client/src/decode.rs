//! Decodes one `protobuf.Response`. HOT.
//!
//! Owns: the wire form of a response, by hand, because the generated decoder allocates and copies each text. Measured
//! (`examples/cost.rs`), CPU seconds per million 24-byte responses: the generated decoder alone 0.057; this client as
//! a whole, from the socket to the checked response, 0.038, of which splitting and decoding are 0.016.
//!
//! It takes what prost takes and refuses what prost refuses; a random test compares them. Unknown fields are skipped.
//! Must not know: frames, runs, whether a sequence is the one that is due.

use std::str::{Utf8Error, from_utf8};

use bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, decode_varint, skip_field};

use crate::{
    Code,
    frames::Message,
    response::{JobError, Payload, Response, Text},
};

/// Why a message is no response.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are no protobuf message.
    #[error("it is no protobuf message: {0}")]
    Malformed(prost::DecodeError),
    /// A length that reaches past the end.
    #[error("a field reaches past the message's end")]
    Truncated,
    /// A field of the contract has another type than the contract gives it.
    #[error("field {field} is not of the contract's type")]
    Type {
        /// The field's number.
        field: u64,
    },
    /// Text that is no UTF-8.
    #[error("its text is no UTF-8: {0}")]
    Text(Utf8Error),
}

impl From<prost::DecodeError> for DecodeError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error)
    }
}

/// A field's key: its number and how it is encoded.
const fn key(field: u64, wire_type: WireType) -> u64 {
    field << 3 | wire_type as u64
}

const RESULT: u64 = key(1, WireType::LengthDelimited);
const SEQUENCE: u64 = key(2, WireType::Varint);
const JOB: u64 = key(3, WireType::Varint);
const DATA: u64 = key(4, WireType::LengthDelimited);
const PARTIAL: u64 = key(5, WireType::Varint);
const ERROR: u64 = key(6, WireType::LengthDelimited);
const FIELDS: u64 = 6;

const ERROR_CODE: u64 = key(1, WireType::Varint);
const ERROR_MESSAGE: u64 = key(2, WireType::LengthDelimited);
const ERROR_FIELDS: u64 = 2;

/// Decodes a message, and reads it as: error, else data where not empty, else result.
#[inline]
pub(crate) fn decode(message: Message<'_>) -> Result<Response, DecodeError> {
    let mut rest = message.bytes();
    let mut result: &[u8] = &[];
    let mut data: &[u8] = &[];
    let mut error: Option<ErrorParts<'_>> = None;
    let mut sequence = 0;
    let mut job = 0;
    let mut partial = false;

    while !rest.is_empty() {
        match varint(&mut rest)? {
            SEQUENCE => sequence = varint(&mut rest)?,
            JOB => job = varint(&mut rest)? as u32,
            RESULT => {
                // The last one counts, but each has to be text.
                check_utf8(result)?;
                result = delimited(&mut rest)?;
            }
            DATA => data = delimited(&mut rest)?,
            PARTIAL => partial = varint(&mut rest)? != 0,
            ERROR => error.get_or_insert_default().merge(delimited(&mut rest)?)?,
            other => skip(other, FIELDS, &mut rest)?,
        }
    }

    let payload = if let Some(error) = error {
        check_utf8(result)?;
        Payload::Error(JobError { code: Code::from(error.code), message: text(message.share(error.message))? })
    } else if !data.is_empty() {
        check_utf8(result)?;
        Payload::Data(message.share(data))
    } else {
        Payload::Text(text(message.share(result))?)
    };
    Ok(Response { sequence, job, payload, partial })
}

/// A job's error, which may come in parts: protobuf merges an embedded message that is given twice.
#[derive(Default)]
struct ErrorParts<'a> {
    code: i32,
    message: &'a [u8],
}

impl<'a> ErrorParts<'a> {
    fn merge(&mut self, mut rest: &'a [u8]) -> Result<(), DecodeError> {
        while !rest.is_empty() {
            match varint(&mut rest)? {
                ERROR_CODE => self.code = varint(&mut rest)? as i32,
                ERROR_MESSAGE => {
                    check_utf8(self.message)?;
                    self.message = delimited(&mut rest)?;
                }
                other => skip(other, ERROR_FIELDS, &mut rest)?,
            }
        }
        Ok(())
    }
}

/// Keys, jobs, most lengths and the first sequences have one byte; the rest is left to prost.
#[inline]
fn varint(rest: &mut &[u8]) -> Result<u64, DecodeError> {
    match **rest {
        [first @ 0..0x80, ref after @ ..] => {
            *rest = after;
            Ok(u64::from(first))
        }
        [first, second @ 0..0x80, ref after @ ..] => {
            *rest = after;
            Ok(u64::from(first & 0x7f) | u64::from(second) << 7)
        }
        [first, second, third @ 0..0x80, ref after @ ..] => {
            *rest = after;
            Ok(u64::from(first & 0x7f) | u64::from(second & 0x7f) << 7 | u64::from(third) << 14)
        }
        _ => long_varint(rest),
    }
}

#[cold]
fn long_varint(rest: &mut &[u8]) -> Result<u64, DecodeError> {
    Ok(decode_varint(rest)?)
}

#[inline]
fn delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let length = usize::try_from(varint(rest)?).map_err(|_| DecodeError::Truncated)?;
    let (field, after) = rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
    *rest = after;
    Ok(field)
}

/// Skips a field that the contract does not have; `fields` is how many it has, numbered from 1.
#[cold]
fn skip(key: u64, fields: u64, rest: &mut &[u8]) -> Result<(), DecodeError> {
    let field = key >> 3;
    let number = u32::try_from(key).map_err(|_| DecodeError::Type { field })? >> 3;
    let wire_type = WireType::try_from(key & 7)?;
    // Its own fields with their own types were read before this; and there is no field 0.
    if field <= fields {
        return Err(DecodeError::Type { field });
    }
    Ok(skip_field(wire_type, number, rest, DecodeContext::default())?)
}

fn check_utf8(bytes: &[u8]) -> Result<(), DecodeError> {
    from_utf8(bytes).map(|_| ()).map_err(DecodeError::Text)
}

#[inline]
fn text(bytes: Bytes) -> Result<Text, DecodeError> {
    Text::try_from(bytes).map_err(DecodeError::Text)
}

#[cfg(test)]
mod tests {
    use outflow_proto::protobuf;
    use proptest::{collection::vec, prelude::*};
    use prost::Message as _;

    use super::*;

    fn ours(bytes: &[u8]) -> Result<Response, DecodeError> {
        decode(Message::whole(&Bytes::copy_from_slice(bytes)))
    }

    /// What prost makes of the bytes, read by the contract's rule.
    fn prosts(bytes: &[u8]) -> Result<Response, prost::DecodeError> {
        let response = protobuf::Response::decode(bytes)?;
        let payload = if let Some(error) = response.error {
            Payload::Error(JobError { code: Code::from(error.code), message: Text::from(&*error.message) })
        } else if response.data.is_empty() {
            Payload::Text(Text::from(&*response.result))
        } else {
            Payload::Data(response.data)
        };
        Ok(Response { sequence: response.sequence, job: response.job, payload, partial: response.partial })
    }

    fn any_response() -> impl Strategy<Value = protobuf::Response> {
        let error = prop::option::of((any::<i32>(), ".{0,20}"));
        (".{0,40}", any::<u64>(), any::<u32>(), vec(any::<u8>(), 0..40), any::<bool>(), error).prop_map(
            |(result, sequence, job, data, partial, error)| protobuf::Response {
                result,
                sequence,
                job,
                data: data.into(),
                partial,
                error: error.map(|(code, message)| protobuf::JobError { code, message }),
            },
        )
    }

    /// Whole fields in any order, of the contract or not, of the right type or not: what a random byte string
    /// hardly ever is.
    fn any_fields() -> impl Strategy<Value = Vec<u8>> {
        let field = (0u64..10, 0u64..8, vec(any::<u8>(), 0..12), any::<u64>());
        vec(field, 0..6).prop_map(|fields| {
            let mut bytes = Vec::new();
            for (number, wire_type, content, varint) in fields {
                prost::encoding::encode_varint(number << 3 | wire_type, &mut bytes);
                match wire_type {
                    0 => prost::encoding::encode_varint(varint, &mut bytes),
                    1 => bytes.extend(varint.to_le_bytes()),
                    2 => {
                        prost::encoding::encode_varint(content.len() as u64, &mut bytes);
                        bytes.extend(content);
                    }
                    5 => bytes.extend([1, 2, 3, 4]),
                    _ => {}
                }
            }
            bytes
        })
    }

    fn config() -> ProptestConfig {
        // The seed is printed with a failure; no file is written for it.
        ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn every_response_is_read_as_prost_reads_it(response in any_response()) {
            let bytes = response.encode_to_vec();
            prop_assert_eq!(ours(&bytes).unwrap(), prosts(&bytes).unwrap());
        }

        #[test]
        fn two_responses_merge_as_prost_merges_them(first in any_response(), second in any_response()) {
            let bytes = [first.encode_to_vec(), second.encode_to_vec()].concat();
            prop_assert_eq!(ours(&bytes).unwrap(), prosts(&bytes).unwrap());
        }

        #[test]
        fn what_prost_refuses_is_refused(bytes in any_fields()) {
            prop_assert_eq!(ours(&bytes).ok(), prosts(&bytes).ok());
        }

        #[test]
        fn a_damaged_response_is_read_as_prost_reads_it(
            response in any_response(),
            at in any::<prop::sample::Index>(),
            byte: u8,
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = response.encode_to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                prop_assert_eq!(ours(&bytes).ok(), prosts(&bytes).ok());
                bytes.truncate(cut.index(bytes.len()));
                prop_assert_eq!(ours(&bytes).ok(), prosts(&bytes).ok());
            }
        }
    }

    #[test]
    fn numbers_of_every_length_are_read() {
        for shift in 0..64 {
            for sequence in [1 << shift, (1 << shift) - 1, u64::MAX >> shift, 0x5555_5555_5555_5555 >> shift] {
                let response = protobuf::Response { sequence, job: sequence as u32, ..Default::default() };
                let bytes = response.encode_to_vec();
                assert_eq!(ours(&bytes).unwrap(), prosts(&bytes).unwrap());
            }
        }
    }

    #[test]
    fn an_error_goes_before_data_and_data_before_text() {
        let mut response = protobuf::Response {
            result: "text".into(),
            data: Bytes::from_static(b"data"),
            error: Some(protobuf::JobError { code: 13, message: "why".into() }),
            ..Default::default()
        };
        let Payload::Error(error) = ours(&response.encode_to_vec()).unwrap().payload else { panic!() };
        assert_eq!((error.code, error.message.as_str()), (Code::INTERNAL, "why"));
        response.error = None;
        let payload = ours(&response.encode_to_vec()).unwrap().payload;
        assert_eq!(payload, Payload::Data(Bytes::from_static(b"data")));
        response.data = Bytes::new();
        assert_eq!(ours(&response.encode_to_vec()).unwrap().payload, Payload::Text("text".into()));
    }

    #[test]
    fn text_that_is_no_utf8_is_an_error_wherever_it_stands() {
        assert!(matches!(ours(b"\x0a\x01\xff"), Err(DecodeError::Text(_))));
        // Overridden by a second one; hidden by data; hidden by an error; the error's own message.
        for bytes in [
            &b"\x0a\x01\xff\x0a\x01a"[..],
            b"\x0a\x01\xff\x22\x01a",
            b"\x0a\x01\xff\x32\x00",
            b"\x32\x03\x12\x01\xff",
        ] {
            assert!(matches!(ours(bytes), Err(DecodeError::Text(_))), "{bytes:?}");
        }
    }

    #[test]
    fn text_shares_the_buffer_that_it_came_in() {
        let bytes = Bytes::from_static(b"\x0a\x05hello\x10\x07");
        let response = decode(Message::whole(&bytes)).unwrap();
        let Payload::Text(text) = response.payload else { panic!() };
        assert_eq!((text.as_str(), text.as_ptr(), response.sequence), ("hello", bytes[2..].as_ptr(), 7));
    }
}
