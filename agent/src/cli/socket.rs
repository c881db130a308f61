//! Finds the socket that a client command talks to.

use std::path::{Path, PathBuf};

use super::flags::{Flag, Values, text};

/// The absolute path of the socket. `-socketPath` takes precedence over `-instance`, then comes the environment, then
/// the default.
///
/// # Errors
/// If `-instance` is given and the environment has no template with a placeholder.
pub(super) fn path(values: &Values) -> Result<PathBuf, SocketError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let path = resolve(values.text("socketPath"), values.text("instance"), variable)?;
    Ok(std::path::absolute(&path).unwrap_or_else(|_| Path::new("/").join(path)))
}

fn resolve(
    path: &str,
    instance: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<String, SocketError> {
    // The template is checked even if -socketPath makes it unused.
    let of_instance = match instance {
        "" => None,
        instance => {
            let template = variable(TEMPLATE).ok_or(SocketError::NoTemplate)?;
            if !template.contains("%i") {
                return Err(SocketError::NoPlaceholder);
            }
            Some(template.replace("%i", instance))
        }
    };
    if path != DEFAULT {
        return Ok(path.to_owned());
    }
    Ok(of_instance.or_else(|| variable(SOCKET)).unwrap_or_else(|| DEFAULT.to_owned()))
}

/// Why the path of the socket is unknown, in spire-agent's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SocketError {
    #[error("{TEMPLATE} environment variable must be defined when using the instance flag")]
    NoTemplate,
    #[error("failed to find %i in {TEMPLATE}")]
    NoPlaceholder,
}

/// `-instance`.
pub(super) const fn instance_flag() -> Flag {
    text(
        "instance",
        "",
        "Instance name to substitute into socket templates (env SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE).",
    )
}

/// `-socketPath`.
pub(super) const fn path_flag(usage: &'static str) -> Flag {
    text("socketPath", DEFAULT, usage)
}

/// The usage of `-socketPath` in the commands of `api`.
pub(super) const USAGE: &str = "Path to the SPIRE Agent API Unix domain socket";

const DEFAULT: &str = "/tmp/spire-agent/public/api.sock";
const SOCKET: &str = "SPIRE_AGENT_PUBLIC_SOCKET";
const TEMPLATE: &str = "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence() {
        let none = |_: &str| None;
        let both = |name: &str| match name {
            SOCKET => Some("/env.sock".to_owned()),
            TEMPLATE => Some("/i/%i/%i.sock".to_owned()),
            _ => None,
        };
        assert_eq!(resolve(DEFAULT, "", none).as_deref(), Ok(DEFAULT));
        assert_eq!(resolve(DEFAULT, "", both).as_deref(), Ok("/env.sock"));
        assert_eq!(resolve(DEFAULT, "a", both).as_deref(), Ok("/i/a/a.sock"));
        assert_eq!(resolve("/x", "a", both).as_deref(), Ok("/x"));
        assert_eq!(resolve("/x", "a", none), Err(SocketError::NoTemplate));
        let without = |_: &str| Some("/i.sock".to_owned());
        assert_eq!(resolve("/x", "a", without), Err(SocketError::NoPlaceholder));
    }
}
