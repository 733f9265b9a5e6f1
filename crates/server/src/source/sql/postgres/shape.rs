//! How a type of PostgreSQL becomes JSON, from the binary form in which values come (`*send` in PostgreSQL's
//! `src/backend/utils/adt`). A type that is not here is refused before the first row.

use std::{
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use tokio_postgres::types::{Kind, Type};

use super::{
    super::{Integers, json},
    moments, numeric,
};

/// The form of a type's values.
#[derive(Debug)]
pub(super) enum Shape {
    Boolean,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    Text,
    Bytes,
    Date,
    Time,
    TimeWithZone,
    Timestamp,
    TimestampWithZone,
    Interval,
    Uuid,
    Json,
    /// A version before the text.
    Jsonb,
    Address,
    Hardware,
    Bits,
    Void,
    Array(Box<Shape>),
    /// Keys with what stands before each, and the shapes of the values.
    Object(Vec<(Vec<u8>, Shape)>),
}

/// What is wrong with a value.
#[derive(Debug)]
pub(super) enum Wrong {
    NotText,
    Malformed,
}

/// The bytes of a value that were not read yet.
pub(super) struct Reading<'a>(&'a [u8]);

impl<'a> Reading<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Wrong> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Wrong::Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Wrong::Malformed)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn int_2(&mut self) -> Result<i16, Wrong> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn int_4(&mut self) -> Result<i32, Wrong> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn int_8(&mut self) -> Result<i64, Wrong> {
        self.array().map(i64::from_be_bytes)
    }

    fn count(&mut self) -> Result<usize, Wrong> {
        usize::try_from(self.int_4()?).map_err(|_| Wrong::Malformed)
    }

    /// A value with its length before it, `None` where it is null.
    fn value(&mut self) -> Result<Option<&'a [u8]>, Wrong> {
        match self.int_4()? {
            -1 => Ok(None),
            length => self.bytes(usize::try_from(length).map_err(|_| Wrong::Malformed)?).map(Some),
        }
    }

    fn end(&self) -> Result<(), Wrong> {
        if self.0.is_empty() { Ok(()) } else { Err(Wrong::Malformed) }
    }
}

