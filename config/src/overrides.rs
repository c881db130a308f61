//! The flags of `run` and `validate` that override the file.

use crate::decode::Setting;
use crate::{JoinToken, decode::Section};

/// The values of the flags as they were given, one field for each (SPIRE: `cmd/spire-agent/cli/run`). `-config` and
/// `-expandEnv` decide how the file is read and are handled by the caller.
///
/// As in spire-agent, a zero value (empty string, 0, false) counts as not given, so that `-x=false` does not override
/// a `true` in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `-dataDir`
    pub data_dir: Option<String>,
    /// `-joinToken`
    pub join_token: Option<JoinToken>,
    /// `-joinTokenFile`
    pub join_token_file: Option<String>,
    /// `-logFile`
    pub log_file: Option<String>,
    /// `-logFormat`
    pub log_format: Option<String>,
    /// `-logLevel`
    pub log_level: Option<String>,
    /// `-logSourceLocation`
    pub log_source_location: Option<bool>,
    /// `-serverAddress`
    pub server_address: Option<String>,
    /// `-serverPort`
    pub server_port: Option<i64>,
    /// `-trustDomain`
    pub trust_domain: Option<String>,
    /// `-disableWorkloadAPI`
    pub disable_workload_api: Option<bool>,
    /// `-disableSDSAPI`
    pub disable_sds_api: Option<bool>,
    /// `-trustBundle`
    pub trust_bundle_path: Option<String>,
    /// `-trustBundleUrl`
    pub trust_bundle_url: Option<String>,
    /// `-trustBundleFormat`
    pub trust_bundle_format: Option<String>,
    /// `-allowUnauthenticatedVerifiers`
    pub allow_unauthenticated_verifiers: Option<bool>,
    /// `-insecureBootstrap`
    pub insecure_bootstrap: Option<bool>,
    /// `-rebootstrapMode`
    pub rebootstrap_mode: Option<String>,
    /// `-rebootstrapDelay`
    pub rebootstrap_delay: Option<String>,
    /// `-socketPath`
    pub socket_path: Option<String>,
}

/// Reads a string that a flag can override.
pub(crate) fn text(
    section: &Section<'_>,
    key: &'static str,
    flag: Option<&String>,
) -> Option<Setting<String>> {
    let in_file = section.text(key);
    match flag.filter(|text| !text.is_empty()) {
        Some(text) => Some(Setting { value: text.clone(), line: None }),
        None => in_file,
    }
}

/// Reads a switch that a flag can turn on.
pub(crate) fn switch(section: &Section<'_>, key: &'static str, flag: Option<bool>) -> Setting<bool> {
    match (flag, section.flag(key)) {
        (Some(true), _) | (_, None) => Setting { value: flag.unwrap_or_default(), line: None },
        (_, Some(in_file)) => in_file,
    }
}
