//! One sync with the server, and what follows from it: the manager that the first one starts, and the own bundle.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::Bundle;
use tracing::info;

use super::clock::SyncClock;
use super::{Lifecycle, status};
use crate::manager::{Manager, Mint, Parts, Sign};
use crate::telemetry::{Metrics, names};
use crate::upstream::backoff::Need;
use crate::upstream::sync::{Counts, SyncState, sync};
use crate::upstream::{ServerError, jwt, mint};

impl Lifecycle {
    /// Syncs once, and schedules the next sync.
    pub(super) async fn sync(
        &mut self,
        known: &mut SyncState,
        clock: &mut SyncClock,
    ) -> Result<(), ServerError> {
        let revisions = self.settings.experimental.use_sync_authorized_entries;
        let call = names::FETCH_ENTRIES.start(&self.metrics);
        let result = sync(&self.link, known, revisions).await;
        call.end(status(&result));
        // A server that refuses has answered.
        let is_answered = result.as_ref().map_or_else(|reason| reason.code().is_some(), |_| true);
        self.metrics.set(&names::LINK_UP, &[], f64::from(u8::from(is_answered)));
        if let Ok(synced) = &result {
            counted(&self.metrics, &known.counts(), synced.bundles.len());
        }
        let outcome = result.as_ref().map(drop).map_err(ServerError::failure);
        let need = self.manager.as_ref().map_or(Need::Urgent, Manager::need);
        let is_back = clock.synced(outcome, self.settings.experimental.sync_interval, need);
        if result.is_ok() && known.is_doubtful() {
            clock.confirm();
        }
        // The manager did not get these entries, so the next sync must return all of them again.
        if let Err(reason) = self.synced(result?).await {
            *known = self.no_results();
            return Err(reason);
        }
        if is_back {
            // What is not old yet keeps its wait: others of the fleet come back at this moment, too.
            let is_old = self.own.as_ref().is_some_and(|own| own.old_at() <= SystemTime::now());
            if is_old && clock.renewal_fails() {
                self.hold_renewal(Duration::ZERO);
            }
            if let Some(manager) = &self.manager {
                manager.reached().await;
            }
        }
        Ok(())
    }

    /// The results of no sync.
    pub(super) fn no_results(&self) -> SyncState {
        let experimental = &self.settings.experimental;
        SyncState::new(experimental.withdrawal, experimental.sync_interval)
    }

    /// Passes the outcome of a sync to the manager, which the first sync starts, and keeps the own bundle.
    pub(super) async fn synced(&mut self, synced: crate::upstream::sync::Synced) -> Result<(), ServerError> {
        self.reason.clear();
        let own = synced.bundles.get(&self.trust_domain).cloned();
        if let Some(bundle) = &own {
            self.renew_distrusted(bundle);
        }
        let first = self.status.state().last_sync.is_none();
        let manager = match &self.manager {
            Some(manager) => manager.clone(),
            None => {
                let bundle = own.clone().or_else(|| self.bundle.clone());
                let bundle = bundle.ok_or(ServerError::Protocol("the server has no bundle"))?;
                Manager::start(self.parts(bundle))
            }
        };
        manager.synced(synced).await;
        if self.manager.is_none() {
            self.manager = Some(manager.clone());
            self.ready.send_replace(Some(manager));
        }
        self.status.synced(SystemTime::now());
        if first {
            info!("Agent is ready");
        }
        let changed = own.is_some() && own != self.bundle;
        if changed || !self.data.bootstrap_start_time.is_empty() {
            self.bundle = own.or_else(|| self.bundle.take());
            self.found_server();
            self.refresh_credentials();
            self.persist();
        } else if first {
            self.persist();
        }
        Ok(())
    }

    pub(super) fn parts(&self, bundle: Arc<Bundle>) -> Parts {
        let (link, key_type) = (Arc::clone(&self.link), self.settings.workload_x509_svid_key_type);
        let mint: Mint = Arc::new(move |entries| {
            let link = Arc::clone(&link);
            Box::pin(async move { mint::mint(&link, entries, key_type).await })
        });
        let link = Arc::clone(&self.link);
        let sign: Sign = Arc::new(move |key| {
            let link = Arc::clone(&link);
            Box::pin(async move { jwt::sign(&link, key.entry_id(), key.audience()).await })
        });
        let (demand, jwt_limit) = (self.demand.0.clone(), self.settings.jwt_svid_cache_max_size);
        Parts {
            rules: self.rules.clone(),
            bundle,
            mint,
            sign,
            jwt_limit,
            demand,
            clock: SystemTime::now,
            metrics: self.metrics.clone(),
            changes: self.changes.clone(),
        }
    }
}

/// Emits what a sync has brought.
#[expect(clippy::cast_precision_loss, reason = "what is counted fits into memory")]
fn counted(metrics: &Metrics, entries: &Counts, bundles: usize) {
    for (gauge, count) in [
        (&names::SYNC_BUNDLES, bundles),
        (&names::SYNC_ENTRIES, entries.total),
        (&names::SYNC_MISSING, entries.missing),
        (&names::SYNC_STALE, entries.stale),
        (&names::SYNC_DROPPED, entries.dropped),
    ] {
        metrics.set(gauge, &[], count as f64);
    }
}
