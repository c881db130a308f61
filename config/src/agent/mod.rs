//! Reads the block `agent { }`, and the flags that override it.
//!
//! `trust` reads how the agent and the server come to trust each other, `sources` where the first bundle comes from,
//! `logging` the log keys, `blocks` the inner blocks, `otlp` a block of ours, `profiling` the keys of that name,
//! `refused` the settings of spire-agent that Finial does not have yet. This file reads the rest and makes [`Settings`]. Every reader reports a problem and goes on,
//! so that one run finds all problems.

mod balancing;
mod blocks;
mod logging;
mod otlp;
mod profiling;
mod refused;
mod sockets;
mod sources;
mod trust;

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::decode::{Section, Setting, Strictness};
use crate::duration::DurationError;
use crate::plugins::Outcome;
use crate::{
    Experimental, HealthChecks, KeyType, Overrides, Settings, Telemetry, TrustBundleSource, duration,
    overrides, trust_domain,
};

/// Input of the readers of the block.
pub(crate) struct Agent<'a> {
    pub(crate) section: Section<'a>,
    pub(crate) overrides: &'a Overrides,
    pub(crate) read_file: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl Agent<'_> {
    /// Reads the settings; `None` if a required one is missing.
    pub(crate) fn read(
        self,
        health_checks: HealthChecks,
        telemetry: Telemetry,
        plugins: Outcome,
    ) -> Option<Settings> {
        self.accept_untagged();
        let flags = self.overrides;
        let server_address = self.required("server_address", flags.server_address.as_ref());
        if let Some(list) = server_address.as_deref().filter(|list| list.contains(','))
            && list.split(',').any(|host| host.trim().is_empty())
        {
            let line = self.section.text("server_address").and_then(|setting| setting.line);
            let message = format!("server_address names servers with commas between them, not {list:?}");
            self.section.report().problem(line, message);
        }
        let server_port = self.server_port();
        let trust_domain = self.trust_domain();
        let trust_bundle = self.trust_bundle();
        // Placeholders stand for missing settings below, so that everything else is checked, too.
        let complete = server_address.is_some()
            && server_port.is_some()
            && trust_domain.is_some()
            && trust_bundle.is_some();
        let switch = |key, flag| overrides::switch(&self.section, key, flag).value;
        let settings = Settings {
            trust_domain: trust_domain.unwrap_or_default(),
            server_address: server_address.unwrap_or_default(),
            server_port: server_port.unwrap_or_default(),
            data_dir: self.path("data_dir", flags.data_dir.as_ref()).unwrap_or_else(|| ".".into()),
            socket_path: self.socket_path(),
            admin_socket_path: self.admin_socket_path(),
            authorized_delegates: self.authorized_delegates(),
            disable_workload_api: switch("disable_workload_api", flags.disable_workload_api),
            disable_sds_api: switch("disable_sds_api", flags.disable_sds_api),
            allow_unauthenticated_verifiers: switch(
                "allow_unauthenticated_verifiers",
                flags.allow_unauthenticated_verifiers,
            ),
            trust_bundle: trust_bundle.unwrap_or(TrustBundleSource::Insecure),
            rebootstrap_mode: self.rebootstrap_mode(),
            rebootstrap_delay: self.rebootstrap_delay(),
            join_token: self.join_token(),
            log_level: self.log_level(),
            log_format: self.log_format(),
            log_file: self.path("log_file", flags.log_file.as_ref()),
            log_source_location: switch("log_source_location", flags.log_source_location),
            log_selectors: self.texts("log_selectors"),
            allowed_foreign_jwt_claims: self.texts("allowed_foreign_jwt_claims"),
            workload_x509_svid_key_type: self.key_type(),
            availability_target: self.availability_target(),
            x509_svid_cache_max_size: self.cache_size("x509_svid_cache_max_size", Some(NO_LIMIT)),
            jwt_svid_cache_max_size: self.cache_size("jwt_svid_cache_max_size", None),
            sds: blocks::sds(self.section.block("sds")),
            profiling: profiling::read(&self.section),
            experimental: self.experimental(),
            health_checks,
            telemetry,
            warnings: Vec::new(),
            impossible_paths: self.impossible_paths(),
            plugins,
        };
        self.section.finish(Strictness::Refuse, "agent", hint);
        complete.then_some(settings)
    }

    fn experimental(&self) -> Experimental {
        let section = self.section.block("experimental");
        refused::experimental(&section);
        blocks::experimental(section)
    }

    /// Accepts two keys that spire-agent accepts and ignores.
    fn accept_untagged(&self) {
        self.section.text("configpath");
        self.section.flag("expandenv");
    }

    fn text(&self, key: &'static str, flag: Option<&String>) -> Option<Setting<String>> {
        overrides::text(&self.section, key, flag)
    }

    fn texts(&self, key: &'static str) -> Vec<String> {
        self.section.texts(key).into_iter().map(|text| text.value).collect()
    }

    fn path(&self, key: &'static str, flag: Option<&String>) -> Option<PathBuf> {
        self.text(key, flag).map(|path| path.value.into())
    }

    fn authorized_delegates(&self) -> Vec<String> {
        let list = self.section.texts("authorized_delegates");
        let domain = self.text("trust_domain", self.overrides.trust_domain.as_ref());
        let domain = domain.as_ref().and_then(|domain| trust_domain::parse(&domain.value).ok());
        for Setting { value, line } in &list {
            let reason = match trust_domain::parse_id(value) {
                _ if value.is_empty() => "cannot be empty".to_owned(),
                Err(reason) => reason.to_string(),
                Ok(found) => match domain {
                    Some(domain) if found != domain => {
                        format!("SPIFFE ID {value:?} is not a member of trust domain {domain:?}")
                    }
                    _ => continue,
                },
            };
            self.problem(*line, format!("error validating authorized delegate: {reason}"));
        }
        list.into_iter().map(|delegate| delegate.value).collect()
    }

    fn required(&self, key: &'static str, flag: Option<&String>) -> Option<String> {
        let text = self.text(key, flag);
        if text.is_none() {
            self.problem(None, format!("{key} must be configured"));
        }
        text.map(|text| text.value)
    }

    fn problem(&self, line: Option<u32>, message: impl Into<String>) {
        self.section.report().problem(line, message);
    }

    fn server_port(&self) -> Option<u16> {
        let in_file = self.section.int("server_port");
        let flag = self.overrides.server_port.filter(|port| *port != 0);
        let port = flag.map(|value| Setting { value, line: None }).or(in_file);
        match port {
            Some(Setting { value, line }) if value != 0 => {
                let port = u16::try_from(value).ok();
                if port.is_none() {
                    self.problem(line, format!("server_port must be from 1 to 65535, not {value}"));
                }
                port
            }
            // An unreadable one is a problem already.
            None if self.section.has("server_port") => None,
            _ => {
                self.problem(None, "server_port must be configured");
                None
            }
        }
    }

    fn key_type(&self) -> KeyType {
        choice(&self.section, "workload_x509_svid_key_type", |name| match name.to_lowercase().as_str() {
            "ec-p256" => Ok(KeyType::EcP256),
            "ec-p384" => Ok(KeyType::EcP384),
            "rsa-2048" => Ok(KeyType::Rsa2048),
            _ => Err(format!("key type {name:?} is unknown; must be one of [rsa-2048, ec-p256, ec-p384]")),
        })
    }

    fn availability_target(&self) -> Option<Duration> {
        let target = self.section.text("availability_target")?;
        match duration::parse(&target.value) {
            Ok(duration) if duration >= MINIMUM_AVAILABILITY_TARGET => Some(duration),
            Ok(_) | Err(DurationError::Negative(_)) => {
                self.problem(target.line, "availability_target must be at least 24h0m0s");
                None
            }
            Err(error) => {
                self.problem(target.line, format!("unable to parse availability_target: {error}"));
                None
            }
        }
    }

    /// The size of a cache. 0 means the default, because spire-agent has no unlimited caches. `idle` says why another
    /// size than the default does nothing.
    fn cache_size(&self, key: &'static str, idle: Option<&str>) -> usize {
        let size = self.section.int(key).filter(|size| size.value != 0);
        let Some(Setting { value, line }) = size else { return DEFAULT_CACHE_SIZE };
        let Ok(size) = usize::try_from(value) else {
            self.problem(line, format!("{key} should not be negative"));
            return DEFAULT_CACHE_SIZE;
        };
        if let Some(idle) = idle
            && size != DEFAULT_CACHE_SIZE
        {
            self.section.report().ignored(line, format!("agent.{key} does nothing{idle}"));
        }
        size
    }
}

