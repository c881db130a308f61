//! Reads from the cgroups of a process which container it is in, and which daemon knows that container.

use tracing::warn;

use super::DockerError;
use crate::container::{self, is_container_id};

/// The daemon that a container belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Daemon {
    Docker,
    /// Docker, for a container in the cgroups of the user with this ID. Users can make cgroups there, and name them as they
    /// like, so only a daemon of that user is believed (rootless Docker).
    DockerOf(u32),
    /// Podman of root.
    Podman,
    /// Podman of the user with this ID.
    PodmanOf(u32),
}

/// A pattern that finds the container ID in a cgroup path (SPIRE, `docker/cgroup/dockerfinder.go`): a path whose components
/// are texts, `*` for any component, and one `<id>` for the container ID.
#[derive(Debug, Clone)]
pub(super) struct Matcher(Box<[Component]>);

#[derive(Debug, Clone)]
enum Component {
    Text(Box<str>),
    Any,
    Id,
}

impl Matcher {
    pub(super) fn new(pattern: &str) -> Self {
        let component = |text: &str| match text {
            "*" => Component::Any,
            "<id>" => Component::Id,
            text => Component::Text(text.into()),
        };
        Self(pattern.split('/').map(component).collect())
    }

    /// The component of `path` in the place of `<id>`, if the path matches.
    fn find<'a>(&self, path: &'a str) -> Option<&'a str> {
        let mut parts = path.split('/');
        let mut found = None;
        for component in &self.0 {
            let part = parts.next()?;
            match component {
                Component::Text(text) if **text != *part => return None,
                Component::Text(_) | Component::Any => {}
                Component::Id => found = Some(part),
            }
        }
        found.filter(|_| parts.next().is_none())
    }
}

/// The container ID that the patterns find in the text of `/proc/PID/cgroup`; `None` if none of them matches.
pub(super) fn matched_id(cgroup: &str, matchers: &[Matcher]) -> Result<Option<String>, DockerError> {
    let mut found = None;
    let mut any = false;
    for path in container::paths(cgroup)? {
        let Some(new) = matchers.iter().find_map(|matcher| matcher.find(path)) else { continue };
        any = true;
        match found {
            None | Some("") => found = Some(new),
            Some(held) if held != new => {
                return Err(DockerError::TwoContainers(shown(held), shown(new)));
            }
            Some(_) => {}
        }
    }
    match found.filter(|id| !id.is_empty()) {
        None if any => Err(DockerError::BlankId),
        None => Ok(None),
        // Nothing else may get into the path of a request: the pattern may match what a process has named itself.
        Some(id) if !is_container_id(id) => Err(DockerError::NoId(shown(id))),
        Some(id) => Ok(Some(id.to_owned())),
    }
}

/// Whether a process may have a container that its cgroups do not name: it is in the cgroup that the agent's namespace
/// begins with, which is that of the agent's own container. Elsewhere its mounts must not be asked: any user can make a mount
/// namespace in which a container's cgroup is mounted.
pub(super) fn is_near(cgroup: &str) -> bool {
    container::paths(cgroup).is_ok_and(|paths| !paths.is_empty() && paths.into_iter().all(|path| path == "/"))
}

/// The beginning of a component, for an error message.
fn shown(component: &str) -> String {
    component.chars().take(SHOWN).collect()
}

/// The daemon of the container `id`, by the cgroups of a process in it (SPIRE, `docker_posix.go`). A user's slice counts
/// before the ID: behind it are cgroups of the container, which may run a systemd of its own.
pub(super) fn daemon(cgroup: &str, id: &str) -> Daemon {
    let paths = container::paths(cgroup).unwrap_or_default();
    let above = |path: &'_ str| path.rfind(id).unwrap_or(path.len());
    let is_podmans = |path: &&str| path.contains("libpod-") || path.contains("/libpod/");
    let Some(path) = paths.iter().copied().find(is_podmans) else {
        let uid = paths.into_iter().find_map(|path| user_slice(&path[..above(path)]));
        return uid.and_then(|uid| uid.parse().ok()).map_or(Daemon::Docker, Daemon::DockerOf);
    };
    let Some(uid) = user_slice(&path[..above(path)]) else { return Daemon::Podman };
    uid.parse().map_or_else(
        |_| {
            let cgroup_path = shown(path);
            warn!(
                uid,
                cgroup_path,
                "Failed to parse rootless Podman UID from cgroup path, falling back to rootful Podman socket"
            );
            Daemon::Podman
        },
        Daemon::PodmanOf,
    )
}

/// The digits of the first component `user-<uid>.slice`. systemd made it; what a user has made is behind it.
fn user_slice(path: &str) -> Option<&str> {
    path.match_indices("/user-").find_map(|(at, prefix)| {
        let rest = &path[at + prefix.len()..];
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        (end > 0 && rest[end..].starts_with(".slice/")).then(|| &rest[..end])
    })
}

