//! The ways from a leaf to an anchor, in Go's order and with Go's limit.

use std::collections::BTreeSet;
use std::time::SystemTime;

use time::OffsetDateTime;

use super::certificate::Certificate;
use super::{Candidate, CandidateError, ChainError, signature};

/// Leaf first, anchor last.
pub(super) type Chain<'s, 'a> = Vec<&'s Certificate<'a>>;

/// A search for chains. Its depth is bounded as its work is: each step needs a signature.
pub(super) struct Search<'s, 'a> {
    anchors: Vec<&'s Certificate<'a>>,
    intermediates: Vec<&'s Certificate<'a>>,
    now: OffsetDateTime,
    checks: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Leaf,
    Intermediate,
    Anchor,
}

impl<'s, 'a> Search<'s, 'a> {
    pub(super) fn new(
        anchors: &'s [Certificate<'a>],
        intermediates: &'s [Certificate<'a>],
        now: SystemTime,
    ) -> Self {
        let (anchors, intermediates) = (distinct(anchors), distinct(intermediates));
        Self { anchors, intermediates, now: now.into(), checks: 0 }
    }

    /// All chains of a leaf whose signatures, times and places fit; at least one.
    pub(super) fn chains(mut self, leaf: &'s Certificate<'a>) -> Result<Vec<Chain<'s, 'a>>, ChainError> {
        self.check(leaf, Kind::Leaf, 0)?;
        if self.anchors.iter().any(|anchor| anchor.raw == leaf.raw) {
            return Ok(vec![vec![leaf]]);
        }
        self.extend(&vec![leaf])
    }

    /// All chains that begin with this one.
    fn extend(&mut self, chain: &Chain<'s, 'a>) -> Result<Vec<Chain<'s, 'a>>, ChainError> {
        let Some(child) = chain.last() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        // What Go says of a search without a chain is what it said of the last candidate that had signed.
        let mut last = Ok(());
        let mut hint = None;
        let anchors = candidates(&self.anchors, child).into_iter().map(|anchor| (anchor, Kind::Anchor));
        let others = candidates(&self.intermediates, child).into_iter();
        let others = others.map(|intermediate| (intermediate, Kind::Intermediate));
        for (candidate, kind) in anchors.chain(others).collect::<Vec<_>>() {
            self.checks += 1;
            if self.checks > MOST_CHECKS {
                last = Err(ChainError::SignatureLimit);
                break;
            }
            if candidate.key.is_none() || is_in(chain, candidate) {
                continue;
            }
            let reject = |reason: CandidateError| Candidate { name: candidate.label(), reason };
            if let Err(reason) = signature::check(child, candidate) {
                hint.get_or_insert_with(|| reject(reason.into()));
                continue;
            }
            last = self.check(candidate, kind, chain.len() - 1);
            if let Err(reason) = &last {
                hint.get_or_insert_with(|| reject(Box::new(reason.clone()).into()));
                continue;
            }
            let longer = [&chain[..], &[candidate]].concat();
            if kind == Kind::Anchor {
                found.push(longer);
                continue;
            }
            last = self.extend(&longer).map(|chains| found.extend(chains));
            if last == Err(ChainError::SignatureLimit) {
                break;
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        last?;
        Err(ChainError::UnknownAuthority(hint))
    }

    /// Whether a certificate may stand where it is, with so many intermediates below.
    fn check(&self, certificate: &Certificate<'_>, kind: Kind, below: usize) -> Result<(), ChainError> {
        let extensions = &certificate.extensions;
        let (now, not_before, not_after) = (self.now, certificate.not_before, certificate.not_after);
        if extensions.unhandled_critical {
            return Err(ChainError::CriticalExtension);
        }
        if now < not_before {
            return Err(ChainError::NotYetValid { now, not_before });
        }
        if now > not_after {
            return Err(ChainError::Expired { now, not_after });
        }
        let constraints = extensions.basic_constraints;
        if kind == Kind::Intermediate && !constraints.is_some_and(|constraints| constraints.is_ca) {
            return Err(ChainError::NotAuthorizedToSign);
        }
        match constraints.and_then(|constraints| constraints.path_length) {
            Some(most) if below as u64 > most => Err(ChainError::PathLength),
            _ => Ok(()),
        }
    }
}

/// Each certificate once.
fn distinct<'s, 'a>(certificates: &'s [Certificate<'a>]) -> Vec<&'s Certificate<'a>> {
    let mut seen = BTreeSet::new();
    certificates.iter().filter(|certificate| seen.insert(certificate.raw)).collect()
}

/// Those that could have signed a certificate by their name, the likeliest first: with its key identifier, then where one
/// of the two identifiers is missing, then with another one.
fn candidates<'s, 'a>(pool: &[&'s Certificate<'a>], child: &Certificate<'_>) -> Vec<&'s Certificate<'a>> {
    let named = pool.iter().filter(|candidate| candidate.subject == child.issuer);
    let mut named: Vec<_> = named.copied().collect();
    named.sort_by_key(|candidate| {
        let (ours, theirs) = (candidate.extensions.subject_key, child.extensions.authority_key);
        match () {
            () if ours == theirs => 0,
            () if ours.is_empty() || theirs.is_empty() => 1,
            () => 2,
        }
    });
    named
}

/// Whether a chain has a candidate's name, key and alternative names already. Authorities that have signed each other would
/// make a ring otherwise.
fn is_in(chain: &Chain<'_, '_>, candidate: &Certificate<'_>) -> bool {
    let same_holder = |certificate: &&&Certificate<'_>| {
        certificate.subject == candidate.subject && certificate.public_key_info == candidate.public_key_info
    };
    let names = candidate.extensions.san;
    for certificate in chain.iter().filter(same_holder) {
        match (names, certificate.extensions.san) {
            (ours, theirs) if ours == theirs => return true,
            (Some(_), Some(_)) => {}
            // Go looks no further here.
            _ => return false,
        }
    }
    false
}

/// How many candidates are tried in one search, as in Go.
const MOST_CHECKS: u32 = 100;
