//! Reads the blocks `sds { }` and `experimental { }`, which also hold Finial's own settings.

use std::path::PathBuf;
use std::time::Duration;

use super::{balancing, choice, otlp};
use crate::decode::{Section, Setting, Strictness, no_hint};
use crate::duration::DurationError;
use crate::{
    Experimental, PodSource, Prefetch, RateLimits, Sds, SealedCache, UnixPaths, UnknownNames, Warning,
    Withdrawal, duration,
};

pub(super) fn sds(section: Section<'_>) -> Sds {
    let text = |key, default: &str| section.text(key).map_or_else(|| default.to_owned(), |text| text.value);
    let sds = Sds {
        default_svid_name: text("default_svid_name", "default"),
        default_bundle_name: text("default_bundle_name", "ROOTCA"),
        default_all_bundles_name: text("default_all_bundles_name", "ALL"),
        disable_spiffe_cert_validation: section.is_set("disable_spiffe_cert_validation"),
        unknown_names: choice(&section, "unknown_names", |name| match name {
            "hold" => Ok(UnknownNames::Hold),
            "reject" => Ok(UnknownNames::Reject),
            _ => Err(format!("sds.unknown_names is \"hold\" or \"reject\", not {name:?}")),
        }),
        jwt: section.flag("jwt").is_none_or(|flag| flag.value),
    };
    if sds.default_bundle_name == sds.default_all_bundles_name {
        section.report().warn(Warning::from(SAME_NAMES.to_owned()));
    }
    section.finish(Strictness::Ignore, "sds", no_hint);
    sds
}

pub(super) fn experimental(section: Section<'_>) -> Experimental {
    let experimental = Experimental {
        sync_interval: sync_interval(&section),
        require_pq_kem: section.is_set("require_pq_kem"),
        use_sync_authorized_entries: use_sync_authorized_entries(&section),
        jwt_svid_cache_hit_timeout: jwt_svid_cache_hit_timeout(&section),
        x509_svid_prefetch: choice(&section, "x509_svid_prefetch", |name| match name {
            "all" => Ok(Prefetch::All),
            "auto" => Ok(Prefetch::Auto),
            "live" => Ok(Prefetch::Live),
            _ => {
                Err(format!("experimental.x509_svid_prefetch is \"all\", \"auto\" or \"live\", not {name:?}"))
            }
        }),
        withdrawal: choice(&section, "withdrawal", |name| match name {
            "confirmed" => Ok(Withdrawal::Confirmed),
            "immediate" => Ok(Withdrawal::Immediate),
            _ => Err(format!("experimental.withdrawal is \"confirmed\" or \"immediate\", not {name:?}")),
        }),
        pod_source: choice(&section, "pod_source", |name| match name {
            "kubelet" => Ok(PodSource::Kubelet),
            "api-server" => Ok(PodSource::ApiServer),
            _ => Err(format!("experimental.pod_source is \"kubelet\" or \"api-server\", not {name:?}")),
        }),
        cri_socket_path: cri_socket_path(&section),
        issuance_log: section.text("issuance_log").map(|path| path.value.into()),
        status_address: status_address(&section),
        otlp: otlp::read(section.block("otlp")),
        unix_paths: choice(&section, "unix_paths", |name| match name {
            "any" => Ok(UnixPaths::Any),
            "host" => Ok(UnixPaths::Host),
            _ => Err(format!("experimental.unix_paths is \"any\" or \"host\", not {name:?}")),
        }),
        sealed_cache: sealed_cache(section.block("sealed_cache")),
        outage_budget: outage_budget(&section),
        server_order: balancing::read(&section),
        rate_limits: rate_limits(section.block("ratelimit")),
    };
    let of_spire = section.text("sync_interval").is_some()
        || section.text("jwt_svid_cache_hit_timeout").is_some()
        || section.flag("use_sync_authorized_entries").is_some()
        || section.is_set("require_pq_kem")
        || section.text("server_load_balancing_config").is_some()
        || !section.texts("feature_flags").is_empty()
        || experimental.rate_limits != RateLimits::default();
    if of_spire {
        section.report().warn(Warning::from(IN_USE.to_owned()));
    }
    section.finish(Strictness::Ignore, "experimental", hint);
    experimental
}

/// What to do about keys that do nothing here.
fn hint(key: &str) -> Option<&'static str> {
    match key {
        "disable_lru_cache" => Some("remove it; spire-agent has it no longer"),
        "enable_sds" => Some("remove it; SDS is always on (disable_sds_api = true switches it off)"),
        "x509_svid_cache_max_size"
        | "jwt_svid_cache_max_size"
        | "workload_x509_svid_key_type"
        | "availability_target"
        | "log_selectors"
        | "sds"
        | "authorized_delegates"
        | "admin_socket_path"
        | "rebootstrap_mode"
        | "rebootstrap_delay"
        | "trust_bundle_unix_socket"
        | "trust_bundle_spiffe_workload_api"
        | "allow_unauthenticated_verifiers"
        | "allowed_foreign_jwt_claims" => Some("write it in agent { } itself"),
        _ => None,
    }
}

/// The socket's path. It may be written as a URL, as in the kubelet's configuration, or as a path.
fn cri_socket_path(section: &Section<'_>) -> Option<PathBuf> {
    let Setting { value, line } = section.text("cri_socket_path").filter(|path| !path.value.is_empty())?;
    let path = PathBuf::from(value.strip_prefix("unix://").unwrap_or(&value));
    if !path.is_absolute() {
        let message = format!("experimental.cri_socket_path is an absolute path, not {value:?}");
        section.report().problem(line, message);
        return None;
    }
    Some(path)
}

