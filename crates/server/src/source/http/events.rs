//! Server-sent events (WHATWG HTML, section 9.2.6): the data of each, however the bytes that hold them are cut. Comments, ids,
//! event names and times to wait are read over. It knows neither where the bytes come from nor where the events go.

use memchr::memchr2;

use crate::source::split::{PIECE_BYTES_MAX, character_start};

/// The data of an event, or a part of long data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) data: Vec<u8>,
    pub(super) goes_on: bool,
}

/// Where in a line the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the byte order mark that the stream may begin with; so many bytes of it came.
    Mark(usize),
    /// In the field's name, of which so many bytes are as in `data`.
    Name(usize),
    /// Behind the colon, where one space is left out.
    Colon,
    Data,
    /// In a line that says nothing to us.
    Skip,
}

/// Events as their bytes come.
#[derive(Debug)]
pub(super) struct Events {
    place: Place,
    /// The byte before was CR: LF belongs to it.
    after_return: bool,
    data: Vec<u8>,
    has_data: bool,
    /// Parts of this event's data are out.
    is_begun: bool,
}

const MARK: &[u8] = b"\xef\xbb\xbf";
const DATA: &[u8] = b"data";

impl Events {
    pub(super) fn new() -> Self {
        Self { place: Place::Mark(0), after_return: false, data: Vec::new(), has_data: false, is_begun: false }
    }

    /// Reads on, and gives what became whole.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while let Some(&byte) = bytes.first() {
            if std::mem::take(&mut self.after_return) && byte == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            match self.place {
                Place::Mark(came) if byte == MARK[came] => {
                    self.place = if came + 1 == MARK.len() { Place::Name(0) } else { Place::Mark(came + 1) };
                    bytes = &bytes[1..];
                }
                // No mark: what looked like one is the beginning of a line that says nothing.
                Place::Mark(came) => self.place = if came == 0 { Place::Name(0) } else { Place::Skip },
                _ if byte == b'\r' || byte == b'\n' => {
                    self.end_line(&mut pieces);
                    self.after_return = byte == b'\r';
                    bytes = &bytes[1..];
                }
                Place::Name(came) => {
                    self.place = match byte {
                        b':' if came == DATA.len() => Place::Colon,
                        _ if DATA.get(came) == Some(&byte) => Place::Name(came + 1),
                        _ => Place::Skip,
                    };
                    bytes = &bytes[1..];
                }
                Place::Colon => {
                    self.begin_data();
                    bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
                }
                Place::Data | Place::Skip => {
                    let (line, rest) = bytes.split_at(memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len()));
                    if self.place == Place::Data {
                        self.data.extend_from_slice(line);
                        self.part(&mut pieces);
                    }
                    bytes = rest;
                }
            }
        }
        pieces
    }

    /// Whether the stream may end here. An event that no empty line ends is dropped, as the specification has it; one of
    /// which parts are out cannot be.
    pub(super) fn may_end(&self) -> bool {
        !self.is_begun
    }

    fn begin_data(&mut self) {
        if std::mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.place = Place::Data;
    }

    fn end_line(&mut self, pieces: &mut Vec<Piece>) {
        match std::mem::replace(&mut self.place, Place::Name(0)) {
            Place::Name(0) if std::mem::take(&mut self.has_data) => {
                self.is_begun = false;
                pieces.push(Piece { data: std::mem::take(&mut self.data), goes_on: false });
            }
            Place::Name(came) if came == DATA.len() => {
                // A field's name alone is a field with nothing in it.
                self.begin_data();
                self.place = Place::Name(0);
            }
            Place::Colon => {
                self.begin_data();
                self.place = Place::Name(0);
            }
            _ => {}
        }
    }

    /// Takes out what is too long to be kept.
    fn part(&mut self, pieces: &mut Vec<Piece>) {
        while self.data.len() > PIECE_BYTES_MAX {
            let rest = self.data.split_off(character_start(&self.data, PIECE_BYTES_MAX));
            pieces.push(Piece { data: std::mem::replace(&mut self.data, rest), goes_on: true });
            self.is_begun = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Vec<String> {
        let mut events = Events::new();
        let pieces = events.push(bytes);
        pieces.into_iter().map(|piece| String::from_utf8(piece.data).unwrap()).collect()
    }

    #[test]
    fn the_examples_of_the_specification() {
        assert_eq!(whole(b"data: YHOO\ndata: +2\ndata: 10\n\n"), ["YHOO\n+2\n10"]);
        let four = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event";
        assert_eq!(whole(four.as_bytes()), ["first event", "second event"], "the last one has no empty line");
        assert_eq!(whole(b"data\n\ndata\ndata\n\ndata:"), ["", "\n"]);
        assert_eq!(whole(b"data:test\n\ndata: test\n\n"), ["test", "test"]);
    }

    #[test]
    fn other_fields_comments_and_a_mark_are_read_over() {
        assert_eq!(whole(b"\xef\xbb\xbfdata: a\n\n"), ["a"]);
        assert_eq!(whole(b"event: x\nid: 7\nretry: 5\n:c\ndatas: no\ndat: no\n data: no\ndata: b\n\n"), ["b"]);
        assert_eq!(whole(b"event: x\n\n\n\ndata: c\r\rdata: d\r\n\r\ndata: e\n\r"), ["c", "d", "e"]);
        assert_eq!(whole(b"\xef\xbbdata: not\ndata: f\n\n"), ["f"]);
    }

    #[test]
    fn long_data_comes_in_parts_and_then_must_not_be_cut() {
        let text = "é".repeat(PIECE_BYTES_MAX);
        let mut events = Events::new();
        let mut pieces = events.push(b"data: x");
        for chunk in text.as_bytes().chunks(10_001) {
            pieces.extend(events.push(chunk));
            assert!(events.data.len() <= PIECE_BYTES_MAX);
        }
        assert!(!events.may_end());
        pieces.extend(events.push(b"\n\n"));
        assert!(events.may_end());
        assert!(pieces.iter().rev().skip(1).all(|piece| piece.goes_on) && !pieces.last().unwrap().goes_on);
        let parts: Vec<&str> = pieces.iter().map(|piece| std::str::from_utf8(&piece.data).unwrap()).collect();
        assert_eq!(parts.concat(), format!("x{text}"));
    }

    /// The specification's words, by lines, of a stream that came whole.
    fn plainly(text: &str) -> Vec<String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let Some((lines, _)) = text.rsplit_once('\n') else { return Vec::new() };
        let (mut events, mut data) = (Vec::new(), String::new());
        for line in lines.split('\n') {
            if line.is_empty() {
                if let Some(event) = data.strip_suffix('\n') {
                    events.push(event.to_owned());
                }
                data.clear();
            } else {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                if name == "data" {
                    data.push_str(value.strip_prefix(' ').unwrap_or(value));
                    data.push('\n');
                }
            }
        }
        events
    }

    proptest! {
        /// However a stream is cut, its events are those that the specification finds in it whole.
        #[test]
        fn events_are_the_same_however_they_are_cut(
            text in "\u{feff}?(data|data:|data: |da|:|id: |[ é:x]|\n|\r\n|\r|\n\n){0,30}",
            cuts in proptest::collection::vec(0..9_usize, 0..30),
        ) {
            let (mut events, mut found) = (Events::new(), Vec::new());
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                found.extend(events.push(now));
                rest = later;
            }
            found.extend(events.push(rest));
            let found: Vec<String> = found.into_iter().map(|piece| String::from_utf8(piece.data).unwrap()).collect();
            prop_assert_eq!(found, plainly(&text));
        }
    }
}
