//! The values that the agent uses, with defaults.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

use crate::agent::Agent;
use crate::decode::{Section, Strictness, no_hint};
use crate::plugins::{self, Outcome};
use crate::report::Report;
use crate::{
    Errors, HealthChecks, JoinToken, Otlp, Overrides, PluginFile, Plugins, Problem, Profiling, Telemetry,
    TrustBundleSource, Warning, hcl,
};

/// A valid configuration. Paths are kept as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The trust domain's name without `spiffe://` (SPIRE: `agent.trust_domain`).
    pub trust_domain: String,
    /// The server's host name or address (SPIRE: `agent.server_address`). Finial's own: several, with commas between them
    /// ([`Self::server_hosts`]).
    pub server_address: String,
    /// The server's port (SPIRE: `agent.server_port`).
    pub server_port: u16,
    /// The folder of `agent-data.json`, which holds the agent's own SVID and the bundle (SPIRE: `agent.data_dir`).
    pub data_dir: PathBuf,
    /// The path of the public socket (SPIRE: `agent.socket_path`). It is not opened if both APIs are disabled.
    pub socket_path: PathBuf,
    /// The path of the admin socket (SPIRE: `agent.admin_socket_path`); `None` unless it is configured.
    pub admin_socket_path: Option<PathBuf>,
    /// SPIFFE IDs of callers that may ask for identities of others on the admin socket (SPIRE:
    /// `agent.authorized_delegates`).
    pub authorized_delegates: Vec<String>,
    /// Whether the Workload API is off (SPIRE: `agent.disable_workload_api`).
    pub disable_workload_api: bool,
    /// Whether SDS is off (SPIRE: `agent.disable_sds_api`).
    pub disable_sds_api: bool,
    /// Whether callers without an identity may get bundles (SPIRE: `agent.allow_unauthenticated_verifiers`).
    pub allow_unauthenticated_verifiers: bool,
    /// How the agent authenticates the server at first contact.
    pub trust_bundle: TrustBundleSource,
    /// What the agent does when the server's authority is unknown (SPIRE: `agent.rebootstrap_mode`).
    pub rebootstrap_mode: RebootstrapMode,
    /// How long the authority must be unknown before that (SPIRE: `agent.rebootstrap_delay`).
    pub rebootstrap_delay: Duration,
    /// The join token, from `agent.join_token` or `agent.join_token_file`. If there is one, the node attests with it
    /// *instead of* the configured node attestor.
    pub join_token: Option<JoinToken>,
    /// The least severe level that is logged (SPIRE: `agent.log_level`).
    pub log_level: LogLevel,
    /// The format of log lines (SPIRE: `agent.log_format`).
    pub log_format: LogFormat,
    /// The log file (SPIRE: `agent.log_file`); `None` means standard output.
    pub log_file: Option<PathBuf>,
    /// Whether log lines have the file and line of the code (SPIRE: `agent.log_source_location`).
    pub log_source_location: bool,
    /// Prefixes of selectors that may be logged (SPIRE: `agent.log_selectors`).
    pub log_selectors: Vec<String>,
    /// Claims of foreign JWT-SVIDs that ValidateJWTSVID returns besides `sub`, `exp` and `aud` (SPIRE:
    /// `agent.allowed_foreign_jwt_claims`).
    pub allowed_foreign_jwt_claims: Vec<String>,
    /// The type of workloads' keys (SPIRE: `agent.workload_x509_svid_key_type`).
    pub workload_x509_svid_key_type: KeyType,
    /// The least lifetime that an SVID should have left; at least a day (SPIRE: `agent.availability_target`).
    pub availability_target: Option<Duration>,
    /// SPIRE's limit of cached X.509-SVIDs; 1,000 if the file has 0 or nothing (SPIRE:
    /// `agent.x509_svid_cache_max_size`).
    pub x509_svid_cache_max_size: usize,
    /// SPIRE's limit of cached JWT-SVIDs; 1,000 if the file has 0 or nothing (SPIRE:
    /// `agent.jwt_svid_cache_max_size`).
    pub jwt_svid_cache_max_size: usize,
    /// The settings of SDS (SPIRE: `agent.sds`).
    pub sds: Sds,
    /// Profiles of the agent itself (SPIRE: `agent.profiling_*`); `None` if none can be had.
    pub profiling: Option<Profiling>,
    /// The experimental settings (SPIRE: `agent.experimental`).
    pub experimental: Experimental,
    /// The HTTP health listener (SPIRE: `health_checks`).
    pub health_checks: HealthChecks,
    /// Where metrics go (SPIRE: `telemetry`).
    pub telemetry: Telemetry,
    /// Warnings that are logged when the agent starts.
    pub warnings: Vec<Warning>,
    pub(crate) impossible_paths: Vec<Problem>,
    pub(crate) plugins: Outcome,
}

