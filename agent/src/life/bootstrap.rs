//! How the agent comes to an SVID: at first contact, and again where the server asks for it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use config::RebootstrapMode;
use tokio::time::Instant;
use tracing::{debug, info};

use super::judge::{Verdict, format_time, parse_time, whole_seconds};
use super::{Fatal, Lifecycle, lines};
use crate::telemetry::names;
use crate::upstream::ServerError;
use crate::upstream::backoff::{Backoff, Need};
use crate::upstream::first_bundle::{self, Attempt};
use crate::upstream::tls::Roots;

impl Lifecycle {
    /// Ends when the agent has an SVID and a bundle: the stored SVID, or a new one by attestation.
    pub(super) async fn bootstrap(&mut self) -> Result<(), Fatal> {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        if self.own.is_none() {
            debug!(
                subsystem_name = "attestor",
                "No pre-existing agent SVID found. Will perform node attestation"
            );
            let trust_domain_id = self.trust_domain.id();
            info!(
                subsystem_name = "attestor",
                trust_domain_id, "SVID is not found. Starting node attestation"
            );
        }
        let mut told = false;
        loop {
            let roots = self.roots().await;
            if let (Ok(roots), false) = (&roots, told) {
                lines::bundle_loaded(matches!(roots, Roots::Bundle(_)), &self.trust_domain.id());
                told = true;
            }
            let reason = match roots {
                // The stored SVID is also used with the configured source of trust, because spire-agent stores no
                // bundle for a moment at each warm start. Without a stored bundle and a source, the server cannot be
                // authenticated.
                Ok(Roots::Bundle(bundle)) if self.own.is_some() => {
                    if let Some(own) = &self.own {
                        lines::svid_loaded(&own.svid.id, &self.trust_domain.id());
                    }
                    self.bundle = Some(bundle);
                    self.refresh_credentials();
                    return Ok(());
                }
                Ok(roots) => match self.attest(&roots).await {
                    Ok(()) => return self.check_mode(),
                    Err(ServerError::UnknownAuthority)
                        if self.bundle.is_some() && self.mode != RebootstrapMode::Never =>
                    {
                        // The stored bundle may be too old. Without it, the source decides.
                        if self.unknown_authority()? == Verdict::Rebootstrap {
                            continue;
                        }
                        ServerError::UnknownAuthority.to_string()
                    }
                    Err(reason) => self.judge_attestation(reason, start)?.to_string(),
                },
                Err(reason) => reason,
            };
            let wait = backoff.wait(Need::Urgent);
            if self.reason.changed("attest", &reason) {
                lines::attest_failed(&reason, wait);
            }
            self.status.failed(reason);
            tokio::time::sleep(wait).await;
        }
    }

    /// The roots that authenticate the server at this attempt: the present bundle, or else the configured source, read
    /// again.
    pub(super) async fn roots(&mut self) -> Result<Roots, String> {
        if let Some(bundle) = &self.bundle {
            return Ok(Roots::Bundle(Arc::clone(bundle)));
        }
        self.count_attempt();
        let start = whole_seconds(&self.data.bootstrap_start_time);
        let attempt = Attempt {
            is_rebootstrap: self.data.bootstrap_use == REBOOTSTRAP,
            number: self.data.connection_attempts,
            start: &start,
            server_address: &self.settings.server_address,
            server_port: self.settings.server_port,
            trust_domain: &self.trust_domain,
        };
        debug!(attempt = attempt.number, since = attempt.start, "Fetching the trust bundle from its source");
        first_bundle::fetch(&self.settings.trust_bundle, &attempt).await
    }

    /// Counts the attempts to find a server that a bundle of the source authenticates, also across restarts (SPIRE,
    /// `GetBundle`).
    fn count_attempt(&mut self) {
        if self.data.bootstrap_use == UNSPECIFIED {
            self.data.bootstrap_use = BOOTSTRAP;
        }
        if self.data.bootstrap_start_time.is_empty() {
            self.data.bootstrap_start_time = format_time(SystemTime::now());
        }
        self.data.connection_attempts += 1;
        self.count_bootstrap();
        self.save();
    }

    /// Emits how far the bootstrap is (SPIRE, `trustbundlesources/bundle.go`).
    pub(super) fn count_bootstrap(&self) {
        let mode = if self.data.bootstrap_use == REBOOTSTRAP { "rebootstrap" } else { "bootstrap" };
        let began = parse_time(&self.data.bootstrap_start_time);
        let bootstrapped = if began.is_none() { 1.0 } else { 0.0 };
        self.metrics.set(&names::BOOTSTRAPPED, &[], bootstrapped);
        let seconds = began.and_then(|began| began.duration_since(UNIX_EPOCH).ok());
        let seconds = seconds.map_or(NEVER, |seconds| seconds.as_secs_f64().floor());
        self.metrics.set(&names::BOOTSTRAP_SECONDS, &[mode], seconds);
        #[expect(clippy::cast_precision_loss, reason = "no attempt lasts that long")]
        self.metrics.set(&names::BOOTSTRAP_ATTEMPTS, &[mode], self.data.connection_attempts as f64);
    }

    /// Notes that the server is authenticated: whatever comes to need the source next is a re-bootstrap.
    pub(super) fn found_server(&mut self) {
        self.data.bootstrap_use = REBOOTSTRAP;
        self.data.bootstrap_start_time.clear();
        self.data.connection_attempts = 0;
        self.count_bootstrap();
    }

    /// Attests again because the server asks for it. Callers keep their SVIDs meanwhile. Returns false if that failed for now:
    /// another replica may still take the present SVID, so syncs go on, and the next refusal leads here again. Without an SVID
    /// that is valid there is nothing else to do, so it tries until it works.
    pub(super) async fn attest_again(&mut self, reason: &str) -> Result<bool, Fatal> {
        lines::reattesting(reason);
        let mut backoff = Backoff::default();
        loop {
            let reason = match self.roots().await {
                Ok(roots) => match self.attest(&roots).await {
                    Ok(()) => return self.check_mode().map(|()| true),
                    Err(reason) => {
                        let reason = self.judge_attestation(reason, Instant::now())?;
                        if matches!(reason, ServerError::UnknownAuthority) {
                            // The next sync fails with this error too, and `serve` then decides about a re-bootstrap.
                            return Ok(false);
                        }
                        reason.to_string()
                    }
                },
                Err(reason) => reason,
            };
            let wait = backoff.wait(Need::Urgent);
            if self.reason.changed("attest", &reason) {
                lines::attest_failed(&reason, wait);
            }
            if self.own.as_ref().is_some_and(|own| !own.svid.expired(SystemTime::now())) {
                return Ok(false);
            }
            tokio::time::sleep(wait).await;
        }
    }
}

/// Go's zero time in seconds since 1970, which spire-agent emits while it does not bootstrap.
const NEVER: f64 = -62_135_596_800.0;
/// spire-agent's numbers for what an attempt is (`bootstrap_use` in agent-data.json).
const UNSPECIFIED: i32 = 0;
const BOOTSTRAP: i32 = 1;
pub(super) const REBOOTSTRAP: i32 = 2;
