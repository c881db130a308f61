//! The table of all metrics.
//!
//! The first part is spire-agent's (SPIRE, `doc/telemetry/telemetry.md` and the code, where they differ), so that a
//! dashboard made for it shows data. The second part is ours.

use telemetry::{Kind, Metric, Owner};

use super::Calls;

/// A metric of spire-agent.
const fn spire(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, labels, kind, owner: Owner::Spire, help }
}

/// A metric of ours.
const fn ours(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, labels, kind, owner: Owner::Ours, help }
}

/// The two metrics of a kind of call.
macro_rules! calls {
    ($name:literal, $what:literal) => {
        calls!($name, &["status"], $what)
    };
    ($name:literal, $labels:expr, $what:literal) => {
        Calls {
            count: spire($name, Kind::Counter, $labels, concat!($what, ".")),
            elapsed: spire(
                concat!($name, ".elapsed_time"),
                Kind::Sample,
                $labels,
                concat!($what, ": how long they took, in milliseconds."),
            ),
        }
    };
}

/// The two metrics of a kind of call that spire-agent does not have.
macro_rules! our_calls {
    ($name:literal, $what:literal) => {
        Calls {
            count: ours($name, Kind::Counter, &["status"], concat!($what, ".")),
            elapsed: ours(
                concat!($name, ".elapsed_time"),
                Kind::Sample,
                &["status"],
                concat!($what, ": how long they took, in milliseconds."),
            ),
        }
    };
}

macro_rules! table {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[$doc])* pub(crate) static $name: $type = $value;)*

        /// All metrics of this table, in its order.
        #[cfg(test)]
        pub(crate) fn all() -> Vec<&'static Metric> {
            let mut all = Vec::new();
            $(Row::list(&$name, &mut all);)*
            all
        }
    };
}

/// What a row of the table defines.
#[cfg(test)]
trait Row {
    fn list(&'static self, all: &mut Vec<&'static Metric>);
}

#[cfg(test)]
impl Row for Metric {
    fn list(&'static self, all: &mut Vec<&'static Metric>) {
        all.push(self);
    }
}

#[cfg(test)]
impl Row for Calls {
    fn list(&'static self, all: &mut Vec<&'static Metric>) {
        all.extend([&self.count, &self.elapsed]);
    }
}

#[cfg(test)]
impl Row for Connections {
    fn list(&'static self, all: &mut Vec<&'static Metric>) {
        all.extend([&self.count, &self.open]);
    }
}

/// The calls of one service: spire-agent counts them one by one, and calls them connections.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) count: Metric,
    pub(crate) open: Metric,
}

macro_rules! connections {
    ($api:literal, $what:literal) => {
        Connections {
            count: spire(
                concat!($api, ".connection"),
                Kind::Counter,
                &[],
                concat!("Calls of ", $what, " that began."),
            ),
            open: spire(
                concat!($api, ".connections"),
                Kind::Gauge,
                &[],
                concat!("Calls of ", $what, " that are open."),
            ),
        }
    };
}

