//! When the agent calls the server: waits after failures, the schedule of syncs, the size of batches, and when SVIDs are
//! renewed or replaced.
//!
//! All of it is plain values. Time and randomness are arguments, so the agent's tasks and a simulator of a whole fleet
//! (`benches/fleet`) run the same code. A moment of the schedule is a [`Duration`](std::time::Duration) since a start
//! that the caller chooses; a moment in the life of a certificate is a [`SystemTime`](std::time::SystemTime).

mod backoff;
mod cadence;
mod failure;
mod minting;
mod renewal;

pub use backoff::{Backoff, FIRST, IDLE, Need, URGENT, jitter, sticky};
pub use cadence::Cadence;
pub use failure::{Cause, Failure};
pub use minting::{BATCH, Minting};
pub use renewal::{Early, old_at, renew_at, replacements, spread_of_replacements};
