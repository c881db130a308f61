//! The agent's own SVID is renewed: when its time has come, and when what signed it is not trusted any more.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{Bundle, Distrusted};
use tracing::info;

use super::clock::SyncClock;
use super::own::OwnSvid;
use super::{Lifecycle, lines, status};
use crate::keys::{AgentKey, AgentSvid};
use crate::telemetry::names;
use crate::upstream::{ServerError, attest};

impl Lifecycle {
    /// Replaces the agent's own SVID, and schedules the next attempt.
    pub(super) async fn renew_in_time(&mut self, clock: &mut SyncClock) -> Result<(), ServerError> {
        let result = self.renew().await;
        let signed_in_vain = self.own.as_ref().is_some_and(|own| own.distrusted);
        match &result {
            // A replica that lags behind signs with the tainted authority for a while.
            Ok(()) if signed_in_vain => self.renew_within(clock.renewal_in_vain()),
            Ok(()) => clock.renewed(),
            Err(_) => {
                let old_at = self.own.as_ref().map(OwnSvid::old_at);
                let until_old = old_at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
                self.hold_renewal(clock.renewal_failed(until_old));
            }
        }
        result
    }

    /// Forces the renewal of the agent's own SVID if its authority is tainted, at a time drawn as for those of workloads, or
    /// if it has left the bundle, at once.
    pub(super) fn renew_distrusted(&mut self, bundle: &Bundle) {
        let removed = self.bundle.as_ref().map(|before| Distrusted::removed(before, bundle));
        let (tainted, removed) = (Distrusted::tainted(bundle), removed.unwrap_or_default());
        let Some(own) = &mut self.own else { return };
        let is_gone = removed.has_signed(&own.svid);
        if !own.distrusted && (is_gone || tainted.has_signed(&own.svid)) {
            info!("Agent SVID is tainted by a root authority, forcing rotation");
        } else if !is_gone {
            return;
        }
        own.distrusted = true;
        // At once, and not spread as those of workloads are: an operator may revoke the authority as soon as Envoys have other
        // certificates, and an agent that the server does not know then has lost its node.
        own.renew_at = own.renew_at.min(SystemTime::now());
    }

    /// Replaces the agent's own SVID: by another attestation if the agent can attest again, or else by RenewAgent.
    pub(super) async fn renew(&mut self) -> Result<(), ServerError> {
        let Some(own) = &self.own else { return Ok(()) };
        lines::renewing(self.data.reattestable, &own.svid.id);
        if self.data.reattestable {
            let roots = self.roots().await.map_err(ServerError::Malformed)?;
            return self.attest(&roots).await;
        }
        let current = own.svid.key.clone();
        let call = names::ROTATE.start(&self.metrics);
        let rotated = self.rotated(&current).await;
        call.end(status(&rotated));
        let svid = rotated?;
        info!(spiffe_id = %svid.id, "Successfully rotated agent SVID");
        self.set_own(svid);
        Ok(())
    }

    pub(super) async fn rotated(&mut self, current: &AgentKey) -> Result<Arc<AgentSvid>, ServerError> {
        let request = self.new_key(Some(current)).await?;
        attest::renew(&self.link, request).await
    }

    /// Brings the next renewal forward.
    pub(super) fn renew_within(&mut self, wait: Duration) {
        if let Some(own) = &mut self.own {
            own.renew_at = own.renew_at.min(SystemTime::now() + wait);
        }
    }

    /// Delays the next renewal, because the last one failed.
    pub(super) fn hold_renewal(&mut self, wait: Duration) {
        if let Some(own) = &mut self.own {
            own.renew_at = SystemTime::now() + wait;
        }
    }
}