const SHOWN: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

    fn matched(patterns: &[&str], paths: &[String]) -> Result<Option<String>, String> {
        let matchers: Vec<_> = patterns.iter().map(|pattern| Matcher::new(pattern)).collect();
        let text: String = paths.iter().map(|path| format!("0::{path}\n")).collect();
        matched_id(&text, &matchers).map_err(|reason| reason.to_string())
    }

    #[test]
    fn patterns_match_component_by_component() {
        let found = |pattern: &str, path: &str| Matcher::new(pattern).find(path).map(str::to_owned);
        for (pattern, path, expected) in [
            ("/docker/<id>", "/docker/foo", Some("foo")),
            ("/docker/<id>", "/docker/", Some("")),
            ("/docker/<id>", "/docker", None),
            ("/docker/<id>", "/dockerfoo", None),
            ("/docker/<id>", "/docker/foo/", None),
            ("/docker/<id>", "docker/foo", None),
            ("/long.slice/*/*/<id>/*", "/long.slice/foo/bar//qux", Some("")),
            ("/long.slice/*/*/<id>/*", "/long.slice/foo/bar/baz/", Some("baz")),
            ("/long.slice/*/*/<id>/*", "/long.slice/foo/bar/baz", None),
            ("/long.slice/*/*/<id>/*", "/longXslice/foo/bar/baz/qux", None),
        ] {
            assert_eq!(found(pattern, path).as_deref(), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_paths_of_a_process_must_agree() {
        let docker = |id: &str| format!("/docker/{id}");
        let patterns = ["/docker/<id>", "/x/*/<id>"];
        assert_eq!(matched(&patterns, &["/init.scope".into()]), Ok(None));
        let same = [docker(ONE), "/".into(), format!("/x/y/{ONE}")];
        assert_eq!(matched(&patterns, &same), Ok(Some(ONE.to_owned())));
        assert_eq!(matched(&patterns, &[docker(""), docker(ONE)]), Ok(Some(ONE.to_owned())));
        let multiple =
            format!("workloadattestor/docker: multiple container IDs found in cgroups ({ONE}, {OTHER})");
        assert_eq!(matched(&patterns, &[docker(ONE), docker(OTHER)]), Err(multiple));
        let blank = "workloadattestor/docker: a pattern matched, but no container id was found".to_owned();
        assert_eq!(matched(&patterns, &[docker("")]), Err(blank));
        for id in ["name", "..", &ONE[1..], "%2e"] {
            let expected = format!("container id {id:?} is not 64 hexadecimal digits");
            assert_eq!(matched(&patterns, &[docker(id)]), Err(expected));
        }
    }

    #[test]
    fn podman_is_known_by_its_cgroups() {
        let of = |path: &str| daemon(&format!("1:cpu:/\n0::{path}\n"), ONE);
        for (path, expected) in [
            (format!("/system.slice/docker-{ONE}.scope"), Daemon::Docker),
            (format!("/user.slice/user-1000.slice/docker-{ONE}.scope"), Daemon::DockerOf(1000)),
            (format!("/../user.slice/user-0.slice/session-1.scope/{ONE}"), Daemon::DockerOf(0)),
            (format!("/docker/{ONE}/user.slice/user-1000.slice/session-1.scope"), Daemon::Docker),
            (format!("/user.slice/user-7.slice/{ONE}/user.slice/user-8.slice/{ONE}"), Daemon::DockerOf(7)),
            (format!("/machine.slice/libpod-{ONE}.scope/container"), Daemon::Podman),
            (format!("/libpod_parent/libpod/{ONE}"), Daemon::Podman),
            (
                format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ONE}.scope"),
                Daemon::PodmanOf(1000),
            ),
            (format!("/../../user.slice/user-7.slice/libpod-{ONE}.scope"), Daemon::PodmanOf(7)),
            // Made by the user 7 in their own part of the tree.
            (format!("/user.slice/user-7.slice/user-8.slice/libpod-{ONE}.scope"), Daemon::PodmanOf(7)),
            (format!("/user-x.slice/user-.slice/user-9.slice/libpod-{ONE}"), Daemon::PodmanOf(9)),
            (format!("/user-4294967296.slice/libpod-{ONE}"), Daemon::Podman),
            (format!("/libpod-{ONE}/user.slice/user-7.slice/session-1.scope"), Daemon::Podman),
        ] {
            assert_eq!(of(&path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(\\PC|\n|:|/|libpod-|/user-|1|\\.slice/|/docker/)*") {
            daemon(&text, ONE);
            let _ = matched_id(&text, &[Matcher::new("/docker/<id>"), Matcher::new("/*/*/<id>")]);
        }

        #[test]
        fn only_ids_are_found(path in "(/|docker|[0-9a-f]{64}|x)*") {
            if let Ok(Some(id)) = matched(&["/docker/<id>", "/*/*/<id>"], &[path]) {
                prop_assert!(is_container_id(&id));
            }
        }
    }
}
