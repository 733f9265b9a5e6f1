//! The rest of a connection, which is not once per response: headers and trailers, what the server allows, what it
//! asks, what it takes back, and requests as far as it has room for them.

use outflow_client::Code;

use super::{
    BLOCK_BYTES_MAX, Block, Connection, FRAME_BYTES_DEFAULT, Fields, Frame, Lost, WINDOW_BYTES_MAX, code_of_reset,
    flag, kind,
};

fn against(what: impl Into<String>) -> Lost {
    Lost::Protocol(what.into())
}

impl Connection {
    pub(super) fn take_control(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), Lost> {
        match frame.kind {
            kind::HEADERS => self.headers(frame, payload),
            kind::CONTINUATION => {
                let block = self.block.as_mut().filter(|block| block.id == frame.id);
                let block = block.ok_or_else(|| against("a CONTINUATION of nothing"))?;
                block.bytes.extend_from_slice(payload);
                self.block_came(frame.flags)
            }
            kind::SETTINGS if frame.flags & flag::ACK == 0 => self.settings(payload),
            kind::PING if frame.flags & flag::ACK == 0 => {
                let payload: &[u8; 8] = payload.try_into().map_err(|_| against("a PING of another size"))?;
                self.wire.put_frame(kind::PING, flag::ACK, 0, payload);
                Ok(())
            }
            kind::WINDOW_UPDATE => self.window_update(frame.id, payload),
            kind::RST_STREAM => {
                self.known(frame.id)?;
                let reason = number(payload).ok_or_else(|| against("a RST_STREAM of another size"))?;
                if let Some(stream) = self.streams.remove(&frame.id) {
                    self.ended.push(stream.ended(code_of_reset(reason), format!("reset: {}", reason_name(reason))));
                }
                Ok(())
            }
            kind::GOAWAY => self.go_away(payload),
            kind::PUSH_PROMISE => Err(against("a push, which was forbidden")),
            // Acknowledgements, priorities, and what later standards add: RFC 9113 §5.5.
            _ => Ok(()),
        }
    }

    /// A stream is one that was opened here; it may have ended.
    pub(super) fn known(&self, id: u32) -> Result<(), Lost> {
        if id % 2 == 1 && id < self.next_id { Ok(()) } else { Err(against(format!("a frame for stream {id}"))) }
    }

    fn headers(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), Lost> {
        self.known(frame.id)?;
        let mut fragment = payload;
        if frame.flags & flag::PADDED != 0 {
            let padded = fragment.split_first();
            let (padding, rest) = padded.ok_or_else(|| against("HEADERS without their padding"))?;
            let length = rest.len().checked_sub(usize::from(*padding));
            fragment = &rest[..length.ok_or_else(|| against("HEADERS that are all padding"))?];
        }
        if frame.flags & flag::PRIORITY != 0 {
            fragment = fragment.get(5..).ok_or_else(|| against("HEADERS without their priority"))?;
        }
        let ends_stream = frame.flags & flag::END_STREAM != 0;
        self.block = Some(Block { id: frame.id, ends_stream, bytes: fragment.to_vec() });
        self.block_came(frame.flags)
    }

    /// A part of the header block under way has come.
    fn block_came(&mut self, flags: u8) -> Result<(), Lost> {
        let Some(block) =
            self.block.take_if(|block| flags & flag::END_HEADERS != 0 || block.bytes.len() > BLOCK_BYTES_MAX)
        else {
            return Ok(());
        };
        if block.bytes.len() > BLOCK_BYTES_MAX {
            return Err(against(format!("headers of more than {BLOCK_BYTES_MAX} bytes")));
        }
        let fields =
            Fields::read(&block.bytes).map_err(|why| against(format!("headers that cannot be read: {why}")))?;
        if block.ends_stream {
            self.end(block.id, Some(&fields));
        } else if let Some(stream) = self.streams.get_mut(&block.id)
            && !fields.is_interim()
        {
            stream.begin(&fields);
        }
        Ok(())
    }

