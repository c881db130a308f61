//! Registration entries as the server authorises them for this node.

use std::sync::Arc;

use crate::{IdError, SelectorError, Selectors, SpiffeId, TrustDomain};

/// One registration entry. Which of its selectors a caller must have: all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The server's ID of the entry. The lowest of a caller's entries is its default identity.
    pub id: Arc<str>,
    /// The identity that it grants.
    pub spiffe_id: SpiffeId,
    /// What a caller must show; never empty.
    pub selectors: Selectors,
    /// Foreign trust domains whose bundles its workloads get.
    pub federates_with: Vec<TrustDomain>,
    /// The workload may call the server's APIs.
    pub admin: bool,
    /// The workload is a SPIRE server.
    pub downstream: bool,
    /// Raised by the server with each change; a change makes a new SVID.
    pub revision: i64,
    /// The SVID goes to a store, not to a caller.
    pub store_svid: bool,
    /// Tells a workload which of its identities is for what (Workload API §5.2.1).
    pub hint: String,
    /// Unix seconds; 0 where the server does not say.
    pub created_at: i64,
    /// No SVID until a caller asks.
    pub disable_x509_svid_prefetch: bool,
    /// JWT-SVIDs carry a `jti`, so they are not cached.
    pub jwt_svid_include_jti: bool,
}

/// Why the server's entry is dropped (the others go on).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EntryError {
    /// No ID.
    #[error("missing entry ID")]
    Id,
    /// No SPIFFE ID, or not one.
    #[error("malformed SPIFFE ID: {0}")]
    SpiffeId(IdError),
    /// A foreign trust domain is none.
    #[error("malformed federated trust domain: {0}")]
    FederatesWith(IdError),
    /// An entry without selectors would match every caller.
    #[error("missing selectors")]
    NoSelectors,
    /// One selector is malformed.
    #[error("malformed selector: {0}")]
    Selector(#[from] SelectorError),
    /// A limit on what one entry may hold.
    #[error("{what} has {count} elements, more than {limit}")]
    TooMany {
        /// Which field.
        what: &'static str,
        /// How many it has.
        count: usize,
        /// How many it may have.
        limit: usize,
    },
}
