//! The data types of SPIFFE that all crates share: identifiers, selectors, entries, SVIDs and bundles.
//!
//! Everything here is a plain value: no runtime, no socket, and no clock (a time is an argument or a field). The
//! agent's server client makes these types from the server's messages, and the served APIs make their messages from
//! them; nothing in between sees messages.

mod blocks;
mod bundle;
pub mod chain;
mod entry;
mod id;
mod jwks;
mod jwt;
mod key;
mod selector;
mod svid;
mod trust;
mod update;
mod url;

pub use blocks::pem_certificates;
pub use bundle::{Authority, Bundle, BundleError, Bundles, JwtAuthority, certificates_pem};
pub use entry::{Entry, EntryError};
pub use id::{IdError, SpiffeId, TrustDomain};
pub use jwt::{JwtError, JwtSvid, ParseError, Validated, validate as validate_jwt};
pub use key::PrivateKey;
pub use selector::{Selector, SelectorError, Selectors};
pub use svid::{SvidError, X509Svid};
pub use trust::Distrusted;
pub use update::{Identity, WorkloadUpdate};
pub use url::{Url, User};
