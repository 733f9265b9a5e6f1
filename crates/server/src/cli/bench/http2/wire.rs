//! The socket and its two buffers: frames go out without waiting for who does not take them, and what came in is kept
//! until it is parsed. It knows frame headers (RFC 9113 §4.1), and not what frames mean.

use std::{
    io::{self, ErrorKind, Read as _},
    mem,
};

use rustix::event::{PollFd, PollFlags, poll};
use socket2::Socket;

use super::Lost;

pub(crate) const READ_BYTES: usize = 1 << 18;
pub(crate) const HEADER_BYTES: usize = 9;

/// What may wait for a server that takes nothing. Requests wait for a thousandth of it, so what is more is answers to
/// what the server asked.
const TO_SEND_BYTES_MAX: usize = 1 << 26;

/// With more than this under way, no more requests are added.
const ENOUGH_BYTES: usize = 1 << 16;

pub(crate) struct Wire {
    pub(crate) socket: Socket,
    received: Vec<u8>,
    filled: usize,
    to_send: Vec<u8>,
}

/// A frame's header.
pub(crate) struct Frame {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) id: u32,
}

impl Frame {
    pub(crate) fn read(header: [u8; HEADER_BYTES]) -> Self {
        let [a, b, c, kind, flags, id @ ..] = header;
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            id: u32::from_be_bytes(id) & 0x7fff_ffff,
        }
    }
}

impl Wire {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket, received: vec![0; READ_BYTES], filled: 0, to_send: Vec::new() }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.to_send.extend_from_slice(bytes);
    }

    pub(crate) fn put_frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("frames that are sent have at most 16 MiB");
        self.to_send.extend_from_slice(&length.to_be_bytes()[1..]);
        self.to_send.extend_from_slice(&[kind, flags]);
        self.to_send.extend_from_slice(&id.to_be_bytes());
        self.to_send.extend_from_slice(payload);
    }

    /// Whether requests had better wait.
    pub(crate) fn has_enough(&self) -> bool {
        self.to_send.len() > ENOUGH_BYTES
    }

    /// Sends what the server takes now. The rest waits: a server that takes nothing before somebody reads what it sends
    /// would be waited for without end.
    pub(crate) fn flush(&mut self) -> Result<(), Lost> {
        let mut sent = 0;
        while sent < self.to_send.len() {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            match self.socket.send_with_flags(&self.to_send[sent..], flags) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.to_send.drain(..sent);
        if self.to_send.len() > TO_SEND_BYTES_MAX {
            return Err(Lost::Protocol("the server asks for answers and does not take them".into()));
        }
        Ok(())
    }

    /// Waits for bytes and reads once. While there is something to send, it may also return `false`, without having
    /// read.
    pub(crate) fn read(&mut self) -> Result<bool, Lost> {
        if !self.to_send.is_empty() {
            let mut poll_fd = [PollFd::new(&self.socket, PollFlags::IN | PollFlags::OUT)];
            match poll(&mut poll_fd, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let events = poll_fd[0].revents();
            self.flush()?;
            if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                return Ok(false);
            }
        }
        loop {
            match self.socket.read(&mut self.received[self.filled..]) {
                Ok(0) => return Err(Lost::Closed),
                Ok(bytes) => {
                    self.filled += bytes;
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the bytes that are there, to be given back by [`Wire::give_back`].
    pub(crate) fn take(&mut self) -> (Vec<u8>, usize) {
        (mem::take(&mut self.received), self.filled)
    }

    /// Of which so many are done with.
    pub(crate) fn give_back(&mut self, mut received: Vec<u8>, done: usize) {
        received.copy_within(done..self.filled, 0);
        self.filled -= done;
        self.received = received;
    }
}
