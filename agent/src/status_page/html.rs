//! The page as HTML.

use std::fmt::{self, Write as _};

use super::plot;
use crate::explain::overview::{Identity, Overview};
use crate::plain::is_obeyed;

/// The complete page.
pub(super) fn page(now: &Overview) -> String {
    let mut page = String::with_capacity(16 * 1024);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>finial: {}</title>\n\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n<style>{STYLE}</style>\n</head>\n<body>\n",
        Text(&now.agent.state)
    );
    page.push_str("<main id=\"now\">\n");
    head(&mut page, now);
    numbers(&mut page, now);
    page.push_str("<section>\n<h2>When SVIDs expire</h2>\n");
    plot::expiry(&mut page, &now.identities);
    page.push_str("</section>\n<section>\n<h2>From a push to its ACK</h2>\n");
    plot::acks(&mut page, &now.sds.acks);
    page.push_str("</section>\n");
    identities(&mut page, &now.identities);
    callers(&mut page, now);
    let _ = write!(page, "</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n");
    page
}

fn head(page: &mut String, now: &Overview) {
    let agent = &now.agent;
    let version = agent.version.split_whitespace().next().unwrap_or_default();
    let _ = write!(
        page,
        "<header>\n<h1>finial <small>{}</small></h1>\n<p class=\"state {}\">{}</p>\n<dl>\n\
         <div><dt>SPIFFE ID</dt><dd>{}</dd></div>\n<div><dt>Server</dt><dd>{}</dd></div>\n\
         <div><dt>Up</dt><dd>{}</dd></div>\n<div><dt>Last sync</dt><dd>{}</dd></div>\n\
         <div><dt>Own SVID</dt><dd>{}</dd></div>\n</dl>\n",
        Text(version),
        Text(&agent.state),
        Text(&agent.state),
        Text(agent.spiffe_id.as_deref().unwrap_or("not attested")),
        Text(&agent.server),
        time(agent.uptime_seconds),
        agent.last_sync_age_seconds.map_or_else(|| "never".to_owned(), |age| format!("{} ago", time(age))),
        agent
            .svid_expires_in_seconds
            .map_or_else(|| "none".to_owned(), |left| format!("{} left", time(left))),
    );
    if let Some(trouble) = &agent.trouble {
        let _ = writeln!(page, "<p class=\"trouble\">{}</p>", Text(trouble));
    }
    page.push_str("</header>\n");
}

fn numbers(page: &mut String, now: &Overview) {
    let (counts, budget) = (&now.counts, &now.budget);
    let memory = format!("kept for callers, of {}", size(budget.limit_bytes));
    let largest = format!("largest group, of {}", size(budget.group_limit_bytes));
    let streams: f64 = now.open_calls.iter().map(|calls| calls.open).sum();
    page.push_str("<ul class=\"numbers\">\n");
    for (name, value) in [
        ("entries", counts.entries.to_string()),
        ("X.509-SVIDs", counts.x509_svids.to_string()),
        ("JWT-SVIDs", counts.jwt_svids.to_string()),
        ("connections", counts.connections.to_string()),
        ("caller groups", counts.caller_groups.to_string()),
        ("open calls", streams.to_string()),
        ("SDS pushes", now.sds.pushes.to_string()),
        ("NACKs", now.sds.nacks.to_string()),
        ("held names", counts.held_names.to_string()),
        (&*memory, size(budget.held_bytes)),
        (&*largest, size(budget.largest_group_bytes)),
    ] {
        let _ = writeln!(page, "<li><b>{value}</b> {name}</li>");
    }
    page.push_str("</ul>\n");
}

fn identities(page: &mut String, identities: &[Identity]) {
    page.push_str(
        "<section>\n<h2>Identities</h2>\n<div class=\"wide\"><table>\n<thead><tr><th>SPIFFE ID</th><th>Entry</th>\
         <th class=\"n\">Left</th><th>State</th></tr></thead>\n<tbody>\n",
    );
    for identity in identities {
        let state = match (&identity.refusal, identity.left_seconds) {
            (Some(reason), _) => format!("refused: {reason}"),
            _ if identity.is_tainted => "tainted".to_owned(),
            (None, Some(left)) if left <= 0.0 => "expired".to_owned(),
            (None, Some(_)) => "sound".to_owned(),
            (None, None) => "not signed yet".to_owned(),
        };
        let left = identity.left_seconds.map_or_else(|| "–".to_owned(), time);
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{left}</td><td>{}</td></tr>",
            Text(&identity.spiffe_id),
            Text(&identity.entry_id),
            Text(&state)
        );
    }
    page.push_str("</tbody>\n</table></div>\n</section>\n");
}

fn callers(page: &mut String, now: &Overview) {
    page.push_str(
        "<section>\n<h2>Callers</h2>\n<div class=\"wide\"><table>\n<thead><tr><th>Group</th>\
         <th class=\"n\">Connections</th><th class=\"n\">Memory</th></tr></thead>\n<tbody>\n",
    );
    for caller in &now.callers {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Text(&caller.group),
            caller.connections,
            size(caller.bytes)
        );
    }
    page.push_str("</tbody>\n</table></div>\n</section>\n");
}

/// A text with the characters escaped that mean something in HTML, or that turn the direction of what follows.
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if is_obeyed(c) => write!(f, "{}", c.escape_default())?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A time in its two largest units.
pub(super) fn time(seconds: f64) -> String {
    let sign = if seconds <= -1.0 { "−" } else { "" };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "no time here is that long")]
    let seconds = seconds.abs() as u64;
    match seconds {
        0..60 => format!("{sign}{seconds} s"),
        60..3600 => format!("{sign}{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{sign}{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{sign}{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn size(bytes: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "memory sizes")]
    let kib = bytes as f64 / 1024.0;
    if kib < 1024.0 { format!("{kib:.1} KiB") } else { format!("{:.1} MiB", kib / 1024.0) }
}

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        assert_eq!(
            Text("<a href=\"x\">&'</a>").to_string(),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;&lt;/a&gt;"
        );
        assert_eq!(Text("a\u{202e}b\0").to_string(), r"a\u{202e}b\u{0}");
    }

    #[test]
    fn times() {
        let times = [0.4, 61.0, 3700.0, 90_000.0, -61.0].map(time);
        assert_eq!(times, ["0 s", "1 min 1 s", "1 h 1 min", "1 d 1 h", "−1 min 1 s"]);
    }
}
