//! What a configuration means: the values that the agent uses, defaults filled in.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

use crate::agent::Agent;
use crate::decode::{Section, Strictness, no_hint};
use crate::plugins::{self, Outcome};
use crate::report::Report;
use crate::{Errors, HealthChecks, JoinToken, Overrides, Plugins, Problem, Warning, hcl, telemetry};

/// A valid configuration. Paths are kept as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bare name, without `spiffe://` (SPIRE: `agent.trust_domain`).
    pub trust_domain: String,
    /// SPIRE: `agent.server_address`.
    pub server_address: String,
    /// SPIRE: `agent.server_port`.
    pub server_port: u16,
    /// SPIRE: `agent.data_dir`.
    pub data_dir: PathBuf,
    /// The public socket (SPIRE: `agent.socket_path`). Not opened if both APIs are disabled.
    pub socket_path: PathBuf,
    /// The admin socket (SPIRE: `agent.admin_socket_path`); none unless it is configured.
    pub admin_socket_path: Option<PathBuf>,
    /// SPIFFE IDs of callers that may ask for others' identities on the admin socket (SPIRE: `agent.authorized_delegates`).
    pub authorized_delegates: Vec<String>,
    /// SPIRE: `agent.disable_workload_api`.
    pub disable_workload_api: bool,
    /// SPIRE: `agent.disable_sds_api`.
    pub disable_sds_api: bool,
    /// SPIRE: `agent.allow_unauthenticated_verifiers`.
    pub allow_unauthenticated_verifiers: bool,
    /// How the server is known at first contact.
    pub trust_bundle: TrustBundleSource,
    /// SPIRE: `agent.rebootstrap_mode`.
    pub rebootstrap_mode: RebootstrapMode,
    /// SPIRE: `agent.rebootstrap_delay`.
    pub rebootstrap_delay: Duration,
    /// From `agent.join_token` or `agent.join_token_file`. If there is one, the node attests with
    /// it *instead of* the configured node attestor.
    pub join_token: Option<JoinToken>,
    /// SPIRE: `agent.log_level`.
    pub log_level: LogLevel,
    /// SPIRE: `agent.log_format`.
    pub log_format: LogFormat,
    /// SPIRE: `agent.log_file`; standard output without it.
    pub log_file: Option<PathBuf>,
    /// SPIRE: `agent.log_source_location`.
    pub log_source_location: bool,
    /// Prefixes of selectors that may be logged (SPIRE: `agent.log_selectors`).
    pub log_selectors: Vec<String>,
    /// SPIRE: `agent.workload_x509_svid_key_type`.
    pub workload_x509_svid_key_type: KeyType,
    /// At least a day (SPIRE: `agent.availability_target`).
    pub availability_target: Option<Duration>,
    /// 1,000 if the file says 0 or nothing (SPIRE: `agent.x509_svid_cache_max_size`).
    pub x509_svid_cache_max_size: usize,
    /// 1,000 if the file says 0 or nothing (SPIRE: `agent.jwt_svid_cache_max_size`).
    pub jwt_svid_cache_max_size: usize,
    /// SPIRE: `agent.sds`.
    pub sds: Sds,
    /// SPIRE: `agent.experimental`.
    pub experimental: Experimental,
    /// SPIRE: `health_checks`.
    pub health_checks: HealthChecks,
    /// To be logged at the start.
    pub warnings: Vec<Warning>,
    pub(crate) plugins: Outcome,
}

impl Settings {
    /// Reads a configuration: `text` is the file (after [`crate::expand_env`], if asked for).
    ///
    /// `read_file` is called for `join_token_file` and for each `plugin_data_file`.
    ///
    /// # Errors
    /// All problems of the file and the flags at once. Problems of plugins are not among them,
    /// unless their blocks cannot be read at all: see [`Settings::plugins`].
    pub fn load(
        text: &str,
        overrides: &Overrides,
        read_file: &dyn Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, Errors> {
        let root = hcl::parse(text).map_err(|error| {
            let message =
                format!("unable to decode configuration: {}, at column {}", error.kind, error.column);
            Errors { problems: vec![Problem { line: Some(error.line), message }], unknown: Vec::new() }
        })?;
        let report = Report::default();
        let top = Section::new("", vec![&root], None, &report);
        let plugins = plugins::read(&top, read_file);
        telemetry::read(top.block("telemetry"));
        let health_checks = HealthChecks::read(top.block("health_checks"));
        let agent = Agent { section: top.block("agent"), overrides, read_file };
        let settings = agent.read(health_checks, plugins);
        top.finish(Strictness::Refuse, "top-level", no_hint);
        let (errors, warnings) = report.finish();
        match settings {
            Some(settings) if errors.is_empty() => Ok(Self { warnings, ..settings }),
            _ => Err(errors),
        }
    }

    /// The plugins, if the agent can run with them.
    ///
    /// # Errors
    /// What keeps it from running, such as a missing `cluster` or a plugin that is not built yet.
    /// `run` stops on these; `validate` does not look, as it does not in spire-agent.
    pub fn plugins(&self) -> Result<&Plugins, &[Problem]> {
        match &self.plugins {
            Outcome { plugins: Some(plugins), problems } if problems.is_empty() => Ok(plugins),
            Outcome { problems, .. } => Err(problems),
        }
    }

    /// What [`Settings::plugins`] fails with; empty if it does not.
    #[must_use]
    pub fn plugin_problems(&self) -> &[Problem] {
        &self.plugins.problems
    }

    /// `address:port` of the server, with brackets around an IPv6 address.
    #[must_use]
    pub fn server_host_port(&self) -> String {
        join_host_port(&self.server_address, &self.server_port.to_string())
    }
}

/// Go's `net.JoinHostPort`.
pub(crate) fn join_host_port(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// How the server is known at first contact. spire-agent's other sources are not built yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustBundleSource {
    /// Not at all (SPIRE: `agent.insecure_bootstrap`).
    Insecure,
    /// By the bundle in a file (SPIRE: `agent.trust_bundle_path`, `agent.trust_bundle_format`).
    File {
        /// Where it is.
        path: PathBuf,
        /// What is in it.
        format: BundleFormat,
    },
}

/// SPIRE: `agent.trust_bundle_format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BundleFormat {
    /// PEM certificates.
    #[default]
    Pem,
    /// A SPIFFE bundle document, JSON.
    Spiffe,
}

