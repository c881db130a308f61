//! Reads the block `health_checks { }`.

use crate::decode::{Section, Strictness, no_hint};

/// The HTTP health listener (SPIRE: `health_checks`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChecks {
    /// Whether to listen at all (SPIRE: `listener_enabled`).
    pub listener_enabled: bool,
    /// Host name or address, without brackets (SPIRE: `bind_address`).
    pub bind_address: String,
    /// A port number, or the name of a service as `net.Listen` takes it (SPIRE: `bind_port`).
    pub bind_port: String,
    /// The URL path of the liveness check (SPIRE: `live_path`).
    pub live_path: String,
    /// The URL path of the readiness check (SPIRE: `ready_path`).
    pub ready_path: String,
}

impl HealthChecks {
    pub(crate) fn read(section: Section<'_>) -> Self {
        let text =
            |key, default: &str| section.text(key).map_or_else(|| default.to_owned(), |text| text.value);
        let checks = Self {
            listener_enabled: section.is_set("listener_enabled"),
            bind_address: text("bind_address", "localhost").trim_matches(['[', ']']).to_owned(),
            bind_port: text("bind_port", "80"),
            live_path: text("live_path", "/live"),
            ready_path: text("ready_path", "/ready"),
        };
        section.finish(Strictness::Refuse, "health check", no_hint);
        checks
    }

    /// `host:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn address(&self) -> String {
        crate::settings::join_host_port(&self.bind_address, &self.bind_port)
    }
}
