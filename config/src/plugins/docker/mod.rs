//! Reads the configuration of WorkloadAttestor `docker`. Errors are in spire-agent's words where it has any.

mod matchers;

use std::path::PathBuf;

use super::WorkloadAttestor;
use crate::decode::{Section, Setting, Strictness, no_hint};

/// The options of the `docker` attestor, with defaults (SPIRE: `plugins.WorkloadAttestor.docker.plugin_data`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerOptions {
    /// The socket of the Docker daemon (SPIRE: `docker_socket_path`).
    pub docker_socket_path: PathBuf,
    /// The version of the API, major and minor; `None` to negotiate it (SPIRE: `docker_version`).
    pub docker_version: Option<(u32, u32)>,
    /// Patterns that find the container ID in a cgroup path. Each has exactly one component `<id>`, and no two match the
    /// same path. If there are none, the ID is found as for the k8s attestor (SPIRE: `container_id_cgroup_matchers`, which
    /// `use_new_container_locator` must allow).
    pub container_id_cgroup_matchers: Vec<String>,
    /// Whether the search for the container of a process is logged (SPIRE: `verbose_container_locator_logs`).
    pub verbose_container_locator_logs: bool,
    /// The socket of Podman for containers of root (SPIRE: `podman_socket_path`).
    pub podman_socket_path: PathBuf,
    /// The sockets of Podman for containers of other users.
    pub podman_user_sockets: PodmanUserSockets,
}

/// The paths of users' Podman sockets (SPIRE: `podman_socket_path_template`). A path is `before`, the user ID, `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodmanUserSockets {
    /// The text before the user ID.
    pub before: String,
    /// The text after the user ID.
    pub after: String,
}

pub(super) fn read(section: Section<'_>) -> Option<WorkloadAttestor> {
    if section.block("sigstore").is_present() {
        let line = section.block("sigstore").line;
        section.report().not_supported(line, "WorkloadAttestor \"docker\" sigstore");
    }
    let options = DockerOptions {
        docker_socket_path: socket(&section, "docker_socket_path", DOCKER),
        docker_version: version(&section),
        container_id_cgroup_matchers: matchers(&section),
        verbose_container_locator_logs: section.is_set("verbose_container_locator_logs"),
        podman_socket_path: socket(&section, "podman_socket_path", PODMAN),
        podman_user_sockets: user_sockets(&section),
    };
    section.finish(Strictness::RefuseBare, "plugin_data", no_hint);
    Some(WorkloadAttestor::Docker(Box::new(options)))
}

fn socket(section: &Section<'_>, key: &'static str, default: &str) -> PathBuf {
    let Some(Setting { value, line }) = section.text(key) else { return default.into() };
    match value.split_once("://") {
        Some(("unix", path)) if !path.is_empty() => return path.into(),
        Some((scheme, rest)) if scheme != "unix" && !rest.is_empty() => {
            section.report().not_supported(line, &format!("{key} = {value:?}: write unix:// and a path"));
        }
        _ => section
            .report()
            .problem(line, format!("unable to parse docker host `{value}`: {key} is unix:// and a path")),
    }
    default.into()
}

fn version(section: &Section<'_>) -> Option<(u32, u32)> {
    let Setting { value, line } = section.text("docker_version")?;
    let text = value.trim();
    let parts = text.strip_prefix('v').unwrap_or(text);
    if parts.is_empty() {
        return None;
    }
    let parsed = parts.split_once('.').and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    if parsed.is_none() {
        let message = format!("invalid API version ({text}): must be formatted <major>.<minor>");
        section.report().problem(line, message);
    }
    parsed
}

/// A number of digits alone.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn matchers(section: &Section<'_>) -> Vec<String> {
    let new_locator = section.flag("use_new_container_locator").is_none_or(|flag| flag.value);
    let patterns = section.texts("container_id_cgroup_matchers");
    let Some(line) = patterns.first().map(|pattern| pattern.line) else { return Vec::new() };
    if new_locator {
        section.report().problem(line, BOTH_LOCATORS);
        return Vec::new();
    }
    let patterns: Vec<_> = patterns.into_iter().map(|pattern| pattern.value).collect();
    match matchers::check(&patterns) {
        Ok(()) => section.report().warn(LEGACY.to_owned()),
        Err(message) => section.report().problem(line, message),
    }
    patterns
}

fn user_sockets(section: &Section<'_>) -> PodmanUserSockets {
    let (value, line) = section
        .text("podman_socket_path_template")
        .map_or_else(|| (PODMAN_OF_USERS.to_owned(), None), |text| (text.value, text.line));
    let sockets = split_template(&value).and_then(|sockets| match sockets.before.strip_prefix("unix://") {
        Some(before) => Ok(PodmanUserSockets { before: before.to_owned(), ..sockets }),
        None => Err("template must begin with unix://"),
    });
    sockets.unwrap_or_else(|reason| {
        section.report().problem(line, format!("invalid podman_socket_path_template: {reason}"));
        PodmanUserSockets { before: String::new(), after: String::new() }
    })
}

/// Splits a template at its only `%d`. `%%` stands for one `%`.
fn split_template(template: &str) -> Result<PodmanUserSockets, &'static str> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let mut chars = template.chars();
    while let Some(char) = chars.next() {
        match (char, if char == '%' { chars.next() } else { None }) {
            ('%', None) => return Err("trailing % at end of template"),
            ('%', Some('%')) => part.push('%'),
            ('%', Some('d')) => parts.push(std::mem::take(&mut part)),
            ('%', _) => return Err("template only supports escaped %% or the %d UID placeholder"),
            _ => part.push(char),
        }
    }
    match <[String; 1]>::try_from(parts) {
        Ok([before]) => Ok(PodmanUserSockets { before, after: part }),
        Err(_) => Err("template must contain exactly one %d UID placeholder"),
    }
}

const DOCKER: &str = "/var/run/docker.sock";
const PODMAN: &str = "/run/podman/podman.sock";
const PODMAN_OF_USERS: &str = "unix:///run/user/%d/podman/podman.sock";
const BOTH_LOCATORS: &str = "the new container locator and custom cgroup matchers cannot both be used; please open an issue \
     if the new container locator fails to locate workload containers in your environment; to continue using custom matchers \
     set use_new_container_locator=false";
const LEGACY: &str = "Using the legacy container locator with custom cgroup matchers. This feature will be removed in a future release.";

#[cfg(test)]
mod tests;
