//! The configuration of the agent: reads agent.conf and the flags, and gives them a meaning.
//!
//! A file's text goes through [`expand_env`] (only with `-expandEnv`) and [`hcl::parse`] (HCL 1 or JSON, one kind of
//! tree with lines) to [`Settings::load`], which reads the tree section by section, lets the flags ([`Overrides`])
//! override it, and reports *all* problems at once ([`Errors`]).
//!
//! Problems of plugins are separate, in [`Settings::plugins`]: `spire-agent validate` does not load plugins, so a
//! file whose plugins are wrong or not supported yet is a valid file that the agent cannot run with.
//!
//! Nothing here opens a file, or reads a clock or the environment: the caller passes these in.

pub mod hcl;

mod agent;
mod decode;
mod duration;
mod errors;
mod expand;
mod health;
mod join_token;
mod nearest;
mod otlp;
mod overrides;
mod plugins;
mod profiling;
mod report;
mod settings;
mod telemetry;
mod trust_bundle;
mod trust_domain;

pub use errors::{Errors, Problem, Unknown, UnknownKey, Warning};
pub use expand::expand_env;
pub use health::HealthChecks;
pub use join_token::JoinToken;
pub use otlp::{Otlp, OtlpEndpoint, OtlpHeaders, OtlpProtocol};
pub use overrides::Overrides;
pub use plugins::docker::{DockerOptions, PodmanUserSockets};
pub use plugins::k8s::{
    AccessPolicy, K8sBroker, K8sBrokers, K8sOptions, KubeletAuth, KubeletPort, PodReferenceScope,
};
pub use plugins::{
    HttpChallenge, KeyManager, NodeAttestor, PluginFile, Plugins, Reread, WorkloadAttestor, X509Pop,
};
pub use profiling::{Dumps, ProfileKind, Profiling};
pub use settings::{
    Experimental, KeyType, LogFormat, LogLevel, PodSource, Prefetch, RateLimits, RebootstrapMode, Sds,
    SealedCache, ServerOrder, Settings, UnixPaths, UnknownNames, Withdrawal,
};
pub use telemetry::{ListenerCertificate, Prometheus, PrometheusTls, Scrapers, Telemetry};
pub use trust_bundle::{BundleFormat, BundleUrl, TrustBundleSource, WorkloadApi};
