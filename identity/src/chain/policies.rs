//! Certificate policies (RFC 5280 §6.1, as RFC 9618 changed it). Nobody here asks for a policy; a CA may.

use std::collections::{BTreeMap, BTreeSet};

use super::certificate::Certificate;

/// What is valid so far: each policy with the ones that the next certificate may have for it. Go keeps the whole graph; all
/// that it takes from it is whether the last level is empty.
type Level<'a> = BTreeMap<&'a [u8], Vec<&'a [u8]>>;

/// How many certificates more there may be until each of these begins.
struct Skips {
    explicit_policy: i64,
    policy_mapping: i64,
    any_policy: i64,
}

/// Whether a chain, leaf first and anchor last, keeps to the policies that its CAs require.
pub(super) fn valid(chain: &[&Certificate<'_>]) -> bool {
    let Some((_, below)) = chain.split_last().filter(|(_, below)| !below.is_empty()) else { return true };
    let longest = i64::try_from(below.len() + 1).unwrap_or(i64::MAX);
    let mut skips = Skips { explicit_policy: longest, policy_mapping: longest, any_policy: longest };
    let mut level = Some(Level::from([(ANY, vec![ANY])]));
    for (at, certificate) in below.iter().enumerate().rev() {
        let is_leaf = at == 0;
        level = level.filter(|_| !certificate.extensions.policies.is_empty());
        if skips.explicit_policy == 0 && level.is_none() {
            return false;
        }
        if let Some(before) = level {
            let is_self_issued = certificate.issuer == certificate.subject;
            let any_counts = skips.any_policy > 0 || !is_leaf && is_self_issued;
            let mut next = next_level(&before, certificate, any_counts);
            if !is_leaf && !map(&mut next, certificate, skips.policy_mapping > 0) {
                return false;
            }
            level = Some(next);
        }
        if !is_leaf {
            skips.pass(certificate);
        }
    }
    let required_by_leaf = below[0].extensions.require_explicit_policy == Some(0);
    let is_required = skips.explicit_policy <= 1 || required_by_leaf;
    !is_required || level.is_some_and(|level| !level.is_empty())
}

/// RFC 5280 §6.1.3 (d).
fn next_level<'a>(before: &Level<'a>, certificate: &Certificate<'a>, any_counts: bool) -> Level<'a> {
    let policies = &certificate.extensions.policies;
    let expected: BTreeSet<&[u8]> = before.values().flatten().copied().collect();
    let is_expected = |policy: &&&[u8]| expected.contains(**policy) || before.contains_key(ANY);
    let named = policies.iter().filter(|policy| **policy != ANY).filter(is_expected);
    let mut next: Level<'a> = named.map(|policy| (*policy, vec![*policy])).collect();
    if policies.contains(&ANY) && any_counts {
        for policy in expected {
            next.entry(policy).or_insert_with(|| vec![policy]);
        }
    }
    next
}

/// RFC 5280 §6.1.4 (a) and (b); false when `anyPolicy` is mapped.
fn map<'a>(level: &mut Level<'a>, certificate: &Certificate<'a>, is_allowed: bool) -> bool {
    let mappings = &certificate.extensions.policy_mappings;
    if !is_allowed {
        for (issuer, _) in mappings {
            level.remove(issuer);
        }
        return true;
    }
    let mut by_issuer: Level<'a> = Level::new();
    for (issuer, subject) in mappings {
        if *issuer == ANY || *subject == ANY {
            return false;
        }
        by_issuer.entry(issuer).or_default().push(subject);
    }
    for (issuer, subjects) in by_issuer {
        if level.contains_key(issuer) || level.contains_key(ANY) {
            level.insert(issuer, subjects);
        }
    }
    true
}

impl Skips {
    /// RFC 5280 §6.1.4 (h) to (j).
    fn pass(&mut self, certificate: &Certificate<'_>) {
        if certificate.issuer != certificate.subject {
            for skip in [&mut self.explicit_policy, &mut self.policy_mapping, &mut self.any_policy] {
                *skip = (*skip - 1).max(0);
            }
        }
        let extensions = &certificate.extensions;
        let lower = |skip: &mut i64, to: Option<i64>| {
            *skip = to.filter(|to| *to >= 0).map_or(*skip, |to| to.min(*skip));
        };
        lower(&mut self.explicit_policy, extensions.require_explicit_policy);
        lower(&mut self.policy_mapping, extensions.inhibit_policy_mapping);
        lower(&mut self.any_policy, extensions.inhibit_any_policy);
    }
}

/// 2.5.29.32.0
const ANY: &[u8] = &[0x55, 0x1d, 0x20, 0];