impl Settings {
    /// Reads a configuration. `text` is the file, after [`crate::expand_env`] if that was asked for.
    ///
    /// `read_file` is called for `join_token_file` and for each `plugin_data_file`.
    ///
    /// # Errors
    /// All problems of the file and the flags at once. Problems of plugins are not among them, unless their blocks
    /// cannot be read at all: see [`Settings::plugins`].
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
        let telemetry = Telemetry::read(top.block("telemetry"));
        let health_checks = HealthChecks::read(top.block("health_checks"));
        let agent = Agent { section: top.block("agent"), overrides, read_file };
        let settings = agent.read(health_checks, telemetry, plugins);
        top.finish(Strictness::Refuse, "top-level", no_hint);
        let (errors, warnings) = report.finish();
        match settings {
            Some(mut settings) if errors.is_empty() => {
                settings.warnings = warnings;
                settings.warnings.append(&mut settings.plugins.warnings);
                Ok(settings)
            }
            _ => Err(errors),
        }
    }

    /// The plugins, if the agent can run with them.
    ///
    /// # Errors
    /// What keeps the agent from running, such as a missing `cluster` or a plugin that is not supported yet. `run`
    /// stops on these errors; as in spire-agent, `validate` does not look at them.
    pub fn plugins(&self) -> Result<&Plugins, &[Problem]> {
        match &self.plugins {
            Outcome { plugins: Some(plugins), problems, .. } if problems.is_empty() => Ok(plugins),
            Outcome { problems, .. } => Err(problems),
        }
    }

    /// The plugins whose data is in a file of its own (`plugin_data_file`).
    #[must_use]
    pub fn plugin_files(&self) -> &[PluginFile] {
        &self.plugins.files
    }

    /// The errors of [`Settings::plugins`]; empty if it succeeds.
    #[must_use]
    pub fn plugin_problems(&self) -> &[Problem] {
        &self.plugins.problems
    }

    /// Everything that keeps `run` from working with a valid file: the problems of plugins and of telemetry, and paths
    /// that no socket or folder can have.
    pub fn obstacles(&self) -> impl Iterator<Item = &Problem> {
        self.plugins.problems.iter().chain(&self.telemetry.problems).chain(&self.impossible_paths)
    }

    /// The hosts of the servers.
    pub fn server_hosts(&self) -> impl Iterator<Item = &str> {
        self.server_address.split(',').map(str::trim)
    }

    /// `address:port` of the server, with brackets around an IPv6 address; of several, with commas between them.
    #[must_use]
    pub fn server_host_port(&self) -> String {
        self.server_hosts().map(|host| self.host_port(host)).collect::<Vec<_>>().join(", ")
    }

    /// `address:port` of one of the servers.
    #[must_use]
    pub fn host_port(&self, host: &str) -> String {
        join_host_port(host, &self.server_port.to_string())
    }
}

/// Joins host and port as Go's `net.JoinHostPort`.
pub(crate) fn join_host_port(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What the agent does when the server's authority is unknown (SPIRE: `agent.rebootstrap_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RebootstrapMode {
    /// It exits.
    #[default]
    Never,
    /// It bootstraps again if the node attestor can attest again.
    Auto,
    /// It bootstraps again.
    Always,
}

/// The log level, named as in logrus (SPIRE: `agent.log_level`).
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

/// The log format (SPIRE: `agent.log_format`).
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

/// The type of workloads' keys (SPIRE: `agent.workload_x509_svid_key_type`).
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

/// The settings of SDS (SPIRE: `agent.sds`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sds {
    /// The resource name of the caller's first X.509-SVID (SPIRE: `default_svid_name`).
    pub default_svid_name: String,
    /// The resource name of the own trust domain's bundle (SPIRE: `default_bundle_name`).
    pub default_bundle_name: String,
    /// The resource name of all bundles in one resource (SPIRE: `default_all_bundles_name`).
    pub default_all_bundles_name: String,
    /// Whether SDS sends plain roots instead of a configuration of Envoy's SPIFFE validator (SPIRE:
    /// `disable_spiffe_cert_validation`).
    pub disable_spiffe_cert_validation: bool,
    /// Finial's own: what a stream does with a name that does not exist (yet).
    pub unknown_names: UnknownNames,
    /// Finial's own: whether JWT-SVIDs are served as generic secrets, under names that begin with `jwt-svid?`.
    pub jwt: bool,
}

