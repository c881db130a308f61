use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://td/web").unwrap()
}

fn key(entry: &str, audience: &[&str]) -> JwtKey {
    let audience: Vec<String> = audience.iter().map(ToString::to_string).collect();
    JwtKey::new(entry.into(), &audience)
}

fn svid(expires: u64) -> Arc<JwtSvid> {
    Arc::new(JwtSvid::new(id(), "token".into(), at(0), at(expires)))
}

fn is(found: &Found) -> &'static str {
    match found {
        Found::Fresh(_) => "fresh",
        Found::Aging(_) => "aging",
        Found::Missing => "missing",
    }
}

#[test]
fn audiences_are_a_set() {
    assert_eq!(key("e", &["b", "a", "b"]), key("e", &["a", "b"]));
    assert_ne!(key("e", &["a"]), key("f", &["a"]), "hints and claims differ by entry");
}

#[test]
fn a_token_is_fresh_then_aging_then_gone() {
    let mut cache = JwtCache::new(10);
    let key = key("e", &["a"]);
    cache.put(key.clone(), svid(100), 1.0, at(0));
    for (seconds, expected) in [(0, "fresh"), (49, "fresh"), (50, "aging"), (99, "aging"), (100, "missing")] {
        assert_eq!(is(&cache.get(&key, &id(), at(seconds))), expected, "{seconds}");
    }
    assert!(cache.is_empty());
    cache.put(key.clone(), svid(100), 1.0, at(0));
    let moved = SpiffeId::parse("spiffe://td/other").unwrap();
    assert_eq!(is(&cache.get(&key, &moved, at(0))), "missing", "its entry grants another ID now");
    cache.put(key, svid(100), 1.0, at(100));
    assert!(cache.is_empty(), "it had expired when it came");
}

#[test]
fn only_what_is_asked_for_is_refreshed() {
    let mut cache = JwtCache::new(10);
    let (asked, idle) = (key("e", &["a"]), key("e", &["b"]));
    for key in [&asked, &idle] {
        cache.put(key.clone(), svid(100), 0.0, at(0));
    }
    cache.get(&asked, &id(), at(1));
    assert_eq!(cache.wake_at(), Some(at(40)));
    assert!(cache.take_due(at(39)).is_empty());
    assert_eq!(cache.take_due(at(40)), std::slice::from_ref(&asked));
    assert!(cache.take_due(at(41)).is_empty(), "it is being refreshed");
    cache.failed(&asked, at(60));
    assert_eq!(cache.take_due(at(60)), std::slice::from_ref(&asked));
    cache.failed(&asked, at(1000));
    assert!(cache.take_due(at(100)).is_empty() && cache.is_empty(), "both have expired");
}

#[test]
fn the_entry_with_most_tokens_loses_its_oldest() {
    let mut cache = JwtCache::new(4);
    let quiet = key("quiet", &["a"]);
    cache.put(quiet.clone(), svid(100), 0.0, at(0));
    for audience in ["1", "2", "3", "4", "5", "6"] {
        cache.put(key("loud", &[audience]), svid(100), 0.0, at(0));
        cache.get(&key("loud", &["1"]), &id(), at(0));
    }
    assert_eq!(cache.len(), 4);
    for (audience, expected) in [("1", "fresh"), ("2", "missing"), ("5", "fresh"), ("6", "fresh")] {
        assert_eq!(is(&cache.get(&key("loud", &[audience]), &id(), at(0))), expected, "{audience}");
    }
    assert_eq!(is(&cache.get(&quiet, &id(), at(0))), "fresh");
    let long = "x".repeat(LARGEST);
    cache.put(key("loud", &[&long]), svid(100), 0.0, at(0));
    assert_eq!(is(&cache.get(&key("loud", &[&long]), &id(), at(0))), "missing", "it would take too much");
}

#[test]
fn tokens_of_a_key_are_dropped() {
    let mut cache = JwtCache::new(10);
    cache.put(key("e", &["a"]), svid(100), 0.0, at(0));
    cache.put(key("f", &["a"]), svid(100), 0.0, at(0));
    assert_eq!(cache.drop_where(|key, svid| svid.key_id.is_empty() && &**key.entry_id() == "e"), 1);
    assert_eq!((cache.len(), cache.wake_at()), (1, Some(at(40))));
}

proptest! {
    /// Whatever happens, the maps agree with each other, and the limits hold.
    #[test]
    fn the_maps_agree(ops in prop::collection::vec((0u8..5, 0u8..4, 0u8..4, 0u64..200), 0..200)) {
        let mut cache = JwtCache::new(5);
        let mut now = 0;
        for (op, entry, audience, number) in ops {
            let key = key(&entry.to_string(), &[&audience.to_string()]);
            match op {
                0 | 1 => cache.put(key, svid(now + number), number as f64 / 200.0, at(now)),
                2 => drop(cache.get(&key, &id(), at(now))),
                3 => {
                    for key in cache.take_due(at(now)) {
                        prop_assert!(cache.held.contains_key(&key));
                        cache.failed(&key, at(now + 1 + number));
                    }
                }
                _ => now += number / 10,
            }
            prop_assert!(cache.len() <= 5);
            prop_assert_eq!(cache.by_entry.values().map(|of| of.keys.len()).sum::<usize>(), cache.len());
            prop_assert_eq!(cache.queue.len(), cache.len());
            let bytes: usize = cache.held.iter().map(|(key, held)| weight(key, &held.svid)).sum();
            prop_assert_eq!(cache.bytes, bytes);
            prop_assert_eq!(cache.by_entry.values().map(|of| of.bytes).sum::<usize>(), bytes);
        }
    }
}
