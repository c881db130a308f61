//! Refuses settings of spire-agent that Finial does not have yet. Their default values are accepted; any other value
//! is refused, because a setting that works in spire-agent must not silently do nothing here.

use crate::decode::{Section, Strictness, no_hint};

/// Refuses keys of `agent { }` itself.
pub(super) fn agent(section: &Section<'_>) {
    refuse_lists(section, &["allowed_foreign_jwt_claims", "profiling_names"]);
    refuse_flags(section, &["profiling_enabled"]);
    refuse_numbers(section, &["profiling_port", "profiling_freq"]);
}

/// Refuses keys of `agent.experimental { }`.
pub(super) fn experimental(section: &Section<'_>) {
    refuse_broker(section.block("broker"));
    refuse_feature_flags(section);
    refuse_pipes(section);
}

fn refuse_feature_flags(section: &Section<'_>) {
    let flags = section.texts("feature_flags");
    let Some(line) = flags.first().map(|flag| flag.line) else { return };
    let mut unknown: Vec<&str> = flags.iter().map(|flag| flag.value.as_str()).collect();
    unknown.retain(|flag| !FEATURE_FLAGS.contains(flag));
    unknown.sort_unstable();
    if unknown.is_empty() {
        section.report().not_supported(line, &section.name("feature_flags"));
    } else {
        let names = unknown.join(" ");
        let message = format!("error loading feature flags: unknown feature flag(s): [{names}]");
        section.report().problem(line, message);
    }
}

/// Refuses named pipes, which exist on Windows only.
fn refuse_pipes(section: &Section<'_>) {
    let pipes = [("named_pipe_name", "socket_path"), ("admin_named_pipe_name", "admin_socket_path")];
    for (pipe, socket) in pipes {
        let Some(name) = section.text(pipe) else { continue };
        let message = format!(
            "invalid configuration: {pipe} is not supported in this platform; please use {socket} instead"
        );
        section.report().problem(name.line, message);
    }
}

fn refuse_broker(section: Section<'_>) {
    if section.is_present() {
        section.report().not_supported(section.line, "agent.experimental.broker");
    }
    for key in ["socket_path", "bind_address", "brokers"] {
        section.items(key);
    }
    section.finish(Strictness::Refuse, "experimental.broker", no_hint);
}

fn refuse_lists(section: &Section<'_>, keys: &[&'static str]) {
    for key in keys {
        if !section.texts(key).is_empty() {
            let line = section.items(key).first().map(|item| item.key.line);
            section.report().not_supported(line, &section.name(key));
        }
    }
}

fn refuse_flags(section: &Section<'_>, keys: &[&'static str]) {
    for key in keys {
        if let Some(flag) = section.flag(key).filter(|flag| flag.value) {
            section.report().not_supported(flag.line, &section.name(key));
        }
    }
}

fn refuse_numbers(section: &Section<'_>, keys: &[&'static str]) {
    for key in keys {
        if let Some(number) = section.int(key).filter(|number| number.value != 0) {
            section.report().not_supported(number.line, &section.name(key));
        }
    }
}

const FEATURE_FLAGS: [&str; 2] = ["i_am_a_test_flag", "wit-svid"];
