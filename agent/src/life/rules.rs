//! When SVIDs are minted and renewed.

use config::{Prefetch, Settings};

/// The cache's rules, as configured.
pub(super) fn rules(settings: &Settings) -> cache::Options {
    let prefetch = match settings.experimental.x509_svid_prefetch {
        Prefetch::All => cache::Prefetch::All,
        Prefetch::Auto => cache::Prefetch::Auto,
        Prefetch::Live => cache::Prefetch::Live,
    };
    cache::Options {
        prefetch,
        availability_target: settings.availability_target,
        outage_budget: settings.experimental.outage_budget,
        tainted_within: pace::spread_of_replacements(settings.experimental.sync_interval),
        ..cache::Options::default()
    }
}
