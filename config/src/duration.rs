//! Parses durations as Go writes them: `1h30m`, `500ms`, `0`.

use std::time::Duration;

use thiserror::Error;

/// Why a text is no duration, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum DurationError {
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    #[error("time: missing unit in duration {0:?}; write one of ns, us, ms, s, m, h")]
    MissingUnit(String),
    #[error("time: unknown unit {unit:?} in duration {text:?}; write one of ns, us, ms, s, m, h")]
    UnknownUnit { unit: String, text: String },
    #[error("duration {0:?} must not be negative")]
    Negative(String),
}

/// Parses as Go's `time.ParseDuration`, but negative durations are an error, because no setting can be negative.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_u128;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        total += nanoseconds(whole, fraction, unit, text)?;
        rest = after;
        if total > i64::MAX.unsigned_abs().into() {
            return Err(invalid());
        }
    }
    if negative && total > 0 {
        return Err(DurationError::Negative(text.to_owned()));
    }
    u64::try_from(total).map(Duration::from_nanos).map_err(|_| invalid())
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn nanoseconds(whole: &str, fraction: &str, unit: &str, text: &str) -> Result<u128, DurationError> {
    let scale: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err(DurationError::MissingUnit(text.to_owned())),
        unit => {
            return Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() });
        }
    };
    let invalid = || DurationError::Invalid(text.to_owned());
    let number = |digits: &str| match digits {
        "" => Ok(0),
        digits => digits.parse::<u64>().map(u128::from).map_err(|_| invalid()),
    };
    // Further digits are less than a nanosecond even in hours.
    let fraction = fraction.get(..fraction.len().min(15)).unwrap_or_default();
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or_default());
    Ok(number(whole)? * scale + number(fraction)? * scale / divisor)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_what_go_reads() {
        for (text, nanos) in [
            ("0", 0),
            ("-0s", 0),
            ("5s", 5_000_000_000),
            ("+1.5h", 5_400_000_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1µs", 1_000),
        ] {
            assert_eq!(parse(text).map(|d| d.as_nanos()), Ok(nanos), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong_as_go_does() {
        for (text, message) in [
            ("", "time: invalid duration \"\""),
            ("s", "time: invalid duration \"s\""),
            ("10", "time: missing unit in duration \"10\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("1 s", "time: unknown unit \" s\" in duration \"1 s\""),
            (".s", "time: invalid duration \".s\""),
            ("-1s", "duration \"-1s\" must not be negative"),
            ("9999999999h", "time: invalid duration \"9999999999h\""),
            ("99999999999999999999999s", "time: invalid duration"),
        ] {
            let error = parse(text).map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|error| error.starts_with(message)), "{text}: {error:?}");
        }
    }
}