impl Shape {
    /// # Errors
    /// With the name of a type that has none.
    pub(super) fn of(r#type: &Type) -> Result<Self, String> {
        let unknown = || format!("`{}`", r#type.name());
        Ok(match r#type.kind() {
            Kind::Enum(_) => Self::Text,
            Kind::Domain(base) => Self::of(base)?,
            Kind::Array(member) => Self::Array(Box::new(Self::of(member)?)),
            Kind::Composite(fields) => {
                let field = |(n, field): (usize, &tokio_postgres::types::Field)| {
                    let mut key = vec![if n == 0 { b'{' } else { b',' }];
                    json::string(&mut key, field.name());
                    key.push(b':');
                    Ok((key, Self::of(field.type_())?))
                };
                Self::Object(fields.iter().enumerate().map(field).collect::<Result<_, String>>()?)
            }
            _ => match *r#type {
                Type::BOOL => Self::Boolean,
                Type::INT2 => Self::Int2,
                Type::INT4 => Self::Int4,
                Type::INT8 => Self::Int8,
                Type::OID => Self::Oid,
                Type::FLOAT4 => Self::Float4,
                Type::FLOAT8 => Self::Float8,
                Type::NUMERIC => Self::Numeric,
                Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::CHAR | Type::UNKNOWN | Type::XML => {
                    Self::Text
                }
                Type::BYTEA => Self::Bytes,
                Type::DATE => Self::Date,
                Type::TIME => Self::Time,
                Type::TIMETZ => Self::TimeWithZone,
                Type::TIMESTAMP => Self::Timestamp,
                Type::TIMESTAMPTZ => Self::TimestampWithZone,
                Type::INTERVAL => Self::Interval,
                Type::UUID => Self::Uuid,
                Type::JSON => Self::Json,
                Type::JSONB => Self::Jsonb,
                Type::INET | Type::CIDR => Self::Address,
                Type::MACADDR | Type::MACADDR8 => Self::Hardware,
                Type::BIT | Type::VARBIT => Self::Bits,
                Type::VOID => Self::Void,
                // An extension's, and sent as the text it is.
                _ if r#type.name() == "citext" => Self::Text,
                _ => return Err(unknown()),
            },
        })
    }

    /// Writes a value that is not null.
    pub(super) fn write(&self, raw: &[u8], out: &mut Vec<u8>, integers: Integers) -> Result<(), Wrong> {
        let mut raw = Reading(raw);
        match self {
            Self::Boolean => json::boolean(out, raw.array::<1>()? != [0]),
            Self::Int2 => json::integer(out, raw.int_2()?.into(), integers),
            Self::Int4 => json::integer(out, raw.int_4()?.into(), integers),
            Self::Int8 => json::integer(out, raw.int_8()?, integers),
            Self::Oid => json::integer(out, raw.array().map(u32::from_be_bytes)?.into(), integers),
            Self::Float4 => json::float_32(out, raw.array().map(f32::from_be_bytes)?),
            Self::Float8 => json::float(out, raw.array().map(f64::from_be_bytes)?),
            Self::Text => {
                // The type "char" is one byte, and 0 where there is none.
                let bytes = if raw.0 == [0] { &[][..] } else { raw.0 };
                json::string(out, str::from_utf8(bytes).map_err(|_| Wrong::NotText)?);
                return Ok(());
            }
            Self::Bytes => {
                json::base64(out, raw.0);
                return Ok(());
            }
            Self::Json | Self::Jsonb => {
                if matches!(self, Self::Jsonb) && raw.array::<1>()? != [1] {
                    return Err(Wrong::Malformed);
                }
                str::from_utf8(raw.0).map_err(|_| Wrong::NotText)?;
                out.extend_from_slice(raw.0);
                return Ok(());
            }
            Self::Void => json::null(out),
            Self::Array(member) => array(&mut raw, member, out, integers)?,
            Self::Object(fields) => object(&mut raw, fields, out, integers)?,
            Self::Numeric
            | Self::Date
            | Self::Time
            | Self::TimeWithZone
            | Self::Timestamp
            | Self::TimestampWithZone
            | Self::Interval
            | Self::Uuid
            | Self::Address
            | Self::Hardware
            | Self::Bits => {
                out.push(b'"');
                self.quoted(&mut raw, out)?;
                out.push(b'"');
            }
        }
        raw.end()
    }

    /// Writes one that is a string without anything to escape.
    fn quoted(&self, raw: &mut Reading<'_>, out: &mut Vec<u8>) -> Result<(), Wrong> {
        match self {
            Self::Numeric => numeric::write(raw, out),
            Self::Date => {
                moments::date(out, raw.int_4()?);
                Ok(())
            }
            Self::Time => {
                moments::time(out, raw.int_8()?);
                Ok(())
            }
            Self::TimeWithZone => {
                moments::time(out, raw.int_8()?);
                moments::zone(out, raw.int_4()?);
                Ok(())
            }
            Self::Timestamp => {
                moments::timestamp(out, raw.int_8()?, "");
                Ok(())
            }
            Self::TimestampWithZone => {
                moments::timestamp(out, raw.int_8()?, "Z");
                Ok(())
            }
            Self::Interval => {
                let (micros, days, months) = (raw.int_8()?, raw.int_4()?, raw.int_4()?);
                moments::interval(out, months, days, micros);
                Ok(())
            }
            Self::Address => address(raw, out),
            Self::Bits => bits(raw, out),
            Self::Uuid => {
                for (n, byte) in raw.array::<16>()?.iter().enumerate() {
                    let dash = if matches!(n, 4 | 6 | 8 | 10) { "-" } else { "" };
                    _ = write!(out, "{dash}{byte:02x}");
                }
                Ok(())
            }
            _ => {
                for (n, byte) in raw.bytes(raw.0.len())?.iter().enumerate() {
                    let colon = if n == 0 { "" } else { ":" };
                    _ = write!(out, "{colon}{byte:02x}");
                }
                Ok(())
            }
        }
    }
}

/// Arrays of several dimensions are arrays of arrays. Where their numbers begin is not shown.
fn array(raw: &mut Reading<'_>, member: &Shape, out: &mut Vec<u8>, integers: Integers) -> Result<(), Wrong> {
    let dimensions = raw.count()?;
    let (_has_nulls, _type) = (raw.int_4()?, raw.int_4()?);
    // PostgreSQL's own bound.
    if dimensions > 6 {
        return Err(Wrong::Malformed);
    }
    let mut counts = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        counts.push(raw.count()?);
        raw.int_4()?;
    }
    // So that an empty one comes, and as an `oidvector` so.
    if matches!(counts[..], [] | [0]) {
        out.extend_from_slice(b"[]");
        return Ok(());
    }
    // Each member has at least its length before it, so more of them are not there.
    let members_max = raw.0.len() / size_of::<i32>();
    let total = counts.iter().try_fold(1_usize, |total, &count| total.checked_mul(count));
    if !total.is_some_and(|total| (1..=members_max).contains(&total)) {
        return Err(Wrong::Malformed);
    }
    members(raw, &counts, member, out, integers)
}

