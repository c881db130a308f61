//! What an error means: try again, attest anew, bootstrap anew, or stop.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::RebootstrapMode;
use proto::types::permission_denied_details::Reason;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use tonic::Code;
use tracing::{error, warn};

use super::Lifecycle;
use crate::keys::KeyError;
use crate::upstream::ServerError;

/// The agent must stop; the process exits with 1.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The server said no, for good.
    #[error("{what}: {source}")]
    Refused {
        /// What was being done.
        what: &'static str,
        /// The server's reason.
        source: Box<ServerError>,
    },
    /// The server's authority is unknown and may not be learnt anew.
    #[error("{0}")]
    UnknownAuthority(&'static str),
    /// The configuration cannot work with what the server says.
    #[error("{0}")]
    Configuration(&'static str),
    /// A task that never ends has ended: a bug. The supervisor starts the agent anew.
    #[error("{0} has ended unexpectedly")]
    Stopped(&'static str),
    /// The data folder or the key manager cannot be used.
    #[error("{0}")]
    Storage(String),
}

impl From<KeyError> for Fatal {
    fn from(reason: KeyError) -> Self {
        Self::Storage(reason.to_string())
    }
}

/// What is to be done about an error while serving.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Retry,
    Attest,
    Rebootstrap,
}

/// What the agent was doing when the error came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Syncing,
    /// Getting another SVID of its own.
    Renewing,
}

impl Lifecycle {
    /// Judges a failed attestation, which began at `start`: gives the reason back where it is worth another try.
    pub(super) fn judge_attestation(
        &self,
        reason: ServerError,
        start: Instant,
    ) -> Result<ServerError, Fatal> {
        let first = self.manager.is_none();
        let works_once = self.attestor.works_once();
        let refused = match &reason {
            ServerError::Refused { reason: Reason::AgentBanned, .. } => true,
            ServerError::Node(reason) => reason.is_final(),
            // At first contact, with nobody else to be trusted. The reason has been logged at each change.
            ServerError::UnknownAuthority | ServerError::Untrusted(_) => {
                first && self.mode == RebootstrapMode::Never && start.elapsed() >= FIRST_CONTACT
            }
            _ => match reason.code() {
                Some(Code::InvalidArgument) => works_once,
                // While it serves, an agent that can attest anew keeps at it: its token may have been too old.
                Some(Code::PermissionDenied) => first || works_once || reason.to_string().contains("banned"),
                _ => false,
            },
        };
        if refused {
            return Err(Fatal::Refused { what: "failed to attest", source: Box::new(reason) });
        }
        Ok(reason)
    }

    /// Judges an error while serving; `refusals` are those in a row that look like the server's no.
    pub(super) fn judge(
        &mut self,
        doing: Doing,
        reason: ServerError,
        refusals: u32,
    ) -> Result<Verdict, Fatal> {
        let what = match doing {
            Doing::Syncing => "failed to sync with SPIRE Server",
            Doing::Renewing => "failed to renew the agent's SVID",
        };
        match reason {
            ServerError::Refused { reason: Reason::AgentBanned, .. } => {
                error!("Agent is banned: removing SVID and shutting down");
                self.forget_svid();
                Err(Fatal::Refused { what, source: Box::new(reason) })
            }
            ServerError::Refused { .. } if self.data.reattestable => Ok(Verdict::Attest),
            ServerError::Refused { .. } => {
                error!(error = %reason, "Agent needs to re-attest: removing SVID and shutting down");
                self.forget_svid();
                if self.manager.is_none() && self.attestor.works_once() {
                    // Nothing is served yet: a fresh token may be at hand; a spent one ends it.
                    return Ok(Verdict::Rebootstrap);
                }
                Err(Fatal::Refused { what, source: Box::new(reason) })
            }
            ServerError::UnknownAuthority => self.unknown_authority(),
            // Its authority was revoked, or it was evicted and its key is another's: a new attestation mends both.
            ServerError::CertificateRefused(_) if self.data.reattestable => Ok(Verdict::Attest),
            _ if self.own.as_ref().is_some_and(|own| own.svid.expired(SystemTime::now())) => {
                if self.data.reattestable {
                    return Ok(Verdict::Attest);
                }
                if refusals >= REFUSALS {
                    error!(error = %reason, "Agent SVID has expired and the server does not accept it: shutting down");
                    self.forget_svid();
                    return Err(Fatal::Refused { what, source: Box::new(reason) });
                }
                self.log_failure(doing, &reason);
                Ok(Verdict::Retry)
            }
            ServerError::CertificateRefused(_) => {
                self.status.refused();
                self.reason.log(&reason.to_string(), Duration::ZERO, NEEDS_TOKEN);
                Ok(Verdict::Retry)
            }
            _ => {
                self.log_failure(doing, &reason);
                Ok(Verdict::Retry)
            }
        }
    }

