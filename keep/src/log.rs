//! Lines in the text form of the agent's log.

use std::fmt::Write as _;
use std::io::Write as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Writes a line to standard output, where the agent writes too. It is left out if nobody reads there: the keeper must never
/// wait for a reader.
pub(crate) fn line(level: &str, message: &str, fields: &[(&str, String)]) {
    let mut out = std::io::stdout();
    let mut polled = [PollFd::new(&out, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let is_ready = poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::OUT);
    if is_ready {
        let _ = out.write_all(text(OffsetDateTime::now_utc(), level, message, fields).as_bytes());
    }
}

fn text(time: OffsetDateTime, level: &str, message: &str, fields: &[(&str, String)]) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default();
    let mut line = format!("time=\"{time}\" level={level} msg={message:?}");
    for (name, value) in fields {
        let _ = write!(line, " {name}={value:?}");
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_like_the_agents() {
        let line = text(OffsetDateTime::UNIX_EPOCH, "error", "It ends", &[("error", "a \"b\"\n".to_owned())]);
        assert_eq!(
            line,
            "time=\"1970-01-01T00:00:00Z\" level=error msg=\"It ends\" error=\"a \\\"b\\\"\\n\"\n"
        );
    }
}
