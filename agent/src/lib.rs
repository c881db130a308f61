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
mod continuity;
pub mod door;
mod explain;
mod golang;
mod http1;
pub mod keys;
mod kubernetes;
pub mod life;
pub mod logging;
pub mod manager;
mod otlp;
mod plain;
mod profiling;
mod record;
mod status;
mod status_page;
pub mod store;
mod telemetry;
pub mod upstream;
pub mod version;
pub mod wiring;
