//! The state of the agent at one moment, for `finial top` and the status page. No key material, and no selector.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Inspector;
use crate::manager::Manager;
use crate::status::Serving;
use crate::telemetry::names::ACK_BOUNDS;
use crate::telemetry::{Metrics, Reading, names};

/// The state of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Overview {
    /// Seconds since 1970.
    pub(crate) time: f64,
    pub(crate) agent: Agent,
    pub(crate) counts: Counts,
    /// The entries and their SVIDs, the soonest to expire first.
    pub(crate) identities: Vec<Identity>,
    /// The caller groups, the one that holds most first.
    pub(crate) callers: Vec<Caller>,
    /// The calls that are open, by method.
    pub(crate) open_calls: Vec<OpenCalls>,
    pub(crate) sds: Sds,
    pub(crate) budget: Budget,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Agent {
    pub(crate) version: String,
    pub(crate) trust_domain: String,
    pub(crate) spiffe_id: Option<String>,
    /// `starting`, `ready`, `refused` or `stopping`.
    pub(crate) state: String,
    pub(crate) uptime_seconds: f64,
    pub(crate) last_sync_age_seconds: Option<f64>,
    pub(crate) svid_expires_in_seconds: Option<f64>,
    pub(crate) server: String,
    pub(crate) trouble: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) entries: usize,
    pub(crate) x509_svids: usize,
    pub(crate) jwt_svids: usize,
    pub(crate) connections: usize,
    pub(crate) caller_groups: usize,
    pub(crate) held_names: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) spiffe_id: String,
    pub(crate) entry_id: String,
    /// The life of its SVID in seconds, and how much of it is left; `None` without an SVID.
    pub(crate) life_seconds: Option<f64>,
    pub(crate) left_seconds: Option<f64>,
    pub(crate) is_tainted: bool,
    /// Why the server does not sign.
    pub(crate) refusal: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Caller {
    pub(crate) group: String,
    pub(crate) connections: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OpenCalls {
    pub(crate) service: String,
    pub(crate) method: String,
    pub(crate) open: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sds {
    pub(crate) pushes: f64,
    pub(crate) nacks: f64,
    /// How many responses were accepted within each time: its upper bound in seconds (none for the last) and the count.
    pub(crate) acks: Vec<(Option<f64>, u64)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Budget {
    pub(crate) held_bytes: usize,
    pub(crate) limit_bytes: usize,
    pub(crate) largest_group_bytes: usize,
    pub(crate) group_limit_bytes: usize,
}

impl Inspector {
    /// The state of the agent now.
    pub(crate) async fn overview(&self) -> Overview {
        let (state, now) = (self.gauges.status.state(), SystemTime::now());
        let manager = self.admission.manager();
        let (levels, limits) = (self.gauges.bytes.levels(), self.gauges.bytes.limits());
        let metrics = self.admission.metrics();
        let agent = Agent {
            version: crate::version::line(),
            trust_domain: self.settings.trust_domain.clone(),
            spiffe_id: state.svid.as_ref().map(|svid| svid.id.to_string()),
            state: match state.serving {
                Serving::Starting => "starting",
                Serving::Ready => "ready",
                Serving::Refused => "refused",
                Serving::Stopping => "stopping",
            }
            .to_owned(),
            uptime_seconds: self.gauges.status.uptime_seconds(),
            last_sync_age_seconds: state.last_sync.map(|at| -until(at, now)),
            svid_expires_in_seconds: state.svid.as_ref().map(|svid| until(svid.not_after, now)),
            server: self.settings.server_host_port(),
            trouble: state.trouble,
        };
        let identities = match &manager {
            Some(manager) => identities(manager, now).await,
            None => Vec::new(),
        };
        let mut callers: Vec<Caller> = self
            .gauges
            .bytes
            .holders()
            .into_iter()
            .map(|holder| Caller {
                group: holder.key.into(),
                connections: holder.accounts,
                bytes: holder.held,
            })
            .collect();
        callers.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.group.cmp(&b.group)));
        callers.truncate(MOST);
        Overview {
            time: now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            agent,
            counts: Counts {
                entries: manager.as_ref().map_or(0, |manager| manager.snapshot().entries().len()),
                x509_svids: manager.as_ref().map_or(0, Manager::svid_count),
                jwt_svids: manager.as_ref().map_or(0, Manager::jwt_svid_count),
                connections: levels.accounts,
                caller_groups: levels.groups,
                held_names: self.gauges.held_names.load(Ordering::Relaxed),
            },
            identities,
            callers,
            open_calls: open_calls(metrics),
            sds: sds(metrics),
            budget: Budget {
                held_bytes: levels.whole,
                limit_bytes: limits.whole,
                largest_group_bytes: levels.group,
                group_limit_bytes: limits.group,
            },
        }
    }
}

fn open_calls(metrics: &Metrics) -> Vec<OpenCalls> {
    let mut calls: Vec<OpenCalls> = metrics
        .read(&names::OPEN_CALLS)
        .into_iter()
        .filter_map(|(labels, reading)| match (&labels[..], reading) {
            ([service, method], Reading::Number(open)) if open > 0.0 => {
                Some(OpenCalls { service: service.clone(), method: method.clone(), open })
            }
            _ => None,
        })
        .collect();
    calls.sort_by(|a, b| (&a.service, &a.method).cmp(&(&b.service, &b.method)));
    calls
}

fn sds(metrics: &Metrics) -> Sds {
    let sum = |metric| -> f64 {
        let of = |(_, reading)| if let Reading::Number(number) = reading { number } else { 0.0 };
        metrics.read(metric).into_iter().map(of).fold(0.0, |sum, number| sum + number)
    };
    let bounds = ACK_BOUNDS.iter().copied().map(Some).chain([None]);
    let mut acks: Vec<(Option<f64>, u64)> = bounds.map(|bound| (bound, 0)).collect();
    for (_, reading) in metrics.read(&names::ACK_SECONDS) {
        if let Reading::Histogram(counts) = reading {
            acks.iter_mut().zip(counts).for_each(|((_, all), count)| *all += count);
        }
    }
    Sds { pushes: sum(&names::PUSHES), nacks: sum(&names::NACKS), acks }
}

async fn identities(manager: &Manager, now: SystemTime) -> Vec<Identity> {
    let held = manager.inspect().await.unwrap_or_default();
    let mut identities: Vec<Identity> = held
        .into_iter()
        .map(|held| Identity {
            spiffe_id: held.entry.spiffe_id.to_string(),
            entry_id: held.entry.id.to_string(),
            life_seconds: held.svid.as_ref().map(|svid| until(svid.not_after, svid.not_before)),
            left_seconds: held.svid.as_ref().map(|svid| until(svid.not_after, now)),
            is_tainted: held.svid.as_ref().is_some_and(|svid| svid.is_tainted),
            refusal: held.refusal,
        })
        .collect();
    let left = |identity: &Identity| identity.left_seconds.unwrap_or(f64::INFINITY);
    identities.sort_by(|a, b| left(a).total_cmp(&left(b)).then_with(|| a.spiffe_id.cmp(&b.spiffe_id)));
    identities.truncate(MOST);
    identities
}

/// Seconds until a time; negative if it has passed.
pub(crate) fn until(time: SystemTime, now: SystemTime) -> f64 {
    time.duration_since(now).map_or_else(|past| -past.duration().as_secs_f64(), |left| left.as_secs_f64())
}

/// The most identities and callers that are listed.
const MOST: usize = 1000;