table! {
    STARTED: Metric = spire("started", Kind::Gauge, &["version", "trust_domain_id"], "1 since the agent started.");
    UPTIME: Metric = spire("uptime_in_ms", Kind::Gauge, &[], "Milliseconds since the agent started.");

    // How the agent comes by its first trust bundle.
    BOOTSTRAPPED: Metric = spire("bootstrapped", Kind::Gauge, &[], "Whether the agent has a bundle that the server agrees with.");
    BOOTSTRAP_SECONDS: Metric = spire("bootstrap_seconds", Kind::Gauge, &["mode"], "When the present attempt to bootstrap began, in seconds since 1970.");
    BOOTSTRAP_ATTEMPTS: Metric = spire("bootstrap_attempts", Kind::Gauge, &["mode"], "Attempts of the present bootstrap.");

    // The agent's own SVID.
    NEW_SVID: Calls = calls!("node.attestor.new_svid", &["attestor", "status"], "Attestations of the node");
    REATTEST: Calls = calls!("node.attest", "Attestations of a node that has an SVID: to renew it, or because the server asks for it");
    ROTATE: Calls = calls!("agent_svid.rotate", "Renewals of the agent's SVID");
    GENERATE_KEY: Calls = calls!("agent_key_manager.generate_key", "Generations of the agent's key");
    GET_KEYS: Calls = calls!("agent_key_manager.get_keys", "Reads of the agent's keys");

    // Syncs, and what they bring.
    FETCH_ENTRIES: Calls = calls!("manager.sync.fetch_entries_updates", "Syncs of entries and bundles with the server");
    FETCH_SVIDS: Calls = calls!("manager.sync.fetch_svids_updates", "Batches of X.509-SVIDs that the server was asked to sign");
    SYNC_BUNDLES: Metric = spire("sync_bundles_total", Kind::Gauge, &[], "Bundles in the last sync.");
    SYNC_ENTRIES: Metric = spire("sync_entries_total", Kind::Gauge, &[], "Entries in the last sync.");
    SYNC_MISSING: Metric = spire("sync_entries_missing", Kind::Gauge, &[], "Entries of the last sync that the agent did not have.");
    SYNC_STALE: Metric = spire("sync_entries_stale", Kind::Gauge, &[], "Entries of the last sync that the agent had in an older revision.");
    SYNC_DROPPED: Metric = spire("sync_entries_dropped", Kind::Gauge, &[], "Entries that the last sync no longer had.");

    // The caches of entries, X.509-SVIDs and JWT-SVIDs.
    ENTRY_ADD: Metric = spire("lru_cache_entry_add", Kind::Counter, &[], "Entries that were added.");
    ENTRY_UPDATE: Metric = spire("lru_cache_entry_update", Kind::Counter, &[], "Entries whose selectors or federated bundles changed.");
    ENTRY_REMOVE: Metric = spire("lru_cache_entry_remove", Kind::Counter, &[], "Entries that were removed.");
    RECORDS: Metric = spire("lru_cache_record_map_size", Kind::Gauge, &[], "Entries in the cache.");
    SVIDS: Metric = spire("lru_cache_svid_map_size", Kind::Gauge, &[], "X.509-SVIDs in the cache.");
    JWT_SVIDS: Metric = spire("jwt_svid_cache_size", Kind::Gauge, &[], "JWT-SVIDs in the cache.");
    EXPIRING: Metric = spire("cache_manager.expiring_svids", Kind::Sample, &[], "X.509-SVIDs that are renewed together because of their age.");
    OUTDATED: Metric = spire("cache_manager.outdated_svids", Kind::Sample, &[], "X.509-SVIDs of a sync that are renewed because their entry changed.");
    TAINTED_X509: Metric = spire("cache_manager.tainted_x509_svids.workload", Kind::Sample, &[], "X.509-SVIDs that are renewed because their authority is tainted.");
    TAINTED_JWT: Metric = spire("cache_manager.tainted_jwt_svids.workload", Kind::Sample, &[], "JWT-SVIDs that are dropped because their authority is tainted.");
    PROCESS_TAINTED_X509: Calls = calls!("cache_manager.workload.process_tainted_x509_svids", "Searches for X.509-SVIDs of tainted authorities");
    PROCESS_TAINTED_JWT: Calls = calls!("cache_manager.workload.process_tainted_jwt_svids", "Searches for JWT-SVIDs of tainted authorities");

    // Attestation of callers, and what they are refused.
    ATTESTATION: Calls = calls!("workload_api.workload_attestation", "Attestations of callers");
    ATTESTOR: Calls = calls!("workload_api.workload_attestor", &["attestor", "status"], "Attestations of callers by one attestor");
    DISCOVERED_SELECTORS: Metric = spire("workload_api.discovered_selectors", Kind::Sample, &[], "Selectors of a caller.");
    RATE_LIMITED: Metric = spire("workload_api.rate_limit_exceeded", Kind::Counter, &["method"], "Calls that a rate limit refused.");
    FIRST_UPDATE: Metric = spire("delegated_identity_api.subscribe_x509_svids.first_update.elapsed_time", Kind::Sample, &[], "How long a delegate waited for the first identities, in milliseconds.");

    WORKLOAD_CONNECTIONS: Connections = connections!("workload_api", "the Workload API");
    SDS_CONNECTIONS: Connections = connections!("sds_api", "SDS");
    DEBUG_CONNECTIONS: Connections = connections!("debug_api", "the Debug API");
    LOGGER_CONNECTIONS: Connections = connections!("logger_api", "the Logger API");
    DELEGATED_CONNECTIONS: Connections = connections!("delegated_identity_api", "the Delegated Identity API");

    // One kind of call for each method of the tables of services.
    FETCH_X509_SVID: Calls = calls!("rpc.workload_api.fetch_x509svid", "Calls of FetchX509SVID");
    FETCH_X509_BUNDLES: Calls = calls!("rpc.workload_api.fetch_x509_bundles", "Calls of FetchX509Bundles");
    FETCH_JWT_SVID: Calls = calls!("rpc.workload_api.fetch_jwtsvid", "Calls of FetchJWTSVID");
    FETCH_JWT_BUNDLES: Calls = calls!("rpc.workload_api.fetch_jwt_bundles", "Calls of FetchJWTBundles");
    VALIDATE_JWT_SVID: Calls = calls!("rpc.workload_api.validate_jwtsvid", "Calls of ValidateJWTSVID");
    FETCH_WIT_SVID: Calls = calls!("rpc.workload_api.fetch_witsvid", "Calls of FetchWITSVID");
    FETCH_WIT_BUNDLES: Calls = calls!("rpc.workload_api.fetch_wit_bundles", "Calls of FetchWITBundles");
    STREAM_SECRETS: Calls = calls!("rpc.sds.v3.stream_secrets", "Calls of StreamSecrets");
    DELTA_SECRETS: Calls = calls!("rpc.sds.v3.delta_secrets", "Calls of DeltaSecrets");
    FETCH_SECRETS: Calls = calls!("rpc.sds.v3.fetch_secrets", "Calls of FetchSecrets");
    HEALTH_CHECK: Calls = calls!("rpc.health.check", "Calls of Check");
    HEALTH_WATCH: Calls = calls!("rpc.health.watch", "Calls of Watch");
    HEALTH_LIST: Calls = calls!("rpc.health.list", "Calls of List");
    REFLECTION: Calls = calls!("rpc.grpc.reflection.v1.server_reflection.server_reflection_info", "Calls of ServerReflectionInfo");
    REFLECTION_ALPHA: Calls = calls!("rpc.grpc.reflection.v1alpha.server_reflection.server_reflection_info", "Calls of ServerReflectionInfo, v1alpha");
    GET_INFO: Calls = calls!("rpc.debug.get_info", "Calls of GetInfo");
    GET_LOGGER: Calls = calls!("rpc.logger.get_logger", "Calls of GetLogger");
    SET_LOG_LEVEL: Calls = calls!("rpc.logger.set_log_level", "Calls of SetLogLevel");
    RESET_LOG_LEVEL: Calls = calls!("rpc.logger.reset_log_level", "Calls of ResetLogLevel");
    SUBSCRIBE_TO_X509_SVIDS: Calls = calls!("rpc.delegated_identity.subscribe_to_x509_svids", "Calls of SubscribeToX509SVIDs");
    SUBSCRIBE_TO_X509_BUNDLES: Calls = calls!("rpc.delegated_identity.subscribe_to_x509_bundles", "Calls of SubscribeToX509Bundles");
    FETCH_JWT_SVIDS: Calls = calls!("rpc.delegated_identity.fetch_jwtsvi_ds", "Calls of FetchJWTSVIDs");
    SUBSCRIBE_TO_JWT_BUNDLES: Calls = calls!("rpc.delegated_identity.subscribe_to_jwt_bundles", "Calls of SubscribeToJWTBundles");

    // Finial's own; spire-agent has none of them.
    EXPLAIN: Calls = our_calls!("rpc.inspect.explain", "Calls of Explain");
    LIST_RECORDS: Calls = our_calls!("rpc.inspect.list_records", "Calls of ListRecords");
    OVERVIEW: Calls = our_calls!("rpc.inspect.overview", "Calls of Overview");
    LAST_SYNC_AGE: Metric = ours("last_sync_age_seconds", Kind::Gauge, &[], "Seconds since the last sync that succeeded; absent before the first.");
    SOONEST_EXPIRY: Metric = ours("soonest_svid_expiry_seconds", Kind::Gauge, &[], "Seconds until the first of the cached X.509-SVIDs expires; negative if it has.");
    AGENT_EXPIRY: Metric = ours("agent_svid_expiry_seconds", Kind::Gauge, &[], "Seconds until the agent's own SVID expires; negative if it has.");
    SERVING: Metric = ours("serving", Kind::Gauge, &[], "Whether callers are given identities.");
    LINK_UP: Metric = ours("server_link_up", Kind::Gauge, &[], "Whether the last call to the server was answered.");
    OPEN_CALLS: Metric = ours("open_calls", Kind::Gauge, &["service", "method"], "Calls that are open, streams among them.");
    PUSHES: Metric = ours("sds.pushes_total", Kind::Counter, &["protocol"], "Responses that were sent on SDS streams.");
    NACKS: Metric = ours("sds.nacks_total", Kind::Counter, &["protocol"], "Responses that an Envoy refused.");
    ACK_SECONDS: Metric = ours("sds.ack_seconds", Kind::Histogram(ACK_BOUNDS), &["protocol"], "Seconds from a response to its ACK.");
    HELD_NAMES: Metric = ours("sds.held_names", Kind::Gauge, &[], "Names that streams wait for, because nothing grants them yet.");
    JWT_CACHE: Metric = ours("jwt_svid_requests_total", Kind::Counter, &["from"], "JWT-SVIDs that were handed out, from the cache or from the server.");
    BUDGET_BYTES: Metric = ours("budget_bytes", Kind::Gauge, &["level"], "Bytes that are kept for callers: all (whole), for the group and for the connection with the most.");
    BUDGET_LIMIT: Metric = ours("budget_limit_bytes", Kind::Gauge, &["level"], "The most bytes that may be kept for callers, at each level.");
    CONNECTIONS: Metric = ours("connections", Kind::Gauge, &[], "Connections of callers.");
    CALLER_GROUPS: Metric = ours("caller_groups", Kind::Gauge, &[], "Groups of callers that share one budget: pods, containers or users.");
    OTLP_RECORDS_DROPPED: Metric = ours("otlp.log_records_dropped_total", Kind::Counter, &[], "Log records that were not sent by OTLP because there were too many, or because the receiver refused them.");
    LOG_LINES_LEFT_OUT: Metric = ours("log_lines_left_out_total", Kind::Counter, &[], "Log lines that were left out because there were too many of their kind, or because nobody read them.");
}

