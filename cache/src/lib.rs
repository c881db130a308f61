//! Entries × selectors → identities; who must hear of a change; what must be minted next.
//!
//! [`Cache`] is a plain value with one owner. Time and randomness come in as arguments; what is to be told to whom
//! comes out as a list of [`Publish`]. The rest of the process matches callers against an immutable [`Snapshot`], so
//! that they do not queue on the owner.
//!
//! ```text
//!  sync(entries, bundles) ─┐                  ┌─> Publish { selectors, update }   whose view changed
//!  minted(entry, svid)     ├──>   Cache   ────┼─> take_due(now)                   what to mint
//!  subscribe(selectors)    │                  ├─> wake_at()                       when to look again
//!  mint_failed(entry)      ┘                  └─> snapshot()                      for matching
//! ```
//!
//! Three layers, each a map:
//! - *records*, one an entry: the entry, its SVID, when it is due;
//! - *views*, one a distinct set of matched entries: the update that all its callers share (selector sets hold the pod's
//!   uid and are nearly unique, the sets of entries that they match are not);
//! - *subscribers*, one a distinct selector set that somebody listens for.
//!
//! A change of entries matches every subscriber again and publishes where the outcome differs: no bookkeeping of
//! "what could this touch", so nothing to get out of step. `tests.rs` holds the naive model that it must agree with.

mod cache;
mod record;
mod snapshot;
#[cfg(test)]
mod tests;

pub use cache::{Cache, Publish};
pub use record::{Options, Prefetch};
pub use snapshot::{Matched, Snapshot};
