//! Which SVIDs are due, and what becomes of those that were asked for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{Entry, Selectors, X509Svid};

use super::{Cache, Publish};
use crate::Prefetch;
use crate::record::{Minted, Record};

impl Cache {
    /// The entries whose SVID is due, the most urgent first, at most `limit`. They count as in flight until the owner
    /// calls [`Cache::minted`] or [`Cache::mint_failed`].
    pub fn take_due(&mut self, now: SystemTime, limit: usize) -> Vec<Arc<Entry>> {
        let mut due = Vec::new();
        while due.len() < limit {
            let Some((time, id)) = self.queue.pop_first() else { break };
            if time > now {
                self.queue.insert((time, id));
                break;
            }
            let all = self.mint_all();
            let record = self.records.get_mut(&id).expect("what is queued has a record");
            record.queued = None;
            if record.wanted(all, self.options.linger, now) {
                record.in_flight = true;
                due.push(Arc::clone(&record.entry));
            }
        }
        due
    }

    /// When [`Cache::take_due`] may next return something; `None` if no SVID is wanted.
    #[must_use]
    pub fn wake_at(&self) -> Option<SystemTime> {
        self.queue.first().map(|(time, _)| *time)
    }

    /// Takes a new SVID for an entry at the revision that `entry` has. `draw` (uniform in 0..1) decides when it is
    /// renewed.
    pub fn minted(&mut self, entry: &Entry, svid: Arc<X509Svid>, draw: f64, now: SystemTime) -> Vec<Publish> {
        let renew_at = self.options.renew_at(&svid, draw, now);
        let Some(record) = self.records.get_mut(&entry.id) else { return Vec::new() };
        record.in_flight = false;
        record.retry_at = None;
        // The entry may grant another ID since the SVID was requested.
        let fits = svid.id == record.entry.spiffe_id;
        let renew_at = if std::mem::take(&mut record.again) { now } else { renew_at };
        if fits {
            record.minted = Some(Minted { svid, revision: entry.revision, renew_at });
        }
        self.requeue(&entry.id, now);
        if fits { self.rebuild_views_with(&entry.id) } else { Vec::new() }
    }

    /// Makes every SVID due now, because the server no longer has the authority that signed them. Callers keep the
    /// old SVIDs until the new ones are there.
    pub fn renew_all(&mut self, now: SystemTime) {
        for record in self.records.values_mut() {
            if let Some(minted) = &mut record.minted {
                minted.renew_at = now;
            }
            // An SVID that is in flight may be signed by the old authority.
            record.again = record.in_flight;
        }
        self.requeue_all(now);
    }

    /// Makes the SVIDs due for which `distrusted` is true, because their signer is no longer relied on, those with callers
    /// first. `delays` draws as many delays as it is asked for, in ascending order ([`pace::replacements`]); it gets
    /// [`crate::Options::tainted_within`]. Callers keep the old SVIDs until the new ones are there. Returns how many SVIDs
    /// it affects.
    pub fn renew_distrusted(
        &mut self,
        distrusted: impl Fn(&X509Svid) -> bool,
        delays: impl FnOnce(usize, Duration) -> Vec<Duration>,
        now: SystemTime,
    ) -> usize {
        let holds_one = |record: &&mut Record| record.minted.as_ref().is_some_and(|m| distrusted(&m.svid));
        let mut affected: Vec<&mut Record> = self.records.values_mut().filter(holds_one).collect();
        affected.sort_by_key(|record| std::cmp::Reverse(record.callers.min(1)));
        let ids: Vec<Arc<str>> = affected.iter().map(|record| Arc::clone(&record.entry.id)).collect();
        let delays = delays(ids.len(), self.options.tainted_within);
        for (record, delay) in affected.into_iter().zip(delays) {
            if let Some(minted) = &mut record.minted {
                minted.renew_at = minted.renew_at.min(now + delay);
            }
            record.again = record.in_flight;
        }
        for id in &ids {
            self.requeue(id, now);
        }
        ids.len()
    }

    /// Makes the SVID of an entry due at this time, if it was due later.
    pub fn renew_by(&mut self, entry_id: &Arc<str>, at: SystemTime, now: SystemTime) {
        if let Some(minted) = self.records.get_mut(entry_id).and_then(|record| record.minted.as_mut()) {
            minted.renew_at = minted.renew_at.min(at);
            self.requeue(entry_id, now);
        }
    }

    /// Records that the server did not sign. The entry keeps its SVID, and is due again at `retry_at`.
    pub fn mint_failed(&mut self, entry_id: &str, retry_at: SystemTime, now: SystemTime) {
        let Some(record) = self.records.get_mut(entry_id) else { return };
        record.in_flight = false;
        record.again = false;
        record.retry_at = Some(retry_at);
        let id = Arc::clone(&record.entry.id);
        self.requeue(&id, now);
    }

    /// When callers are worse off for want of a new SVID of this entry: at once while they have none, or at three
    /// quarters of the life of the present one. `None` if nobody asks for it.
    #[must_use]
    pub fn pressing_at(&self, entry_id: &str) -> Option<SystemTime> {
        let record = self.records.get(entry_id)?;
        match &record.minted {
            Some(Minted { svid, .. }) => Some(pace::old_at(&(svid.not_before..svid.not_after))),
            None => (record.callers > 0).then_some(SystemTime::UNIX_EPOCH),
        }
    }

    /// Makes entries that failed due at this time, if they were due later: those that a selector set matches and that
    /// have no SVID.
    pub fn hasten(&mut self, selectors: &Selectors, at: SystemTime, now: SystemTime) {
        let ids = self.subscribers.get(selectors).cloned().unwrap_or_default();
        for id in ids.iter() {
            let record = self.records.get_mut(id).filter(|record| record.minted.is_none());
            if let Some(retry) = record.and_then(|record| record.retry_at.as_mut()) {
                *retry = (*retry).min(at);
                self.requeue(id, now);
            }
        }
    }

    /// Makes all entries that failed due at once, because the server is back.
    pub fn retry_failed(&mut self, now: SystemTime) {
        let failed = |record: &&mut Record| record.retry_at.is_some();
        let failed: Vec<Arc<str>> = self
            .records
            .values_mut()
            .filter(failed)
            .map(|record| {
                record.retry_at = None;
                Arc::clone(&record.entry.id)
            })
            .collect();
        for id in &failed {
            self.requeue(id, now);
        }
    }

    /// Whether entries without callers are minted, too.
    fn mint_all(&self) -> bool {
        match self.options.prefetch {
            Prefetch::All => true,
            Prefetch::Auto => self.records.len() <= self.options.prefetch_limit,
            Prefetch::Live => false,
        }
    }

    pub(super) fn requeue_all(&mut self, now: SystemTime) {
        let ids: Vec<_> = self.records.keys().cloned().collect();
        for id in ids {
            self.requeue(&id, now);
        }
    }

    pub(super) fn requeue(&mut self, id: &Arc<str>, now: SystemTime) {
        let all = self.mint_all();
        let Some(record) = self.records.get_mut(id) else { return };
        let due =
            (!record.in_flight && record.wanted(all, self.options.linger, now)).then(|| record.due_at());
        if due == record.queued {
            return;
        }
        if let Some(old) = record.queued.take() {
            self.queue.remove(&(old, Arc::clone(id)));
        }
        if let Some(due) = due {
            record.queued = Some(due);
            self.queue.insert((due, Arc::clone(id)));
        }
    }
}
