//! Writes values as JSON, straight into a buffer, and rows as objects of them. It knows no database.

use std::io::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use outflow_engine::{Code, JobError};
use serde_json::to_writer;

use super::Integers;

/// The columns of an answer, in their order.
pub(super) struct Columns {
    names: Vec<String>,
    /// What stands before each value: the key, and what divides it from the value before.
    keys: Vec<Vec<u8>>,
}

impl Columns {
    /// # Errors
    /// Where two have the same name: in an object, one of them would be lost to most readers.
    pub(super) fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<Self, JobError> {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            let name = twice[0];
            let problem = format_args!(
                "two columns of the query are called `{name}`, and a row has one key of each name; call one of them \
                 otherwise, with `as`"
            );
            return Err(JobError::new(Code::FailedPrecondition, problem));
        }
        let key = |(n, name): (usize, &String)| {
            let mut key = vec![if n == 0 { b'{' } else { b',' }];
            string(&mut key, name);
            key.push(b':');
            key
        };
        Ok(Self { keys: names.iter().enumerate().map(key).collect(), names })
    }

    pub(super) fn name(&self, column: usize) -> &str {
        &self.names[column]
    }

    /// Writes a row: `write` is called for each column, with its number, and writes its value.
    #[inline]
    pub(super) fn row<E>(
        &self,
        out: &mut Vec<u8>,
        mut write: impl FnMut(usize, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.keys.is_empty() {
            out.push(b'{');
        }
        for (column, key) in self.keys.iter().enumerate() {
            out.extend_from_slice(key);
            write(column, out)?;
        }
        out.push(b'}');
        Ok(())
    }
}

pub(super) fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}

pub(super) fn boolean(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

#[inline]
pub(super) fn integer(out: &mut Vec<u8>, value: i64, integers: Integers) {
    match integers {
        Integers::Number => to_writer(out, &value).expect("a buffer takes everything"),
        Integers::String => write!(out, "\"{value}\"").expect("a buffer takes everything"),
    }
}

/// The shortest number that is read as the same one. JSON has no infinite numbers, and none for what is not a number: these
/// are strings.
pub(super) fn float(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        to_writer(out, &value).expect("a buffer takes everything");
    } else {
        not_finite(out, value);
    }
}

/// The same, of a number of 32 bits, which is shorter.
pub(super) fn float_32(out: &mut Vec<u8>, value: f32) {
    if value.is_finite() {
        to_writer(out, &value).expect("a buffer takes everything");
    } else {
        not_finite(out, value.into());
    }
}

fn not_finite(out: &mut Vec<u8>, value: f64) {
    let text: &[u8] = if value.is_nan() {
        b"\"NaN\""
    } else if value > 0.0 {
        b"\"Infinity\""
    } else {
        b"\"-Infinity\""
    };
    out.extend_from_slice(text);
}

#[inline]
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    to_writer(out, text).expect("a buffer takes everything");
}

pub(super) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    let length = base64::encoded_len(bytes.len(), true).expect("what is in memory is not so long");
    out.resize(start + length, 0);
    STANDARD.encode_slice(bytes, &mut out[start..]).expect("it is as long as it has to be");
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_row_has_its_columns_in_their_order() {
        let columns = Columns::new(["z", "a \"b\"", "é\n"]).unwrap();
        let row = written(|out| {
            let value = |column: usize, out: &mut Vec<u8>| {
                integer(out, i64::try_from(column).unwrap(), Integers::Number);
                Ok::<_, ()>(())
            };
            columns.row(out, value).unwrap();
        });
        assert_eq!(row, r#"{"z":0,"a \"b\"":1,"é\n":2}"#);
        let none = written(|out| Columns::new([]).unwrap().row(out, |_, _| Ok::<_, ()>(())).unwrap());
        assert_eq!(none, "{}");
    }

    #[test]
    fn two_columns_of_one_name_are_told() {
        let error = Columns::new(["id", "name", "id"]).err().unwrap();
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains("`id`"), "{error}");
        assert!(Columns::new(["id", "ID"]).is_ok(), "these are two keys");
    }

    #[test]
    fn numbers_lose_nothing() {
        for value in [0, -1, i64::MIN, i64::MAX, (1 << 53) + 1] {
            assert_eq!(written(|out| integer(out, value, Integers::Number)), value.to_string());
            assert_eq!(written(|out| integer(out, value, Integers::String)), format!("\"{value}\""));
        }
        for value in [0.1, 1.0, -0.0, f64::MIN_POSITIVE, f64::MAX, 1e300, 123_456_789.123_456_78] {
            let read: f64 = written(|out| float(out, value)).parse().unwrap();
            assert_eq!(read.to_bits(), value.to_bits());
        }
        assert_eq!(written(|out| float_32(out, 0.1)), "0.1");
        for (value, text) in
            [(f64::NAN, "\"NaN\""), (f64::INFINITY, "\"Infinity\""), (f64::NEG_INFINITY, "\"-Infinity\"")]
        {
            assert_eq!(written(|out| float(out, value)), text);
        }
    }

    #[test]
    fn bytes_are_base64() {
        for bytes in [&b""[..], b"a", b"ab", b"abc", &[0, 255, 254]] {
            let text: String = serde_json::from_str(&written(|out| base64(out, bytes))).unwrap();
            assert_eq!(STANDARD.decode(text).unwrap(), bytes);
        }
    }
}
