//! A peer made of bytes: it can send what no HTTP/2 library does, and leave undone what all of them do.

use std::net::SocketAddr;

use bytes::{Buf as _, Bytes, BytesMut};
use outflow_proto::protobuf;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    PATIENCE,
    wire::{FETCH, framed},
    within,
};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113 §6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// Flags of frames.
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Error codes (RFC 9113 §7).
pub const STREAM_CLOSED: u32 = 5;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Bytes,
}

impl Frame {
    pub fn is(&self, kind: u8, stream: u32) -> bool {
        (self.kind, self.stream) == (kind, stream)
    }

    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The error code of a reset.
    pub fn code(&self) -> u32 {
        assert_eq!(self.kind, RST_STREAM, "{self:?}");
        self.payload.clone().get_u32()
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of a gRPC call: each field literal and without indexing (RFC 7541 §6.2.2).
pub fn call(stream: u32, path: &str, extra: &[(&str, &str)]) -> Vec<u8> {
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in usual.iter().chain(extra) {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "longer ones take more than one byte");
            block.push(text.len() as u8);
            block.extend(text.bytes());
        }
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// A whole fetch of `request`.
pub fn fetch(stream: u32, request: &protobuf::Request, extra: &[(&str, &str)]) -> Vec<u8> {
    let mut frames = call(stream, FETCH, extra);
    frames.extend(frame(DATA, END_STREAM, stream, &framed(&request.encode_to_vec())));
    frames
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

pub fn ping(number: u64) -> Vec<u8> {
    frame(PING, 0, 0, &number.to_be_bytes())
}

/// Opens the window of a stream, or of the connection where that is 0.
pub fn window(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// SETTINGS of one setting.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// One connection. It answers nothing by itself.
pub struct Peer {
    pub socket: TcpStream,
    received: BytesMut,
}

impl Peer {
    /// Connects and says nothing.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    pub fn over(socket: TcpStream) -> Self {
        socket.set_nodelay(true).unwrap();
        Self { socket, received: BytesMut::new() }
    }

    /// Connects and begins as a client does.
    pub async fn open(address: SocketAddr) -> Self {
        let mut peer = Self::connect(address).await;
        peer.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        peer
    }

    /// In one write, as far as the socket allows.
    pub async fn send(&mut self, bytes: &[u8]) {
        within(PATIENCE, self.socket.write_all(bytes)).await.unwrap();
    }

    /// The next frame; `None` where the connection is closed.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(header) = self.received.first_chunk::<9>() {
                let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
                if self.received.len() >= 9 + length {
                    let (kind, flags) = (header[3], header[4]);
                    let stream = u32::from_be_bytes(*header.last_chunk().unwrap());
                    self.received.advance(9);
                    return Some(Frame { kind, flags, stream, payload: self.received.split_to(length).freeze() });
                }
            }
            // A peer that is closed with unread bytes sees a reset, and that is closed, too.
            let read = within(PATIENCE, self.socket.read_buf(&mut self.received)).await.unwrap_or(0);
            if read == 0 {
                return None;
            }
        }
    }

    /// Skips frames to the first one like this, which has to come.
    pub async fn until(&mut self, mut wanted: impl FnMut(&Frame) -> bool) -> Frame {
        let mut skipped = Vec::new();
        loop {
            let Some(frame) = self.next().await else { panic!("the connection was closed after {skipped:?}") };
            if wanted(&frame) {
                return frame;
            }
            skipped.push((frame.kind, frame.flags, frame.stream));
        }
    }

    /// Reads until the server closes the connection, and gives the frames of it.
    pub async fn closed(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }

    /// Asserts that the connection works.
    pub async fn assert_lives(&mut self) {
        let number = 0x6f75_7466_6c6f_7721;
        self.send(&ping(number)).await;
        self.until(|frame| frame.kind == PING && frame.flags == ACK && frame.payload == number.to_be_bytes()[..])
            .await;
    }
}