fn members(
    raw: &mut Reading<'_>,
    counts: &[usize],
    member: &Shape,
    out: &mut Vec<u8>,
    integers: Integers,
) -> Result<(), Wrong> {
    let Some((&count, deeper)) = counts.split_first() else {
        return nullable(raw.value()?, member, out, integers);
    };
    out.push(b'[');
    for n in 0..count {
        if n > 0 {
            out.push(b',');
        }
        members(raw, deeper, member, out, integers)?;
    }
    out.push(b']');
    Ok(())
}

fn object(
    raw: &mut Reading<'_>,
    fields: &[(Vec<u8>, Shape)],
    out: &mut Vec<u8>,
    integers: Integers,
) -> Result<(), Wrong> {
    if raw.count()? != fields.len() {
        return Err(Wrong::Malformed);
    }
    if fields.is_empty() {
        out.push(b'{');
    }
    for (key, shape) in fields {
        out.extend_from_slice(key);
        raw.int_4()?;
        nullable(raw.value()?, shape, out, integers)?;
    }
    out.push(b'}');
    Ok(())
}

fn nullable(value: Option<&[u8]>, shape: &Shape, out: &mut Vec<u8>, integers: Integers) -> Result<(), Wrong> {
    if let Some(value) = value {
        return shape.write(value, out, integers);
    }
    json::null(out);
    Ok(())
}

/// `inet` and `cidr`: family, bits of the network, whether it is a network, and the address with its length.
fn address(raw: &mut Reading<'_>, out: &mut Vec<u8>) -> Result<(), Wrong> {
    let [_family, bits, is_network, length] = raw.array()?;
    match length {
        4 => _ = write!(out, "{}", Ipv4Addr::from(raw.array::<4>()?)),
        16 => _ = write!(out, "{}", Ipv6Addr::from(raw.array::<16>()?)),
        _ => return Err(Wrong::Malformed),
    }
    if is_network != 0 || bits != length * 8 {
        _ = write!(out, "/{bits}");
    }
    Ok(())
}

fn bits(raw: &mut Reading<'_>, out: &mut Vec<u8>) -> Result<(), Wrong> {
    let count = raw.count()?;
    let bytes = raw.bytes(count.div_ceil(8))?;
    out.extend((0..count).map(|n| if bytes[n / 8] & (0x80 >> (n % 8)) == 0 { b'0' } else { b'1' }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shapes() -> Vec<Shape> {
        let pair = || Shape::Object(vec![(b"{\"a\":".to_vec(), Shape::Int4), (b",\"b\":".to_vec(), Shape::Text)]);
        vec![
            Shape::Boolean,
            Shape::Int2,
            Shape::Int4,
            Shape::Int8,
            Shape::Oid,
            Shape::Float4,
            Shape::Float8,
            Shape::Numeric,
            Shape::Text,
            Shape::Bytes,
            Shape::Date,
            Shape::Time,
            Shape::TimeWithZone,
            Shape::Timestamp,
            Shape::TimestampWithZone,
            Shape::Interval,
            Shape::Uuid,
            Shape::Address,
            Shape::Hardware,
            Shape::Bits,
            Shape::Void,
            Shape::Array(Box::new(Shape::Int4)),
            Shape::Array(Box::new(pair())),
            pair(),
        ]
    }

    /// Bytes among which small numbers, -1 and extremes are frequent, as lengths and counts are.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let number = prop_oneof![
            (0..9_i32).prop_map(|n| n.to_be_bytes().to_vec()),
            prop_oneof![Just(-1), Just(i32::MAX), Just(i32::MIN)].prop_map(|n: i32| n.to_be_bytes().to_vec()),
            prop_oneof![Just(i64::MAX), Just(i64::MIN)].prop_map(|n: i64| n.to_be_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..9),
        ];
        proptest::collection::vec(number, 0..9).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_comes_is_json_or_refused(raw in bytes()) {
            for shape in shapes() {
                let mut out = Vec::new();
                if shape.write(&raw, &mut out, Integers::Number).is_ok() {
                    let read = serde_json::from_slice::<serde_json::Value>(&out);
                    prop_assert!(read.is_ok(), "{shape:?} of {raw:?}: {}", String::from_utf8_lossy(&out));
                }
            }
        }
    }

    #[test]
    fn members_without_end_that_hold_nothing_are_no_array() {
        let raw: Vec<u8> = [2, 0, 23, i32::MAX, 1, 0, 1].into_iter().flat_map(i32::to_be_bytes).collect();
        let written = Shape::Array(Box::new(Shape::Int4)).write(&raw, &mut Vec::new(), Integers::Number);
        assert!(matches!(written, Err(Wrong::Malformed)), "{written:?}");
    }
}
