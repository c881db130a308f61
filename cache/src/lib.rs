//! Matches entries with the selectors of callers, and decides which callers get an update and which SVIDs are due.
//!
//! [`Cache`] is a plain value with one owner. Time and randomness come in as arguments; updates for callers come out
//! as a list of [`Publish`]. The rest of the process matches callers against an immutable [`Snapshot`], so that they
//! do not queue for the owner.
//!
//! ```text
//!  sync(entries, bundles) ─┐                  ┌─> Publish { selectors, update }   whose view changed
//!  minted(entry, svid)     ├──>   Cache   ────┼─> take_due(now)                   what to mint
//!  subscribe(selectors)    │                  ├─> wake_at()                       when to look again
//!  mint_failed(entry)      ┘                  └─> snapshot()                      for matching
//! ```
//!
//! The cache has three layers, each of them a map:
//! - *records*, one for each entry: the entry, its SVID, and when that is due;
//! - *views*, one for each distinct set of matched entries: the update that all its callers share (selector sets hold
//!   the pod's UID and are nearly unique, but the sets of entries that they match are not);
//! - *subscribers*, one for each distinct selector set with live callers.
//!
//! A change of entries matches every subscriber again and publishes where the outcome differs. There is no
//! bookkeeping of which change affects what, which could be wrong. `tests.rs` holds a naive model with which the
//! cache must agree.
//!
//! [`JwtCache`] holds JWT-SVIDs. It is a value of its own with an owner of its own.

mod cache;
mod jwt;
mod record;
mod snapshot;
#[cfg(test)]
mod tests;

pub use cache::{Cache, Publish};
pub use jwt::{Found, JwtCache, JwtKey};
pub use record::{Options, Prefetch};
pub use snapshot::{Matched, Snapshot};
