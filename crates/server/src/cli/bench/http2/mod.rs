//! The draining client: HTTP/2 (RFC 9113) and gRPC over it, by hand over one blocking socket. It reads frame headers,
//! message prefixes and, where it was told to, sequences, and nothing else, so that on shared cores it takes as little
//! as possible from the server it measures. Any gRPC server is understood; what is against the protocol is an error,
//! never skipped. The benchmarks of this package use it too.
//!
//! Measured on a machine of two cores with our own server: 0.009 CPU seconds per million 24-byte responses, sequences
//! followed, at 41 million a second.

mod control;
mod hpack;
mod huffman;
mod messages;
mod stream;
mod wire;

use std::{
    collections::{HashMap, VecDeque},
    io, mem,
    sync::Arc,
    time::Instant,
};

use outflow_client::Code;
use socket2::Socket;

pub(crate) use self::{
    messages::{Look, Messages, framed},
    stream::{Call, Came, Ended, Reads, Stream},
};
use self::{
    stream::{Fields, code_of_reset},
    wire::{Frame, HEADER_BYTES, READ_BYTES, Wire},
};

/// What a stream or a connection has that sets nothing (RFC 9113 §6.5.2 and §6.9.2).
pub(crate) const WINDOW_BYTES_DEFAULT: u32 = 65_535;
/// The same of a frame.
pub(crate) const FRAME_BYTES_DEFAULT: u32 = 1 << 14;
/// The most that a window may be.
pub(crate) const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
const STREAM_ID_MAX: u32 = (1 << 31) - 1;

/// A header block that is longer is no answer to what is asked here.
const BLOCK_BYTES_MAX: usize = 1 << 18;

/// The method's path.
const PATH: &str = "/protobuf.StreamService/FetchResponse";

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

mod flag {
    pub(super) const END_STREAM: u8 = 0x1;
    pub(super) const ACK: u8 = 0x1;
    pub(super) const END_HEADERS: u8 = 0x4;
    pub(super) const PADDED: u8 = 0x8;
    pub(super) const PRIORITY: u8 = 0x20;
}

/// What the client announces: flow-control windows and the largest frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    /// Of each stream.
    pub(crate) stream_bytes: u32,
    /// Of the connection; at least [`WINDOW_BYTES_DEFAULT`].
    pub(crate) connection_bytes: u32,
    pub(crate) frame_bytes_max: u32,
}

/// Why a connection is of no more use. Its calls ended with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("the server closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("against HTTP/2: {0}")]
    Protocol(String),
}

impl Lost {
    /// The status of a call that was under way.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Protocol(_) => Code::INTERNAL,
            Self::Closed | Self::Io(_) => Code::UNAVAILABLE,
        }
    }
}

/// What the server announced.
struct Peer {
    stream_bytes: i64,
    frame_bytes_max: usize,
    streams_max: usize,
}

/// The DATA frame under way: its stream, what is left of it, the padding behind that, its flags.
#[derive(Clone, Copy)]
struct Data {
    id: u32,
    left: usize,
    padding: usize,
    flags: u8,
}

/// The header block under way.
struct Block {
    id: u32,
    ends_stream: bool,
    bytes: Vec<u8>,
}

/// A client's connection. Dropping it closes it.
pub(crate) struct Connection {
    wire: Wire,
    windows: Windows,
    authority: String,
    peer: Peer,
    is_settled: bool,
    streams: HashMap<u32, Stream>,
    next_id: u32,
    /// Those whose request has not gone out whole.
    unsent: VecDeque<u32>,
    send_window: i64,
    unacknowledged_bytes: u32,
    data: Option<Data>,
    block: Option<Block>,
    is_going_away: bool,
    touched: Vec<u32>,
    ended: Vec<Ended>,
}

