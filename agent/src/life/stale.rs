//! Names a trust bundle file that has gone stale, before a new node finds out.
//!
//! An agent that has a bundle does not need the file any more, so nobody notices that the server's authorities have
//! moved on. A new node, or this one without its `data_dir`, would not trust the server.

use std::sync::Arc;

use config::{Settings, TrustBundleSource};
use identity::Bundle;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::status::Status;
use crate::upstream::first_bundle;

/// Looks at the file when the bundle in use has changed, until there is no sender any more. Only a file is looked at:
/// it costs nobody else anything. An absent or malformed one is not stale: whoever needs it says so.
pub(super) async fn watch(
    settings: Arc<Settings>,
    mut present: watch::Receiver<Option<Arc<Bundle>>>,
    status: Arc<Status>,
) {
    let TrustBundleSource::File { path, format } = &settings.trust_bundle else { return };
    let mut was_stale = false;
    while present.changed().await.is_ok() {
        let bundle = present.borrow_and_update().clone();
        let Some(bundle) = bundle else { continue };
        let Ok(source) = first_bundle::from_file(path, *format, &bundle.trust_domain).await else { continue };
        let is_stale = !share_an_authority(&source, &bundle);
        status.source_is_stale(is_stale);
        if is_stale && !was_stale {
            warn!(
                trust_bundle_path = %path.display(),
                "The trust bundle file is stale: none of its authorities is in the server's present bundle. This agent \
                 goes on, but a new node could not attest. Replace the file"
            );
        } else if was_stale && !is_stale {
            info!(trust_bundle_path = %path.display(), "The trust bundle file is up to date again");
        }
        was_stale = is_stale;
    }
}

/// Whether one authority is in both bundles.
pub(crate) fn share_an_authority(one: &Bundle, other: &Bundle) -> bool {
    let is_in_other = |der| other.x509_authorities.iter().any(|authority| authority.der == der);
    one.x509_authorities.iter().any(|authority| is_in_other(&authority.der))
}
