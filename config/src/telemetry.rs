//! Reads the block `telemetry { }`. No metrics are exported yet: everything that would need them is named in one warning.

use crate::decode::{Section, Strictness, no_hint};

pub(crate) fn read(section: Section<'_>) {
    let mut idle = Idle::default();
    for sink in ["Prometheus", "DogStatsd", "Statsd", "M3", "InMem"] {
        for block in section.blocks(sink) {
            idle.add(sink, block.line);
            read_sink(sink, block);
        }
    }
    if let Some(prefix) = section.text("MetricPrefix").filter(|prefix| prefix.value != "spire_agent") {
        idle.add("MetricPrefix", prefix.line);
    }
    for (key, default) in [("EnableTrustDomainLabel", false), ("EnableHostnameLabel", true)] {
        if let Some(flag) = section.flag(key).filter(|flag| flag.value != default) {
            idle.add(key, flag.line);
        }
    }
    for key in ["AllowedPrefixes", "BlockedPrefixes", "AllowedLabels", "BlockedLabels"] {
        if let Some(first) = section.texts(key).first() {
            idle.add(key, first.line);
        }
    }
    idle.warn(&section);
    section.finish(Strictness::Ignore, "telemetry", no_hint);
}

/// Checks the keys of a sink as spire-agent does.
fn read_sink(sink: &str, block: Section<'_>) {
    match sink {
        "Prometheus" => {
            block.text("host");
            block.int("port");
            read_tls(block.block("tls"));
        }
        "M3" => {
            block.text("address");
            block.text("env");
        }
        "InMem" => {}
        _ => drop(block.text("address")),
    }
    block.finish(Strictness::Refuse, sink, no_hint);
}

fn read_tls(section: Section<'_>) {
    for key in ["cert_file", "key_file", "client_ca_file"] {
        section.text(key);
    }
    section.flag("use_spire_svid");
    section.texts("authorized_spiffe_ids");
    section.finish(Strictness::Ignore, "tls", no_hint);
}

/// The keys that do nothing.
#[derive(Default)]
struct Idle {
    keys: Vec<&'static str>,
    line: Option<u32>,
}

impl Idle {
    fn add(&mut self, key: &'static str, line: Option<u32>) {
        self.line = self.line.or(line);
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
    }

    fn warn(self, section: &Section<'_>) {
        if !self.keys.is_empty() {
            let keys = self.keys.join(", ");
            let message = format!("Telemetry is not supported yet: no metrics are exported ({keys})");
            section.report().ignored(self.line, message);
        }
    }
}
