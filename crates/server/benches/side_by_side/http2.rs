//! The draining client: HTTP/2 (RFC 9113) by hand over one blocking socket. It reads frame headers and message
//! prefixes and nothing else, so that on shared cores it takes as little as possible from the server it measures.
//! It speaks only what these servers answer with; anything else is an error, never skipped.

use std::{
    io::{self, Read as _, Write as _},
    mem,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use outflow_proto::protobuf::Request;
use prost::Message as _;

use crate::{
    Outcome,
    messages::{Messages, framed},
};

/// What the client announces: flow-control windows and the largest frame.
#[derive(Clone, Copy)]
pub(crate) struct Windows {
    pub(crate) name: &'static str,
    /// Of each stream, and of the connection.
    pub(crate) window_bytes: u32,
    pub(crate) frame_bytes_max: u32,
}

/// What a client has that sets nothing (RFC 9113 §6.5.2 and §6.9.2).
pub(crate) const SMALL: Windows =
    Windows { name: "64 KiB windows, 16 KiB frames", window_bytes: WINDOW_BYTES_DEFAULT, frame_bytes_max: 1 << 14 };

/// What a client has that wants bulk.
pub(crate) const LARGE: Windows =
    Windows { name: "16 MiB windows, frames up to 1 MiB", window_bytes: 1 << 24, frame_bytes_max: 1 << 20 };

const WINDOW_BYTES_DEFAULT: u32 = 65_535;

/// A server silent for longer has failed; the tutorial's jobs are silent for one second.
const SILENCE_MAX: Duration = Duration::from_secs(20);

const READ_BYTES: usize = 1 << 18;
const HEADER_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What becomes of the bytes of a stream besides being counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// They are dropped.
    Nothing,
    /// They are in [`Stream::body`], prefixes included.
    Body,
}

/// One fetch.
pub(crate) struct Stream {
    pub(crate) messages: Messages,
    pub(crate) body: Vec<u8>,
    keep: Keep,
    ended: bool,
    unacknowledged_bytes: u32,
}

/// A client's connection. Dropping it closes it.
pub(crate) struct Connection {
    socket: TcpStream,
    windows: Windows,
    /// Stream `n` has the id `2n + 1`.
    streams: Vec<Stream>,
    unended: usize,
    received: Vec<u8>,
    filled: usize,
    to_send: Vec<u8>,
    unacknowledged_bytes: u32,
    /// The DATA frame under way: its stream, what is left of it, its flags.
    data: Option<(usize, usize, u8)>,
}

struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    id: u32,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr, windows: Windows) -> Outcome<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE_MAX))?;
        socket.set_write_timeout(Some(SILENCE_MAX))?;

        let mut settings = Vec::new();
        // No dynamic table: so the status can be found in the trailers without an HPACK decoder. No pushes.
        for (key, value) in [(1_u16, 0_u32), (2, 0), (4, windows.window_bytes), (5, windows.frame_bytes_max)] {
            settings.extend_from_slice(&key.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        let mut connection = Self {
            socket,
            windows,
            streams: Vec::new(),
            unended: 0,
            received: vec![0; READ_BYTES],
            filled: 0,
            to_send: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            unacknowledged_bytes: 0,
            data: None,
        };
        connection.send(SETTINGS, 0, 0, &settings);
        if windows.window_bytes > WINDOW_BYTES_DEFAULT {
            connection.send_window_update(0, windows.window_bytes - WINDOW_BYTES_DEFAULT);
        }
        connection.flush()?;
        Ok(connection)
    }

    /// Where the server sees this client.
    pub(crate) fn local_port(&self) -> Outcome<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// Sends a request on a new stream.
    pub(crate) fn fetch(&mut self, request: &Request, keep: Keep) -> Outcome<()> {
        let id = u32::try_from(self.streams.len() * 2 + 1)?;
        let mut headers = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/protobuf.StreamService/FetchResponse"),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // Literal without indexing, name and value as they are (RFC 7541 §6.2.2).
            headers.push(0);
            for string in [name, value] {
                headers.push(u8::try_from(string.len()).expect("our headers are short"));
                headers.extend_from_slice(string.as_bytes());
            }
        }
        self.send(HEADERS, END_HEADERS, id, &headers);
        self.send(DATA, END_STREAM, id, &framed(&request.encode_to_vec()));
        let messages = Messages::default();
        self.streams.push(Stream { messages, body: Vec::new(), keep, ended: false, unacknowledged_bytes: 0 });
        self.unended += 1;
        self.flush()
    }

    /// Reads until every stream has ended well, and hands them out in the order in which they were asked for.
    pub(crate) fn finish(mut self) -> Outcome<Vec<Stream>> {
        while self.unended > 0 {
            self.receive()?;
        }
        Ok(self.streams)
    }

    /// Reads until the streams have brought so many bytes of messages, and not much further.
    pub(crate) fn read_bytes(&mut self, bytes: u64) -> Outcome<()> {
        while self.streams.iter().map(|stream| stream.messages.bytes).sum::<u64>() < bytes {
            if self.unended == 0 {
                return Err(format!("the stream ended before its first {bytes} bytes").into());
            }
            self.receive()?;
        }
        Ok(())
    }

    /// Reads until the streams have brought so many messages.
    #[allow(dead_code, reason = "for the benchmark beside this one, which shares this client")]
    pub(crate) fn read_messages(&mut self, count: u64) -> Outcome<()> {
        while self.streams.iter().map(|stream| stream.messages.count).sum::<u64>() < count {
            if self.unended == 0 {
                return Err(format!("the streams ended before {count} messages").into());
            }
            self.receive()?;
        }
        Ok(())
    }

    /// Answers what the server asks, its PINGs, until then. No stream may end meanwhile.
    #[allow(dead_code, reason = "for the benchmark beside this one, which shares this client")]
    pub(crate) fn stay_until(&mut self, until: Instant) -> Outcome<()> {
        let unended = self.unended;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.peek(&mut [0]) {
                Ok(_) => self.receive()?,
                Err(silence) if matches!(silence.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(other) => return Err(other.into()),
            }
        }
        self.socket.set_read_timeout(Some(SILENCE_MAX))?;
        if self.unended == unended { Ok(()) } else { Err("a stream ended that was to stay".into()) }
    }

    /// Reads once, handles what came, and answers it.
    fn receive(&mut self) -> Outcome<()> {
        let read = match self.socket.read(&mut self.received[self.filled..]) {
            Ok(0) => return Err("the server closed the connection under a stream".into()),
            Ok(read) => read,
            Err(silence) if matches!(silence.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(format!("nothing came from the server for {SILENCE_MAX:?}").into());
            }
            Err(other) => return Err(other.into()),
        };
        let filled = self.filled + read;
        let mut received = mem::take(&mut self.received);
        let taken = self.parse(&received[..filled])?;
        received.copy_within(taken..filled, 0);
        self.received = received;
        self.filled = filled - taken;
        self.flush()
    }

    /// Handles all of `bytes` but a frame that is not whole yet (a DATA frame is taken in parts). Returns how many
    /// it took.
    fn parse(&mut self, bytes: &[u8]) -> Outcome<usize> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if let Some((index, left, flags)) = self.data {
                if rest.is_empty() && left > 0 {
                    return Ok(at);
                }
                let part = &rest[..left.min(rest.len())];
                self.take_data(index, part)?;
                at += part.len();
                self.data = Some((index, left - part.len(), flags));
                if part.len() == left {
                    self.data = None;
                    if flags & END_STREAM != 0 {
                        return Err("a stream ended with a DATA frame, without grpc-status".into());
                    }
                }
                continue;
            }
            let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(at) };
            let frame = Frame {
                length: usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]),
                kind: header[3],
                flags: header[4],
                id: u32::from_be_bytes([header[5], header[6], header[7], header[8]]) & 0x7fff_ffff,
            };
            if frame.kind == DATA {
                if frame.flags & PADDED != 0 || frame.length > self.windows.frame_bytes_max as usize {
                    return Err(format!("a padded or too large DATA frame of {} bytes", frame.length).into());
                }
                self.data = Some((self.index(frame.id)?, frame.length, frame.flags));
                at += HEADER_BYTES;
                continue;
            }
            if frame.length > READ_BYTES - HEADER_BYTES {
                return Err(format!("a frame of kind {} of {} bytes", frame.kind, frame.length).into());
            }
            let Some(payload) = rest.get(..frame.length) else { return Ok(at) };
            self.take_control(&frame, payload)?;
            at += HEADER_BYTES + frame.length;
        }
    }

    fn take_data(&mut self, index: usize, part: &[u8]) -> Outcome<()> {
        let length = u32::try_from(part.len())?;
        let half = self.windows.window_bytes / 2;

        let stream = &mut self.streams[index];
        stream.messages.feed(part)?;
        if stream.keep == Keep::Body {
            stream.body.extend_from_slice(part);
        }
        stream.unacknowledged_bytes += length;
        if stream.unacknowledged_bytes >= half {
            let bytes = mem::take(&mut stream.unacknowledged_bytes);
            self.send_window_update(u32::try_from(index * 2 + 1)?, bytes);
        }
        self.unacknowledged_bytes += length;
        if self.unacknowledged_bytes >= half {
            let bytes = mem::take(&mut self.unacknowledged_bytes);
            self.send_window_update(0, bytes);
        }
        Ok(())
    }

    fn take_control(&mut self, frame: &Frame, payload: &[u8]) -> Outcome<()> {
        match frame.kind {
            HEADERS => {
                if frame.flags & (PADDED | PRIORITY) != 0 || frame.flags & END_HEADERS == 0 {
                    return Err(format!("HEADERS of a shape not met before: flags {:#x}", frame.flags).into());
                }
                if frame.flags & END_STREAM != 0 {
                    self.end(frame.id, payload)?;
                }
            }
            SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]),
            PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, payload),
            // Requests are far smaller than any window a server starts with.
            SETTINGS | PING | WINDOW_UPDATE => {}
            RST_STREAM => return Err(format!("stream {} was reset: {payload:02x?}", frame.id).into()),
            GOAWAY => {
                let reason = String::from_utf8_lossy(payload.get(8..).unwrap_or_default());
                return Err(format!("GOAWAY {:02x?} {reason}", payload.get(4..8).unwrap_or_default()).into());
            }
            kind => return Err(format!("a frame of kind {kind}, which no server here sends").into()),
        }
        Ok(())
    }

    fn end(&mut self, id: u32, trailers: &[u8]) -> Outcome<()> {
        let index = self.index(id)?;
        let stream = &mut self.streams[index];
        match status(trailers) {
            Some(0) if stream.messages.whole() => {}
            Some(0) => return Err(format!("stream {id} ended with OK inside a message").into()),
            Some(status) => {
                let count = stream.messages.count;
                return Err(format!("stream {id} ended with grpc-status {status} after {count} responses").into());
            }
            None => return Err(format!("stream {id} ended without grpc-status: {trailers:02x?}").into()),
        }
        if mem::replace(&mut stream.ended, true) {
            return Err(format!("stream {id} ended twice").into());
        }
        self.unended -= 1;
        Ok(())
    }

    fn index(&self, id: u32) -> Outcome<usize> {
        let index = (id / 2) as usize;
        if id % 2 == 1 && self.streams.get(index).is_some_and(|stream| !stream.ended) {
            return Ok(index);
        }
        Err(format!("a frame for stream {id}, which is not open").into())
    }

    fn send_window_update(&mut self, id: u32, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, id, &bytes.to_be_bytes());
    }

    fn send(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("we send small frames");
        self.to_send.extend_from_slice(&length.to_be_bytes()[1..]);
        self.to_send.extend_from_slice(&[kind, flags]);
        self.to_send.extend_from_slice(&id.to_be_bytes());
        self.to_send.extend_from_slice(payload);
    }

    fn flush(&mut self) -> Outcome<()> {
        if !self.to_send.is_empty() {
            self.socket.write_all(&self.to_send)?;
            self.to_send.clear();
        }
        Ok(())
    }
}

