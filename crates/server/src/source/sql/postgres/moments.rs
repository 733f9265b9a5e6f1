//! Dates and times of PostgreSQL as text: RFC 3339 where a time says its zone, the same without a zone where it has none,
//! ISO 8601 for intervals. Years count as in ISO 8601: 0000 is 1 BC, and one of more than four digits has a sign.

use std::io::Write as _;

/// From 1970-01-01 to 2000-01-01, from which PostgreSQL counts.
const DAYS_TO_EPOCH: i64 = 10_957;
const MICROS: i64 = 1_000_000;
const DAY: i64 = 24 * 60 * 60 * MICROS;

/// Days since 2000-01-01; the ends of the range are infinite.
pub(super) fn date(out: &mut Vec<u8>, days: i32) {
    match days {
        i32::MIN => out.extend_from_slice(b"-infinity"),
        i32::MAX => out.extend_from_slice(b"infinity"),
        _ => day(out, days.into()),
    }
}

/// Microseconds since midnight, which ends with 24:00:00.
pub(super) fn time(out: &mut Vec<u8>, micros: i64) {
    let seconds = micros / MICROS;
    _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    fraction(out, micros % MICROS);
}

/// Seconds west of Greenwich.
pub(super) fn zone(out: &mut Vec<u8>, west: i32) {
    let seconds = west.unsigned_abs();
    let sign = if west > 0 { '-' } else { '+' };
    _ = write!(out, "{sign}{:02}:{:02}", seconds / 3_600, seconds / 60 % 60);
    if !seconds.is_multiple_of(60) {
        _ = write!(out, ":{:02}", seconds % 60);
    }
}

/// Microseconds since 2000-01-01; the ends of the range are infinite.
pub(super) fn timestamp(out: &mut Vec<u8>, micros: i64, zone: &str) {
    match micros {
        i64::MIN => out.extend_from_slice(b"-infinity"),
        i64::MAX => out.extend_from_slice(b"infinity"),
        _ => {
            day(out, micros.div_euclid(DAY));
            out.push(b'T');
            time(out, micros.rem_euclid(DAY));
            out.extend_from_slice(zone.as_bytes());
        }
    }
}

/// Months, days and microseconds are apart: how long a month or a day is depends on when it is added.
pub(super) fn interval(out: &mut Vec<u8>, months: i32, days: i32, micros: i64) {
    match (months, days, micros) {
        (i32::MAX, i32::MAX, i64::MAX) => return out.extend_from_slice(b"infinity"),
        (i32::MIN, i32::MIN, i64::MIN) => return out.extend_from_slice(b"-infinity"),
        (0, 0, 0) => return out.extend_from_slice(b"PT0S"),
        _ => {}
    }
    out.push(b'P');
    let mut part = |number: i64, unit: char| {
        if number != 0 {
            _ = write!(out, "{number}{unit}");
        }
    };
    part((months / 12).into(), 'Y');
    part((months % 12).into(), 'M');
    part(days.into(), 'D');
    if micros == 0 {
        return;
    }
    out.push(b'T');
    let mut part = |number: i64, unit: char| {
        if number != 0 {
            _ = write!(out, "{number}{unit}");
        }
    };
    part(micros / MICROS / 3_600, 'H');
    part(micros / MICROS / 60 % 60, 'M');
    let (seconds, rest) = (micros / MICROS % 60, micros % MICROS);
    if seconds != 0 || rest != 0 {
        // The sign is that of the whole.
        let sign = if micros < 0 { "-" } else { "" };
        _ = write!(out, "{sign}{}", seconds.abs());
        fraction(out, rest.abs());
        out.push(b'S');
    }
}

fn fraction(out: &mut Vec<u8>, micros: i64) {
    if micros != 0 {
        _ = write!(out, ".{micros:06}");
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// A day of the Gregorian calendar, which PostgreSQL counts with before there was one, too. After Howard Hinnant's
/// `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>): in years that begin with March, leap days
/// come last.
fn day(out: &mut Vec<u8>, days: i64) {
    let days = days + DAYS_TO_EPOCH + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let sign = match year {
        ..0 => "-",
        0..10_000 => "",
        _ => "+",
    };
    _ = write!(out, "{sign}{:04}-{month:02}-{day:02}", year.abs());
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
    fn days_are_those_of_the_calendar() {
        for (days, text) in [
            (0, "2000-01-01"),
            (59, "2000-02-29"),
            (60, "2000-03-01"),
            (-10_957, "1970-01-01"),
            (366, "2001-01-01"),
            (36_525 + 58, "2100-02-28"),
            (36_525 + 59, "2100-03-01"),
            (2_921_939, "9999-12-31"),
            (2_921_940, "+10000-01-01"),
            (-730_120, "0000-12-31"),
            (-730_119, "0001-01-01"),
            (-730_486, "-0001-12-31"),
            (i32::MAX, "infinity"),
            (i32::MIN, "-infinity"),
        ] {
            assert_eq!(written(|out| date(out, days)), text, "{days}");
        }
    }

    #[test]
    fn times_have_as_many_digits_as_they_need() {
        let noon = DAY / 2;
        assert_eq!(written(|out| time(out, noon)), "12:00:00");
        assert_eq!(written(|out| time(out, noon + 1)), "12:00:00.000001");
        assert_eq!(written(|out| time(out, DAY)), "24:00:00");
        assert_eq!(written(|out| timestamp(out, -1, "Z")), "1999-12-31T23:59:59.999999Z");
        assert_eq!(written(|out| timestamp(out, noon + 120_000, "")), "2000-01-01T12:00:00.12");
        assert_eq!(written(|out| timestamp(out, i64::MIN, "Z")), "-infinity");
        assert_eq!(written(|out| zone(out, -7_200)), "+02:00");
        assert_eq!(written(|out| zone(out, 12_600)), "-03:30");
        assert_eq!(written(|out| zone(out, -4_774)), "+01:19:34");
    }

    #[test]
    fn parts_of_an_interval_stay_apart() {
        let written = |months, days, micros| written(|out| interval(out, months, days, micros));
        assert_eq!(written(0, 0, 0), "PT0S");
        assert_eq!(written(14, 3, 4 * 3_600 * MICROS + 5 * 60 * MICROS + 6_500_000), "P1Y2M3DT4H5M6.5S");
        assert_eq!(written(-1, 400, 0), "P-1M400D");
        assert_eq!(written(0, 0, -500_000), "PT-0.5S");
        assert_eq!(written(0, 0, -(3_600 * MICROS)), "PT-1H");
        assert_eq!(written(i32::MAX, i32::MAX, i64::MAX), "infinity");
    }
}
