//! Log lines of the agent's life, in spire-agent's words (`agent.go`, `manager.go`, `rotator.go`): alerts look for them.

use std::time::Duration;

use identity::SpiffeId;
use tracing::{debug, error, info, warn};

use super::judge::Doing;
use crate::golang;
use crate::upstream::{ServerError, failed};

/// What authenticates the server: a bundle, or nothing with `insecure_bootstrap`.
pub(super) fn bundle_loaded(found: bool, trust_domain_id: &str) {
    if found {
        info!(subsystem_name = "attestor", trust_domain_id, "Bundle loaded");
    } else {
        info!(subsystem_name = "attestor", "Bundle is not found");
    }
}

/// The stored SVID is used.
pub(super) fn svid_loaded(id: &SpiffeId, trust_domain_id: &str) {
    info!(subsystem_name = "attestor", spiffe_id = %id, trust_domain_id, "SVID loaded");
}

/// An attempt to attest failed, and another one follows after `wait`.
pub(super) fn attest_failed(reason: &str, wait: Duration) {
    let retry_interval = golang::duration(wait);
    warn!(subsystem_name = "", error = reason, retry_interval, "Failed to retrieve attestation result");
}

/// A sync or a renewal failed. `reattests` tells how the agent renews its SVID.
pub(super) fn failed(doing: Doing, reattests: bool, reason: &ServerError) {
    match doing {
        Doing::Syncing => {
            failed::log("Failed to fetch authorized entries", reason);
            error!(error = %reason, "Synchronize failed");
        }
        Doing::Renewing if reattests => error!(error = %reason, "Could not reattest agent"),
        Doing::Renewing => {
            failed::log("Failed to renew agent", reason);
            error!(error = %reason, "Could not rotate agent SVID");
        }
    }
}

/// The server's authority is unknown, and the agent may not trust another one.
pub(super) fn cannot_rebootstrap(reason: &str) {
    info!(error = reason, "Synchronize failed, non-recoverable error");
    error!(error = reason, "Cache manager crashed");
}

/// The server's authority is unknown, but not for long enough.
pub(super) fn ignoring(time_left: Duration) {
    let time_left = golang::duration(time_left);
    info!(time_left, "Trust Bundle and Server don't agree, ignoring for now");
}

/// The agent trusts the configured source of the bundle anew.
pub(super) fn rebootstrapping() {
    warn!("Trust Bundle and Server don't agree, rebootstrapping");
}

/// The server has banned the agent. spire-agent warns where it has served before.
pub(super) fn banned(has_served: bool, reason: &ServerError) {
    if has_served {
        warn!(error = %reason, "Agent is banned: removing SVID and shutting down");
    } else {
        error!(error = %reason, "Agent is banned: removing SVID and shutting down");
    }
}

/// The server does not know the agent any more, and it cannot attest by itself.
pub(super) fn cannot_reattest(has_served: bool, reason: &ServerError) {
    if has_served {
        reattesting(&reason.to_string());
        let why = "attestation method is not re-attestable";
        error!(error = why, "Agent failed re-attestation; removing SVID and shutting down");
    } else {
        error!(error = %reason, "Agent needs to re-attest: removing SVID and shutting down");
    }
}

/// The server wants the agent to attest anew.
pub(super) fn reattesting(reason: &str) {
    warn!(error = reason, "Agent needs to re-attest; will attempt to re-attest");
}

/// The agent begins to replace its own SVID.
pub(super) fn renewing(reattests: bool, id: &SpiffeId) {
    if reattests {
        debug!(spiffe_id = %id, "Reattesting node");
    } else {
        debug!(spiffe_id = %id, "Rotating agent SVID");
    }
}

/// The agent has attested: for the first time, or anew.
pub(super) fn attested(anew: bool, id: &SpiffeId, trust_domain_id: &str, reattestable: bool) {
    if anew {
        info!(spiffe_id = %id, reattestable, "Successfully reattested node");
    } else {
        info!(subsystem_name = "attestor", spiffe_id = %id, trust_domain_id, reattestable, "Node attestation was successful");
    }
}

/// `rebootstrap_mode` is "auto", and the agent cannot attest again.
pub(super) fn rebootstrap_disabled() {
    warn!(
        subsystem_name = "",
        "you have requested rebootstrap support but the NodeAttestor plugin or the spire server configuration is not allowing it. Disabling"
    );
}

/// A restart will need a new join token.
pub(super) fn keys_are_lost_at_exit() {
    warn!(
        subsystem_name = "",
        "Node attestation is not reattestable and the 'memory' key manager is in use; if the agent process is restarted, it will be unable to obtain a new SVID and will need to be manually evicted to be able to re-attest."
    );
}
