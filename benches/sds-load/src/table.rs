//! The report as text for a terminal.

use std::fmt::Write as _;

use crate::report::{Flood, Latency, Report};

/// The complete text.
pub(crate) fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = head(&mut text, report);
    let _ = latencies(&mut text, report);
    let _ = rotations(&mut text, report);
    let _ = floods(&mut text, report);
    let _ = agent(&mut text, report);
    let _ = errors(&mut text, report);
    text
}

type Written = std::fmt::Result;

fn head(text: &mut String, report: &Report) -> Written {
    let setup = &report.setup;
    writeln!(text, "\n{} · {} · {}", report.mode, report.label, report.target.socket)?;
    if setup.streams > 0 {
        write!(text, "  {} connections × {} streams, ", setup.connections, setup.streams)?;
    } else {
        write!(text, "  ")?;
    }
    write!(
        text,
        "{} in {} process{}",
        setup.api,
        setup.processes,
        if setup.processes == 1 { "" } else { "es" }
    )?;
    if setup.node_bytes > 0 {
        write!(text, ", node {} of {}", setup.node, bytes(setup.node_bytes as f64))?;
    }
    writeln!(text)?;
    if report.wanted > 0 {
        write!(text, "  {} of {} streams served", report.served, report.wanted)?;
        match report.all_served_s {
            Some(all) => writeln!(text, ", the last after {}", time(all * 1e3))?,
            None => writeln!(text)?,
        }
    }
    let count = |name: &str| report.counts.get(name).copied().unwrap_or(0);
    let mut counted =
        vec![format!("{} out, {} in", bytes(count("bytes_out") as f64), bytes(count("bytes_in") as f64))];
    for (name, words) in [
        ("exchanges", "exchanges"),
        ("pushes", "pushes"),
        ("unneeded_pushes", "unneeded pushes"),
        ("acks", "ACKs"),
        ("nacks", "NACKs"),
        ("health_probes", "health probes"),
    ] {
        if count(name) > 0 {
            counted.push(format!("{} {words}", count(name)));
        }
    }
    if count("exchanges") > 0 && report.elapsed_s > 0.0 {
        counted.push(format!("{:.0}/s", count("exchanges") as f64 / report.elapsed_s));
    }
    writeln!(text, "  {}", counted.join(" · "))
}

fn latencies(text: &mut String, report: &Report) -> Written {
    if report.latencies.is_empty() {
        return Ok(());
    }
    writeln!(text, "\n  {:<28}{:>9}{:>11}{:>11}{:>11}{:>11}", "time", "count", "p50", "p90", "p99", "max")?;
    for (name, Latency { count, p50, p90, p99, max, .. }) in &report.latencies {
        let [p50, p90, p99, max] = [p50, p90, p99, max].map(|value| time(*value));
        writeln!(text, "  {:<28}{count:>9}{p50:>11}{p90:>11}{p99:>11}{max:>11}", words(name))?;
    }
    Ok(())
}

fn rotations(text: &mut String, report: &Report) -> Written {
    if report.rotations.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "\n  {:<40}{:>11}{:>11}{:>11}{:>10}{:>13}",
        "rotation", "streams", "to first", "spread", "unneeded", "CPU per push"
    )?;
    for rotation in report.rotations.iter().take(ROTATIONS) {
        writeln!(
            text,
            "  {:<40}{:>11}{:>11}{:>11}{:>10}{:>13}",
            rotation.name,
            format!("{}/{}", rotation.streams, rotation.expected),
            rotation.trigger_to_first_ms.map_or_else(dash, time),
            time(rotation.spread_ms),
            rotation.unneeded,
            rotation.cpu_us_per_push.map_or_else(dash, |us| time(us / 1e3)),
        )?;
    }
    match report.rotations.len().saturating_sub(ROTATIONS) {
        0 => Ok(()),
        more => writeln!(text, "  … and {more} more"),
    }
}

