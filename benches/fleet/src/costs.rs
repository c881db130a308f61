//! What calls cost a SPIRE server, in CPU time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The CPU time of a spire-server for each kind of work, in microseconds. `fleet costs` measures them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// The server that was measured, and when.
    pub measured: String,
    /// TCP, TLS with certificates of both sides, and the setup of HTTP/2.
    pub connection: f64,
    /// SyncAuthorizedEntries with [`Self::entries`] entries that have not changed, and GetBundle.
    pub sync: f64,
    /// The part of a sync that is GetBundle.
    pub bundle: f64,
    /// AttestAgent by join token and GetBundle, on a connection of their own, which is included.
    pub attestation: f64,
    /// RenewAgent.
    pub renewal: f64,
    /// PostStatus.
    pub status: f64,
    /// BatchNewX509SVID, whatever its entries.
    pub batch: f64,
    /// Each entry of BatchNewX509SVID.
    pub signature: f64,
    /// A call that the server refuses before it does anything.
    pub refusal: f64,
    /// The entries of the agent that was measured.
    pub entries: usize,
    /// A sync of one of thirty finials that sync each second, with what else they do meanwhile. The server is at rest in
    /// between, so it is more than [`Self::sync`].
    pub real_sync: f64,
    /// The same of spire-agents.
    pub real_sync_of_spire_agent: f64,
}

impl Costs {
    /// The costs that are checked in beside this program.
    ///
    /// # Panics
    /// If the file is not what [`Costs`] says, which a test would have shown.
    #[must_use]
    pub fn checked_in() -> Self {
        serde_json::from_str(include_str!("../costs.json")).expect("a test reads it")
    }

    /// What the calls of spire-agent cost: those of a sync come one after the other, ours together.
    #[must_use]
    pub fn of_spire_agent(&self) -> Self {
        Self { sync: self.sync * self.real_sync_of_spire_agent / self.real_sync, ..self.clone() }
    }

    /// BatchNewX509SVID for so many entries.
    #[must_use]
    pub fn signing(&self, entries: usize) -> f64 {
        self.batch + self.signature * entries as f64
    }

    /// What an agent at rest costs in a minute that syncs every five seconds and has this many SVIDs of one hour. Servers
    /// of the simulation are sized by it.
    #[must_use]
    pub fn at_rest(&self, identities: usize) -> f64 {
        let renewals = 1.0 / 30.0;
        12.0 * self.sync
            + renewals * (self.attestation + identities as f64 * self.signing(1))
            + self.connection / CONNECTION_AGE.as_secs_f64() * 60.0
    }
}

/// A SPIRE server closes a connection at this age ± 10 % (`endpoints.go`, grpc-go).
pub(crate) const CONNECTION_AGE: Duration = Duration::from_mins(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_costs_are_read() {
        let costs = Costs::checked_in();
        assert!(costs.sync > costs.bundle && costs.signing(500) < 500.0 * costs.signing(1), "{costs:?}");
        assert!(costs.at_rest(10) > 12.0 * costs.sync);
    }
}
