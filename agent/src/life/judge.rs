//! Decides what an error of the server means: try again, attest again, bootstrap again, or stop.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::RebootstrapMode;
use pace::Cause;
use proto::types::permission_denied_details::Reason;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use tonic::Code;
use tracing::error;

use super::bootstrap::REBOOTSTRAP;
use super::{Lifecycle, lines};
use crate::keys::KeyError;
use crate::upstream::ServerError;

/// An error that stops the agent. The process exits with code 1.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The server has refused the agent, and another attempt would not help.
    #[error("{what}: {source}")]
    Refused {
        /// What the agent was doing.
        what: &'static str,
        /// The server's reason.
        source: Box<ServerError>,
    },
    /// The server's authority is unknown, and `rebootstrap_mode` does not allow to trust another one.
    #[error("{0}")]
    UnknownAuthority(&'static str),
    /// The configuration contradicts the server's answer.
    #[error("{0}")]
    Configuration(&'static str),
    /// A task that never ends has ended, which is a bug. The supervisor restarts the agent.
    #[error("{0} has ended unexpectedly")]
    Stopped(&'static str),
    /// Start-up failed: a file, socket, plugin or signal handler cannot be used.
    #[error("{0}")]
    StartUp(String),
}

impl From<KeyError> for Fatal {
    fn from(reason: KeyError) -> Self {
        Self::StartUp(reason.to_string())
    }
}

/// The reaction to an error while the agent serves.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Retry,
    /// Try again soon, to hear whether the server says the same again.
    Confirm,
    Attest,
    Rebootstrap,
}

/// What the agent was doing when the error came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Syncing,
    /// Renewing its own SVID.
    Renewing,
}