/// What to do when the server's authority is unknown (SPIRE: `agent.rebootstrap_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RebootstrapMode {
    /// Exit.
    #[default]
    Never,
    /// Bootstrap anew if the node attestor can attest again.
    Auto,
    /// Bootstrap anew.
    Always,
}

/// SPIRE: `agent.log_level`; logrus names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// `panic`
    Panic,
    /// `fatal`
    Fatal,
    /// `error`
    Error,
    /// `warn` or `warning`
    Warn,
    /// `info`
    #[default]
    Info,
    /// `debug`
    Debug,
    /// `trace`
    Trace,
}

/// As logrus names it.
impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Panic => "panic",
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warn => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

/// SPIRE: `agent.log_format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text with timestamps in whole seconds.
    #[default]
    Default,
    /// Text with timestamps in nanoseconds.
    Text,
    /// JSON with timestamps in nanoseconds.
    Json,
}

/// Keys of workloads (SPIRE: `agent.workload_x509_svid_key_type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// `ec-p256`
    #[default]
    EcP256,
    /// `ec-p384`
    EcP384,
    /// `rsa-2048`
    Rsa2048,
}

/// SPIRE: `agent.sds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sds {
    /// SPIRE: `default_svid_name`.
    pub default_svid_name: String,
    /// SPIRE: `default_bundle_name`.
    pub default_bundle_name: String,
    /// SPIRE: `default_all_bundles_name`.
    pub default_all_bundles_name: String,
    /// SPIRE: `disable_spiffe_cert_validation`.
    pub disable_spiffe_cert_validation: bool,
    /// Finial's own: what becomes of a stream that asks for a name that does not exist (yet).
    pub unknown_names: UnknownNames,
}

/// Finial's own: `agent.sds.unknown_names`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownNames {
    /// The stream stays open, the rest follows when it is registered.
    #[default]
    Hold,
    /// `InvalidArgument`, as spire-agent.
    Reject,
}

/// SPIRE: `agent.experimental`, as far as it is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experimental {
    /// SPIRE: `sync_interval`.
    pub sync_interval: Duration,
    /// SPIRE: `require_pq_kem`.
    pub require_pq_kem: bool,
    /// SPIRE: `use_sync_authorized_entries`.
    pub use_sync_authorized_entries: bool,
    /// SPIRE: `jwt_svid_cache_hit_timeout`.
    pub jwt_svid_cache_hit_timeout: Duration,
    /// Finial's own: which SVIDs are minted before somebody asks for them.
    pub x509_svid_prefetch: Prefetch,
    /// Finial's own: where the k8s attestor reads pods from.
    pub pod_source: PodSource,
    /// Finial's own: the container runtime's socket, for the k8s attestor (`cri_socket_path`).
    pub cri_socket_path: Option<PathBuf>,
    /// SPIRE: `ratelimit`.
    pub rate_limits: RateLimits,
}

/// SPIRE: `agent.experimental.ratelimit`: calls a second, and at once, of all processes that have the same selectors. 0 is
/// no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Of `FetchX509SVID`; a stream is one call.
    pub fetch_x509_svid: u32,
    /// Of `FetchJWTSVID`.
    pub fetch_jwt_svid: u32,
    /// Of `FetchX509Bundles`; a stream is one call.
    pub fetch_x509_bundles: u32,
    /// Of `FetchJWTBundles`; a stream is one call.
    pub fetch_jwt_bundles: u32,
    /// Of SDS's `StreamSecrets`; a stream is one call.
    pub stream_secrets: u32,
    /// Of SDS's `FetchSecrets`.
    pub fetch_secrets: u32,
}

/// Finial's own: `agent.experimental.pod_source`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodSource {
    /// The kubelet, as spire-agent.
    #[default]
    Kubelet,
    /// A watch at the API server.
    ApiServer,
}

/// Finial's own: `agent.experimental.x509_svid_prefetch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefetch {
    /// Those of all authorised entries, up to the size of the cache.
    All,
    /// All while there are few entries, else those with a caller.
    #[default]
    Auto,
    /// Those with a caller.
    Live,
}