    /// In spire-agent's words (`manager.go`, `rotator.go`).
    fn log_failure(&mut self, doing: Doing, reason: &ServerError) {
        let message = match doing {
            Doing::Syncing => "Synchronize failed",
            Doing::Renewing if self.data.reattestable => "Could not reattest agent",
            Doing::Renewing => "Could not rotate agent SVID",
        };
        self.reason.log(&reason.to_string(), Duration::ZERO, message);
    }

    /// The server answers, but not to us: an expired client certificate ends in a TLS alert, which looks like a broken
    /// connection right after the handshake.
    pub(super) fn looks_refused(&self, reason: &ServerError) -> bool {
        match reason {
            ServerError::Status(_)
            | ServerError::Untrusted(_)
            | ServerError::CertificateRefused(_)
            | ServerError::Disconnected(_) => true,
            ServerError::Entries(inner) => self.looks_refused(inner),
            _ => false,
        }
    }

    fn unknown_authority(&mut self) -> Result<Verdict, Fatal> {
        if self.mode == RebootstrapMode::Never
            && self.manager.is_none()
            && self.started.elapsed() < FIRST_CONTACT
        {
            let reason = "x509: certificate signed by unknown authority";
            self.reason.log(reason, Duration::ZERO, "Synchronize failed");
            return Ok(Verdict::Retry);
        }
        if self.mode == RebootstrapMode::Never {
            return Err(Fatal::UnknownAuthority(
                "failed to sync with SPIRE Server: x509: certificate signed by unknown authority",
            ));
        }
        let now = SystemTime::now();
        let start = parse_time(&self.data.bootstrap_start_time).unwrap_or_else(|| {
            self.data.bootstrap_start_time = format_time(now);
            now
        });
        self.data.bootstrap_use = REBOOTSTRAP;
        self.data.connection_attempts += 1;
        let seen_for = now.duration_since(start).unwrap_or_default();
        if seen_for < self.settings.rebootstrap_delay {
            self.persist();
            let reason = "x509: certificate signed by unknown authority";
            self.reason.log(
                reason,
                self.settings.rebootstrap_delay,
                "Server has an unknown authority; re-bootstrapping after the delay",
            );
            return Ok(Verdict::Retry);
        }
        warn!(
            "Server has an unknown authority: trusting the configured bundle source anew and attesting again"
        );
        self.forget_svid();
        self.bundle = None;
        self.data.bootstrap_start_time.clear();
        self.persist();
        Ok(Verdict::Rebootstrap)
    }

    /// `rebootstrap_mode` needs an agent that can attest anew: `always` insists, `auto` does without.
    pub(super) fn check_mode(&mut self) -> Result<(), Fatal> {
        if self.data.reattestable || self.mode == RebootstrapMode::Never {
            return Ok(());
        }
        if self.mode == RebootstrapMode::Always {
            return Err(Fatal::Configuration(ALWAYS_NEEDS_REATTESTABLE));
        }
        warn!("rebootstrap_mode = \"auto\" is off: the node attestor does not support reattestation");
        self.mode = RebootstrapMode::Never;
        Ok(())
    }
}

fn parse_time(text: &str) -> Option<SystemTime> {
    let seconds = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp();
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

fn format_time(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

const ALWAYS_NEEDS_REATTESTABLE: &str =
    "rebootstrap_mode = \"always\" needs a node attestor that can attest anew; use \"auto\" or \"never\"";
const NEEDS_TOKEN: &str = "The server refuses the agent's certificate, and its node attestor works once, so it cannot attest anew by itself. \
    Start it with a new join token; callers keep what they have until that expires";
/// How long an unknown authority is borne with at first contact: the bundle may be about to be distributed.
const FIRST_CONTACT: Duration = Duration::from_secs(60);
const REFUSALS: u32 = 3;
const REBOOTSTRAP: i32 = 2;

#[cfg(test)]
mod tests;
