//! Reads the block `telemetry { }`. No sink is supported yet, so that every sink is refused.

use crate::decode::{Section, Strictness, no_hint};

pub(crate) fn read(section: Section<'_>) {
    for (sink, keys) in SINKS {
        for block in section.blocks(sink) {
            block.report().not_supported(block.line, &section.name(sink));
            for key in keys {
                block.items(key);
            }
            block.finish(Strictness::Refuse, sink, no_hint);
        }
    }
    let refuse = |line: Option<u32>, key: &str| section.report().not_supported(line, &section.name(key));
    if let Some(prefix) = section.text("MetricPrefix").filter(|prefix| prefix.value != "spire_agent") {
        refuse(prefix.line, "MetricPrefix");
    }
    for (key, default) in [("EnableTrustDomainLabel", false), ("EnableHostnameLabel", true)] {
        if let Some(flag) = section.flag(key).filter(|flag| flag.value != default) {
            refuse(flag.line, key);
        }
    }
    for key in ["AllowedPrefixes", "BlockedPrefixes", "AllowedLabels", "BlockedLabels"] {
        if let Some(first) = section.texts(key).first() {
            refuse(first.line, key);
        }
    }
    section.finish(Strictness::Ignore, "telemetry", no_hint);
}

/// The sinks and their keys (SPIRE: `telemetry.Prometheus` and so on).
const SINKS: [(&str, &[&str]); 5] = [
    ("Prometheus", &["host", "port", "tls"]),
    ("DogStatsd", &["address"]),
    ("Statsd", &["address"]),
    ("M3", &["address", "env"]),
    ("InMem", &[]),
];
