//! What the agent publishes about itself: one value, written by those who know, read by health, the admin socket and
//! whoever else reports.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::keys::AgentSvid;

/// The published value and its writers' end.
#[derive(Debug)]
pub(crate) struct Status {
    started: Instant,
    state: watch::Sender<State>,
}

/// What is known at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) serving: Serving,
    /// When the last sync succeeded; `None` before the first.
    pub(crate) last_sync: Option<SystemTime>,
    /// The agent's own SVID; `None` before attestation.
    pub(crate) svid: Option<Arc<AgentSvid>>,
    /// Why the last call to the server failed; `None` once one succeeds.
    pub(crate) trouble: Option<String>,
    /// Another agent serves until this one has synced.
    pub(crate) has_predecessor: bool,
    /// The configured trust bundle has no authority of the server's present one.
    pub(crate) stale_source: bool,
}

impl State {
    /// The agent's own certificate and those that signed it, in DER; empty before attestation.
    pub(crate) fn chain(&self) -> &[Bytes] {
        self.svid.as_ref().map_or(&[], |svid| &svid.chain)
    }
}

/// Whether callers can be given identities that will last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Serving {
    /// The agent has not attested, or has not synced yet, and has nothing of an earlier process.
    #[default]
    Starting,
    Ready,
    /// The server does not accept the agent's certificate any more and the agent cannot attest anew by itself. Callers
    /// keep what they have until it expires.
    Refused,
    /// The agent is on its way out.
    Stopping,
}

impl Status {
    /// The status of an agent that starts now.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), state: watch::Sender::default() }
    }

    /// Whole seconds since the start.
    pub(crate) fn uptime(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Seconds since the start, with fractions.
    pub(crate) fn uptime_seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Milliseconds since the start.
    pub(crate) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.state.borrow().serving == Serving::Ready
    }

    /// A sync has succeeded at this time: callers can be served.
    pub(crate) fn synced(&self, at: SystemTime) {
        self.state.send_modify(|state| {
            state.last_sync = Some(at);
            state.trouble = None;
            if state.serving != Serving::Stopping {
                state.serving = Serving::Ready;
            }
        });
    }

    /// Waits for the first sync.
    pub(crate) async fn until_synced(&self) {
        let mut state = self.state.subscribe();
        // The sender is this value, so it does not go.
        let _ = state.wait_for(|state| state.last_sync.is_some()).await;
    }

    /// Another agent serves until this one has synced.
    pub(crate) fn has_predecessor(&self) {
        self.state.send_modify(|state| state.has_predecessor = true);
    }

    /// The agent serves what an earlier process had, unless another agent still does.
    pub(crate) fn restored(&self) {
        self.state.send_modify(|state| {
            if state.serving == Serving::Starting && !state.has_predecessor {
                state.serving = Serving::Ready;
            }
        });
    }

    /// The agent cannot do something at the server, for this reason.
    pub(crate) fn failed(&self, reason: String) {
        self.state.send_modify(|state| state.trouble = Some(reason));
    }

    /// Whether a new node could not attest with the configured trust bundle.
    pub(crate) fn source_is_stale(&self, is_stale: bool) {
        self.state.send_modify(|state| state.stale_source = is_stale);
    }

    /// The agent has another certificate, or has lost its own.
    pub(crate) fn certified(&self, svid: Option<Arc<AgentSvid>>) {
        self.state.send_modify(|state| state.svid = svid);
    }

    /// The server does not accept the agent's certificate.
    pub(crate) fn refused(&self) {
        self.state.send_modify(|state| {
            if state.serving == Serving::Ready {
                state.serving = Serving::Refused;
            }
        });
    }

    pub(crate) fn stopping(&self) {
        self.state.send_modify(|state| state.serving = Serving::Stopping);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_ready_from_the_first_sync_until_the_agent_stops() {
        let status = Status::new();
        assert!(!status.is_ready());
        status.synced(UNIX_EPOCH);
        assert!(status.is_ready());
        assert_eq!(status.state().last_sync, Some(UNIX_EPOCH));
        status.stopping();
        status.synced(UNIX_EPOCH);
        assert_eq!(status.state().serving, Serving::Stopping);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_certificate_is_shown_until_the_next_sync() {
        let status = Status::new();
        status.refused();
        assert_eq!(status.state().serving, Serving::Starting, "it has not been ready");
        status.synced(UNIX_EPOCH);
        status.refused();
        assert_eq!(status.state().serving, Serving::Refused);
        assert!(!status.is_ready());
        status.synced(UNIX_EPOCH);
        assert!(status.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn uptime_is_in_whole_seconds() {
        let status = Status::new();
        tokio::time::advance(std::time::Duration::from_millis(2900)).await;
        assert_eq!(status.uptime(), 2);
    }
}