/// Finial's own: what SDS does with a name that does not exist (`agent.sds.unknown_names`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownNames {
    /// The stream stays open, and sends the secret when it is registered.
    #[default]
    Hold,
    /// The stream ends with `InvalidArgument`, as with spire-agent.
    Reject,
}

/// The experimental settings that Finial has (SPIRE: `agent.experimental`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experimental {
    /// The pause between two syncs with the server (SPIRE: `sync_interval`).
    pub sync_interval: Duration,
    /// Whether connections to the server must use a post-quantum key exchange (SPIRE: `require_pq_kem`).
    pub require_pq_kem: bool,
    /// Whether syncs transfer only changed entries (SPIRE: `use_sync_authorized_entries`).
    pub use_sync_authorized_entries: bool,
    /// How long a request to renew a cached JWT-SVID may take before the cached one is returned (SPIRE:
    /// `jwt_svid_cache_hit_timeout`).
    pub jwt_svid_cache_hit_timeout: Duration,
    /// Finial's own: which SVIDs are minted before a caller asks.
    pub x509_svid_prefetch: Prefetch,
    /// Finial's own: when an entry or bundle counts that the server takes back.
    pub withdrawal: Withdrawal,
    /// Finial's own: where the k8s attestor reads pods from.
    pub pod_source: PodSource,
    /// Finial's own: the container runtime's socket, for the k8s attestor (`cri_socket_path`).
    pub cri_socket_path: Option<PathBuf>,
    /// Finial's own: the file of the issuance log (`issuance_log`).
    pub issuance_log: Option<PathBuf>,
    /// Finial's own: the address of the status page, `host:port` (`status_address`).
    pub status_address: Option<String>,
    /// Finial's own: where metrics and logs go by OTLP (`otlp`).
    pub otlp: Option<Otlp>,
    /// Finial's own: which paths of binaries become selectors.
    pub unix_paths: UnixPaths,
    /// Finial's own: where callers' identities are kept for a start without the server (`sealed_cache`).
    pub sealed_cache: Option<SealedCache>,
    /// Finial's own: how much of an SVID's life is left at the latest when it is renewed (`outage_budget`).
    pub outage_budget: Option<Duration>,
    /// In which order the addresses of servers are tried (SPIRE 1.16: `server_load_balancing_config`).
    pub server_order: ServerOrder,
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

/// Finial's own: what callers have, on disk and encrypted (`agent.experimental.sealed_cache`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedCache {
    /// The file that the key is derived from.
    pub key_file: PathBuf,
    /// The encrypted file; by default `sealed-cache` in `data_dir`.
    pub path: Option<PathBuf>,
}

/// In which order the addresses of servers are tried. An agent uses one server at a time, and stays with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerOrder {
    /// At random, so that a fleet spreads over the servers (gRPC: `round_robin`, `pick_first` with `shuffleAddressList`).
    #[default]
    Random,
    /// As they are listed (gRPC: `pick_first`).
    AsListed,
}

/// Finial's own: where the k8s attestor reads pods from (`agent.experimental.pod_source`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodSource {
    /// From the kubelet, as with spire-agent.
    #[default]
    Kubelet,
    /// From a watch at the API server.
    ApiServer,
}

/// Finial's own: which paths of binaries the unix attestor makes selectors of (`agent.experimental.unix_paths`). Any user
/// can run a binary of their own under any path, in a mount namespace of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnixPaths {
    /// All, as with spire-agent.
    #[default]
    Any,
    /// Those that lead to the same file on the host.
    Host,
}

/// Finial's own: which SVIDs are minted before a caller asks (`agent.experimental.x509_svid_prefetch`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefetch {
    /// Those of all authorized entries.
    All,
    /// All while there are few entries, otherwise those with a caller.
    #[default]
    Auto,
    /// Those with a caller.
    Live,
}

/// Finial's own: when an entry or bundle counts that the server takes back (`agent.experimental.withdrawal`). Replicas of
/// a server may lag behind each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Withdrawal {
    /// When two syncs in a row say so.
    #[default]
    Confirmed,
    /// At once, as with spire-agent.
    Immediate,
}