/// The value of `grpc-status` in an encoded header block, where no dynamic table is in use (RFC 7541 §6.2).
fn status(block: &[u8]) -> Option<u8> {
    // The name behind its length, plain or Huffman-coded (RFC 7541, appendix B).
    const NAMES: [&[u8]; 2] = [b"\x0bgrpc-status", b"\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f"];
    let value = NAMES.into_iter().find_map(|name| {
        let at = block.windows(name.len()).position(|window| window == name)?;
        block.get(at + name.len()..)
    })?;
    let (&length, value) = value.split_first()?;
    let value = value.get(..usize::from(length & 0x7f))?;
    if length & 0x80 == 0 {
        return std::str::from_utf8(value).ok()?.parse().ok();
    }
    if !(1..=8).contains(&value.len()) {
        return None;
    }
    // Digits only: 0, 1 and 2 are the codes 0, 1, 2 in five bits, 3 to 9 the codes 25 to 31 in six; ones pad the end.
    let bits = value.iter().fold(0_u64, |bits, &byte| bits << 8 | u64::from(byte)) << (64 - 8 * value.len());
    let (mut at, mut status) = (0, 0_u8);
    while at + 5 <= 8 * value.len() {
        let next = bits << at;
        let (digit, width) = match (next >> 59, next >> 58) {
            (code @ 0..=2, _) => (code as u8, 5),
            (_, code @ 25..=31) => (code as u8 - 22, 6),
            _ => break,
        };
        status = status.checked_mul(10)?.checked_add(digit)?;
        at += width;
    }
    (at > 0).then_some(status)
}
