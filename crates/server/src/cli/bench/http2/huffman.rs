//! HPACK's Huffman code, decoded (RFC 7541 §5.2 and appendix B). It knows nothing of header fields.
//!
//! The code is canonical: shorter codes come first, and among those of one length the ones of smaller symbols. So the
//! lengths say all of it.

/// The symbol that ends a string, which no string may hold.
const END: u16 = 256;
const SYMBOLS: usize = 257;
const LENGTH_MAX: usize = 30;

/// Bits of the code of each symbol.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The codes of one length are consecutive numbers.
#[derive(Clone, Copy)]
struct Codes {
    first: u32,
    count: u32,
    /// Where its symbols begin in [`BY_CODE`].
    symbols: usize,
}

static CODES: [Codes; LENGTH_MAX + 1] = codes();
/// The symbols in the order of their codes.
static BY_CODE: [u16; SYMBOLS] = by_code();

const fn codes() -> [Codes; LENGTH_MAX + 1] {
    let mut codes = [Codes { first: 0, count: 0, symbols: 0 }; LENGTH_MAX + 1];
    let (mut length, mut first, mut symbols) = (1, 0_u32, 0);
    while length <= LENGTH_MAX {
        let (mut count, mut symbol) = (0, 0);
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                count += 1;
            }
            symbol += 1;
        }
        codes[length] = Codes { first, count, symbols };
        first = (first + count) << 1;
        symbols += count as usize;
        length += 1;
    }
    codes
}

const fn by_code() -> [u16; SYMBOLS] {
    let mut by_code = [0; SYMBOLS];
    let (mut length, mut at) = (1, 0);
    while length <= LENGTH_MAX {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                by_code[at] = symbol as u16;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    by_code
}

/// The string behind `encoded`; `None` where it is no code.
pub(crate) fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(encoded.len() * 8 / 5);
    let (mut code, mut length) = (0_u32, 0);
    for byte in encoded {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            let codes = &CODES[length];
            // A smaller code than the first of its length goes on; it wraps to a large number here.
            let place = code.wrapping_sub(codes.first);
            if place < codes.count {
                let symbol = BY_CODE[codes.symbols + place as usize];
                if symbol == END {
                    return None;
                }
                decoded.push(symbol as u8);
                (code, length) = (0, 0);
            }
        }
    }
    // What is left is the beginning of the end's code, all ones, and less than a byte.
    (length < 8 && code == (1 << length) - 1).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The same code the other way.
    fn encode(string: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in string {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let place = BY_CODE[CODES[length].symbols..].iter().position(|symbol| *symbol == u16::from(*byte));
            let code = CODES[length].first + u32::try_from(place.unwrap()).unwrap();
            write!(bits, "{code:0length$b}").unwrap();
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        bits.as_bytes().chunks(8).map(|byte| u8::from_str_radix(str::from_utf8(byte).unwrap(), 2).unwrap()).collect()
    }

    #[test]
    fn the_examples_of_the_rfc_are_decoded() {
        // RFC 7541, appendix C.4 and C.6.
        for (encoded, decoded) in [
            (&b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..], "www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x64\x02", "302"),
            (
                b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            (b"\x9a\xca\xc8\xb2\x12\x34\xda\x8f", "grpc-status"),
        ] {
            assert_eq!(decode(encoded).as_deref(), Some(decoded.as_bytes()));
        }
    }

    #[test]
    fn every_code_is_one_and_every_byte_has_one() {
        let whole: u64 = LENGTHS.iter().map(|length| 1 << (LENGTH_MAX - usize::from(*length))).sum();
        assert_eq!(whole, 1 << LENGTH_MAX, "the code is complete");
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
    }

    #[test]
    fn what_is_no_code_is_refused() {
        // A padding of a whole byte, one with a zero in it, and the end's code.
        for bad in [&b"\x64\x02\xff"[..], b"\x64\x00\x00", b"\xff\xff\xff\xff"] {
            assert_eq!(decode(bad), None, "{bad:x?}");
        }
        assert_eq!(decode(b""), Some(Vec::new()));
    }
}
