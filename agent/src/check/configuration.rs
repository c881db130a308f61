//! What the settings themselves say: warnings, and what keeps `run` from working with a valid file.

use std::io;
use std::path::Path;

use config::Settings;
use rustix::fs::{Access, access};

use super::Line;

/// The lines of the settings.
pub(super) fn lines(settings: &Settings) -> Vec<Line> {
    let obstacles = settings
        .obstacles()
        .map(|problem| Line::failure(NAME, problem.to_string(), "Change the configuration file."));
    let warnings = settings.warnings.iter().map(|warning| {
        Line::warning(NAME, warning.message.clone(), "Change the configuration file, or leave it so.")
    });
    let mut lines: Vec<Line> = obstacles.chain(warnings).collect();
    if lines.is_empty() {
        lines.push(Line::ok(NAME, "the configuration is valid, and each of its keys works"));
    }
    lines
}

/// The line of a configuration that cannot be read or used.
pub(crate) fn unusable(reason: &dyn std::fmt::Display) -> Line {
    Line::failure(
        NAME,
        reason.to_string(),
        "Change the configuration or the flags; `validate` names the same.",
    )
}

/// The line of `log_file`, if there is one. The file is not made.
pub(super) fn log_file(path: Option<&Path>) -> Vec<Line> {
    let Some(path) = path else { return Vec::new() };
    let shown = path.display();
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let tried = match access(path, Access::WRITE_OK) {
        Err(rustix::io::Errno::NOENT) => access(parent, Access::WRITE_OK | Access::EXEC_OK),
        tried => tried,
    };
    vec![match tried {
        Ok(()) => Line::ok("log-file", format!("{shown} can be written")),
        Err(reason) => Line::failure(
            "log-file",
            format!("{shown} cannot be written: {}", io::Error::from(reason)),
            "Give the agent write access to the file and its folder, or set another log_file.",
        ),
    }]
}

const NAME: &str = "configuration";

#[cfg(test)]
mod tests {
    use config::Overrides;

    use super::super::Status;
    use super::*;

    fn settings(agent: &str, plugins: &str) -> Settings {
        let text = format!(
            "agent {{ server_address = \"s\" server_port = 1 trust_domain = \"t\" insecure_bootstrap = true {agent} }}\n\
             plugins {{ {plugins} }}\n"
        );
        Settings::load(&text, &Overrides::default(), &|_| Err(io::Error::other("none"))).unwrap()
    }

    #[test]
    fn problems_of_plugins_fail_and_keys_without_effect_warn() {
        let whole = "NodeAttestor \"join_token\" {} KeyManager \"memory\" {} WorkloadAttestor \"unix\" {}";
        let good = lines(&settings("", whole));
        assert_eq!((good.len(), good[0].status), (1, Status::Ok), "{good:?}");
        let missing = lines(&settings("", "NodeAttestor \"k8s_psat\" {} KeyManager \"memory\" {}"));
        assert!(missing.iter().all(|line| line.status == Status::Failure), "{missing:?}");
        assert!(missing.iter().any(|line| line.summary.contains("cluster")), "{missing:?}");
        let warned = lines(&settings("profiling_enabled = true", whole));
        assert!(warned.iter().any(|line| line.status == Status::Warning), "{warned:?}");
    }

    #[test]
    fn a_log_file_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        assert_eq!(log_file(Some(&file))[0].status, Status::Ok);
        assert!(!file.exists());
        assert_eq!(log_file(Some(&file.join("below")))[0].status, Status::Failure);
        assert_eq!(log_file(None), []);
    }
}
