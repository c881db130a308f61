//! What a resource name means.

use identity::SpiffeId;

use crate::Options;

/// The meaning of one resource name. Each name is judged for itself: spire-agent serves only the first of several
/// aliases of one thing and refuses the others; there is no reason to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The X.509-SVID of the ID that the name is.
    Svid,
    /// The X.509-SVID of the caller's first entry.
    DefaultSvid,
    /// The bundle of the trust domain whose ID the name is, own or foreign.
    Bundle,
    /// The own trust domain's bundle.
    DefaultBundle,
    /// The own bundle and all foreign ones.
    AllBundles,
    /// Nothing that could ever be served.
    Nothing,
}

impl Meaning {
    /// Reads a resource name. Where two aliases are configured alike, the narrower thing wins: a bundle over all
    /// bundles (SPIRE warns of it and ignores `default_all_bundles_name`).
    #[must_use]
    pub fn of(name: &str, options: &Options) -> Self {
        if name == options.default_bundle_name {
            Self::DefaultBundle
        } else if name == options.default_all_bundles_name {
            Self::AllBundles
        } else if name == options.default_svid_name {
            Self::DefaultSvid
        } else {
            match SpiffeId::parse(name) {
                Ok(id) if id.path().is_empty() => Self::Bundle,
                Ok(_) => Self::Svid,
                Err(_) => Self::Nothing,
            }
        }
    }
}
