//! Prometheus's text format, version 0.0.4.

use std::fmt::Write as _;

use tokio::time::Instant;

use crate::Kind;
use crate::series::{Family, Series, State};

/// Renders all series, by name.
pub(crate) fn text(series: &mut Series, now: Instant) -> String {
    let mut families: Vec<(String, &mut Family)> =
        series.families().map(|family| (name(&family.members[0].name), family)).collect();
    families.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut text = String::new();
    for (name, family) in families {
        write_family(&mut text, &name, family, now);
    }
    text
}

fn write_family(text: &mut String, name: &str, family: &mut Family, now: Instant) {
    let kind = match family.metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Sample => "summary",
        Kind::Histogram(_) => "histogram",
    };
    let _ = write!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n", family.metric.help);
    let bounds = match family.metric.kind {
        Kind::Histogram(bounds) => bounds,
        Kind::Counter | Kind::Gauge | Kind::Sample => &[],
    };
    for member in &mut family.members {
        let labels = &member.labels;
        match &mut member.state {
            State::Number(number) => line(text, name, labels, None, *number),
            State::Sample { count, sum, window } => {
                for (quantile, value) in QUANTILES.iter().zip(window.quantiles(now, QUANTILES)) {
                    line(text, name, labels, Some(("quantile", *quantile)), value);
                }
                line(text, &format!("{name}_sum"), labels, None, *sum);
                line(text, &format!("{name}_count"), labels, None, *count);
            }
            State::Histogram { counts, sum } => {
                let bounds = bounds.iter().copied().chain([f64::INFINITY]);
                let mut below = 0;
                for (bound, count) in bounds.zip(counts) {
                    below += *count;
                    line(text, &format!("{name}_bucket"), labels, Some(("le", bound)), below);
                }
                line(text, &format!("{name}_sum"), labels, None, *sum);
                line(text, &format!("{name}_count"), labels, None, below);
            }
        }
    }
}

/// Writes the line of one value. `more` is a label that tells the values of one series apart.
fn line(
    text: &mut String,
    name: &str,
    labels: &[(&'static str, String)],
    more: Option<(&str, f64)>,
    value: impl Number,
) {
    text.push_str(name);
    let mut sorted: Vec<_> = labels.iter().map(|(name, value)| (*name, escape(value))).collect();
    sorted.sort_unstable();
    sorted.extend(more.map(|(name, bound)| (name, bound.text())));
    for (place, (name, value)) in sorted.iter().enumerate() {
        let _ = write!(text, "{}{name}=\"{value}\"", if place == 0 { "{" } else { "," });
    }
    text.push_str(if sorted.is_empty() { " " } else { "} " });
    text.push_str(&value.text());
    text.push('\n');
}

/// The name for Prometheus (go-metrics, `prometheus.go`).
fn name(dotted: &str) -> String {
    dotted.replace([' ', '.', '=', '-', '/'], "_")
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A number in the text format.
trait Number {
    fn text(&self) -> String;
}

impl Number for u64 {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Number for f64 {
    fn text(&self) -> String {
        if self.is_infinite() {
            return if *self > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
        }
        self.to_string()
    }
}

/// The quantiles that go-metrics asks for.
pub(crate) const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];
