//! What one answer of the server takes back is doubted until the next answer agrees.
//!
//! A server can be several replicas behind one name. A replica that lags lists fewer entries, older revisions of them
//! and an older bundle than the one that answered before. If the agent believed it at once, identities would go away and
//! come back. A bundle with a higher sequence number is never doubted, so a taint counts at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use identity::{Bundle, Entry, TrustDomain};
use tokio::time::Instant;
use tracing::debug;

/// What the last sync took back, so that a later one confirms it.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// How long an answer must stay the same. A server reads its database every few seconds, so one that lags says the same
    /// twice in a row if it is asked at once.
    patience: Duration,
    /// The IDs of entries that are held but were absent, or came with a lower revision, and since when.
    entries: BTreeMap<Arc<str>, Instant>,
    /// The sequence numbers of bundles that were lower than the one that is held, or [`ABSENT`], and since when.
    bundles: BTreeMap<TrustDomain, (u64, Instant)>,
}

impl Doubts {
    /// No doubts yet. What is taken back counts when an answer of this much later agrees.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, ..Self::default() }
    }

    /// Whether something waits for the next sync to confirm it.
    pub(super) fn are_pending(&self) -> bool {
        !self.entries.is_empty() || !self.bundles.is_empty()
    }

    /// The entries to hold after an answer that lists `listed`, where `held` are those of before.
    pub(super) fn entries(&mut self, held: &[Arc<Entry>], mut listed: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
        let doubted = std::mem::take(&mut self.entries);
        let mut absent: HashMap<&str, &Arc<Entry>> = held.iter().map(|entry| (&*entry.id, entry)).collect();
        for entry in &mut listed {
            let Some(ours) = absent.remove(&*entry.id) else { continue };
            if is_older(entry, ours) && self.doubt(ours, &doubted, "came with an older revision") {
                *entry = Arc::clone(ours);
            }
        }
        for ours in held.iter().filter(|ours| absent.contains_key(&*ours.id)) {
            if self.doubt(ours, &doubted, "is absent") {
                listed.push(Arc::clone(ours));
            }
        }
        listed
    }

    /// Notes that the last answer agrees with the entries that are held.
    pub(super) fn entries_agree(&mut self) {
        self.entries.clear();
    }

    /// Notes that the last answer had the bundle that is held.
    pub(super) fn bundle_agrees(&mut self, trust_domain: &str) {
        self.bundles.remove(trust_domain);
    }

    /// Whether a bundle with this sequence number must not replace `held` yet. A server that numbers no bundles sends 0.
    pub(super) fn bundle(&mut self, held: &Bundle, sequence_number: u64) -> bool {
        let domain = &held.trust_domain;
        if sequence_number == 0 || sequence_number >= held.sequence_number {
            self.bundles.remove(domain);
            return false;
        }
        self.doubt_bundle(held, sequence_number)
    }

    /// Whether `held` stays for now, although the server has no bundle for its trust domain.
    pub(super) fn bundle_is_absent(&mut self, held: &Bundle) -> bool {
        self.doubt_bundle(held, ABSENT)
    }

    /// Forgets the bundles of trust domains that no entry federates with any more.
    pub(super) fn retain_bundles(&mut self, wanted: impl Fn(&TrustDomain) -> bool) {
        self.bundles.retain(|domain, _| wanted(domain));
    }

    /// Whether an entry is held on to. It is, until it has been doubted for long enough.
    fn doubt(&mut self, ours: &Entry, doubted: &BTreeMap<Arc<str>, Instant>, what: &'static str) -> bool {
        let since = doubted.get(&ours.id).copied();
        if since.is_some_and(|since| since.elapsed() >= self.patience) {
            return false;
        }
        if since.is_none() {
            debug!(entry = %ours.id, spiffe_id = %ours.spiffe_id,
                "Entry {what} in the server's list; it is withdrawn if the next sync agrees");
        }
        self.entries.insert(Arc::clone(&ours.id), since.unwrap_or_else(Instant::now));
        true
    }

    /// The same of a bundle that came with this sequence number, or [`ABSENT`].
    fn doubt_bundle(&mut self, held: &Bundle, sequence_number: u64) -> bool {
        let domain = &held.trust_domain;
        let since = self.bundles.remove(domain).filter(|(number, _)| *number == sequence_number);
        if since.is_some_and(|(_, since)| since.elapsed() >= self.patience) {
            return false;
        }
        if since.is_none() {
            debug!(trust_domain = %domain, sequence_number, held = held.sequence_number,
                "Bundle is absent or older than the last one; that counts if the next sync agrees");
        }
        let since = since.map_or_else(Instant::now, |(_, since)| since);
        self.bundles.insert(domain.clone(), (sequence_number, since));
        true
    }
}

