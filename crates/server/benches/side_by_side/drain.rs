//! The client of these benchmarks: the draining one of `outflow bench`, of which every call has to end well. It owns
//! what that means; how HTTP/2 is spoken is in `http2`.

#[allow(dead_code, unused_imports, reason = "the program uses the rest")]
#[path = "../../src/cli/bench/http2/mod.rs"]
mod http2;

use std::{
    error::Error,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use outflow_client::Code;
use outflow_proto::protobuf::Request;
use prost::Message as _;
use socket2::{Domain, Socket, Type};

use crate::Outcome;
pub(crate) use http2::Stream;
use http2::{Call, Lost, WINDOW_BYTES_DEFAULT, framed};

/// What the client announces: flow-control windows and the largest frame.
#[derive(Clone, Copy)]
pub(crate) struct Windows {
    pub(crate) name: &'static str,
    /// Of each stream, and of the connection.
    window_bytes: u32,
    frame_bytes_max: u32,
}

/// What a client has that sets nothing (RFC 9113 §6.5.2 and §6.9.2).
pub(crate) const SMALL: Windows = Windows {
    name: "64 KiB windows, 16 KiB frames",
    window_bytes: WINDOW_BYTES_DEFAULT,
    frame_bytes_max: http2::FRAME_BYTES_DEFAULT,
};

/// What a client has that wants bulk.
pub(crate) const LARGE: Windows =
    Windows { name: "16 MiB windows, frames up to 1 MiB", window_bytes: 1 << 24, frame_bytes_max: 1 << 20 };

/// A server silent for longer has failed; the tutorial's jobs are silent for one second.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// What becomes of the bytes of a stream besides being counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// They are dropped.
    Nothing,
    /// They are in [`Stream::body`], prefixes included.
    Body,
}

/// A client's connection. Dropping it closes it.
pub(crate) struct Connection {
    http2: http2::Connection,
    /// Those that ended well, in that order.
    ended: Vec<Stream>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr, windows: Windows) -> Outcome<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.connect(&address.into())?;
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE_MAX))?;
        let windows = http2::Windows {
            stream_bytes: windows.window_bytes,
            connection_bytes: windows.window_bytes,
            frame_bytes_max: windows.frame_bytes_max,
        };
        let http2 = http2::Connection::open(socket, windows, "localhost").map_err(told)?;
        Ok(Self { http2, ended: Vec::new() })
    }

    /// Where the server sees this client.
    pub(crate) fn local_port(&self) -> Outcome<u16> {
        let address = self.http2.socket().local_addr()?.as_socket();
        Ok(address.ok_or("a socket without a port")?.port())
    }

    /// Sends a request on a new stream.
    pub(crate) fn fetch(&mut self, request: &Request, keep: Keep) -> Outcome<()> {
        while !self.http2.has_room() {
            self.receive()?;
        }
        let call = Call { keep: keep == Keep::Body, ..Call::default() };
        self.http2.ask(framed(&request.encode_to_vec()).into(), call);
        Ok(self.http2.flush()?)
    }

    /// Reads until every stream has ended well, and hands them out in the order in which they were asked for.
    pub(crate) fn finish(mut self) -> Outcome<Vec<Stream>> {
        while self.http2.live() > 0 {
            self.receive()?;
        }
        self.ended.sort_by_key(|stream| stream.asked);
        Ok(self.ended)
    }

    /// Reads until the streams have brought so many bytes of messages, and not much further.
    pub(crate) fn read_bytes(&mut self, bytes: u64) -> Outcome<()> {
        self.read_until(|streams| streams.map(|stream| stream.messages.bytes).sum::<u64>() >= bytes)
    }

    /// Reads until the streams have brought so many messages.
    #[allow(dead_code, reason = "for the benchmark beside this one, which shares this client")]
    pub(crate) fn read_messages(&mut self, count: u64) -> Outcome<()> {
        self.read_until(|streams| streams.map(|stream| stream.messages.count).sum::<u64>() >= count)
    }

    fn read_until(&mut self, is_enough: impl Fn(&mut dyn Iterator<Item = &Stream>) -> bool) -> Outcome<()> {
        while !is_enough(&mut self.ended.iter().chain(self.http2.streams())) {
            if self.http2.live() == 0 {
                return Err("the streams ended before they had brought what was wanted".into());
            }
            self.receive()?;
        }
        Ok(())
    }

    /// Answers what the server asks, its PINGs, until then. No stream may end meanwhile.
    #[allow(dead_code, reason = "for the benchmark beside this one, which shares this client")]
    pub(crate) fn stay_until(&mut self, until: Instant) -> Outcome<()> {
        let live = self.http2.live();
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.http2.socket().set_read_timeout(Some(left))?;
            match self.http2.receive() {
                Err(Lost::Io(silence)) if is_silence(&silence) => {}
                received => {
                    received.map_err(told)?;
                    self.check_ended()?;
                }
            }
        }
        self.http2.socket().set_read_timeout(Some(SILENCE_MAX))?;
        if self.http2.live() == live { Ok(()) } else { Err("a stream ended that was to stay".into()) }
    }

    fn receive(&mut self) -> Outcome<()> {
        self.http2.receive().map_err(told)?;
        self.check_ended()
    }

    fn check_ended(&mut self) -> Outcome<()> {
        self.http2.touched(|_| {});
        for ended in self.http2.take_ended() {
            if ended.code != Code::OK {
                let (count, code, message) = (ended.stream.messages.count, ended.code, ended.message);
                return Err(format!("a stream ended with {code} after {count} responses: {message}").into());
            }
            self.ended.push(ended.stream);
        }
        Ok(())
    }
}

fn told(lost: Lost) -> Box<dyn Error + Send + Sync> {
    match lost {
        Lost::Io(silence) if is_silence(&silence) => {
            format!("nothing came from the server for {SILENCE_MAX:?}").into()
        }
        lost => lost.into(),
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
