//! Identifiers: reserved SPIFFE IDs and UUIDs; and times in whole seconds, as certificates have them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_secs()).expect("seconds fit in an i64 for ages")
}

/// The seconds of a TTL, rounded up, so that a TTL below one second is not 0.
pub(crate) fn seconds(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).unwrap_or(FOR_EVER)
}

/// The SPIFFE ID of the server: `spiffe://<td>/spire/server`.
pub(crate) fn server_id(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}/spire/server")
}

/// The SPIFFE ID of an agent that attests by this join token.
pub(crate) fn join_token_id(trust_domain: &str, token: &str) -> String {
    format!("spiffe://{trust_domain}/spire/agent/join_token/{token}")
}

/// The SPIFFE ID of an agent that attests by k8s_psat on this node.
pub(crate) fn psat_id(trust_domain: &str, cluster: &str, node: &str) -> String {
    format!("spiffe://{trust_domain}/spire/agent/k8s_psat/{cluster}/{}", stable_uuid(&[cluster, node]))
}

/// A random UUID.
pub(crate) fn uuid() -> String {
    format_uuid(rand::random())
}

/// A UUID made from these words. It is the same in every run, as a node keeps its UID.
pub(crate) fn stable_uuid(words: &[&str]) -> String {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        words.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    format_uuid(half(0) << 64 | half(1))
}

fn format_uuid(bits: u128) -> String {
    let hex = format!("{bits:032x}");
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// More than a century.
const FOR_EVER: i64 = 1 << 32;
