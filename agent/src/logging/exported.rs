//! Lines of the log as records of OpenTelemetry.

use proto::otlp::common::any_value::Value as Any;
use proto::otlp::common::{AnyValue, KeyValue};
use proto::otlp::logs::{LogRecord, SeverityNumber};
use tracing::Level;

use super::ours;
use super::record::{Record, Value};

/// Whether a line is exported. Lines about the export are not, nor those of the libraries that it uses: each of them would
/// cause another export.
pub(super) fn is_wanted(target: &str, module: &str) -> bool {
    ours(target) && !module.starts_with("agent::otlp")
}

/// The record of a line.
pub(super) fn record(line: Record<'_>, level: Level) -> LogRecord {
    let time = u64::try_from(line.time.unix_timestamp_nanos()).unwrap_or_default();
    LogRecord {
        time_unix_nano: time,
        observed_time_unix_nano: time,
        severity_number: severity(level).into(),
        severity_text: line.level.to_owned(),
        body: Some(AnyValue { value: Some(Any::StringValue(line.message)) }),
        attributes: line
            .fields
            .into_iter()
            .map(|(key, value)| KeyValue { key, value: Some(AnyValue { value: Some(any(value)) }) })
            .collect(),
    }
}

fn severity(level: Level) -> SeverityNumber {
    match level {
        Level::TRACE => SeverityNumber::Trace,
        Level::DEBUG => SeverityNumber::Debug,
        Level::INFO => SeverityNumber::Info,
        Level::WARN => SeverityNumber::Warn,
        Level::ERROR => SeverityNumber::Error,
    }
}

fn any(value: Value) -> Any {
    let bare = match value {
        Value::Text(text) => return Any::StringValue(text),
        Value::Bare(bare) => bare,
    };
    if let Ok(whole) = bare.parse() {
        Any::IntValue(whole)
    } else if let Ok(boolean) = bare.parse() {
        Any::BoolValue(boolean)
    } else if let Ok(number) = bare.parse() {
        Any::DoubleValue(number)
    } else {
        Any::StringValue(bare)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn a_line_becomes_a_record() {
        let fields = [
            ("count", Value::Bare("7".into())),
            ("share", Value::Bare("0.5".into())),
            ("enabled", Value::Bare("true".into())),
            ("uri", Value::Text("7".into())),
        ];
        let fields: BTreeMap<_, _> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let time = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_789).unwrap();
        let line = Record { level: "warning", message: "Renewed".to_owned(), fields, time };
        let record = record(line, Level::WARN);
        assert_eq!(
            (record.time_unix_nano, record.observed_time_unix_nano),
            (1_700_000_000_123_456_789, 1_700_000_000_123_456_789)
        );
        assert_eq!((record.severity_number, &*record.severity_text), (13, "warning"));
        assert_eq!(record.body.and_then(|body| body.value), Some(Any::StringValue("Renewed".to_owned())));
        let attributes = record
            .attributes
            .into_iter()
            .map(|attribute| (attribute.key, attribute.value.unwrap().value.unwrap()));
        let attributes: Vec<_> = attributes.collect();
        let expected = [
            ("count", Any::IntValue(7)),
            ("enabled", Any::BoolValue(true)),
            ("share", Any::DoubleValue(0.5)),
            ("uri", Any::StringValue("7".to_owned())),
        ];
        assert_eq!(attributes, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn lines_about_the_export_are_not_exported() {
        assert!(is_wanted("agent::manager", "agent::manager") && is_wanted("agent::fatal", "agent::wiring"));
        assert!(!is_wanted("agent::otlp::exporter", "agent::otlp::exporter"));
        assert!(!is_wanted("h2::client", "h2::client") && !is_wanted("rustls::conn", "rustls::conn"));
    }
}