/// `host:port`, or a port of this host alone. The page has no password.
fn status_address(section: &Section<'_>) -> Option<String> {
    let Setting { value, line } = section.text("status_address")?;
    let (host, port) = value.rsplit_once(':').unwrap_or(("", &value));
    if port.parse::<u16>().is_err() {
        let message = format!("experimental.status_address is host:port or a port, not {value:?}");
        section.report().problem(line, message);
        return None;
    }
    Some(if host.is_empty() { format!("127.0.0.1:{port}") } else { value })
}

/// `None` without the block, or without the key, which is reported.
fn sealed_cache(section: Section<'_>) -> Option<SealedCache> {
    let path =
        |key| section.text(key).map(|path| path.value).filter(|path| !path.is_empty()).map(PathBuf::from);
    let (key_file, path) = (path("key_file"), path("path"));
    if section.is_present() && key_file.is_none() {
        let message = "experimental.sealed_cache.key_file must be configured: the file of the key that encrypts the cache";
        section.report().problem(section.line, message);
    }
    section.finish(Strictness::Refuse, "sealed_cache", no_hint);
    Some(SealedCache { key_file: key_file?, path })
}

fn outage_budget(section: &Section<'_>) -> Option<Duration> {
    let Setting { value, line } = section.text("outage_budget").filter(|text| !text.value.is_empty())?;
    match duration::parse(&value) {
        Ok(budget) => Some(budget),
        Err(reason) => {
            section.report().problem(line, format!("experimental.outage_budget: {reason}"));
            None
        }
    }
}

fn sync_interval(section: &Section<'_>) -> Duration {
    let Some(Setting { value, line }) = section.text("sync_interval") else { return DEFAULT_SYNC_INTERVAL };
    match duration::parse(&value) {
        // As everywhere in spire-agent, zero means the default.
        Ok(Duration::ZERO) => DEFAULT_SYNC_INTERVAL,
        Ok(interval) => interval,
        Err(error) => {
            section.report().problem(line, format!("could not parse synchronization interval: {error}"));
            DEFAULT_SYNC_INTERVAL
        }
    }
}

fn use_sync_authorized_entries(section: &Section<'_>) -> bool {
    let Some(flag) = section.flag("use_sync_authorized_entries") else { return true };
    section.report().warn(Warning {
        message: "The 'use_sync_authorized_entries' configuration is deprecated. The option to disable it \
                  will be removed in SPIRE 1.13."
            .to_owned(),
        alert_type: Some("deprecated_config"),
    });
    flag.value
}

fn jwt_svid_cache_hit_timeout(section: &Section<'_>) -> Duration {
    let Some(Setting { value, line }) = section.text("jwt_svid_cache_hit_timeout") else {
        return LONGEST_CACHE_HIT_TIMEOUT;
    };
    let too_short = format!("jwt_svid_cache_hit_timeout ({value}) must be greater than 5s");
    let problem = match duration::parse(&value) {
        Ok(timeout) if timeout < SHORTEST_CACHE_HIT_TIMEOUT => too_short,
        Err(DurationError::Negative(_)) => too_short,
        Err(error) => format!("could not parse jwt_svid_cache_hit_timeout: {error}"),
        Ok(timeout) if timeout >= LONGEST_CACHE_HIT_TIMEOUT => {
            format!("jwt_svid_cache_hit_timeout ({value}) must be less than 30s")
        }
        Ok(timeout) => {
            let message = "The use of 'jwt_svid_cache_hit_timeout' is experimental".to_owned();
            section.report().warn(Warning::from(message));
            let idle = "agent.experimental.jwt_svid_cache_hit_timeout does nothing: a cached JWT-SVID is served at once, and \
                 renewed meanwhile";
            section.report().ignored(line, idle);
            return timeout;
        }
    };
    section.report().problem(line, problem);
    LONGEST_CACHE_HIT_TIMEOUT
}

fn rate_limits(section: Section<'_>) -> RateLimits {
    let limit = |key| {
        let Some(Setting { value, line }) = section.int(key) else { return 0 };
        if value < 0 {
            section.report().problem(line, format!("experimental.ratelimit.{key} must not be negative"));
        }
        u32::try_from(value.max(0)).unwrap_or(u32::MAX)
    };
    let limits = RateLimits {
        fetch_x509_svid: limit("fetch_x509_svid"),
        fetch_jwt_svid: limit("fetch_jwt_svid"),
        fetch_x509_bundles: limit("fetch_x509_bundles"),
        fetch_jwt_bundles: limit("fetch_jwt_bundles"),
        stream_secrets: limit("stream_secrets"),
        fetch_secrets: limit("fetch_secrets"),
    };
    section.finish(Strictness::Refuse, "ratelimit", no_hint);
    limits
}

const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(5);
const SHORTEST_CACHE_HIT_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_CACHE_HIT_TIMEOUT: Duration = Duration::from_secs(30);
const SAME_NAMES: &str = "The \"default_bundle_name\" and \"default_all_bundles_name\" configurables have the \
     same value. \"default_all_bundles_name\" will be ignored. Please configure distinct values or use the \
     defaults. This will be a configuration error in a future release.";
const IN_USE: &str = "Experimental features have been enabled. Please see doc/upgrading.md for upgrade and \
     compatibility considerations for experimental features.";
