//! Writes the metrics of the last hour into the log, in go-metrics's form (`inmem_signal.go`).

use std::time::SystemTime;

use telemetry::{InMemLine, Metrics};
use time::OffsetDateTime;
use tracing::info;

use crate::golang;

/// Logs what is in memory, line by line. Returns false if nothing is kept there.
pub(crate) fn dump(metrics: &Metrics) -> bool {
    let Some(lines) = metrics.in_mem() else { return false };
    for line in &lines {
        info!("{}", text(line));
    }
    true
}

fn text(line: &InMemLine) -> String {
    let InMemLine { at, kind, name, gauge, values } = line;
    let at = golang_time(*at);
    let value = match gauge {
        Some(value) => format!("{value:.3}"),
        None if values.stddev == 0.0 => {
            format!(
                "Count: {} Sum: {:.3} LastUpdated: {}",
                values.count,
                values.sum,
                golang_time(values.updated)
            )
        }
        None => format!(
            "Count: {} Min: {:.3} Mean: {:.3} Max: {:.3} Stddev: {:.3} Sum: {:.3} LastUpdated: {}",
            values.count,
            values.min,
            values.mean,
            values.max,
            values.stddev,
            values.sum,
            golang_time(values.updated)
        ),
    };
    format!("[{at}][{kind}] '{name}': {value}")
}

fn golang_time(time: SystemTime) -> String {
    golang::time(OffsetDateTime::from(time))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use telemetry::Summary;

    use super::*;

    #[test]
    fn lines_are_those_of_go_metrics() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let updated = at + Duration::from_millis(250);
        let values = Summary { count: 2, min: 1.0, mean: 2.0, max: 3.0, stddev: 1.25, sum: 4.0, updated };
        let line = |kind, gauge, values| text(&InMemLine { at, kind, name: "a.b".into(), gauge, values });
        assert_eq!(line('G', Some(1.5), values), "[2027-01-15 08:00:00 +0000 UTC][G] 'a.b': 1.500");
        assert_eq!(
            line('S', None, values),
            "[2027-01-15 08:00:00 +0000 UTC][S] 'a.b': Count: 2 Min: 1.000 Mean: 2.000 Max: 3.000 Stddev: 1.250 \
             Sum: 4.000 LastUpdated: 2027-01-15 08:00:00.25 +0000 UTC"
        );
        let one = Summary { count: 1, stddev: 0.0, ..values };
        assert_eq!(
            line('C', None, one),
            "[2027-01-15 08:00:00 +0000 UTC][C] 'a.b': Count: 1 Sum: 4.000 LastUpdated: 2027-01-15 08:00:00.25 +0000 UTC"
        );
    }
}
