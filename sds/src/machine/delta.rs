//! Delta: each request says what the client wants besides or no longer (`DeltaSecrets`; xDS, "Incremental xDS").
//!
//! - A first request without a name subscribes to everything, as `*` does at any time.
//! - A name that is subscribed to again is sent again.
//! - Each resource has a version of its own, which is made of its content alone. So a client that comes back, even
//!   after a restart of the agent, says which versions it has and is sent only what is different.
//! - A request can answer a response and change the subscriptions at the same time. A late answer only loses its
//!   meaning as an answer.

use std::sync::Arc;

use super::{Machine, RequestKind, Wanted, digest_of, in_order, type_url, within_limit};
use crate::Refusal;
use crate::machine::push::Hex;
use crate::names::NameList;
use crate::resolve::Resolved;
use crate::secret::Encoded;
use crate::wire::{DeltaDiscoveryRequest, SECRET_TYPE_URL};

/// What a client has, but must be compared anew: what it says it has from an earlier stream, and what it asks for
/// again.
#[derive(Debug)]
pub(super) struct Claims(Box<[Claim]>);

#[derive(Debug)]
struct Claim {
    name: Box<str>,
    /// `None` if the resource is sent whatever the client has.
    version: Option<Hex<16>>,
}

impl Machine {
    /// Takes a request of a delta stream.
    ///
    /// # Errors
    /// [`Refusal::TooManyNames`].
    pub fn delta_request(&mut self, request: DeltaDiscoveryRequest<'_>) -> Result<RequestKind, Refusal> {
        self.dirty |= self.node.latch(request.node.as_ref());
        let answers = self.nonces.last().is_some_and(|last| last.as_str() == request.response_nonce);
        if answers {
            self.unanswered = None;
        }
        let is_first = self.wanted.is_none();
        let (subscribe, star) = without_star(in_order(request.subscribe)?);
        let (unsubscribe, unstar) = without_star(in_order(request.unsubscribe)?);
        let type_url = type_url(request.type_url)?;
        let asked = is_first || star || !subscribe.is_empty();
        // Most clients that unsubscribe do it once. What changes nothing costs nothing.
        let unsubscribe: Vec<_> = unsubscribe.into_iter().filter(|name| self.wants(name)).collect();
        if asked || (unstar && self.wants_everything()) || !unsubscribe.is_empty() {
            let everything = star || if is_first { subscribe.is_empty() } else { self.wants_everything() };
            self.want(&subscribe, &unsubscribe, everything && !unstar)?;
        }
        if is_first {
            self.claim_first(request.initial_resource_versions)?;
        }
        if let Some(wanted) = &mut self.wanted {
            wanted.type_url = type_url;
        }
        Ok(match request.error_detail {
            Some(rejection) => RequestKind::Nack(rejection.message),
            None if asked => RequestKind::Asked,
            None => RequestKind::Ack,
        })
    }

