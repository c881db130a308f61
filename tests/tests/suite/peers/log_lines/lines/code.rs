//! Lines whose events take minutes, a cluster or a broken server.

use super::{Line, code};

const FAILED: &[&str] = &["error", "subsystem_name"];

pub(super) const LINES: &[Line] = &[
    // Node attestation.
    code("info", "Bundle is not found", &["subsystem_name"], "start with insecure_bootstrap"),
    // Lines about calls to the server that fail.
    code(
        "error",
        "Failed to renew agent",
        &["error", "status_code", "status_message", "subsystem_name"],
        "its SVID is due and the server is away",
    ),
    code("error", "Could not rotate agent SVID", FAILED, "its SVID is due and the server is away"),
    code(
        "error",
        "Could not reattest agent",
        FAILED,
        "its SVID is due, it attests to renew it, and the server is away",
    ),
    code("debug", "Reattesting node", &["subsystem_name"], "its SVID is due, and it attests to renew it"),
    code("info", "Successfully reattested node", &["spiffe_id", "subsystem_name"], "it has attested anew"),
    code(
        "info",
        "Synchronize failed, non-recoverable error",
        FAILED,
        "the server's authority is unknown, rebootstrap_mode = \"never\"",
    ),
    code(
        "error",
        "Cache manager crashed",
        FAILED,
        "the server's authority is unknown, rebootstrap_mode = \"never\"",
    ),
    code(
        "info",
        "Trust Bundle and Server don't agree, ignoring for now",
        &["time_left"],
        "the server's authority is unknown for less than rebootstrap_delay",
    ),
    code(
        "warning",
        "Trust Bundle and Server don't agree, rebootstrapping",
        &[],
        "the server's authority is unknown for longer",
    ),
    code(
        "error",
        "Failed to post agent status",
        &["agent_version", "error", "subsystem_name"],
        "the server does not take the status",
    ),
    code(
        "error",
        "Failed to batch new X509 SVID(s)",
        &["error", "status_code", "status_message", "subsystem_name"],
        "the server does not sign",
    ),
    code("error", "SVID sync failed", FAILED, "the server does not sign"),
    code(
        "warning",
        "Failed to mint X509 SVID",
        &["entry_id", "error", "subsystem_name"],
        "the server does not sign for one entry (spire-agent's line has `status` too)",
    ),
    code(
        "warning",
        "Received malformed entry from SPIRE server; are the server and agent versions compatible?",
        &["entry_id", "error", "subsystem_name"],
        "an entry cannot be read (spire-agent's line has `spiffe_id` and `selectors` too)",
    ),
    code(
        "warning",
        "Received malformed entry revision from SPIRE server; are the server and agent versions compatible?",
        &["entry_id", "revision_number", "subsystem_name"],
        "a revision cannot be read",
    ),
    code(
        "warning",
        "Received malformed bundle from SPIRE server; are the server and agent versions compatible?",
        FAILED,
        "a bundle cannot be read",
    ),
    code(
        "warning",
        "Federated bundle not found",
        &["error", "federated_bundle", "status_code", "status_message", "subsystem_name"],
        "an entry federates with a domain whose bundle the server lacks",
    ),
    // Lines about the attestation of workloads.
    code(
        "info",
        "Waiting for SVID to get cached",
        &["selectors", "subsystem_name"],
        "a process calls before its SVID is minted",
    ),
    code(
        "error",
        "Permission denied; caller not configured as an authorized delegate.",
        &["method", "service"],
        "a stranger asks on the admin socket",
    ),
    code(
        "debug",
        "Container id not found; will retry after backoff",
        &[
            "attempt",
            "container_id",
            "external",
            "plugin_name",
            "plugin_type",
            "pod_uid",
            "retry_interval",
            "subsystem_name",
        ],
        "the kubelet has not published a container yet",
    ),
    code(
        "warning",
        "Container id not found; giving up",
        &["container_id", "external", "plugin_name", "plugin_type", "subsystem_name"],
        "the kubelet does not publish a container",
    ),
    code(
        "warning",
        "Unable to get pod list; will retry after backoff",
        &[
            "attempt",
            "container_id",
            "error",
            "external",
            "plugin_name",
            "plugin_type",
            "retry_interval",
            "subsystem_name",
        ],
        "the kubelet does not answer",
    ),
    code(
        "warning",
        "Unable to get pod list; giving up",
        &["container_id", "error", "external", "plugin_name", "plugin_type", "subsystem_name"],
        "the kubelet does not answer for long",
    ),
    code("warning", "Connection failed during accept", FAILED, "a caller cannot be tracked"),
];
