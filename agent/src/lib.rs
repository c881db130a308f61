//! The daemon and its command line: wiring, the client of the SPIRE server, the manager that owns the cache, the APIs.
//!
//! ```text
//!  lifecycle ── sync ──> manager ── watch ──> admission ──> workload, sds
//!      │                    │ mint                ^
//!      └───── server ───────┘                  transport (who calls)
//! ```

pub mod admission;
pub mod backoff;
pub mod cli;
pub mod health;
pub mod keys;
mod kubernetes;
pub mod lifecycle;
pub mod logging;
pub mod manager;
pub mod run;
mod serve;
pub mod server;
pub mod store;
pub mod version;
pub mod workload;
