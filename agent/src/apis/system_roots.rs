//! The authorities that the host trusts, for Envoys that ask for Istio's `file-root:system`. They are read when somebody
//! asks, and again every hour while somebody does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use latest::Publisher;
use tracing::{debug, warn};

/// The roots as they were read last.
#[derive(Debug, Clone, Default)]
pub(super) struct SystemRoots(Arc<Mutex<Option<Arc<Roots>>>>);

type Roots = Publisher<Option<Arc<Vec<Bytes>>>>;

impl SystemRoots {
    /// Follows the roots. The first subscriber has them read.
    pub(super) fn subscribe(&self) -> sds::SystemRoots {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(roots) = &*shared {
            return roots.subscribe();
        }
        let roots = Arc::new(Publisher::new(Arc::new(None)));
        let updates = roots.subscribe();
        *shared = Some(Arc::clone(&roots));
        tokio::spawn(self.clone().read_again_and_again(roots));
        updates
    }

    async fn read_again_and_again(self, roots: Arc<Roots>) {
        let mut last = Vec::new();
        loop {
            // Files of the host are read on another thread.
            let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
            let found = found.unwrap_or_default();
            for reason in found.errors {
                debug!(error = %reason, "An authority of the system cannot be read");
            }
            let certificates: Vec<_> =
                found.certs.iter().map(|certificate| Bytes::copy_from_slice(certificate)).collect();
            let wait = if certificates.is_empty() {
                // What was read before stays.
                warn!("No authorities of the system are found; SSL_CERT_FILE can name them");
                RETRY
            } else {
                if certificates != last {
                    last.clone_from(&certificates);
                    roots.publish(Arc::new(Some(Arc::new(certificates))));
                }
                AGAIN
            };
            tokio::time::sleep(wait).await;
            let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !roots.has_listeners() {
                *shared = None;
                return;
            }
        }
    }
}

/// The time between two reads.
const AGAIN: Duration = Duration::from_hours(1);
/// The same while there are none.
const RETRY: Duration = Duration::from_mins(1);