impl Lifecycle {
    /// Judges a failed attestation. `start` is the time of the first attempt. Returns the reason if the agent should
    /// try again.
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
            // A fatal error only before the first sync, and only if the agent may not trust another authority. The
            // reason was logged at each change.
            ServerError::UnknownAuthority | ServerError::Untrusted(_) => {
                first && self.mode == RebootstrapMode::Never && start.elapsed() >= FIRST_CONTACT
            }
            _ => match reason.code() {
                Some(Code::InvalidArgument) => works_once,
                // An agent that serves and can attest again tries again: its token may have been too old.
                Some(Code::PermissionDenied) => first || works_once || reason.to_string().contains("banned"),
                _ => false,
            },
        };
        if refused {
            return Err(Fatal::Refused { what: "failed to attest", source: Box::new(reason) });
        }
        Ok(reason)
    }

    /// Judges an error while the agent serves. `refusals` counts the errors in a row for which [`Self::looks_refused`]
    /// is true.
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
                self.log_failure(doing, &reason);
                lines::banned(self.manager.is_some(), &reason);
                self.forget_svid();
                Err(Fatal::Refused { what, source: Box::new(reason) })
            }
            ServerError::Refused { .. } if self.data.reattestable => {
                self.log_failure(doing, &reason);
                Ok(Verdict::Attest)
            }
            // A replica that lags behind does not know an agent that has just attested.
            ServerError::Refused { .. } if refusals < CONFIRMED && self.manager.is_some() => {
                self.log_failure(doing, &reason);
                Ok(Verdict::Confirm)
            }
            ServerError::Refused { .. } => {
                self.log_failure(doing, &reason);
                lines::cannot_reattest(self.manager.is_some(), &reason);
                self.forget_svid();
                if self.manager.is_none() && self.attestor.works_once() {
                    // Nothing is served yet, and the configured token may be a fresh one. A spent one ends the agent in
                    // the next attestation.
                    return Ok(Verdict::Rebootstrap);
                }
                Err(Fatal::Refused { what, source: Box::new(reason) })
            }
            ServerError::UnknownAuthority => self.unknown_authority(),
            // The agent's authority was revoked, or the agent was evicted and the server knows another key. A new
            // attestation mends both.
            ServerError::CertificateRefused(_) if self.data.reattestable => Ok(Verdict::Attest),
            _ if self.own.as_ref().is_some_and(|own| own.svid.expired(SystemTime::now())) => {
                // Nobody answers an attestation either. The syncs find out when the server is back.
                if matches!(reason.failure().cause, Cause::Away) {
                    self.log_failure(doing, &reason);
                    return Ok(Verdict::Retry);
                }
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
                self.reason.log(&reason.to_string(), NEEDS_TOKEN);
                Ok(Verdict::Retry)
            }
            _ => {
                self.log_failure(doing, &reason);
                Ok(Verdict::Retry)
            }
        }
    }

    /// Logs a failure in spire-agent's words (`manager.go`, `rotator.go`).
    fn log_failure(&mut self, doing: Doing, reason: &ServerError) {
        let what = match doing {
            Doing::Syncing => "sync",
            Doing::Renewing => "renew",
        };
        if self.reason.changed(what, &reason.to_string()) {
            lines::failed(doing, self.data.reattestable, reason);
        }
    }

    /// Whether an error may mean that the server rejects the agent's certificate. With TLS 1.3 the rejection of an
    /// expired certificate comes after the handshake and can look like a broken connection.
    pub(super) fn looks_refused(&self, reason: &ServerError) -> bool {
        match reason {
            ServerError::Refused { .. }
            | ServerError::Status(_)
            | ServerError::Untrusted(_)
            | ServerError::CertificateRefused(_)
            | ServerError::Disconnected(_) => true,
            ServerError::Entries(inner) => self.looks_refused(inner),
            _ => false,
        }
    }

    /// Judges a server whose authority is unknown, by `rebootstrap_mode`.
    pub(super) fn unknown_authority(&mut self) -> Result<Verdict, Fatal> {
        if self.mode == RebootstrapMode::Never
            && self.manager.is_none()
            && self.started.elapsed() < FIRST_CONTACT
        {
            let reason = "x509: certificate signed by unknown authority";
            self.reason.log(reason, "Synchronize failed");
            return Ok(Verdict::Retry);
        }
        if self.mode == RebootstrapMode::Never {
            lines::cannot_rebootstrap(UNKNOWN_AUTHORITY);
            return Err(Fatal::UnknownAuthority(UNKNOWN_AUTHORITY));
        }
        let now = SystemTime::now();
        let start = parse_time(&self.data.bootstrap_start_time).unwrap_or_else(|| {
            self.data.bootstrap_start_time = format_time(now);
            now
        });
        self.data.bootstrap_use = REBOOTSTRAP;
        let seen_for = now.duration_since(start).unwrap_or_default();
        if seen_for < self.settings.rebootstrap_delay {
            self.save();
            if self.reason.changed("trust", UNKNOWN_AUTHORITY) {
                lines::ignoring(self.settings.rebootstrap_delay.saturating_sub(seen_for));
            }
            return Ok(Verdict::Retry);
        }
        lines::rebootstrapping();
        self.forget_svid();
        self.bundle = None;
        self.data.bootstrap_start_time.clear();
        self.data.connection_attempts = 0;
        self.persist();
        Ok(Verdict::Rebootstrap)
    }

    /// Checks `rebootstrap_mode`, which needs an agent that can attest again. If it cannot, `always` is an error and
    /// `auto` becomes `never`.
    pub(super) fn check_mode(&mut self) -> Result<(), Fatal> {
        if self.data.reattestable || self.mode == RebootstrapMode::Never {
            return Ok(());
        }
        if self.mode == RebootstrapMode::Always {
            return Err(Fatal::Configuration(ALWAYS_NEEDS_REATTESTABLE));
        }
        lines::rebootstrap_disabled();
        self.mode = RebootstrapMode::Never;
        Ok(())
    }
}

/// Reads RFC 3339; `None` for another text or a time before 1970.
pub(super) fn parse_time(text: &str) -> Option<SystemTime> {
    let seconds = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp();
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

pub(crate) fn format_time(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

/// The same time in whole seconds. Another text stays as it is.
pub(super) fn whole_seconds(text: &str) -> String {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok().and_then(|time| time.replace_nanosecond(0).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| text.to_owned())
}

const UNKNOWN_AUTHORITY: &str =
    "failed to sync with SPIRE Server: x509: certificate signed by unknown authority";
const ALWAYS_NEEDS_REATTESTABLE: &str =
    "rebootstrap_mode = \"always\" needs a node attestor that can attest anew; use \"auto\" or \"never\"";
const NEEDS_TOKEN: &str = "The server refuses the agent's certificate, and its node attestor works once, so it cannot attest anew by itself. \
    Start it with a new join token; callers keep what they have until that expires";
/// How long an unknown authority is not fatal at first contact, because the bundle may be about to be distributed.
const FIRST_CONTACT: Duration = Duration::from_secs(60);
/// How many refusals in a row are believed by an agent that serves and cannot attest again.
const CONFIRMED: u32 = 2;
/// How many refusals in a row end an agent whose SVID has expired and that cannot attest again.
const REFUSALS: u32 = 3;

#[cfg(test)]
mod tests;
