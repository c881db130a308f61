//! A development SPIRE server: enough of the real one for an agent to attest, sync and get its SVIDs.
//!
//! * [`server`]: [`Server`] and its [`Options`]; what a test does to it is in `control`.
//! * [`entries`]: registration entries and their JSON file.
//! * `ca`: the in-memory certificate authority. `registry`: which entries an agent may see. `state`: all that changes.
//! * [`demo`]: `cargo demo`, which shows finial at work with this server and Envoy.
//! * [`kube`]: a kubelet, an API server and a container runtime, for tests of the k8s attestor.
//! * `listener`, `tls`, `peer`, `pings`: how a connection becomes a caller. `api`: the four gRPC services.
//!
//! It is never linked into a release binary. What it answers is calibrated by the real spire-agent (tests).

pub mod demo;
pub mod entries;
pub mod kube;
pub mod server;

mod api;
mod ca;
mod control;
mod fault;
mod ids;
mod listener;
mod peer;
mod pings;
mod registry;
mod state;
mod tls;

pub use control::AgentInfo;
pub use entries::{AdditionalAttributes, Entry, Selector};
pub use fault::Fault;
pub use server::{Error, Options, Server};
pub use state::Counters;