/// Whether `entry` is an earlier state of `ours`. An entry that was created anew under the same ID is not.
fn is_older(entry: &Entry, ours: &Entry) -> bool {
    entry.created_at == ours.created_at && entry.revision < ours.revision
}

/// In place of a sequence number: the server has no bundle.
const ABSENT: u64 = 0;

#[cfg(test)]
mod tests {
    use identity::{Selector, SpiffeId};

    use super::*;

    fn entry(id: &str, revision: i64) -> Arc<Entry> {
        Arc::new(Entry {
            id: id.into(),
            spiffe_id: SpiffeId::parse("spiffe://td/a").unwrap(),
            selectors: [Selector::new("unix", "uid:0").unwrap()].into_iter().collect(),
            federates_with: Vec::new(),
            admin: false,
            downstream: false,
            revision,
            store_svid: false,
            hint: String::new(),
            created_at: 1,
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
        })
    }

    /// The IDs and revisions that are held after each of these answers.
    fn after(answers: &[&[(&str, i64)]]) -> Vec<Vec<(String, i64)>> {
        let (mut doubts, mut held) = (Doubts::default(), Vec::new());
        let mut all = Vec::new();
        for answer in answers {
            held = doubts.entries(&held, answer.iter().map(|(id, revision)| entry(id, *revision)).collect());
            all.push(held.iter().map(|entry| (entry.id.to_string(), entry.revision)).collect());
        }
        all
    }

    fn of(held: &[(&str, i64)]) -> Vec<(String, i64)> {
        held.iter().map(|(id, revision)| ((*id).to_owned(), *revision)).collect()
    }

    #[test]
    fn an_entry_goes_when_two_answers_lack_it() {
        let both: &[_] = &[("a", 1), ("b", 1)];
        let one: &[_] = &[("a", 1)];
        // Replicas that take turns never make it go.
        assert_eq!(after(&[both, one, both, one, both]), vec![of(both); 5]);
        assert_eq!(after(&[both, one, one]), [of(both), of(both), of(one)]);
        assert_eq!(after(&[both, &[], one])[1..], [of(both), of(one)], "each entry has its own doubt");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_too_soon_confirms_nothing() {
        let patience = Duration::from_secs(4);
        let mut doubts = Doubts::new(patience);
        let held = [entry("a", 1)];
        for _ in 0..4 {
            assert_eq!(doubts.entries(&held, Vec::new()).len(), 1);
            tokio::time::advance(patience / 5).await;
        }
        tokio::time::advance(patience / 5).await;
        assert!(doubts.entries(&held, Vec::new()).is_empty() && !doubts.are_pending());
    }

    #[test]
    fn a_lower_revision_counts_when_it_comes_twice() {
        let (new, old): (&[_], &[_]) = (&[("a", 3)], &[("a", 2)]);
        assert_eq!(after(&[new, old, new, old]), vec![of(new); 4]);
        assert_eq!(after(&[new, old, old]), [of(new), of(new), of(old)]);
        assert_eq!(after(&[old, new]), [of(old), of(new)], "a higher one counts at once");
    }

    #[test]
    fn a_lower_bundle_counts_when_it_comes_twice() {
        let domain = TrustDomain::parse("td").unwrap();
        let held = Bundle { sequence_number: 5, ..Bundle::of_x509(domain, []) };
        let mut doubts = Doubts::default();
        assert!(!doubts.bundle(&held, 6) && !doubts.bundle(&held, 5) && !doubts.bundle(&held, 0));
        assert!(doubts.bundle(&held, 4));
        assert!(doubts.bundle(&held, 3), "another one is doubted anew");
        assert!(!doubts.bundle(&held, 5) && doubts.bundle(&held, 3), "the held one was seen meanwhile");
        assert!(!doubts.bundle(&held, 3));
        assert!(!doubts.are_pending());
        assert!(doubts.bundle_is_absent(&held) && !doubts.bundle_is_absent(&held));
    }
}
