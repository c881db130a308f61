//! One frame of `finial top` as text.

use std::fmt::Write as _;

use crate::explain::overview::{Identity, Overview};

/// The frame for a terminal of this size. `before` is the last look, for rates.
pub(super) fn frame(now: &Overview, before: Option<&Overview>, width: usize, height: usize) -> String {
    let mut lines = head(now, before);
    let mut tables = vec![identities(now, width), callers(now, width), calls(now)];
    let free = height.saturating_sub(lines.len() + 1);
    share(&mut tables, free);
    for table in tables.into_iter().filter(|table| table.len() > 1) {
        lines.push(String::new());
        lines.extend(table);
    }
    let mut frame = String::new();
    for line in lines {
        let _ = writeln!(frame, "{}", cut(&line, width));
    }
    frame
}

fn head(now: &Overview, before: Option<&Overview>) -> Vec<String> {
    let (agent, counts, budget) = (&now.agent, &now.counts, &now.budget);
    let id = agent.spiffe_id.as_deref().unwrap_or("not attested");
    let synced =
        agent.last_sync_age_seconds.map_or_else(|| "never".to_owned(), |age| format!("{} ago", time(age)));
    let own = agent
        .svid_expires_in_seconds
        .map_or_else(|| "none".to_owned(), |left| format!("{} left", time(left)));
    let version = agent.version.split_whitespace().next().unwrap_or_default();
    let mut lines = vec![
        format!("finial {version} is {}, up {}", agent.state, time(agent.uptime_seconds)),
        format!("{id}"),
        format!("server {}   last sync {synced}   own SVID {own}", agent.server),
    ];
    if let Some(trouble) = &agent.trouble {
        lines.push(format!("trouble: {trouble}"));
    }
    lines.push(String::new());
    lines.push(format!(
        "entries {}  X.509-SVIDs {}  JWT-SVIDs {}  connections {}  groups {}  held names {}",
        counts.entries,
        counts.x509_svids,
        counts.jwt_svids,
        counts.connections,
        counts.caller_groups,
        counts.held_names
    ));
    lines.push(format!(
        "callers hold {} of {} {} largest {} of {}",
        size(budget.held_bytes),
        size(budget.limit_bytes),
        bar(part(budget.held_bytes, budget.limit_bytes)),
        size(budget.largest_group_bytes),
        size(budget.group_limit_bytes)
    ));
    let rate = before.map_or(String::new(), |before| {
        let seconds = (now.time - before.time).max(0.001);
        format!(" ({:.1}/s)", (now.sds.pushes - before.sds.pushes).max(0.0) / seconds)
    });
    lines.push(format!(
        "SDS pushes {}{rate}   NACKs {}   ACK within {} (half), {} (99 %)",
        now.sds.pushes,
        now.sds.nacks,
        quantile(&now.sds.acks, 0.5),
        quantile(&now.sds.acks, 0.99)
    ));
    lines
}

fn identities(now: &Overview, width: usize) -> Vec<String> {
    let name = width.saturating_sub(44).clamp(20, 80);
    let mut lines = vec![format!("{:<name$} {:<16} {:>8} {}", "IDENTITY", "ENTRY", "LEFT", "OF ITS LIFE")];
    lines.extend(now.identities.iter().map(|identity| {
        let left = identity.left_seconds.map_or_else(|| "-".to_owned(), time);
        format!(
            "{:<name$} {:<16} {left:>8} {}",
            tail(&identity.spiffe_id, name),
            cut(&identity.entry_id, 16),
            state(identity)
        )
    }));
    lines
}

fn state(identity: &Identity) -> String {
    match (&identity.refusal, identity.life_seconds, identity.left_seconds) {
        (Some(reason), _, _) => format!("refused: {reason}"),
        _ if identity.is_tainted => "tainted".to_owned(),
        (None, Some(life), Some(left)) => bar(left / life.max(1.0)),
        (None, _, _) => "not signed yet".to_owned(),
    }
}

fn callers(now: &Overview, width: usize) -> Vec<String> {
    let name = width.saturating_sub(28).clamp(20, 80);
    let mut lines = vec![format!("{:<name$} {:>11} {:>10}", "CALLERS", "CONNECTIONS", "MEMORY")];
    lines.extend(now.callers.iter().map(|caller| {
        format!("{:<name$} {:>11} {:>10}", cut(&caller.group, name), caller.connections, size(caller.bytes))
    }));
    lines
}

fn calls(now: &Overview) -> Vec<String> {
    let mut lines = vec![format!("{:<40} {:>6}", "OPEN CALLS", "NOW")];
    lines.extend(now.open_calls.iter().map(|calls| {
        let service = calls.service.rsplit('.').next().unwrap_or_default();
        format!("{:<40} {:>6}", cut(&format!("{service}/{}", calls.method), 40), calls.open)
    }));
    lines
}

/// Shortens tables, each with its title and the empty line before it, until they fit. The longest loses first.
fn share(tables: &mut [Vec<String>], room: usize) {
    loop {
        let needed: usize = tables.iter().filter(|table| table.len() > 1).map(|table| table.len() + 1).sum();
        if needed <= room {
            return;
        }
        match tables.iter_mut().max_by_key(|table| table.len()) {
            Some(longest) if longest.len() > 1 => {
                longest.pop();
            }
            _ => return,
        }
    }
}

/// A time in its two largest units.
fn time(seconds: f64) -> String {
    let sign = if seconds <= -1.0 { "-" } else { "" };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "no time here is that long")]
    let seconds = seconds.abs() as u64;
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, unit)| seconds >= *unit).unwrap_or(units.len() - 1);
    let mut text = format!("{sign}{}{}", seconds / units[first].1, units[first].0);
    if let Some((name, unit)) = units.get(first + 1) {
        let _ = write!(text, " {}{name}", seconds % units[first].1 / unit);
    }
    text
}