impl Connection {
    /// Greets the server on a new socket, and waits until it has said what it allows.
    pub(crate) fn open(socket: Socket, windows: Windows, authority: &str) -> Result<Self, Lost> {
        let mut wire = Wire::new(socket);
        wire.put(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut settings = Vec::new();
        // No dynamic table, no pushes.
        for (key, value) in [(1_u16, 0_u32), (2, 0), (4, windows.stream_bytes), (5, windows.frame_bytes_max)] {
            settings.extend_from_slice(&key.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        wire.put_frame(kind::SETTINGS, 0, 0, &settings);
        if windows.connection_bytes > WINDOW_BYTES_DEFAULT {
            let more = windows.connection_bytes - WINDOW_BYTES_DEFAULT;
            wire.put_frame(kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
        let mut connection = Self {
            wire,
            windows,
            authority: authority.to_owned(),
            peer: Peer {
                stream_bytes: i64::from(WINDOW_BYTES_DEFAULT),
                frame_bytes_max: FRAME_BYTES_DEFAULT as usize,
                streams_max: usize::MAX,
            },
            is_settled: false,
            streams: HashMap::new(),
            next_id: 1,
            unsent: VecDeque::new(),
            send_window: i64::from(WINDOW_BYTES_DEFAULT),
            unacknowledged_bytes: 0,
            data: None,
            block: None,
            is_going_away: false,
            touched: Vec::new(),
            ended: Vec::new(),
        };
        connection.wire.flush()?;
        while !connection.is_settled {
            connection.receive()?;
        }
        Ok(connection)
    }

    /// The socket, to be looked at.
    pub(crate) fn socket(&self) -> &Socket {
        &self.wire.socket
    }

    /// How many calls are under way.
    pub(crate) fn live(&self) -> usize {
        self.streams.len()
    }

    /// How many the server allows at once.
    pub(crate) fn streams_max(&self) -> usize {
        self.peer.streams_max
    }

    /// Whether no further call can be made here, ever.
    pub(crate) fn is_used_up(&self) -> bool {
        self.is_going_away || self.next_id > STREAM_ID_MAX
    }

    /// Whether a call can be made now.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_used_up() && self.live() < self.peer.streams_max && !self.wire.has_enough()
    }

    /// Makes a call, where there is room for one. It goes out with the next [`Connection::flush`] or
    /// [`Connection::receive`].
    pub(crate) fn ask(&mut self, request: Arc<[u8]>, call: Call) {
        debug_assert!(!self.is_used_up());
        let id = self.next_id;
        self.next_id += 2;
        let mut headers = Vec::with_capacity(192);
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", PATH),
            (":authority", &*self.authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            hpack::write(name, value, &mut headers);
        }
        // The shortest frame that a server must take holds them, whatever the server is called.
        self.wire.put_frame(kind::HEADERS, flag::END_HEADERS, id, &headers);
        let stream = Stream::new(request, call, Instant::now(), self.peer.stream_bytes);
        self.streams.insert(id, stream);
        self.unsent.push_back(id);
        self.send_requests();
    }

    /// Sends what the server takes now.
    pub(crate) fn flush(&mut self) -> Result<(), Lost> {
        self.wire.flush()
    }

    /// Waits for what comes, reads once, handles it, and answers it. Gives the time of the read.
    pub(crate) fn receive(&mut self) -> Result<Instant, Lost> {
        if !self.wire.read()? {
            self.send_requests();
            return Ok(Instant::now());
        }
        let now = Instant::now();
        let (received, filled) = self.wire.take();
        let parsed = self.parse(&received[..filled]);
        self.wire.give_back(received, *parsed.as_ref().unwrap_or(&0));
        parsed?;
        self.send_requests();
        self.wire.flush()?;
        Ok(now)
    }

    /// Hands each stream to `look` of which the last read brought bytes and that goes on.
    pub(crate) fn touched(&mut self, mut look: impl FnMut(&mut Stream)) {
        for id in self.touched.drain(..) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.is_touched = false;
                look(stream);
            }
        }
    }

    /// Takes the calls that ended.
    pub(crate) fn take_ended(&mut self) -> Vec<Ended> {
        mem::take(&mut self.ended)
    }

    /// The calls that are under way.
    #[allow(dead_code, reason = "for the benchmarks, which share this client")]
    pub(crate) fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.streams.values()
    }

    /// Takes those that are under way. They are not told: for when the connection is at its end.
    pub(crate) fn take_streams(&mut self) -> Vec<Stream> {
        self.streams.drain().map(|(_, stream)| stream).collect()
    }

    /// Handles all of `bytes` but a frame that is not whole yet (a DATA frame is taken in parts). Returns how many
    /// it took. HOT, once per frame.
    fn parse(&mut self, bytes: &[u8]) -> Result<usize, Lost> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if let Some(data) = self.data {
                if rest.is_empty() && data.left + data.padding > 0 {
                    return Ok(at);
                }
                at += self.take_data(data, rest);
                continue;
            }
            let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(at) };
            let frame = Frame::read(*header);
            if !self.is_settled && frame.kind != kind::SETTINGS {
                return Err(Lost::Protocol("its first frame is not SETTINGS; it may speak HTTP/1.1 only".into()));
            }
            if self.block.is_some() && frame.kind != kind::CONTINUATION {
                return Err(Lost::Protocol(format!("a frame of kind {} inside a header block", frame.kind)));
            }
            if frame.kind == kind::DATA {
                let Some(taken) = self.begin_data(&frame, rest)? else { return Ok(at) };
                at += HEADER_BYTES + taken;
                continue;
            }
            if frame.length > READ_BYTES - HEADER_BYTES {
                return Err(Lost::Protocol(format!("a frame of kind {} of {} bytes", frame.kind, frame.length)));
            }
            let Some(payload) = rest.get(..frame.length) else { return Ok(at) };
            self.take_control(&frame, payload)?;
            at += HEADER_BYTES + frame.length;
        }
    }

    /// Returns how much of `rest` it took: the length of the padding. `None`: that has not come yet.
    fn begin_data(&mut self, frame: &Frame, rest: &[u8]) -> Result<Option<usize>, Lost> {
        if frame.length > self.windows.frame_bytes_max as usize {
            return Err(Lost::Protocol(format!("a DATA frame of {} bytes, which are too many", frame.length)));
        }
        self.known(frame.id)?;
        let (padding, taken) = match (frame.flags & flag::PADDED, rest.first()) {
            (0, _) => (0, 0),
            (_, Some(padding)) => (usize::from(*padding), 1),
            (_, None) => return Ok(None),
        };
        let Some(left) = frame.length.checked_sub(padding + taken) else {
            return Err(Lost::Protocol("a DATA frame that is all padding".into()));
        };
        self.acknowledge(frame.id, taken as u32);
        self.data = Some(Data { id: frame.id, left, padding, flags: frame.flags });
        Ok(Some(taken))
    }

    /// Returns how much of `rest` it took.
    fn take_data(&mut self, data: Data, rest: &[u8]) -> usize {
        let part = &rest[..data.left.min(rest.len())];
        let padding = data.padding.min(rest.len() - part.len());
        self.data = Some(Data { left: data.left - part.len(), padding: data.padding - padding, ..data });
        // A stream that is not there was given up; what was on its way still counts.
        if let Some(stream) = self.streams.get_mut(&data.id) {
            if !mem::replace(&mut stream.is_touched, true) {
                self.touched.push(data.id);
            }
            if let Err(malformed) = stream.take(part) {
                self.give_up(data.id, Code::INTERNAL, &malformed.to_string());
            }
        }
        self.acknowledge(data.id, (part.len() + padding) as u32);
        if part.len() == data.left && padding == data.padding {
            self.data = None;
            if data.flags & flag::END_STREAM != 0 {
                self.end(data.id, None);
            }
        }
        part.len() + padding
    }

    /// Opens the windows again once half of them is used.
    fn acknowledge(&mut self, id: u32, bytes: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.unacknowledged_bytes += bytes;
            if stream.unacknowledged_bytes > self.windows.stream_bytes / 2 {
                let bytes = mem::take(&mut stream.unacknowledged_bytes);
                self.wire.put_frame(kind::WINDOW_UPDATE, 0, id, &bytes.to_be_bytes());
            }
        }
        self.unacknowledged_bytes += bytes;
        if self.unacknowledged_bytes > self.windows.connection_bytes / 2 {
            let bytes = mem::take(&mut self.unacknowledged_bytes);
            self.wire.put_frame(kind::WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes());
        }
    }
}
