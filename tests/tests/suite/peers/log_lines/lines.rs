//! The log lines that an operator of spire-agent 1.15.3 may alert on, and what makes both agents write them.

mod code;
mod live;

/// All lines.
pub(super) fn all() -> impl Iterator<Item = &'static Line> {
    live::LINES.iter().chain(code::LINES)
}

/// A line of both logs.
pub(super) struct Line {
    pub(super) level: &'static str,
    pub(super) message: &'static str,
    /// The fields of spire-agent's line. Finial's may have more.
    pub(super) fields: &'static [&'static str],
    /// What happens.
    pub(super) event: &'static str,
    pub(super) seen: Seen,
}

/// Where a line is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// In the logs of both agents, in the live trial.
    Live,
    /// In the code: to make the event happen in both agents takes minutes, a cluster or a broken server.
    Code,
}

pub(super) const fn live(
    level: &'static str,
    message: &'static str,
    fields: &'static [&'static str],
    event: &'static str,
) -> Line {
    Line { level, message, fields, event, seen: Seen::Live }
}

pub(super) const fn code(
    level: &'static str,
    message: &'static str,
    fields: &'static [&'static str],
    event: &'static str,
) -> Line {
    Line { level, message, fields, event, seen: Seen::Code }
}
