//! Decimals of PostgreSQL as text, digit by digit as they are stored: `numeric_send` in its `numeric.c`.

use std::io::Write as _;

use super::shape::{Reading, Wrong};

/// Writes one, with as many digits behind the point as it has.
pub(super) fn write(raw: &mut Reading<'_>, out: &mut Vec<u8>) -> Result<(), Wrong> {
    let count = raw.int_2()?;
    // What the first group of four digits counts: 10,000 to the power of it.
    let weight = i32::from(raw.int_2()?);
    let sign = raw.int_2()?.cast_unsigned();
    let scale = usize::try_from(raw.int_2()?).map_err(|_| Wrong::Malformed)?;
    let mut groups = Vec::with_capacity(usize::try_from(count).map_err(|_| Wrong::Malformed)?);
    for _ in 0..count {
        let group = raw.int_2()?;
        if !(0..10_000).contains(&group) {
            return Err(Wrong::Malformed);
        }
        groups.push(group);
    }
    match sign {
        0 => {}
        0x4000 => out.push(b'-'),
        0xc000 => out.extend_from_slice(b"NaN"),
        0xd000 => out.extend_from_slice(b"Infinity"),
        0xf000 => out.extend_from_slice(b"-Infinity"),
        _ => return Err(Wrong::Malformed),
    }
    if sign > 0x4000 {
        return Ok(());
    }
    // Groups of zeros at both ends are not stored.
    let group = |at: i32| {
        let n = usize::try_from(weight - at).ok();
        n.and_then(|n| groups.get(n).copied()).unwrap_or(0)
    };
    if weight < 0 {
        out.push(b'0');
    } else {
        _ = write!(out, "{}", group(weight));
        for at in (0..weight).rev() {
            _ = write!(out, "{:04}", group(at));
        }
    }
    if scale > 0 {
        out.push(b'.');
        let whole = out.len();
        let mut at = -1;
        while out.len() - whole < scale {
            _ = write!(out, "{:04}", group(at));
            at -= 1;
        }
        out.truncate(whole + scale);
    }
    Ok(())
}