/// Upper bounds of the times to an ACK, in seconds: an Envoy that is idle answers within a millisecond, a busy one within
/// a few hundred.
pub(crate) const ACK_BOUNDS: &[f64] =
    &[0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fmt::Write as _;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn no_name_is_there_twice() {
        let mut seen = HashSet::new();
        for metric in all() {
            assert!(
                seen.insert((metric.owner == Owner::Ours, metric.name.replace('.', "_"))),
                "{}",
                metric.name
            );
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    /// The tables of `docs/metrics.md` are made of this table.
    #[test]
    fn the_reference_is_current() {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let held = fs::read_to_string(&place).unwrap_or_default();
        let head = held.split_once(MARK).map_or(&*held, |(head, _)| head);
        let fresh = format!("{head}{MARK}\n{}", reference());
        if std::env::var_os("FINIAL_BLESS").is_some() {
            fs::write(&place, &fresh).unwrap();
            return;
        }
        assert!(held == fresh, "{} is stale: run with FINIAL_BLESS=1", place.display());
    }

    fn reference() -> String {
        let mut text = String::new();
        for (owner, title, prefix) in
            [(Owner::Spire, "spire-agent's", "spire_agent_"), (Owner::Ours, "Finial's own", "finial_")]
        {
            let _ = write!(
                text,
                "\n## {title}\n\n| name for Prometheus | kind | labels | what it tells |\n|---|---|---|---|\n"
            );
            for metric in all().into_iter().filter(|metric| metric.owner == owner) {
                let kind = match metric.kind {
                    Kind::Counter => "counter",
                    Kind::Gauge => "gauge",
                    Kind::Sample => "summary",
                    Kind::Histogram(_) => "histogram",
                };
                let name = metric.name.replace('.', "_");
                let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
                let _ =
                    writeln!(text, "| `{prefix}{name}` | {kind} | {} | {} |", labels.join(", "), metric.help);
            }
        }
        text
    }

    const MARK: &str = "<!-- What follows is made of agent/src/telemetry/names.rs: FINIAL_BLESS=1 cargo test -p finial --lib reference -->";
}