fn floods(text: &mut String, report: &Report) -> Written {
    if report.floods.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "\n  {:<20}{:>7}{:>8}{:>9}{:>9}{:>28}  connections of the flood",
        "beside", "calls", "failed", "p50", "p99", "RSS before → peak → after"
    )?;
    for flood in &report.floods {
        let [p50, p99] = [flood.p50_ms, flood.p99_ms].map(|ms| ms.map_or_else(dash, time));
        let rss = [flood.rss_before_kib, flood.rss_peak_kib, flood.rss_after_kib]
            .map(|kib| kib.map_or_else(dash, |kib| format!("{:.1}", kib as f64 / 1024.0)))
            .join(" → ");
        let line = format!(
            "  {:<20}{:>7}{:>8}{p50:>9}{p99:>9}{:>28}  {}",
            flood.kind,
            flood.calls,
            flood.failed,
            format!("{rss} MiB"),
            fate(flood)
        );
        writeln!(text, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A text on how a flood's connections ended.
fn fate(flood: &Flood) -> String {
    let mut parts = Vec::new();
    if flood.opened > 0 {
        parts.push(format!("{} opened", flood.opened));
    }
    for (count, what) in [(flood.refused, "refused"), (flood.closed, "closed")] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    parts.extend(flood.goaways.iter().map(|(code, count)| format!("{count} GOAWAY {code}")));
    let resets: u64 = flood.resets.values().sum();
    if resets > 0 {
        parts.push(format!("{resets} streams reset"));
    }
    if !flood.alive {
        parts.push("THE AGENT HAS ENDED".to_owned());
    }
    parts.join(", ")
}

fn agent(text: &mut String, report: &Report) -> Written {
    // The table of floods has this data.
    if report.phases.is_empty() || report.mode == "flood" {
        return Ok(());
    }
    let title = format!("{} (PID {})", report.target.program, report.target.pid.unwrap_or(0));
    writeln!(
        text,
        "\n  {title:<28}{:>9}{:>11}{:>11}{:>11}{:>11}",
        "streams", "CPU", "RSS", "anonymous", "peak"
    )?;
    for phase in &report.phases {
        let sample = &phase.sample;
        let [rss, anon, peak] =
            [sample.rss_kib, sample.anon_kib, sample.peak_kib].map(|kib| bytes(kib as f64 * 1024.0));
        writeln!(
            text,
            "  {:<28}{:>9}{:>11}{rss:>11}{anon:>11}{peak:>11}",
            phase.name,
            phase.streams,
            time(sample.cpu_ms)
        )?;
    }
    writeln!(text)?;
    for (name, value) in &report.derived {
        writeln!(text, "  {:<28}{:>20}", words(name), quantity(name, *value))?;
    }
    Ok(())
}

fn errors(text: &mut String, report: &Report) -> Written {
    if !report.errors.is_empty() {
        writeln!(text, "\n  errors")?;
    }
    for error in &report.errors {
        writeln!(text, "  {:>9} × {}: {}", error.count, error.code, error.example)?;
    }
    for (number, stream) in report.unserved.iter().enumerate() {
        if number == 0 {
            writeln!(text, "\n  without a secret (up to twenty are named)")?;
        }
        writeln!(text, "    {stream}")?;
    }
    for hint in &report.hints {
        writeln!(text, "\n  → {hint}")?;
    }
    Ok(())
}

/// The text for a key of the report.
pub(crate) fn words(key: &str) -> String {
    let unitless = ["_kib_per_stream", "_us_per_stream", "_us_per_push", "_us_per_exchange"]
        .iter()
        .any(|end| key.ends_with(end));
    let text = match key {
        "arrival_to_ack" => "push arrived → ACK written".to_owned(),
        "first_secret" => "connect → first secret".to_owned(),
        "fresh_stream" => "warm, fresh stream".to_owned(),
        "fresh_connection" => "warm, fresh connection".to_owned(),
        "spread_ms" => "first → last arrival".to_owned(),
        "trigger_to_first_ms" => "trigger → first arrival".to_owned(),
        "load_cpu_ms" => "sds-load's own CPU".to_owned(),
        "exchange" => "whole exchange".to_owned(),
        _ if unitless => key.replace("_kib_", " ").replace("_us_", " ").replace('_', " "),
        _ => key.trim_end_matches("_kib").replace("_ms_", " ").replace('_', " "),
    };
    text.replace("cpu", "CPU").replace("rss", "RSS").replace("anon ", "anonymous ")
}

/// A derived value with the unit in its key.
pub(crate) fn quantity(key: &str, value: f64) -> String {
    if key.contains("_us") {
        time(value / 1e3)
    } else if key.contains("_kib") {
        bytes(value * 1024.0)
    } else {
        time(value)
    }
}

/// A time in milliseconds as text, in a suitable unit.
pub(crate) fn time(ms: f64) -> String {
    match ms {
        ms if ms.abs() >= 10_000.0 => format!("{:.1} s", ms / 1e3),
        ms if ms.abs() >= 1000.0 => format!("{:.2} s", ms / 1e3),
        ms if ms.abs() >= 100.0 => format!("{ms:.0} ms"),
        ms if ms.abs() >= 10.0 => format!("{ms:.1} ms"),
        ms if ms.abs() >= 1.0 => format!("{ms:.2} ms"),
        ms => format!("{:.0} µs", ms * 1e3),
    }
}

/// A number of bytes as text, in a suitable unit.
pub(crate) fn bytes(bytes: f64) -> String {
    match bytes.abs() {
        size if size >= 1024.0 * 1024.0 * 1024.0 => format!("{:.2} GiB", bytes / 1024.0 / 1024.0 / 1024.0),
        size if size >= 1024.0 * 1024.0 => format!("{:.1} MiB", bytes / 1024.0 / 1024.0),
        size if size >= 1024.0 => format!("{:.1} KiB", bytes / 1024.0),
        _ => format!("{bytes:.0} B"),
    }
}

fn dash() -> String {
    "–".to_owned()
}

const ROTATIONS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn units_suit() {
        assert_eq!(
            [0.0421, 2.345, 45.67, 456.7, 2345.6, 23_456.0].map(time),
            ["42 µs", "2.35 ms", "45.7 ms", "457 ms", "2.35 s", "23.5 s"]
        );
        assert_eq!([900.0, 2048.0, 5_242_880.0].map(bytes), ["900 B", "2.0 KiB", "5.0 MiB"]);
        assert_eq!(quantity("cpu_us_per_stream", 227.0), "227 µs");
        assert_eq!(words("rss_kib_per_stream"), "RSS per stream");
    }

    #[test]
    fn it_says_what_went_wrong() {
        let text = render(&example());
        for part in [
            "219 of 220 streams served",
            "2 × Unavailable: <busy>",
            "connection 3",
            "→ look at the agent's log",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
