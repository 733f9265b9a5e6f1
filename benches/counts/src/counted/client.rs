//! What the client does with each message.

use std::hint::black_box;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::{
    decode,
    frames::{Frames, Message},
    response::{Payload, Response},
    support::SMALL,
};

/// Messages in a chunk: about a frame of 16 KiB, which is what most connections have.
const CHUNK_MESSAGES: u64 = 450;

pub(super) fn split(times: u64) {
    each(times, |message| {
        black_box(message.bytes());
    });
}

pub(super) fn decode(times: u64) {
    each(times, |message| {
        let response: Response = decode::decode(message).expect("it was encoded here");
        assert!(matches!(black_box(response).payload, Payload::Text(_)));
    });
}

/// Splits `times` messages from chunks that end anywhere.
fn each(times: u64, mut of: impl FnMut(Message<'_>)) {
    let chunk = chunk();
    // What remains of the last message of one chunk is in the next.
    let (start, end) = (chunk.slice(..chunk.len() - 7), chunk.slice(chunk.len() - 7..));
    let mut frames = Frames::new(1 << 20);
    let mut count = 0;
    while count < times {
        for part in [start.clone(), end.clone()] {
            frames.push(part);
            while let Some(message) = frames.next().expect("they are whole") {
                of(message);
                count += 1;
            }
        }
    }
}

fn chunk() -> Bytes {
    let mut chunk = BytesMut::new();
    for n in 0..CHUNK_MESSAGES {
        let response = [&[1 << 3 | 2, SMALL.len() as u8][..], SMALL.as_bytes(), &[2 << 3]].concat();
        let mut sequence = BytesMut::new();
        prost::encoding::encode_varint(1_000_000 + n, &mut sequence);
        chunk.put_u8(0);
        chunk.put_u32((response.len() + sequence.len()) as u32);
        chunk.put_slice(&response);
        chunk.put_slice(&sequence);
    }
    chunk.freeze()
}
