//! One connection's thread: it makes calls, drains them, and counts. It knows neither how long the measurement takes nor
//! what becomes of the figures.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    time::Instant,
};

use outflow_client::Code;
use socket2::Socket;

use super::{
    http2::{Connection, Look, Lost, Messages, Reads},
    load::Post,
    tally::Tally,
    target::{CONNECTING_MAX, Protocol},
};

/// As much as the HTTP/2 client reads at once.
const READ_BYTES: usize = 1 << 18;

/// What a connection came to.
pub(super) struct Done {
    pub(super) tally: Tally,
    /// Why it made no more calls, although there were some to make.
    pub(super) failure: Option<String>,
    /// How many streams the server allows at once on a connection.
    pub(super) streams_max: usize,
}

/// A connection that is open and has made no call.
pub(super) enum Worker {
    Grpc(Box<Grpc>),
    Tcp(Box<Tcp>),
}

impl Worker {
    pub(super) fn open(post: Post) -> Result<Self, Lost> {
        Ok(match post.load.target.protocol {
            Protocol::Grpc => Self::Grpc(Box::new(Grpc::open(post)?)),
            Protocol::Tcp => Self::Tcp(Box::new(Tcp { socket: Some(post.connect()?), post, tally: Tally::new() })),
        })
    }

    /// Makes so many calls, and others as long as there are some to make.
    pub(super) fn run(self, calls: u64) -> Done {
        match self {
            Self::Grpc(grpc) => grpc.run(calls),
            Self::Tcp(tcp) => tcp.run(calls),
        }
    }
}

pub(super) struct Grpc {
    post: Post,
    connection: Connection,
    tally: Tally,
    /// Calls that are to be made here, as soon as there is room.
    owed: u64,
    /// Whether this connection has brought anything.
    is_good: bool,
}

impl Grpc {
    fn open(post: Post) -> Result<Self, Lost> {
        let connection = Self::connect(&post)?;
        Ok(Self { post, connection, tally: Tally::new(), owed: 0, is_good: false })
    }

    fn connect(post: &Post) -> Result<Connection, Lost> {
        let socket = post.connect()?;
        // A server that takes connections and says nothing is not there either; later it may be silent for long.
        socket.set_read_timeout(Some(CONNECTING_MAX))?;
        let connection = Connection::open(socket, post.load.windows, &post.load.target.authority())?;
        connection.socket().set_read_timeout(None)?;
        Ok(connection)
    }

    fn run(mut self, calls: u64) -> Done {
        self.owed = calls;
        let mut failure = None;
        while !self.post.is_over() && (self.owed > 0 || self.connection.live() > 0) {
            if let Err(lost) = self.go_on()
                && !self.post.is_over()
                && let Err(why) = self.begin_again(&lost)
            {
                failure = Some(why).filter(|_| !self.post.is_over());
                break;
            }
        }
        self.count_ended(Instant::now());
        for stream in self.connection.take_streams() {
            self.tally.messages(&stream.messages, stream.is_run);
            self.tally.cut += 1;
        }
        Done { tally: self.tally, failure, streams_max: self.connection.streams_max() }
    }

    /// Makes the calls there is room for, reads once, and counts what came.
    fn go_on(&mut self) -> Result<(), Lost> {
        let load = &self.post.load;
        while self.owed > 0 && self.connection.live() < load.streams && self.connection.has_room() {
            self.connection.ask(load.request.clone(), load.call);
            self.owed -= 1;
            if !self.connection.has_room() {
                self.connection.flush()?;
            }
        }
        self.connection.flush()?;
        if self.connection.live() == 0 && self.connection.is_used_up() {
            return Err(Lost::Closed);
        }
        let now = self.connection.receive()?;
        let tally = &mut self.tally;
        self.connection.touched(|stream| {
            tally.came(stream.came(now), stream.asked, now);
            tally.stamped(&mut stream.messages.stamps);
        });
        self.count_ended(now);
        Ok(())
    }

    fn count_ended(&mut self, now: Instant) {
        for mut ended in self.connection.take_ended() {
            let (stream, tally) = (&mut ended.stream, &mut self.tally);
            tally.came(stream.came(now), stream.asked, now);
            tally.stamped(&mut stream.messages.stamps);
            tally.messages(&stream.messages, stream.is_run);
            tally.ended(ended.code, ended.message, now.saturating_duration_since(stream.asked));
            self.owed += u64::from(self.post.claim());
            self.is_good = true;
        }
    }

    /// The calls that the lost connection takes with it have failed; the next ones get another connection. The error
    /// says why not.
    fn begin_again(&mut self, lost: &Lost) -> Result<(), String> {
        let now = Instant::now();
        self.count_ended(now);
        for stream in self.connection.take_streams() {
            self.is_good |= stream.messages.count > 0;
            self.tally.messages(&stream.messages, stream.is_run);
            self.tally.ended(lost.code(), lost.to_string(), now.saturating_duration_since(stream.asked));
            self.owed += u64::from(self.post.claim());
        }
        if self.owed == 0 {
            return Ok(());
        }
        // A server that ends each at once would be given another without end.
        if !std::mem::take(&mut self.is_good) {
            return Err(lost.to_string());
        }
        // It fails where the server was quicker.
        _ = self.connection.socket().shutdown(Shutdown::Both);
        self.connection = Self::connect(&self.post).map_err(|why| why.to_string())?;
        Ok(())
    }
}

/// The raw floor: a connection for each call.
pub(super) struct Tcp {
    post: Post,
    /// The first call's.
    socket: Option<Socket>,
    tally: Tally,
}

impl Tcp {
    fn run(mut self, calls: u64) -> Done {
        let mut owed = calls;
        let mut buffer = vec![0; READ_BYTES];
        let mut failure = None;
        while owed > 0 && !self.post.is_over() {
            let socket = self.socket.take().map_or_else(|| self.post.connect(), Ok);
            let socket = match socket {
                Ok(socket) => socket,
                Err(why) => {
                    failure = Some(why.to_string()).filter(|_| !self.post.is_over());
                    break;
                }
            };
            self.call(socket, &mut buffer);
            owed -= 1;
            owed += u64::from(self.post.claim());
        }
        Done { tally: self.tally, failure, streams_max: 1 }
    }

    fn call(&mut self, mut socket: Socket, buffer: &mut [u8]) {
        let load = &self.post.load;
        let (mut messages, mut reads) = (Messages::default(), Reads::default());
        messages.look_for(if load.call.stamps { Look::Stamps } else { Look::Nothing }, 0);
        let asked = Instant::now();
        let mut drain = || -> Result<Instant, Lost> {
            socket.write_all(&load.request)?;
            loop {
                let bytes = socket.read(buffer)?;
                let now = Instant::now();
                if bytes == 0 || self.post.is_over() {
                    return Ok(now);
                }
                messages.feed(&buffer[..bytes]).map_err(|why| Lost::Protocol(why.to_string()))?;
                self.tally.came(reads.came(messages.count, now), asked, now);
                self.tally.stamped(&mut messages.stamps);
            }
        };
        let drained = drain();
        self.tally.messages(&messages, false);
        if self.post.is_over() {
            self.tally.cut += 1;
            return;
        }
        let took = asked.elapsed();
        match drained {
            Ok(end) if messages.whole() => self.tally.ended(Code::OK, "", end.saturating_duration_since(asked)),
            Ok(_) => self.tally.ended(Code::UNAVAILABLE, "it was closed inside a message", took),
            Err(lost) => self.tally.ended(lost.code(), lost.to_string(), took),
        }
    }
}
