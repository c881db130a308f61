//! The daemon and its command line: start-up, the client of the SPIRE server, the manager that owns the cache, and the
//! APIs that callers see.
//!
//! ```text
//!  life ── entries, bundles ──> manager ── updates ──> door ──> apis (Workload API, SDS, admin)
//!    │                             │ mint                ^
//!    └────────── upstream ─────────┘                 transport (the calling process)
//! ```

pub mod apis;
mod check;
pub mod cli;
pub mod door;
mod golang;
pub mod keys;
mod kubernetes;
pub mod life;
pub mod logging;
pub mod manager;
mod status;
pub mod store;
pub mod upstream;
pub mod version;
pub mod wiring;
