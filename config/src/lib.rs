//! The configuration of the agent: what agent.conf and the flags say, and what it means.
//!
//! The way of a file: text → [`expand_env`] (only with `-expandEnv`) → [`hcl::parse`] (HCL 1 or
//! JSON, one tree with lines) → [`Settings::load`], which reads the tree section by section,
//! merges the flags ([`Overrides`]) over it and reports *all* problems at once ([`Errors`]).
//!
//! Plugins have a door of their own, [`Settings::plugins`]: `spire-agent validate` does not load
//! plugins, so a file whose plugins are wrong or not built yet is a valid file that cannot be run.
//!
//! Nothing here opens a file, reads a clock or an environment: the caller hands these in.

pub mod hcl;

mod agent;
mod decode;
mod duration;
mod errors;
mod expand;
mod health;
mod join_token;
mod overrides;
mod plugins;
mod report;
mod settings;
mod telemetry;
mod trust_domain;

pub use errors::{Errors, Problem, Unknown, UnknownKey, Warning};
pub use expand::expand_env;
pub use health::HealthChecks;
pub use join_token::JoinToken;
pub use overrides::Overrides;
pub use plugins::k8s::{
    AccessPolicy, K8sBroker, K8sBrokers, K8sOptions, KubeletAuth, KubeletPort, PodReferenceScope,
};
pub use plugins::{KeyManager, NodeAttestor, Plugins, WorkloadAttestor, X509Pop};
pub use settings::{
    BundleFormat, Experimental, KeyType, LogFormat, LogLevel, PodSource, Prefetch, RateLimits,
    RebootstrapMode, Sds, Settings, TrustBundleSource, UnknownNames,
};
