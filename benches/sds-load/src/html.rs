//! The report as one HTML page, without scripts, fonts or external resources. It is light or dark, as the reader
//! prefers.
//!
//! [`render`] writes the page; [`crate::chart`] draws its plots.

use std::fmt::Write as _;

use crate::chart::{Chart, Line, STYLE, Scale, escape};
use crate::report::{Point, Report};
use crate::table::{bytes, quantity, time, words};

/// The complete page.
pub(crate) fn render(report: &Report) -> String {
    let title = format!("sds-load {} · {}", report.mode, escape(&report.label));
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    page += &head(report);
    page += &cards(report);
    page += &hints(report);
    page += "<div class=\"plots\">\n";
    page += &latency_plot(report);
    page += &memory_plot(report);
    page += &activity_plot(report);
    page += &cpu_plot(report);
    page += "</div>\n";
    page += &tables(report);
    page += "</main>\n</body>\n</html>\n";
    page
}

fn head(report: &Report) -> String {
    let setup = &report.setup;
    let mut facts = vec![format!("{} API", setup.api)];
    if setup.connections > 0 {
        facts.push(format!("{} connections × {} streams", setup.connections, setup.streams));
    }
    facts.push(format!("{} process{}", setup.processes, if setup.processes == 1 { "" } else { "es" }));
    if setup.node_bytes > 0 {
        facts.push(format!("node {} of {}", setup.node, bytes(setup.node_bytes as f64)));
    }
    facts.push(report.target.socket.clone());
    facts.push(format!("Linux {}, load average {}", report.machine.kernel, report.machine.load_average));
    facts.push(report.started.clone());
    format!(
        "<header><p class=\"mode\">sds-load <b>{}</b></p><h1>{}</h1><p class=\"facts\">{}</p></header>\n",
        escape(&report.mode),
        escape(&report.label),
        escape(&facts.join(" · "))
    )
}

/// The main numbers of the mode.
fn cards(report: &Report) -> String {
    let mut cards: Vec<(String, String)> = Vec::new();
    if report.wanted > 0 {
        cards.push(("streams served".to_owned(), format!("{} / {}", report.served, report.wanted)));
    }
    if let Some(all) = report.all_served_s {
        cards.push(("all served after".to_owned(), time(all * 1e3)));
    }
    for (name, latency) in report.latencies.iter().filter(|(name, _)| *name != "arrival_to_ack") {
        cards.push((
            format!("{}, p50 / p99", words(name)),
            format!("{} / {}", time(latency.p50), time(latency.p99)),
        ));
    }
    for key in CARDS {
        if let Some(value) = report.derived.get(*key) {
            cards.push((words(key), quantity(key, *value)));
        }
    }
    let errors: u64 = report.errors.iter().map(|error| error.count).sum();
    if errors > 0 {
        cards.push(("errors".to_owned(), errors.to_string()));
    }
    let card = |(name, value): &(String, String)| {
        format!("<div class=\"card\"><span>{}</span><b>{}</b></div>\n", escape(name), escape(value))
    };
    format!("<section class=\"cards\">\n{}</section>\n", cards.iter().map(card).collect::<String>())
}

fn hints(report: &Report) -> String {
    report.hints.iter().map(|hint| format!("<p class=\"hint\">{}</p>\n", escape(hint))).collect()
}

fn latency_plot(report: &Report) -> String {
    let latencies: Vec<_> = report.latencies.iter().filter(|(_, latency)| latency.count > 1).collect();
    let line = |(name, latency): &(&String, &crate::report::Latency)| Line {
        name: words(name),
        points: latency.cdf.iter().map(|(ms, share)| (*ms, share * 100.0)).collect(),
        right: false,
        area: false,
    };
    Chart {
        title: "Latency: share of answers within a time",
        x: Scale::Logarithmic,
        x_unit: time,
        left_unit: |percent| format!("{percent:.0} %"),
        right_unit: None,
        lines: latencies.iter().map(line).collect(),
    }
    .render()
}

fn memory_plot(report: &Report) -> String {
    if report.target.pid.is_none() {
        return String::new();
    }
    let line = |name: &str, right, value: fn(&Point) -> f64| Line {
        name: name.to_owned(),
        points: report.timeline.iter().map(|point| (point.t, value(point))).collect(),
        right,
        area: !right && name == "RSS",
    };
    Chart {
        title: "Memory against streams",
        x: Scale::Linear,
        x_unit: seconds,
        left_unit: |mib| bytes(mib * 1024.0 * 1024.0),
        right_unit: Some(count),
        lines: vec![
            line("RSS", false, |point| point.rss_kib as f64 / 1024.0),
            line("anonymous", false, |point| point.anon_kib as f64 / 1024.0),
            line("streams open (right)", true, |point| point.streams as f64),
        ],
    }
    .render()
}

fn activity_plot(report: &Report) -> String {
    let line = |name: &str, value: fn(&Point) -> f64| Line {
        name: name.to_owned(),
        points: report.timeline.iter().map(|point| (point.t, value(point))).collect(),
        right: false,
        area: false,
    };
    let mut lines = vec![line("served", |point| point.served as f64)];
    if report.timeline.iter().any(|point| point.streams > 0) {
        lines.push(line("streams open", |point| point.streams as f64));
    }
    if report.timeline.iter().any(|point| point.pushes > 0) {
        lines.push(line("pushes", |point| point.pushes as f64));
    }
    Chart {
        title: "Load over time",
        x: Scale::Linear,
        x_unit: seconds,
        left_unit: count,
        right_unit: None,
        lines,
    }
    .render()
}