    /// The server has said all that it says on this stream.
    pub(super) fn end(&mut self, id: u32, fields: Option<&Fields>) {
        let Some(mut stream) = self.streams.remove(&id) else { return };
        if let Some(fields) = fields {
            stream.begin(fields);
        }
        if stream.sent < stream.request.len() {
            // It does not want the rest of the request: RFC 9113 §8.1.
            self.reset(id);
        }
        self.ended.push(stream.end(fields));
    }

    /// Ends a call because of what came on it.
    pub(super) fn give_up(&mut self, id: u32, code: Code, why: &str) {
        if let Some(stream) = self.streams.remove(&id) {
            self.reset(id);
            self.ended.push(stream.ended(code, why));
        }
    }

    fn reset(&mut self, id: u32) {
        const CANCEL: u32 = 8;
        self.wire.put_frame(kind::RST_STREAM, 0, id, &CANCEL.to_be_bytes());
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Lost> {
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(against("SETTINGS of another size"));
        }
        for [a, b, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                3 => self.peer.streams_max = value as usize,
                4 if value > WINDOW_BYTES_MAX => return Err(against("a window that is too large")),
                4 => {
                    // RFC 9113 §6.9.2: it may make windows negative.
                    let change = i64::from(value) - self.peer.stream_bytes;
                    self.peer.stream_bytes += change;
                    self.streams.values_mut().for_each(|stream| stream.send_window += change);
                }
                5 if value < FRAME_BYTES_DEFAULT => return Err(against("frames that are too small")),
                5 => self.peer.frame_bytes_max = value as usize,
                _ => {}
            }
        }
        self.is_settled = true;
        self.wire.put_frame(kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    fn window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Lost> {
        let bytes = number(payload).ok_or_else(|| against("a WINDOW_UPDATE of another size"))?;
        let bytes = i64::from(bytes & WINDOW_BYTES_MAX);
        if id == 0 {
            self.send_window += bytes;
        } else if let Some(stream) = self.streams.get_mut(&id) {
            stream.send_window += bytes;
        }
        Ok(())
    }

    /// Calls that the server has not begun end; the others go on to their end.
    fn go_away(&mut self, payload: &[u8]) -> Result<(), Lost> {
        let (numbers, text) = payload.split_at_checked(8).ok_or_else(|| against("a GOAWAY without its numbers"))?;
        let (last, reason) = numbers.split_at(4);
        let (last, reason) = (number(last).unwrap_or(0) & WINDOW_BYTES_MAX, number(reason).unwrap_or(0));
        let text = String::from_utf8_lossy(text);
        let why = if text.is_empty() { reason_name(reason) } else { format!("{}, {text}", reason_name(reason)) };
        for (_, stream) in self.streams.extract_if(|id, _| *id > last) {
            self.ended.push(stream.ended(Code::UNAVAILABLE, format!("the server is going away: {why}")));
        }
        self.is_going_away = true;
        Ok(())
    }

    /// Sends as much of the requests as the server has room for.
    pub(super) fn send_requests(&mut self) {
        for _ in 0..self.unsent.len() {
            if self.send_window <= 0 || self.wire.has_enough() {
                return;
            }
            let Some(id) = self.unsent.pop_front() else { return };
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            loop {
                let rest = &stream.request[stream.sent..];
                let room = stream.send_window.min(self.send_window).max(0) as usize;
                let part = &rest[..rest.len().min(room).min(self.peer.frame_bytes_max)];
                if part.is_empty() {
                    self.unsent.push_back(id);
                    break;
                }
                let is_last = part.len() == rest.len();
                self.wire.put_frame(kind::DATA, if is_last { flag::END_STREAM } else { 0 }, id, part);
                stream.sent += part.len();
                let bytes = i64::try_from(part.len()).expect("a frame is small");
                stream.send_window -= bytes;
                self.send_window -= bytes;
                if is_last {
                    break;
                }
            }
        }
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// The names of RFC 9113 §7.
fn reason_name(reason: u32) -> String {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    NAMES.get(reason as usize).map_or_else(|| format!("error {reason}"), |name| (*name).to_owned())
}
