//! Registration entries, as the server authorizes them for this node.

use std::sync::Arc;

use crate::{IdError, SelectorError, Selectors, SpiffeId, TrustDomain};

/// A registration entry: it grants an identity to callers that have all of its selectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The server's ID of the entry. The lowest of a caller's entries is its default identity.
    pub id: Arc<str>,
    /// The identity that the entry grants.
    pub spiffe_id: SpiffeId,
    /// The selectors that a caller must have; never empty.
    pub selectors: Selectors,
    /// Foreign trust domains whose bundles the entry's workloads get.
    pub federates_with: Vec<TrustDomain>,
    /// Whether the workload may call the server's APIs.
    pub admin: bool,
    /// Whether the workload is a SPIRE server.
    pub downstream: bool,
    /// A number that the server raises with each change of the entry. An SVID of an older revision is replaced.
    pub revision: i64,
    /// Whether the SVID goes to a store (SPIRE's SVIDStore plugins) instead of callers.
    pub store_svid: bool,
    /// Tells a workload which of its identities is for what (Workload API §5.2.1).
    pub hint: String,
    /// When the entry was created, in Unix seconds; 0 if the server does not say.
    pub created_at: i64,
    /// Whether the SVID must not be made before a caller asks.
    pub disable_x509_svid_prefetch: bool,
    /// Whether JWT-SVIDs carry a `jti`. Such tokens are not cached.
    pub jwt_svid_include_jti: bool,
}

/// Why an entry from the server is dropped. Other entries are kept.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EntryError {
    /// The entry has no ID.
    #[error("missing entry ID")]
    Id,
    /// The SPIFFE ID is missing or malformed.
    #[error("malformed SPIFFE ID: {0}")]
    SpiffeId(IdError),
    /// The name of a foreign trust domain is malformed.
    #[error("malformed federated trust domain: {0}")]
    FederatesWith(IdError),
    /// The entry has no selectors. It would match every caller.
    #[error("missing selectors")]
    NoSelectors,
    /// A selector is malformed.
    #[error("malformed selector: {0}")]
    Selector(#[from] SelectorError),
    /// The entry has more of something than one entry may have.
    #[error("{what} has {count} elements, more than {limit}")]
    TooMany {
        /// The field that is too long.
        what: &'static str,
        /// How many elements it has.
        count: usize,
        /// How many elements it may have.
        limit: usize,
    },
}
