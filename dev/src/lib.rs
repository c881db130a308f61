//! A development SPIRE server: enough of the real one for an agent to attest, sync and get its SVIDs.
//!
//! * [`server`]: [`Server`] and its [`Options`]; `control`: the methods by which a test controls it; `fault`: its
//!   faults.
//! * [`entries`]: registration entries and their JSON file.
//! * `ca`: the in-memory certificate authority. `registry`: the entries that an agent may see. `state`: all that
//!   changes.
//! * `listener`, `tls`, `peer`, `pings`: a connection, from TCP to the identity of its caller. `api`: the four gRPC
//!   services.
//! * [`demo`]: `cargo demo`, which shows finial at work with this server and Envoy.
//! * [`kube`]: a kubelet, an API server and a container runtime, for tests of the k8s attestor.
//!
//! The crate is never linked into a release binary. Tests with the real spire-agent check the server's answers.

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
