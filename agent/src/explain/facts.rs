//! What is known when an explanation is made.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{Entry, Selector, Selectors};

use crate::manager::Held;
use crate::record::Event;

/// Everything that an explanation is made of.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) now: SystemTime,
    pub(crate) agent: AgentFacts,
    pub(crate) subject: Subject,
    /// All entries that the server authorizes for this agent.
    pub(crate) entries: Vec<Held>,
    /// The trust domains whose bundles the agent has.
    pub(crate) bundles: Vec<String>,
    /// What happened to the process lately.
    pub(crate) events: Vec<Event>,
    /// What the process's caller group holds of its share of the memory budget; `None` if it has no connection.
    pub(crate) budget: Option<(usize, usize)>,
}

/// The state of the agent.
#[derive(Debug, Clone)]
pub(crate) struct AgentFacts {
    /// The agent's SPIFFE ID; `None` before attestation.
    pub(crate) spiffe_id: Option<String>,
    pub(crate) is_refused: bool,
    pub(crate) last_sync: Option<SystemTime>,
    pub(crate) sync_interval: Duration,
    /// Why the last call to the server failed.
    pub(crate) trouble: Option<String>,
    /// The configured trust bundle has no authority of the server's present one.
    pub(crate) stale_source: bool,
    /// The server's bundle has tainted authorities.
    pub(crate) has_taint: bool,
}

/// Who is asked about.
#[derive(Debug)]
pub(crate) enum Subject {
    /// A process, and what each attestor says of it.
    Process { pid: i32, attested: Vec<Attested> },
    /// A process that does not exist.
    NoProcess { pid: i32 },
    /// Whoever has these selectors.
    Selectors(Selectors),
}

/// What one attestor says.
#[derive(Debug)]
pub(crate) struct Attested {
    pub(crate) attestor: &'static str,
    pub(crate) outcome: Outcome,
}

/// The outcome of one attestor.
#[derive(Debug)]
pub(crate) enum Outcome {
    Found(Vec<Selector>),
    Unseen(String),
    Failed(String),
}

/// An entry that does not match, and why.
#[derive(Debug)]
pub(crate) struct Near {
    pub(crate) entry: Arc<Entry>,
    /// The selectors that the subject lacks.
    pub(crate) missing: Vec<Selector>,
}

impl Facts {
    /// The selectors of the subject.
    pub(crate) fn selectors(&self) -> Selectors {
        match &self.subject {
            Subject::Selectors(selectors) => selectors.clone(),
            Subject::NoProcess { .. } => Selectors::default(),
            Subject::Process { attested, .. } => attested
                .iter()
                .flat_map(|one| match &one.outcome {
                    Outcome::Found(selectors) => selectors.as_slice(),
                    Outcome::Unseen(_) | Outcome::Failed(_) => &[],
                })
                .cloned()
                .collect(),
        }
    }

    /// The entries that match, by ascending ID.
    pub(crate) fn matched(&self, selectors: &Selectors) -> Vec<&Held> {
        self.entries.iter().filter(|held| held.entry.selectors.is_subset_of(selectors)).collect()
    }

    /// The entries that come nearest without matching: those that lack fewest selectors, and of these the ones that have
    /// most.
    pub(crate) fn nearest(&self, selectors: &Selectors) -> Vec<Near> {
        let mut near: Vec<(usize, usize, &Held)> = self
            .entries
            .iter()
            .filter(|held| !held.entry.store_svid)
            .filter_map(|held| {
                let wanted = &held.entry.selectors;
                let has = wanted.iter().filter(|one| contains(selectors, one)).count();
                (has < wanted.len() && has > 0).then_some((wanted.len() - has, wanted.len(), held))
            })
            .collect();
        near.sort_by(|a, b| (a.0, b.1, &a.2.entry.id).cmp(&(b.0, a.1, &b.2.entry.id)));
        near.into_iter()
            .take(NEAREST)
            .map(|(_, _, held)| {
                let wanted = held.entry.selectors.iter();
                let missing = wanted.filter(|one| !contains(selectors, one)).cloned().collect();
                Near { entry: Arc::clone(&held.entry), missing }
            })
            .collect()
    }
}

fn contains(selectors: &Selectors, one: &Selector) -> bool {
    // Selectors are in order.
    selectors.iter().as_slice().binary_search(one).is_ok()
}

/// The entries that are shown of those that do not match.
const NEAREST: usize = 3;