/// Reads a string that must be one of a few. A missing one means the default.
fn choice<T: Default, E: Display>(
    section: &Section<'_>,
    key: &'static str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> T {
    section.text(key).map_or_else(T::default, |text| accept(section, &text, parse))
}

/// Parses a string. If `parse` fails, the error is reported and the default returned.
fn accept<T: Default, E: Display>(
    section: &Section<'_>,
    text: &Setting<String>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> T {
    parse(&text.value).unwrap_or_else(|error| {
        section.report().problem(text.line, error.to_string());
        T::default()
    })
}

/// What to do about keys that spire-agent no longer has.
fn hint(key: &str) -> Option<&'static str> {
    match key {
        "enable_sds" => Some("remove it; SDS is always on (disable_sds_api = true switches it off)"),
        "retry_bootstrap" => Some("remove it; the bootstrap is always retried"),
        "disable_reattest_to_renew" => Some("remove it; the server decides who attests again to renew"),
        _ => None,
    }
}

const DEFAULT_CACHE_SIZE: usize = 1000;
const NO_LIMIT: &str = ": the cache of X.509-SVIDs has no limit; experimental.x509_svid_prefetch (\"all\", \"auto\" or \
     \"live\") says which of them are minted before a caller asks";
const MINIMUM_AVAILABILITY_TARGET: Duration = Duration::from_secs(24 * 60 * 60);
