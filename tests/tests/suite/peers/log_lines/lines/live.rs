//! Lines that the live trial finds in both logs.

use super::{Line, live};

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
    // Lines after an authority was tainted.
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
    // Lines about callers of the APIs.
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
    // Lines about calls to the server that fail.
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
    live(
        "warning",
        "you have requested rebootstrap support but the NodeAttestor plugin or the spire server configuration is not allowing it. Disabling",
        &[],
        "rebootstrap_mode = \"auto\" with the SVID of a join token",
    ),
    live("debug", "Bundle added", &["subsystem_name", "trust_domain_id"], "a domain is federated with"),
    live(
        "debug",
        "Bundle removed",
        &["subsystem_name", "trust_domain_id"],
        "a domain is no longer federated with",
    ),
    // Lines about the attestation of workloads.
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
    live(
        "info",
        "Skipping agent APIs because public endpoint is disabled",
        &["apis"],
        "start with both APIs disabled",
    ),
    live("warning", "Error serving health checks", FAILED, "the health listener's port is taken"),
];
