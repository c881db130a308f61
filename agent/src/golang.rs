//! Go's forms of durations, times, numbers and operating-system errors.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use time::OffsetDateTime;

/// `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `strconv.ParseInt` with base 0, but without underscores.
///
/// # Errors
/// The text of Go's flag package.
pub(crate) fn parse_int(text: &str) -> Result<i64, &'static str> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err("parse error");
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).map_err(|_| "value out of range")
}

/// `time.ParseDuration`; `None` if the duration is not positive.
///
/// # Errors
/// The text of Go's `time` package.
pub(crate) fn parse_duration(text: &str) -> Result<Option<Duration>, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(None);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanoseconds = 0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let scale = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
        let scale = scale.ok_or_else(|| match unit {
            "" => format!("time: missing unit in duration {text:?}"),
            unit => format!("time: unknown unit {unit:?} in duration {text:?}"),
        })?;
        nanoseconds += number * scale;
        rest = after;
    }
    // Go's durations are 64-bit nanoseconds: at most 292 years.
    let duration = Duration::try_from_secs_f64(nanoseconds / 1e9).map_err(|_| invalid())?;
    if duration.as_nanos() > i64::MAX.unsigned_abs().into() {
        return Err(invalid());
    }
    Ok((!negative && !duration.is_zero()).then_some(duration))
}

/// Go's units of durations, in nanoseconds.
const UNITS: &[(&str, f64)] = &[
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// A number as Go writes it in JSON: `1800000000`, `0.5`, `1e+21`, `1e-7`.
pub(crate) fn json_number(number: f64) -> String {
    let size = number.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

/// `Duration.String`: `1h2m3.5s`, `1.25ms`, `0s`.
pub(crate) fn duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let (unit, digits) = match nanoseconds {
        0 => return "0s".to_owned(),
        1..1_000 => ("ns", 0),
        1_000..1_000_000 => ("µs", 3),
        1_000_000..1_000_000_000 => ("ms", 6),
        _ => ("s", 9),
    };
    let scale = 10_u128.pow(digits);
    let (mut whole, fraction) = (nanoseconds / scale, nanoseconds % scale);
    let mut text = String::new();
    if digits == 9 {
        let minutes = whole / 60;
        if minutes >= 60 {
            let _ = write!(text, "{}h", minutes / 60);
        }
        if minutes > 0 {
            let _ = write!(text, "{}m", minutes % 60);
        }
        whole %= 60;
    }
    let _ = write!(text, "{whole}");
    if fraction > 0 {
        let width = usize::try_from(digits).unwrap_or_default();
        let fraction = format!("{fraction:0width$}");
        let _ = write!(text, ".{}", fraction.trim_end_matches('0'));
    }
    text + unit
}

/// `Time.String` of a time in UTC: `2023-11-14 22:13:20 +0000 UTC`, with as many digits of a second as it has.
pub(crate) fn time(time: OffsetDateTime) -> String {
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second, nanosecond) = time.to_hms_nano();
    let digits = format!(".{nanosecond:09}");
    let fraction = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction} +0000 UTC", u8::from(month))
}

/// The text of an error in lower case, without Rust's suffix `(os error 2)`.
pub(crate) fn os_error(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) if code == nix::errno::Errno::EAGAIN as i32 => {
            "resource temporarily unavailable".to_owned()
        }
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (999, "999ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (1_234_567, "1.234567ms"),
            (1_000_000_000, "1s"),
            (61_500_000_000, "1m1.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (90_061_000_000_001, "25h1m1.000000001s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanoseconds)), expected);
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        assert_eq!(parse_duration("1h1m1s1ms"), Ok(Some(Duration::from_millis(3_661_001))));
        assert_eq!(parse_duration(".5s"), Ok(Some(Duration::from_millis(500))));
        for none in ["0", "-0", "+0", "0s", "-5s"] {
            assert_eq!(parse_duration(none), Ok(None), "{none}");
        }
        for (text, message) in [
            ("", "invalid duration \"\""),
            ("s", "invalid duration \"s\""),
            (".s", "invalid duration \".s\""),
            ("1.2.3s", "invalid duration \"1.2.3s\""),
            ("1", "missing unit in duration \"1\""),
            ("1d", "unknown unit \"d\" in duration \"1d\""),
            ("9999999999h", "invalid duration \"9999999999h\""),
        ] {
            assert_eq!(parse_duration(text), Err(format!("time: {message}")), "{text}");
        }
    }

    #[test]
    fn numbers_in_json_are_those_of_go() {
        for (number, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.8e9, "1800000000"),
            (-2.5, "-2.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.25e300, "1.25e+300"),
            (1e-6, "0.000001"),
            (1.5e-7, "1.5e-7"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(json_number(number), expected);
        }
    }

    #[test]
    fn numbers_have_gos_prefixes() {
        for (text, expected) in [
            ("8081", Ok(8081)),
            ("0x1F", Ok(31)),
            ("-0b11", Ok(-3)),
            ("017", Ok(15)),
            ("0", Ok(0)),
            ("+5", Ok(5)),
            ("08", Err("parse error")),
            ("+-5", Err("parse error")),
            ("9223372036854775808", Err("value out of range")),
        ] {
            assert_eq!(parse_int(text), expected, "{text}");
        }
    }

    #[test]
    fn times_and_errors() {
        let at = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        assert_eq!(time(at), "2023-11-14 22:13:20 +0000 UTC");
        assert_eq!(os_error(&io::Error::from_raw_os_error(2)), "no such file or directory");
        assert_eq!(os_error(&io::Error::other("Odd")), "Odd");
    }
}