    fn wants(&self, name: &str) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.names.contains(name))
    }

    fn wants_everything(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.everything)
    }

    /// Changes the subscriptions. What is subscribed to is answered even if the last response is not.
    fn want(&mut self, subscribe: &[&str], unsubscribe: &[&str], everything: bool) -> Result<(), Refusal> {
        let (names, was_everything) = match &self.wanted {
            Some(wanted) => (wanted.names.changed(subscribe, unsubscribe, &self.options), wanted.everything),
            None => (NameList::default().changed(subscribe, unsubscribe, &self.options), false),
        };
        within_limit(names.iter().map(|(_, name, _)| name.len()))?;
        let asks_for_everything = everything && !was_everything;
        let mut again = Vec::new();
        self.sent.retain(|old| {
            let is_wanted = everything || names.contains(&old.name);
            let is = |names: &[&str]| names.binary_search(&&*old.name).is_ok();
            // What a wildcard still covers is sent again, too, because the client cannot know (xDS).
            let is_again = asks_for_everything || is(subscribe) || is(unsubscribe);
            if is_wanted && is_again {
                again.push(Claim { name: old.name.clone(), version: None });
            }
            is_wanted && !is_again
        });
        if asks_for_everything || !subscribe.is_empty() {
            self.unanswered = None;
        }
        for claim in self.claims.iter_mut().flat_map(|claims| &mut claims.0) {
            if subscribe.binary_search(&&*claim.name).is_ok() {
                claim.version = None;
            }
        }
        self.wanted = Some(Wanted { names, everything, type_url: SECRET_TYPE_URL.into() });
        // The places refer to the old names.
        self.unresolved = Box::default();
        self.dirty = true;
        self.claim(again);
        Ok(())
    }

    /// Takes what a client says it has from an earlier stream.
    fn claim_first(&mut self, versions: Vec<(&str, &str)>) -> Result<(), Refusal> {
        within_limit(versions.iter().map(|(name, _)| name.len()))?;
        let claims = versions.into_iter();
        let claims = claims.map(|(name, version)| Claim { name: name.into(), version: Hex::parse(version) });
        self.claim(claims.collect());
        Ok(())
    }

    /// Adds to the claims, and drops those for which there is no subscription any more.
    fn claim(&mut self, mut claims: Vec<Claim>) {
        claims.extend(self.claims.take().into_iter().flat_map(|claims| claims.0));
        let Some(wanted) = &self.wanted else { return };
        claims.retain(|claim| wanted.everything || wanted.names.contains(&claim.name));
        claims.sort_by(|a, b| a.name.cmp(&b.name));
        claims.dedup_by(|a, b| a.name == b.name);
        if !claims.is_empty() {
            self.claims = Some(Box::new(Claims(claims.into())));
        }
    }
}

impl Claims {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn allocated(&self) -> usize {
        size_of_val(&*self.0) + self.0.iter().map(|claim| claim.name.len()).sum::<usize>()
    }
}

/// Compares what the client has with what was found: a claim of the present version counts as sent, and what is gone
/// is returned, to be removed at the client. What is there, but cannot be sent at the moment, stays as it is.
pub(super) fn settle(
    claims: &mut Option<Box<Claims>>,
    sent: &mut Vec<Arc<Encoded>>,
    resolved: &Resolved,
    is_gone: impl Fn(&str) -> bool,
) -> Vec<Box<str>> {
    let found = |name: &str| {
        let place = resolved.found.binary_search_by(|encoded| (*encoded.name).cmp(name)).ok()?;
        Some(&resolved.found[place])
    };
    let mut removed: Vec<Box<str>> = Vec::new();
    sent.retain(|old| {
        let gone = found(&old.name).is_none() && is_gone(&old.name);
        if gone {
            removed.push(old.name.clone());
        }
        !gone
    });
    let Some(Claims(claimed)) = claims.take().map(|claims| *claims) else { return removed };
    let mut open = Vec::new();
    for claim in claimed {
        match found(&claim.name) {
            Some(encoded) if claim.version == Some(Hex::of_digest(&encoded.digest)) => {
                if digest_of(sent, encoded).is_none() {
                    let place = sent.partition_point(|old| old.name < encoded.name);
                    sent.insert(place, Arc::clone(encoded));
                }
            }
            Some(_) => {}
            None if is_gone(&claim.name) => removed.push(claim.name),
            None => open.push(claim),
        }
    }
    if !open.is_empty() {
        *claims = Some(Box::new(Claims(open.into())));
    }
    removed.sort_unstable();
    removed.dedup();
    removed
}

/// Takes `*` out of names.
fn without_star(mut names: Vec<&str>) -> (Vec<&str>, bool) {
    let before = names.len();
    names.retain(|name| *name != EVERYTHING);
    let star = names.len() < before;
    (names, star)
}

/// The name that subscribes to everything (xDS, "wildcard").
const EVERYTHING: &str = "*";
