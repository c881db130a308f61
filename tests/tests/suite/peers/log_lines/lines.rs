//! The log lines that an operator of spire-agent 1.15.3 may alert on, and what makes both agents write them.

/// A line of both logs.
pub(super) struct Line {
    pub(super) level: &'static str,
    pub(super) message: &'static str,
    /// The fields of spire-agent's line. Finial's may have more.
    pub(super) fields: &'static [&'static str],
    /// What happens.
    pub(super) event: &'static str,
    pub(super) seen: Seen,
}

/// Where a line is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// In the logs of both agents, in the live trial.
    Live,
    /// In the code: to make the event happen in both agents takes minutes, a cluster or a broken server.
    Code,
}

const fn live(
    level: &'static str,
    message: &'static str,
    fields: &'static [&'static str],
    event: &'static str,
) -> Line {
    Line { level, message, fields, event, seen: Seen::Live }
}

const fn code(
    level: &'static str,
    message: &'static str,
    fields: &'static [&'static str],
    event: &'static str,
) -> Line {
    Line { level, message, fields, event, seen: Seen::Code }
}

const PLUGIN: &[&str] = &["external", "plugin_name", "plugin_type", "subsystem_name"];
const FAILED: &[&str] = &["error", "subsystem_name"];

pub(super) const LINES: &[Line] = &[
    // Start and stop.
    live(
        "warning",
        "Experimental features have been enabled. Please see doc/upgrading.md for upgrade and compatibility considerations for experimental features.",
        &[],
        "start with experimental settings",
    ),
    live(
        "warning",
        "The 'use_sync_authorized_entries' configuration is deprecated. The option to disable it will be removed in SPIRE 1.13.",
        &["alert", "alert_type"],
        "start with that setting",
    ),
    live("warning", "Current umask 0022 is too permissive; setting umask 0027", &[], "start with that umask"),
    live("info", "Creating admin UDS directory", &["dir"], "start without the folder"),
    live("info", "Starting agent", &["data_dir", "version"], "start"),
    live(
        "info",
        "Configured plugin",
        &["external", "plugin_name", "plugin_type", "reconfigurable", "subsystem_name"],
        "start",
    ),
    live("info", "Plugin loaded", PLUGIN, "start"),
    live(
        "info",
        "Workload API/SDS rate limiting enabled",
        &["limit", "method", "subsystem_name"],
        "start with a rate limit",
    ),
    live("info", "Starting Admin APIs", &["address", "network"], "start"),
    live("info", "Starting agent APIs", &["address", "apis", "network", "subsystem_name"], "start"),
    live("info", "Serving health checks", &["address", "subsystem_name"], "start"),
    live("info", "Stopping agent APIs", &["apis", "subsystem_name"], "SIGTERM"),
    live("info", "Stopping Admin APIs", &["address", "network"], "SIGTERM"),
    live("info", "Admin APIs have stopped", &["address", "network"], "SIGTERM"),
    live("info", "Agent stopped gracefully", &[], "SIGTERM"),
    live("error", "Agent crashed", &["error"], "the server refuses the agent"),
    // Node attestation.
    live("info", "Bundle loaded", &["subsystem_name", "trust_domain_id"], "start with a bundle"),
    live("info", "SVID loaded", &["spiffe_id", "subsystem_name", "trust_domain_id"], "start with an SVID"),
    code("info", "Bundle is not found", &["subsystem_name"], "start with insecure_bootstrap"),
    live(
        "debug",
        "No pre-existing agent SVID found. Will perform node attestation",
        &["subsystem_name"],
        "start without an SVID",
    ),
    live(
        "info",
        "SVID is not found. Starting node attestation",
        &["subsystem_name", "trust_domain_id"],
        "start without an SVID",
    ),
    live(
        "info",
        "Node attestation was successful",
        &["reattestable", "spiffe_id", "subsystem_name", "trust_domain_id"],
        "start without an SVID",
    ),
    live(
        "warning",
        "Failed to retrieve attestation result",
        &["error", "retry_interval"],
        "the server is away at the start",
    ),
    live(
        "warning",
        "Node attestation is not reattestable and the 'memory' key manager is in use; if the agent process is restarted, it will be unable to obtain a new SVID and will need to be manually evicted to be able to re-attest.",
        &[],
        "join token with KeyManager memory",
    ),
    // Entries and SVIDs.
    live(
        "debug",
        "Entry created",
        &["entry", "selectors_added", "spiffe_id", "subsystem_name"],
        "an entry is created",
    ),
    live(
        "debug",
        "Entry updated",
        &["entry", "selectors_added", "spiffe_id", "subsystem_name"],
        "an entry gets another selector",
    ),
    live("debug", "Entry removed", &["entry", "spiffe_id", "subsystem_name"], "an entry is deleted"),
    live(
        "debug",
        "Updating SVIDs with outdated attributes in cache",
        &["outdated_svids", "subsystem_name"],
        "an entry is changed",
    ),
    live(
        "debug",
        "Renewing stale entries",
        &["cache_type", "count", "limit", "subsystem_name"],
        "an SVID is due",
    ),
    live("info", "Creating X509-SVID", &["entry_id", "spiffe_id", "subsystem_name"], "an entry is created"),
    live(
        "info",
        "Renewing X509-SVID",
        &["entry_id", "expires_at", "spiffe_id", "subsystem_name"],
        "an entry is changed",
    ),
    live("debug", "SVID updated", &["entry", "spiffe_id", "subsystem_name"], "the server has signed"),
    live("debug", "Bundle updated", &["subsystem_name", "trust_domain_id"], "an authority is prepared"),
    // The agent's own SVID.
    live("debug", "Rotating agent SVID", &["subsystem_name"], "its SVID is due"),
    live("info", "Successfully rotated agent SVID", &["spiffe_id", "subsystem_name"], "its SVID is due"),
    // Taint.
    live(
        "debug",
        "New tainted X.509 authorities found",
        &["subject_key_ids", "subsystem_name"],
        "an authority is tainted",
    ),
    live(
        "debug",
        "Scheduled rotation for SVID entries due to tainted X.509 authorities",
        &["count", "subsystem_name"],
        "an authority is tainted",
    ),
    live("info", "Tainted X.509 SVIDs", &["subsystem_name", "tainted_x509_svids"], "an authority is tainted"),
    live("info", "Finished processing all tainted entries", &["subsystem_name"], "an authority is tainted"),
    live(
        "info",
        "Agent SVID is tainted by a root authority, forcing rotation",
        &["subsystem_name"],
        "an authority is tainted",
    ),
    // Callers.
    live(
        "debug",
        "PID attested to have selectors",
        &["pid", "selectors", "subsystem_name"],
        "a process calls",
    ),
    live(
        "error",
        "No identity issued",
        &["method", "pid", "registered", "service", "subsystem_name"],
        "an unregistered process fetches its SVID",
    ),
    live(
        "debug",
        "Fetched X.509 SVID",
        &["count", "method", "pid", "registered", "service", "spiffe_id", "subsystem_name", "ttl"],
        "a process fetches its SVID",
    ),
    live(
        "debug",
        "Received StreamSecrets request",
        &["method", "nonce", "pid", "resource_names", "service", "subsystem_name", "version_info"],
        "an Envoy asks",
    ),
    live(
        "debug",
        "Sending StreamSecrets response",
        &["count", "method", "nonce", "pid", "service", "subsystem_name", "version_info"],
        "an Envoy asks",
    ),
    live(
        "error",
        "Envoy reported errors applying secrets",
        &["error", "method", "pid", "resource_names", "service", "subsystem_name"],
        "an Envoy rejects secrets",
    ),
    live(
        "error",
        "Client rejected expected version and rolled back",
        &["expect", "method", "pid", "service", "subsystem_name", "version_info"],
        "an Envoy rejects secrets",
    ),
    live(
        "warning",
        "Received unexpected nonce; ignoring request",
        &["expect", "method", "nonce", "pid", "service", "subsystem_name"],
        "an Envoy answers an old response",
    ),
    live(
        "error",
        "Error building stream secrets response",
        &["error", "method", "pid", "service", "subsystem_name"],
        "an Envoy asks for a name it may not have (finial: with unknown_names = \"reject\")",
    ),
    live("info", "GetLogger Called", &["method", "service"], "logger get"),
    live("info", "SetLogLevel Called", &["method", "new_log_level", "service"], "logger set"),
    live("info", "ResetLogLevel Called", &["launch_log_level", "method", "service"], "logger reset"),
    // The server.
    live("error", "Failed to fetch authorized entries", FAILED, "the server is away"),
    live("error", "Synchronize failed", FAILED, "the server is away"),
    live("warning", "Agent needs to re-attest; will attempt to re-attest", FAILED, "the agent is evicted"),
    live(
        "error",
        "Agent failed re-attestation; removing SVID and shutting down",
        FAILED,
        "an agent with a join token is evicted",
    ),
    live("warning", "Agent is banned: removing SVID and shutting down", FAILED, "the agent is banned"),
    live(
        "error",
        "Agent is banned: removing SVID and shutting down",
        FAILED,
        "the agent was banned before it started",
    ),
    live(
        "error",
        "Agent needs to re-attest: removing SVID and shutting down",
        FAILED,
        "the agent was evicted before it started",
    ),
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
    live(
        "warning",
        "you have requested rebootstrap support but the NodeAttestor plugin or the spire server configuration is not allowing it. Disabling",
        &[],
        "rebootstrap_mode = \"auto\" with the SVID of a join token",
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
    live("debug", "Bundle added", &["subsystem_name", "trust_domain_id"], "a domain is federated with"),
    live(
        "debug",
        "Bundle removed",
        &["subsystem_name", "trust_domain_id"],
        "a domain is no longer federated with",
    ),
    // Workloads.
    live(
        "error",
        "Workload attestation failed",
        &["error", "method", "pid", "service", "subsystem_name"],
        "no attestor succeeds, Workload API",
    ),
    live(
        "error",
        "Failed to attest the workload",
        &["error", "method", "pid", "service", "subsystem_name"],
        "no attestor succeeds, SDS",
    ),
    live(
        "error",
        "workload attestor \"unix\" failed",
        &["error", "pid", "subsystem_name"],
        "an attestor fails",
    ),
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
    live(
        "info",
        "Skipping agent APIs because public endpoint is disabled",
        &["apis"],
        "start with both APIs disabled",
    ),
    live("warning", "Error serving health checks", FAILED, "the health listener's port is taken"),
];
