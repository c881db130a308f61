//! The daemon and its command line: wiring, the client of the SPIRE server, the manager that owns the cache, the APIs.
//!
//! ```text
//!  lifecycle ── sync ──> manager ── watch ──> admission ──> workload, sds
//!      │                    │ mint                ^
//!      └───── server ───────┘                  transport (who calls)
//! ```

pub mod apis;
pub mod cli;
pub mod door;
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
