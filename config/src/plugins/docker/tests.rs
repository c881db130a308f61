//! Tests of every key of the plugin, and of their conflicts.

use super::{DockerOptions, PodmanUserSockets, read, split_template};
use crate::decode::Section;
use crate::hcl;
use crate::plugins::WorkloadAttestor;
use crate::report::Report;

/// Reads the options, and returns them with all problems and all warnings.
fn options(text: &str) -> (DockerOptions, Vec<String>, Vec<String>) {
    let object = hcl::parse(text).unwrap();
    let report = Report::default();
    let attestor = read(Section::new("", vec![&object], Some(1), &report));
    let Some(WorkloadAttestor::Docker(options)) = attestor else { panic!("{text}") };
    let (errors, warnings) = report.finish();
    let mut messages: Vec<_> = errors.problems.into_iter().map(|problem| problem.message).collect();
    messages.extend(errors.unknown.iter().map(|unknown| format!("unknown: {}", unknown.keys())));
    (*options, messages, warnings.into_iter().map(|warning| warning.message).collect())
}

#[test]
fn defaults_are_those_of_spire_agent() {
    let (options, problems, warnings) = options("docker_version = \" v \" use_new_container_locator = false");
    assert_eq!((problems, warnings), (vec![], vec![]));
    let expected = DockerOptions {
        docker_socket_path: "/var/run/docker.sock".into(),
        docker_version: None,
        container_id_cgroup_matchers: vec![],
        verbose_container_locator_logs: false,
        podman_socket_path: "/run/podman/podman.sock".into(),
        podman_user_sockets: PodmanUserSockets {
            before: "/run/user/".into(),
            after: "/podman/podman.sock".into(),
        },
    };
    assert_eq!(options, expected);
}

#[test]
fn every_key_is_read() {
    let (options, problems, warnings) = options(
        "docker_socket_path = \"unix:///d\" docker_version = \"v1.41\" use_new_container_locator = false
         container_id_cgroup_matchers = [\"/docker/<id>\", \"/my.slice/*/<id>/*\"] verbose_container_locator_logs = true
         podman_socket_path = \"unix:///p\" podman_socket_path_template = \"unix:///u%%/%d/s\"",
    );
    assert_eq!(problems, [""; 0]);
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("Using the legacy container locator"),
        "{warnings:?}"
    );
    let expected = DockerOptions {
        docker_socket_path: "/d".into(),
        docker_version: Some((1, 41)),
        container_id_cgroup_matchers: vec!["/docker/<id>".into(), "/my.slice/*/<id>/*".into()],
        verbose_container_locator_logs: true,
        podman_socket_path: "/p".into(),
        podman_user_sockets: PodmanUserSockets { before: "/u%/".into(), after: "/s".into() },
    };
    assert_eq!(options, expected);
}

#[test]
fn mistakes_are_named_in_the_words_of_spire_agent() {
    let matchers =
        |list: &str| format!("use_new_container_locator = false container_id_cgroup_matchers = [{list}]");
    for (text, expected) in [
        ("bogus = 1 \"quoted\" = 2".to_owned(), "unknown: bogus"),
        (
            "sigstore { rekor_url = \"x\" }".into(),
            "not supported yet: WorkloadAttestor \"docker\" sigstore; remove it",
        ),
        (
            "docker_socket_path = \"/var/run/docker.sock\"".into(),
            "unable to parse docker host `/var/run/docker.sock`",
        ),
        ("docker_socket_path = \"unix://\"".into(), "unable to parse docker host `unix://`"),
        (
            "docker_socket_path = \"tcp://127.0.0.1:2375\"".into(),
            "not supported yet: docker_socket_path = \"tcp://",
        ),
        ("podman_socket_path = \"/p\"".into(), "unable to parse docker host `/p`: podman_socket_path is"),
        ("docker_version = \"1\"".into(), "invalid API version (1): must be formatted <major>.<minor>"),
        ("docker_version = \"1.+4\"".into(), "invalid API version (1.+4): must be formatted"),
        ("docker_version = \"1.4/x\"".into(), "invalid API version (1.4/x): must be formatted"),
        (
            "container_id_cgroup_matchers = [\"/docker/<id>\"]".into(),
            "the new container locator and custom cgroup matchers cannot both be used; please open an issue if the new",
        ),
        (
            matchers("\"/noid\""),
            "pattern \"/noid\" must contain the container id token \"<id>\" exactly once",
        ),
        (matchers("\"/<id>/<id>\""), "pattern \"/<id>/<id>\" must contain the container id token"),
        (
            matchers("\"/docker/<id>\", \"/b\", \"/*/<id>\""),
            "dockerfinder: patterns must not be ambiguous: [\"/*/<id>\" \"/docker/<id>\"]",
        ),
        (matchers("\"/a/<id>\", \"/a/<id>\""), "dockerfinder: patterns must not be ambiguous: [\"/a/<id>\"]"),
        (
            "podman_socket_path_template = \"unix:///run/podman.sock\"".into(),
            "invalid podman_socket_path_template: template must contain exactly one %d UID placeholder",
        ),
        (
            "podman_socket_path_template = \"/run/%d\"".into(),
            "invalid podman_socket_path_template: template must begin with unix://",
        ),
    ] {
        let (_, problems, _) = options(&text);
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{text}: {problems:?}");
    }
}

#[test]
fn a_template_has_one_place_for_the_user() {
    let sockets =
        |before: &str, after: &str| PodmanUserSockets { before: before.into(), after: after.into() };
    let one = Err("template must contain exactly one %d UID placeholder");
    let other = Err("template only supports escaped %% or the %d UID placeholder");
    for (template, expected) in [
        ("a%d", Ok(sockets("a", ""))),
        ("%%d%d%%", Ok(sockets("%d", "%"))),
        ("%d%d", one.clone()),
        ("%%d", one),
        ("%s%d", other),
        ("%d%", Err("trailing % at end of template")),
    ] {
        assert_eq!(split_template(template), expected, "{template}");
    }
}