fn cpu_plot(report: &Report) -> String {
    if report.target.pid.is_none() {
        return String::new();
    }
    let share = |pair: &[Point]| {
        let (before, after) = (pair[0], pair[1]);
        let width = (after.t - before.t).max(1e-3);
        (after.t, ((after.cpu_ms - before.cpu_ms) / width / 10.0).max(0.0))
    };
    let points = report.timeline.windows(2).map(share).collect();
    Chart {
        title: "CPU of the agent (100 % is one core)",
        x: Scale::Linear,
        x_unit: seconds,
        left_unit: |percent| format!("{percent:.0} %"),
        right_unit: None,
        lines: vec![Line { name: "CPU".to_owned(), points, right: false, area: true }],
    }
    .render()
}

fn tables(report: &Report) -> String {
    let latencies = report.latencies.iter().map(|(name, latency)| {
        let times = [latency.min, latency.p50, latency.p90, latency.p99, latency.max].map(time);
        [vec![words(name), latency.count.to_string()], times.to_vec()].concat()
    });
    let phases = report.phases.iter().map(|phase| {
        let sizes = [phase.sample.rss_kib, phase.sample.anon_kib, phase.sample.peak_kib];
        let sizes = sizes.map(|kib| bytes(kib as f64 * 1024.0));
        let at = vec![
            phase.name.clone(),
            seconds(phase.at_s),
            phase.streams.to_string(),
            time(phase.sample.cpu_ms),
        ];
        [at, sizes.to_vec(), vec![phase.sample.threads.to_string()]].concat()
    });
    let rotations = report.rotations.iter().map(|rotation| {
        vec![
            rotation.name.clone(),
            format!("{} / {}", rotation.streams, rotation.expected),
            rotation.trigger_to_first_ms.map_or_else(String::new, time),
            time(rotation.spread_ms),
            rotation.unneeded.to_string(),
            rotation.cpu_us_per_push.map_or_else(String::new, |us| time(us / 1e3)),
        ]
    });
    let derived = report.derived.iter().map(|(key, value)| vec![words(key), quantity(key, *value)]);
    let counts = report.counts.iter().filter(|(_, count)| **count > 0).map(|(name, count)| {
        let value = if name.starts_with("bytes") { bytes(*count as f64) } else { count.to_string() };
        vec![name.replace('_', " "), value]
    });
    let errors = report
        .errors
        .iter()
        .map(|error| vec![error.code.clone(), error.count.to_string(), error.example.clone()]);
    let unserved = report.unserved.iter().map(|stream| vec![stream.clone()]);
    [
        table("Times", &["", "count", "least", "p50", "p90", "p99", "most"], latencies),
        table(
            "Rotations",
            &["", "streams", "to first", "first → last", "unneeded", "CPU per push"],
            rotations,
        ),
        table("The agent", &["", "at", "streams", "CPU", "RSS", "anonymous", "peak", "threads"], phases),
        table("Costs", &["", ""], derived),
        table("Counted", &["", ""], counts),
        table("Errors", &["code", "times", "the first one’s words"], errors),
        table("Without a secret", &[""], unserved),
    ]
    .concat()
}

fn table(title: &str, columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let row = |cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = rows.map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let columns: String = columns.iter().map(|column| format!("<th>{column}</th>")).collect();
    let head = if columns.replace("<th></th>", "").is_empty() {
        String::new()
    } else {
        format!("<tr>{columns}</tr>\n")
    };
    format!("<section><h2>{title}</h2><div class=\"wide\"><table>\n{head}{rows}</table></div></section>\n")
}

fn seconds(seconds: f64) -> String {
    if seconds < 10.0 && seconds.fract() > 0.01 {
        format!("{seconds:.1} s")
    } else {
        format!("{seconds:.0} s")
    }
}

fn count(count: f64) -> String {
    match count {
        count if count >= 1e6 => format!("{:.1} M", count / 1e6),
        count if count >= 1e4 => format!("{:.0} k", count / 1e3),
        count if count >= 1e3 => format!("{:.1} k", count / 1e3),
        count if count.fract() > 0.01 => format!("{count:.1}"),
        count => format!("{count:.0}"),
    }
}

/// The keys of the costs that are shown large, in this order.
const CARDS: &[&str] = &[
    "cpu_us_per_stream",
    "cpu_us_per_push",
    "cpu_us_per_exchange",
    "spread_ms",
    "trigger_to_first_ms",
    "rss_kib_per_stream",
    "rss_growth_kib",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    /// Checks that every opened tag is closed, in order.
    fn assert_well_formed(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        for tag in page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
            let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "</{name}>");
            } else if !tag.ends_with('/') && !tag.starts_with('!') {
                open.push(name);
            }
        }
        assert_eq!(open, Vec::<&str>::new());
    }

    #[test]
    fn the_page_is_well_formed() {
        assert_well_formed(&render(&example()));
        assert_well_formed(&render(&Report::default()));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = render(&example());
        for part in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"] {
            assert!(!page.contains(part), "{part}");
        }
    }

    #[test]
    fn what_others_wrote_is_escaped() {
        let page = render(&example());
        assert!(page.contains("&lt;agent&gt; &amp; &quot;co&quot;") && !page.contains("<agent>"));
        assert!(page.contains("&lt;busy&gt;"));
    }

    #[test]
    fn no_plot_holds_a_number_that_is_none() {
        let page = render(&example());
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }
}
