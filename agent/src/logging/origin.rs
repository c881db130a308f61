//! Which part of spire-agent a line would come from: the fields that its loggers add to each of their lines.
//!
//! spire-agent hands a logger with these fields from part to part. Here the module that logs says as much. A line that
//! belongs to another part than its module names it itself, with a field of that name, which wins; an empty one means
//! that spire-agent's line has none.

/// A field that each line of a module has.
pub(super) type Constant = (&'static str, &'static str);

/// The fields of lines of this module.
pub(super) fn fields(module: &str) -> &'static [Constant] {
    let inside = |prefix: &str| {
        module.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    ORIGINS.iter().find(|(prefix, _)| inside(prefix)).map_or(&[], |(_, fields)| fields)
}

/// The field by which operators filter.
const SUBSYSTEM: &str = "subsystem_name";

/// The first match counts, so that an inner module stands before its outer one.
const ORIGINS: &[(&str, &[Constant])] = &[
    ("agent::manager", &[(SUBSYSTEM, "manager")]),
    ("agent::life", &[(SUBSYSTEM, "manager")]),
    ("agent::upstream", &[(SUBSYSTEM, "manager")]),
    ("agent::door", &[(SUBSYSTEM, "workload_attestor")]),
    ("agent::apis::workload", &[(SUBSYSTEM, "endpoints"), ("service", "WorkloadAPI")]),
    ("agent::apis::health", &[(SUBSYSTEM, "health")]),
    ("agent::apis::admin::delegated", &[("service", "DelegatedIdentity")]),
    ("agent::apis::admin::logger", &[("service", "Logger")]),
    ("agent::apis::admin", &[]),
    ("agent::apis", &[(SUBSYSTEM, "endpoints")]),
    ("agent::wiring::socket", &[(SUBSYSTEM, "endpoints")]),
    ("attestors::workload::docker", &plugin("docker")),
    ("attestors::workload::k8s", &plugin("k8s")),
    ("attestors::workload::unix", &plugin("unix")),
    ("attestors::workload", &[(SUBSYSTEM, "workload_attestor")]),
    ("sds::delta", &[(SUBSYSTEM, "endpoints"), ("service", "SDS.v3"), ("method", "DeltaSecrets")]),
    ("sds::requests", &[(SUBSYSTEM, "endpoints"), ("service", "SDS.v3"), ("method", "StreamSecrets")]),
    ("sds::session", &[(SUBSYSTEM, "endpoints"), ("service", "SDS.v3"), ("method", "StreamSecrets")]),
    ("sds", &[(SUBSYSTEM, "endpoints"), ("service", "SDS.v3")]),
    ("transport", &[(SUBSYSTEM, "endpoints")]),
    ("http2", &[(SUBSYSTEM, "endpoints")]),
];

/// The fields of a workload attestor's own lines.
const fn plugin(name: &'static str) -> [Constant; 4] {
    [
        (SUBSYSTEM, "catalog"),
        ("external", "false"),
        ("plugin_name", name),
        ("plugin_type", "WorkloadAttestor"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_belongs_to_the_innermost_module() {
        let subsystem =
            |module| fields(module).iter().find(|(name, _)| *name == SUBSYSTEM).map(|(_, part)| *part);
        for (module, expected) in [
            ("agent::manager", Some("manager")),
            ("agent::manager::changes", Some("manager")),
            ("agent::managers", None),
            ("agent::apis", Some("endpoints")),
            ("agent::apis::admin", None),
            ("agent::apis::admin::logger", None),
            ("attestors::workload", Some("workload_attestor")),
            ("attestors::workload::k8s::kubelet", Some("catalog")),
            ("attestors::workload::docker::place", Some("catalog")),
            ("agent::wiring", None),
        ] {
            assert_eq!(subsystem(module), expected, "{module}");
        }
    }

    #[test]
    fn no_outer_module_hides_an_inner_one() {
        for (at, (module, _)) in ORIGINS.iter().enumerate() {
            assert_eq!(
                ORIGINS.iter().position(|(first, _)| fields(module) == fields(first) && first == module),
                Some(at)
            );
            let hidden = ORIGINS[..at].iter().any(|(before, _)| module.starts_with(&format!("{before}::")));
            assert!(!hidden, "{module} stands behind its outer module");
        }
    }
}