/// A size in KiB or MiB.
fn size(bytes: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "memory sizes")]
    let kib = bytes as f64 / 1024.0;
    if kib < 1024.0 { format!("{kib:.1} KiB") } else { format!("{:.1} MiB", kib / 1024.0) }
}

#[expect(clippy::cast_precision_loss, reason = "memory sizes")]
fn part(some: usize, all: usize) -> f64 {
    some as f64 / all.max(1) as f64
}

/// A bar of ten characters.
fn bar(part: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 10")]
    let full = (part.clamp(0.0, 1.0) * 10.0).round() as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(10 - full))
}

/// The bound below which this part of all times is.
pub(super) fn quantile(acks: &[(Option<f64>, u64)], part: f64) -> String {
    let all: u64 = acks.iter().map(|(_, count)| count).sum();
    let mut below = 0;
    for (bound, count) in acks {
        below += count;
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        if all > 0 && below as f64 >= all as f64 * part {
            return bound.map_or("more than 5 s".to_owned(), |bound| format!("{} ms", bound * 1000.0));
        }
    }
    "-".to_owned()
}

/// The first `width` characters of a text.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// The last `width` characters of a text: the end of a SPIFFE ID tells it from its neighbours.
fn tail(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    std::iter::once('…').chain(text.chars().skip(count + 1 - width)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::overview::{Agent, Budget, Caller, Counts, OpenCalls, Sds};

    fn overview() -> Overview {
        let identity = |name: &str, left| Identity {
            spiffe_id: format!("spiffe://example.org/{name}"),
            entry_id: name.to_owned(),
            life_seconds: Some(3600.0),
            left_seconds: Some(left),
            is_tainted: false,
            refusal: None,
        };
        Overview {
            time: 1000.0,
            agent: Agent {
                version: "1.15.3+finial.0.1.0 (spire-agent compatible)".to_owned(),
                trust_domain: "example.org".to_owned(),
                spiffe_id: Some("spiffe://example.org/spire/agent/x".to_owned()),
                state: "ready".to_owned(),
                uptime_seconds: 3725.0,
                last_sync_age_seconds: Some(2.5),
                svid_expires_in_seconds: Some(1800.0),
                server: "server:8081".to_owned(),
                trouble: None,
            },
            counts: Counts {
                entries: 2,
                x509_svids: 2,
                jwt_svids: 0,
                connections: 3,
                caller_groups: 1,
                held_names: 0,
            },
            identities: vec![identity("web", 1800.0), identity("db", 3600.0)],
            callers: vec![Caller { group: "uid:1000".to_owned(), connections: 3, bytes: 6000 }],
            open_calls: vec![OpenCalls { service: "a.b.C".to_owned(), method: "D".to_owned(), open: 3.0 }],
            sds: Sds { pushes: 12.0, nacks: 1.0, acks: vec![(Some(0.001), 98), (Some(0.005), 1), (None, 1)] },
            budget: Budget {
                held_bytes: 13 << 20,
                limit_bytes: 26 << 20,
                largest_group_bytes: 1 << 20,
                group_limit_bytes: 23 << 20,
            },
        }
    }

    #[test]
    fn a_frame() {
        let mut before = overview();
        before.time = 998.0;
        before.sds.pushes = 2.0;
        let expected = "\
finial 1.15.3+finial.0.1.0 is ready, up 1h 2m
spiffe://example.org/spire/agent/x
server server:8081   last sync 2s ago   own SVID 30m 0s left

entries 2  X.509-SVIDs 2  JWT-SVIDs 0  connections 3  groups 1  held names 0
callers hold 13.0 MiB of 26.0 MiB [#####.....] largest 1.0 MiB of 23.0 MiB
SDS pushes 12 (5.0/s)   NACKs 1   ACK within 1 ms (half), 5 ms (99 %)

IDENTITY                             ENTRY                LEFT OF ITS LIFE
spiffe://example.org/web             web                30m 0s [#####.....]
spiffe://example.org/db              db                  1h 0m [##########]

CALLERS                                              CONNECTIONS     MEMORY
uid:1000                                                       3    5.9 KiB

OPEN CALLS                                  NOW
C/D                                           3
";
        assert_eq!(frame(&overview(), Some(&before), 80, 24), expected);
    }

    #[test]
    fn a_small_terminal_shows_less_of_the_longest_table() {
        let mut many = overview();
        many.identities = std::iter::repeat_n(many.identities[0].clone(), 100).collect();
        for height in [1, 8, 12, 20, 40] {
            let lines = frame(&many, None, 40, height);
            assert!(lines.lines().count() <= height.max(8), "{height}: {lines}");
            assert!(lines.lines().all(|line| line.chars().count() <= 40));
        }
    }

    #[test]
    fn times_and_sizes() {
        let times = [0.0, 59.9, 61.0, 7200.0, 90_000.0, -5.0].map(time);
        assert_eq!(times, ["0s", "59s", "1m 1s", "2h 0m", "1d 1h", "-5s"]);
        assert_eq!([1024, 1536 << 10].map(size), ["1.0 KiB", "1.5 MiB"]);
        assert_eq!(quantile(&[(Some(1.0), 0), (None, 0)], 0.5), "-");
        assert_eq!(
            (cut("abcdef", 4), tail("abcdef", 4), tail("abc", 4)),
            ("abc…".into(), "…def".into(), "abc".into())
        );
    }
}
