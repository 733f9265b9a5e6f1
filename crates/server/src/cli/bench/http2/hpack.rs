//! Header fields on the wire (RFC 7541), as far as a client of one method needs them: it writes literals and reads
//! every form that is legal without a dynamic table, which it forbids by announcing a size of 0. It knows nothing of
//! what fields mean.

use std::borrow::Cow;

use super::huffman;

/// Why a header block cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it ends in the middle of a field")]
    Short,
    #[error("it has a number that is too large")]
    Number,
    #[error("it has a string that is no Huffman code")]
    Huffman,
    #[error("it uses the dynamic table, whose size is 0")]
    Dynamic,
}

/// The last entry of the static table (RFC 7541, appendix A).
const STATIC_MAX: usize = 61;
/// Its entries of `:status`, and their values.
const STATUS_FIRST: usize = 8;
const STATUSES: [&[u8]; 7] = [b"200", b"204", b"206", b"304", b"400", b"404", b"500"];

/// Writes a field, without indexing and as it stands (RFC 7541 §6.2.2).
pub(crate) fn write(name: &str, value: &str, to: &mut Vec<u8>) {
    to.push(0);
    for string in [name, value] {
        write_length(string.len(), to);
        to.extend_from_slice(string.as_bytes());
    }
}

/// The length of a string that is not Huffman-coded (RFC 7541 §5.1, with a prefix of 7 bits).
fn write_length(length: usize, to: &mut Vec<u8>) {
    if length < 127 {
        return to.push(length as u8);
    }
    to.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        to.push(rest as u8 | 128);
        rest /= 128;
    }
    to.push(rest as u8);
}

/// Gives each field of `block` to `take`, name and value. Of the names in the static table only `:status` is given;
/// the others are empty, as nothing of gRPC is among them.
pub(crate) fn read(block: &[u8], mut take: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
    let mut block = block;
    while let Some(&first) = block.first() {
        if first & 0x80 != 0 {
            let index = number(&mut block, 7)?;
            let (name, value) = entry(index)?;
            take(name, value);
        } else if first & 0xe0 == 0x20 {
            // The size of the dynamic table, which may only become what it is.
            if number(&mut block, 5)? != 0 {
                return Err(Malformed::Dynamic);
            }
        } else {
            // Literal: to be indexed, which without a table means nothing, or not.
            let index = number(&mut block, if first & 0x40 != 0 { 6 } else { 4 })?;
            let name = if index == 0 { string(&mut block)? } else { Cow::Borrowed(entry(index)?.0) };
            let value = string(&mut block)?;
            take(&name, &value);
        }
    }
    Ok(())
}

fn entry(index: usize) -> Result<(&'static [u8], &'static [u8]), Malformed> {
    if index == 0 || index > STATIC_MAX {
        return Err(Malformed::Dynamic);
    }
    let status = index.checked_sub(STATUS_FIRST).and_then(|at| STATUSES.get(at));
    Ok(status.map_or((&[], &[]), |value| (b":status", value)))
}

/// A number whose first bits are the last ones of a byte (RFC 7541 §5.1).
fn number(block: &mut &[u8], prefix_bits: u32) -> Result<usize, Malformed> {
    let (&first, mut rest) = block.split_first().ok_or(Malformed::Short)?;
    let max = (1_usize << prefix_bits) - 1;
    let mut number = usize::from(first) & max;
    if number == max {
        // No block is so long that a length needs more.
        for shift in [0, 7, 14, 21] {
            let (&byte, after) = rest.split_first().ok_or(Malformed::Short)?;
            rest = after;
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *block = rest;
                return Ok(number);
            }
        }
        return Err(Malformed::Number);
    }
    *block = rest;
    Ok(number)
}

fn string<'a>(block: &mut &'a [u8]) -> Result<Cow<'a, [u8]>, Malformed> {
    let is_coded = block.first().ok_or(Malformed::Short)? & 0x80 != 0;
    let length = number(block, 7)?;
    let (string, rest) = block.split_at_checked(length).ok_or(Malformed::Short)?;
    *block = rest;
    if is_coded {
        huffman::decode(string).map(Cow::Owned).ok_or(Malformed::Huffman)
    } else {
        Ok(Cow::Borrowed(string))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(block: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut fields = Vec::new();
        read(block, |name, value| fields.push((text(name), text(value))))?;
        Ok(fields)
    }

    fn field(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 126, 127, 128, 254, 255, 256, 20_000] {
            let value = "v".repeat(length);
            let mut block = Vec::new();
            write("name", &value, &mut block);
            write(&value, "value", &mut block);
            assert_eq!(fields(&block), Ok(vec![field("name", &value), field(&value, "value")]), "{length}");
        }
    }

    #[test]
    fn every_form_of_a_field_is_read() {
        let status = b"\x0bgrpc-status\x010";
        let block = [
            // The table's size, which servers acknowledge so; `:status` from the table, with a value of its own, and
            // another entry of the table.
            &b"\x20\x88\x08\x03503\x9f"[..],
            // Without indexing, never indexed, to be indexed; and Huffman-coded.
            &[&b"\x00"[..], status].concat(),
            &[&b"\x10"[..], status].concat(),
            &[&b"\x40"[..], status].concat(),
            b"\x40\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x82\x08\xbf",
        ]
        .concat();
        let mut expected = vec![field(":status", "200"), field(":status", "503"), field("", "")];
        expected.extend(vec![field("grpc-status", "0"); 3]);
        expected.push(field("grpc-status", "12"));
        assert_eq!(fields(&block), Ok(expected));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (block, why) in [
            (&b"\xbe"[..], Malformed::Dynamic),
            (b"\x80", Malformed::Dynamic),
            (b"\x7f\x00\x00", Malformed::Dynamic),
            (b"\x3f\xe1\x1f", Malformed::Dynamic),
            (b"\x00\x05name", Malformed::Short),
            (b"\x00", Malformed::Short),
            (b"\x00\x01n", Malformed::Short),
            (b"\x00\x7f", Malformed::Short),
            (b"\x00\x7f\xff\xff\xff\xff\xff", Malformed::Number),
            (b"\x00\x81\x00\x00", Malformed::Huffman),
        ] {
            assert_eq!(fields(block), Err(why), "{block:x?}");
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        use proptest::prelude::*;
        proptest!(|(block in proptest::collection::vec(any::<u8>(), 0..64))| {
            _ = read(&block, |_, _| {});
        });
    }
}
