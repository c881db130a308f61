//! Settings of spire-agent that Finial does not have.
//!
//! An API that clients would miss is refused by name, because an agent without it looks healthy while they fail. What
//! only makes the agent tell less, or concerns an API that answers Unimplemented anyway, is a
//! warning: a configuration that spire-agent runs with must start Finial too. Default values say nothing.

use crate::decode::{Section, Strictness, no_hint};

/// Refuses keys of `agent.experimental { }`, or warns.
pub(super) fn experimental(section: &Section<'_>) {
    refuse_broker(section.block("broker"));
    feature_flags(section);
    refuse_pipes(section);
}

/// Checks the names of feature flags, and says which are set, in spire-agent's words. In spire-agent 1.15.3, too, they
/// change nothing that an agent does.
fn feature_flags(section: &Section<'_>) {
    let flags = section.texts("feature_flags");
    let Some(line) = flags.first().map(|flag| flag.line) else { return };
    let mut unknown: Vec<&str> = flags.iter().map(|flag| flag.value.as_str()).collect();
    unknown.retain(|flag| !FEATURE_FLAGS.contains(flag));
    unknown.sort_unstable();
    if unknown.is_empty() {
        for flag in flags {
            let message = format!("Developer feature flag {:?} has been enabled", flag.value);
            section.report().warn(message);
        }
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

const FEATURE_FLAGS: [&str; 2] = ["i_am_a_test_flag", "wit-svid"];
