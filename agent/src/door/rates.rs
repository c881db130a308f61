//! Rate limits of calls (`experimental { ratelimit { } }`), as spire-agent has them. Each method has one token bucket
//! per set of selectors, so that all processes of one kind share a bucket. A limit of N allows N calls a second, and N
//! at once.
//!
//! A bucket that is not used for one to two minutes is dropped. It would be full by then.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use config::RateLimits;
use identity::Selectors;
use tokio::time::Instant;

/// A method that can have a rate limit. Each variant is named after its key in agent.conf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// `fetch_x509_svid`
    FetchX509Svid,
    /// `fetch_jwt_svid`
    FetchJwtSvid,
    /// `fetch_x509_bundles`
    FetchX509Bundles,
    /// `fetch_jwt_bundles`
    FetchJwtBundles,
    /// `stream_secrets`
    StreamSecrets,
    /// `fetch_secrets`
    FetchSecrets,
}

impl Rate {
    /// The names of the service and of the method in log lines.
    pub(crate) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::FetchX509Svid => ("WorkloadAPI", "FetchX509SVID"),
            Self::FetchJwtSvid => ("WorkloadAPI", "FetchJWTSVID"),
            Self::FetchX509Bundles => ("WorkloadAPI", "FetchX509Bundles"),
            Self::FetchJwtBundles => ("WorkloadAPI", "FetchJWTBundles"),
            Self::StreamSecrets => ("SDS.v3", "StreamSecrets"),
            Self::FetchSecrets => ("SDS.v3", "FetchSecrets"),
        }
    }
}

impl fmt::Display for Rate {
    /// The method's path in a request.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FetchX509Svid => "/SpiffeWorkloadAPI/FetchX509SVID",
            Self::FetchJwtSvid => "/SpiffeWorkloadAPI/FetchJWTSVID",
            Self::FetchX509Bundles => "/SpiffeWorkloadAPI/FetchX509Bundles",
            Self::FetchJwtBundles => "/SpiffeWorkloadAPI/FetchJWTBundles",
            Self::StreamSecrets => "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
            Self::FetchSecrets => "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
        })
    }
}

/// The buckets of all methods.
#[derive(Debug)]
pub(super) struct Rates {
    limits: RateLimits,
    hasher: RandomState,
    buckets: Mutex<Buckets>,
}

/// Two generations of buckets: those used since the last turn, and those used in the generation before.
#[derive(Debug)]
struct Buckets {
    current: HashMap<Key, Bucket>,
    previous: HashMap<Key, Bucket>,
    turned: Instant,
}

/// A method, and the hash of a set of selectors. The hash has a random key, so that nobody can make sets that collide.
type Key = (u8, u64);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Calls that may begin now. Fractions add up.
    tokens: f64,
    filled: Instant,
}

impl Rates {
    pub(super) fn new(limits: RateLimits) -> Self {
        let (current, previous) = Default::default();
        let buckets = Buckets { current, previous, turned: Instant::now() };
        Self { limits, hasher: RandomState::new(), buckets: Mutex::new(buckets) }
    }

    /// Whether a process with these selectors may begin a call now. If so, the call is counted.
    pub(super) fn admit(&self, rate: Rate, selectors: &Selectors) -> bool {
        let limit = self.limit(rate);
        if limit == 0 {
            return true;
        }
        let key = (rate as u8, self.hasher.hash_one(selectors));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        buckets.bucket(key, limit, now).take(limit, now)
    }

    /// The limit in calls a second; 0 means no limit.
    fn limit(&self, rate: Rate) -> u32 {
        let limits = &self.limits;
        match rate {
            Rate::FetchX509Svid => limits.fetch_x509_svid,
            Rate::FetchJwtSvid => limits.fetch_jwt_svid,
            Rate::FetchX509Bundles => limits.fetch_x509_bundles,
            Rate::FetchJwtBundles => limits.fetch_jwt_bundles,
            Rate::StreamSecrets => limits.stream_secrets,
            Rate::FetchSecrets => limits.fetch_secrets,
        }
    }
}

impl Buckets {
    fn bucket(&mut self, key: Key, limit: u32, now: Instant) -> &mut Bucket {
        // A user who makes many sets of selectors, by starting many programs, makes the agent forget early, not keep
        // more.
        if now.duration_since(self.turned) >= GENERATION || self.current.len() >= KEPT {
            self.previous = std::mem::take(&mut self.current);
            self.turned = now;
        }
        let before = self.previous.remove(&key);
        let full = || before.unwrap_or_else(|| Bucket { tokens: f64::from(limit), filled: now });
        self.current.entry(key).or_insert_with(full)
    }
}

impl Bucket {
    fn take(&mut self, limit: u32, now: Instant) -> bool {
        let limit = f64::from(limit);
        let since = now.duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * limit).min(limit);
        self.filled = now;
        let one = self.tokens >= 1.0;
        if one {
            self.tokens -= 1.0;
        }
        one
    }
}

/// How long one generation of buckets lasts. A full bucket refills within a second, so any longer time is safe.
const GENERATION: Duration = Duration::from_secs(60);
/// The most buckets of one generation, of about 50 bytes each.
const KEPT: usize = 4096;

#[cfg(test)]
mod tests {
    use identity::Selector;
    use tokio::time::advance;

    use super::*;

    fn selectors(uid: u32) -> Selectors {
        [Selector::new("unix", &format!("uid:{uid}")).unwrap()].into_iter().collect()
    }

    fn rates() -> Rates {
        Rates::new(RateLimits { fetch_x509_svid: 2, stream_secrets: 1, ..RateLimits::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_calls_a_second_and_as_many_at_once() {
        let (rates, one) = (rates(), selectors(1));
        let calls =
            |count: usize| -> usize { (0..count).filter(|_| rates.admit(Rate::FetchX509Svid, &one)).count() };
        assert_eq!(calls(5), 2);
        advance(Duration::from_millis(500)).await;
        assert_eq!(calls(5), 1);
        advance(Duration::from_secs(100)).await;
        assert_eq!(calls(5), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn methods_and_selector_sets_have_buckets_of_their_own() {
        let rates = rates();
        assert!(rates.admit(Rate::StreamSecrets, &selectors(1)));
        assert!(!rates.admit(Rate::StreamSecrets, &selectors(1)));
        assert!(rates.admit(Rate::StreamSecrets, &selectors(2)));
        assert!(rates.admit(Rate::FetchX509Svid, &selectors(1)));
        for _ in 0..100 {
            assert!(rates.admit(Rate::FetchSecrets, &selectors(1)), "a method without a limit");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sets_without_end_are_forgotten() {
        let rates = rates();
        for uid in 0..3 * u32::try_from(KEPT).unwrap() {
            assert!(rates.admit(Rate::StreamSecrets, &selectors(uid)));
        }
        let buckets = rates.buckets.lock().unwrap();
        assert!(buckets.current.len() + buckets.previous.len() <= 2 * KEPT);
    }
}
