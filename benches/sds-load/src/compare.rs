//! `sds-load compare`: prints two reports and the ratios of the second to the first.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::error::Error;
use crate::report::Report;
use crate::table::{quantity, time, words};

/// Reads a report.
pub(crate) fn read(path: &Path) -> Result<Report, Error> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|source| Error::NotAReport { path: path.to_owned(), source })
}

/// The table of the comparison.
pub(crate) fn render(a: &Report, b: &Report) -> String {
    let mut text = String::new();
    let width = a.label.chars().count().max(b.label.chars().count()).max(12) + 2;
    let (before, after) = (rows(a), rows(b));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{:<40}{:>width$}{:>width$}{:>9}", a.mode, a.label, b.label, "ratio");
    for (name, row) in &before {
        if let Some(other) = after.get(name) {
            let ratio =
                if row.value > 0.0 { format!("{:.2}", other.value / row.value) } else { "–".to_owned() };
            let _ = writeln!(text, "{name:<40}{:>width$}{:>width$}{ratio:>9}", row.text, other.text);
        }
    }
    if a.setup != b.setup || a.mode != b.mode {
        let _ = writeln!(
            text,
            "\n→ the loads differ: {} {:?}\n             and: {} {:?}",
            a.mode, a.setup, b.mode, b.setup
        );
    }
    text
}

struct Row {
    value: f64,
    text: String,
}

fn rows(report: &Report) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    let mut put = |name: String, value: f64, text: String| drop(rows.insert(name, Row { value, text }));
    for (name, latency) in &report.latencies {
        for (quantile, value) in [("p50", latency.p50), ("p99", latency.p99), ("max", latency.max)] {
            put(format!("{}, {quantile}", words(name)), value, time(value));
        }
    }
    for (name, value) in &report.derived {
        put(words(name), *value, quantity(name, *value));
    }
    for name in ["pushes", "unneeded_pushes", "exchanges"] {
        let count = report.counts.get(name).copied().unwrap_or(0);
        put(words(name), count as f64, count.to_string());
    }
    if let Some(all) = report.all_served_s {
        put("all served".to_owned(), all * 1e3, time(all * 1e3));
    }
    put(
        "errors".to_owned(),
        report.errors.iter().map(|error| error.count as f64).sum(),
        report.errors.len().to_string(),
    );
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn the_ratio_is_of_the_second_to_the_first() {
        let (a, mut b) = (example(), example());
        b.derived.insert("cpu_us_per_stream".into(), 113.5);
        let text = render(&a, &b);
        let line = text.lines().find(|line| line.starts_with("CPU per stream")).unwrap();
        assert!(line.contains("227 µs") && line.contains("114 µs") && line.ends_with("0.50"), "{line}");
        assert!(!text.contains("the loads differ"));
    }

    #[test]
    fn different_loads_are_pointed_out() {
        let (a, mut b) = (example(), example());
        b.setup.connections = 7;
        assert!(render(&a, &b).contains("the loads differ"));
    }
}
