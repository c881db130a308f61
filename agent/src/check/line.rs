//! What was found out, a line for each thing, and the report that has them all.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    /// It works.
    Ok,
    /// The agent runs, and somebody should look at it.
    Warning,
    /// The agent will not work before something changes.
    Failure,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// A name that scripts may rely on.
    pub(crate) name: &'static str,
    /// How bad it is.
    pub(crate) status: Status,
    /// What was found.
    pub(crate) summary: String,
    /// What to do; empty if nothing.
    pub(crate) action: String,
}

impl Line {
    pub(crate) fn ok(name: &'static str, summary: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, summary: summary.into(), action: String::new() }
    }

    pub(crate) fn warning(name: &'static str, summary: impl Into<String>, action: impl Into<String>) -> Self {
        Self { name, status: Status::Warning, summary: summary.into(), action: action.into() }
    }

    pub(crate) fn failure(name: &'static str, summary: impl Into<String>, action: impl Into<String>) -> Self {
        Self { name, status: Status::Failure, summary: summary.into(), action: action.into() }
    }
}

/// All lines, in the order in which an operator should read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report(pub(crate) Vec<Line>);

impl Report {
    /// The worst of all.
    pub(crate) fn status(&self) -> Status {
        self.0.iter().map(|line| line.status).max().unwrap_or(Status::Ok)
    }

    /// For people, without the last newline.
    pub(crate) fn text(&self) -> String {
        let width = self.0.iter().map(|line| line.name.len()).max().unwrap_or_default();
        let mut text = String::new();
        for line in &self.0 {
            let (status, name) = (line.status.name(), line.name);
            let _ = writeln!(text, "{status:7}  {name:width$}  {}", printable(&line.summary));
            if !line.action.is_empty() {
                let _ = writeln!(text, "{:7}  {:width$}  -> {}", "", "", printable(&line.action));
            }
        }
        let count = |status| self.0.iter().filter(|line| line.status == status).count();
        let (failures, warnings) = (count(Status::Failure), count(Status::Warning));
        let many = |count: usize, of: &str| format!("{count} {of}{}", if count == 1 { "" } else { "s" });
        let (failures, warnings) = (many(failures, "failure"), many(warnings, "warning"));
        let _ = write!(text, "{}: {failures}, {warnings}", self.status().name());
        text
    }

    /// For scripts.
    pub(crate) fn json(&self) -> String {
        let line = |line: &Line| {
            json!({
                "name": line.name,
                "status": line.status.name(),
                "summary": line.summary,
                "action": line.action,
            })
        };
        let checks: Vec<Value> = self.0.iter().map(line).collect();
        json!({"checks": checks, "status": self.status().name()}).to_string()
    }
}

/// Without control characters: servers and files have a say in the text, and a terminal would obey them.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.trim_end().chars() {
        match character {
            '\n' => shown.push_str("; "),
            character if character.is_control() => shown.extend(character.escape_default()),
            character => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_line_decides() {
        assert_eq!(Report(Vec::new()).status(), Status::Ok);
        let ok = Line::ok("a", "good");
        let warning = Line::warning("bc", "so so", "Look.");
        let failure = Line::failure("d", "bad\x1b[2J\nworse", "Mend it.");
        assert_eq!(Report(vec![warning.clone(), ok.clone()]).status(), Status::Warning);
        let report = Report(vec![ok, failure, warning]);
        assert_eq!(report.status(), Status::Failure);
        let expected = "ok       a   good\n\
                        failure  d   bad\\u{1b}[2J; worse\n             -> Mend it.\n\
                        warning  bc  so so\n             -> Look.\n\
                        failure: 1 failure, 1 warning";
        assert_eq!(report.text(), expected);
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["status"], "failure");
        let expected = json!({"name": "bc", "status": "warning", "summary": "so so", "action": "Look."});
        assert_eq!(json["checks"][2], expected);
    }
}
