//! Answers an operator who asks why a process has, or lacks, an identity, and what the agent does at this moment.
//!
//! - [`facts`]: what is known; [`judge`]: what follows from it; `shown`: which selectors the asker may read;
//! - [`overview`]: the state of the agent, for `finial top` and the status page.
//!
//! Answers are JSON documents. `docs/inspect.md` describes them.

pub(crate) mod facts;
pub(crate) mod judge;
pub(crate) mod overview;
mod shown;

use std::sync::Arc;
use std::time::SystemTime;

use attestors::workload::Examination;
use config::Settings;
use identity::{Selector, Selectors};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonic::Status;
use transport::Peer;

use self::facts::{AgentFacts, Attested, Facts, Outcome, Subject};
use self::judge::{Finding, judge};
use self::shown::Reader;
use crate::door::Admission;
use crate::manager::Held;
use crate::record::{Event, Kind, What};
use crate::status::Serving;
use crate::telemetry::Gauges;

/// Knows where to look.
#[derive(Debug, Clone)]
pub(crate) struct Inspector {
    admission: Arc<Admission>,
    settings: Arc<Settings>,
    gauges: Gauges,
}

/// An explanation.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    /// The causes first.
    findings: Vec<Finding>,
    selectors: Vec<String>,
    attestors: Vec<AttestorAnswer>,
    matched: Vec<MatchedEntry>,
    nearest: Vec<NearEntry>,
    records: Vec<RecordLine>,
    agent: AgentAnswer,
}

#[derive(Debug, Serialize)]
struct AttestorAnswer {
    name: &'static str,
    /// `found`, `unseen` or `failed`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct MatchedEntry {
    entry_id: String,
    spiffe_id: String,
    selectors: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct NearEntry {
    entry_id: String,
    spiffe_id: String,
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct AgentAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_sync: Option<String>,
    entries: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// A line of the issuance record.
#[derive(Debug, Serialize)]
pub(crate) struct RecordLine {
    time: String,
    /// `issued`, `refused` or `held`.
    event: &'static str,
    method: &'static str,
    pid: i32,
    uid: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    caller_group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selectors: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<Vec<String>>,
}

impl Inspector {
    pub(crate) fn new(admission: Arc<Admission>, settings: Arc<Settings>, gauges: Gauges) -> Self {
        Self { admission, settings, gauges }
    }

    /// Explains a process, or whoever has these selectors, to the one who asks on this connection.
    ///
    /// # Errors
    /// InvalidArgument, if it is neither or both.
    pub(crate) async fn explain(
        &self,
        asker: &Peer,
        pid: i32,
        selectors: &[String],
    ) -> Result<Explanation, Status> {
        let subject = match (pid, selectors) {
            (0, []) => return Err(Status::invalid_argument("a pid or selectors must be given")),
            (1.., []) => self.process(asker, pid).await,
            (0, _) => Subject::Selectors(parse(selectors)?),
            _ => return Err(Status::invalid_argument("give either a pid, which is positive, or selectors")),
        };
        let facts = self.facts(asker, subject, pid).await;
        Ok(explanation(&facts, self.reader(asker)))
    }

    /// The newest records, oldest first, of one process or of all.
    pub(crate) fn records(&self, asker: &Peer, pid: i32) -> Vec<RecordLine> {
        let reader = self.reader(asker);
        let events = self.admission.record().events(Some(pid).filter(|pid| *pid != 0));
        events.iter().map(|(group, event)| RecordLine::of(event, group, reader)).collect()
    }

    /// The entries that are looked at for an explanation.
    pub(crate) fn entries(&self) -> usize {
        self.admission.manager().map_or(0, |manager| manager.snapshot().entries().len())
    }

    async fn process(&self, asker: &Peer, pid: i32) -> Subject {
        let Ok(examined) = self.admission.examine(asker, pid).await else {
            return Subject::NoProcess { pid };
        };
        let attested = examined.into_iter().map(|one| Attested {
            attestor: one.name,
            outcome: match one.outcome {
                Examination::Found(selectors) => Outcome::Found(selectors),
                Examination::Unseen(reason) => Outcome::Unseen(reason),
                Examination::Failed(reason) => Outcome::Failed(reason),
            },
        });
        Subject::Process { pid, attested: attested.collect() }
    }

    async fn facts(&self, asker: &Peer, subject: Subject, pid: i32) -> Facts {
        let state = self.gauges.status.state();
        let manager = self.admission.manager();
        let (mut entries, mut bundles, mut has_taint) = (Vec::new(), Vec::new(), false);
        if let Some(manager) = manager {
            has_taint = manager.bundle().borrow().x509_authorities.iter().any(|authority| authority.tainted);
            bundles = manager.bundles().borrow().keys().map(|domain| domain.name().to_owned()).collect();
            entries = manager.inspect().await.unwrap_or_default();
        }
        let events = if pid == 0 { Vec::new() } else { self.admission.record().events(Some(pid)) };
        let group = events.last().map_or_else(|| asker.group().key(), |(group, _)| group);
        let limits = self.gauges.bytes.limits();
        let holder = self.gauges.bytes.holders().into_iter().find(|holder| &*holder.key == group);
        Facts {
            now: SystemTime::now(),
            agent: AgentFacts {
                spiffe_id: state.svid.as_ref().map(|svid| svid.id.to_string()),
                is_refused: state.serving == Serving::Refused,
                last_sync: state.last_sync,
                sync_interval: self.settings.experimental.sync_interval,
                trouble: state.trouble,
                stale_source: state.stale_source,
                has_taint,
            },
            subject,
            entries,
            bundles,
            budget: holder.map(|holder| (holder.held, limits.group)),
            events: events.into_iter().map(|(_, event)| event).collect(),
        }
    }

    fn reader(&self, asker: &Peer) -> Reader<'_> {
        Reader { is_root: asker.uid == 0, logged: &self.settings.log_selectors }
    }
}

fn parse(selectors: &[String]) -> Result<Selectors, Status> {
    let parse = |text: &String| {
        let wrong = |reason: &str| Status::invalid_argument(format!("selector {text:?}: {reason}"));
        let (kind, value) = text.split_once(':').ok_or_else(|| wrong("write TYPE:VALUE"))?;
        Selector::new(kind, value).map_err(|reason| wrong(&reason.to_string()))
    };
    selectors.iter().map(parse).collect()
}

fn explanation(facts: &Facts, reader: Reader<'_>) -> Explanation {
    let selectors = facts.selectors();
    let shown =
        |list: &mut dyn Iterator<Item = &Selector>| list.map(|one| reader.show(one)).collect::<Vec<_>>();
    let matched = facts.matched(&selectors).into_iter().map(|held: &Held| MatchedEntry {
        entry_id: held.entry.id.to_string(),
        spiffe_id: held.entry.spiffe_id.to_string(),
        selectors: shown(&mut held.entry.selectors.iter()),
        serial_number: held.svid.as_ref().map(|svid| svid.serial.clone()),
        expires_at: held.svid.as_ref().map(|svid| rfc3339(svid.not_after)),
    });
    let nearest = facts.nearest(&selectors).into_iter().map(|near| NearEntry {
        entry_id: near.entry.id.to_string(),
        spiffe_id: near.entry.spiffe_id.to_string(),
        missing: shown(&mut near.missing.iter()),
    });
    let (pid, attested) = match &facts.subject {
        Subject::Process { pid, attested } => (Some(*pid), attested.as_slice()),
        Subject::NoProcess { pid } => (Some(*pid), &[][..]),
        Subject::Selectors(_) => (None, &[][..]),
    };
    let attestors = attested.iter().map(|one| {
        let (outcome, reason) = match &one.outcome {
            Outcome::Found(_) => ("found", None),
            Outcome::Unseen(reason) => ("unseen", Some(reason.clone())),
            Outcome::Failed(reason) => ("failed", Some(reason.clone())),
        };
        AttestorAnswer { name: one.attestor, outcome, reason }
    });
    Explanation {
        pid,
        findings: judge(facts, reader),
        selectors: shown(&mut selectors.iter()),
        attestors: attestors.collect(),
        matched: matched.collect(),
        nearest: nearest.collect(),
        records: facts.events.iter().map(|event| RecordLine::of(event, "", reader)).collect(),
        agent: AgentAnswer {
            spiffe_id: facts.agent.spiffe_id.clone(),
            last_sync: facts.agent.last_sync.map(rfc3339),
            entries: facts.entries.len(),
            trouble: facts.agent.trouble.clone(),
        },
    }
}

impl RecordLine {
    fn of(event: &Event, group: &str, reader: Reader<'_>) -> Self {
        let mut line = Self {
            time: rfc3339(event.at),
            event: "",
            method: event.method,
            pid: event.pid,
            uid: event.uid,
            caller_group: group.to_owned(),
            spiffe_id: None,
            kind: None,
            entry_id: None,
            selectors: None,
            serial_number: None,
            audience: None,
            expires_at: None,
            code: None,
            reason: None,
            names: None,
        };
        match &event.what {
            What::Issued { entry, kind, detail, not_after } => {
                line.event = "issued";
                line.spiffe_id = Some(entry.spiffe_id.to_string());
                line.kind = Some(*kind);
                line.entry_id = Some(entry.id.to_string());
                line.selectors = Some(entry.selectors.iter().map(|one| reader.show(one)).collect());
                line.expires_at = Some(rfc3339(*not_after));
                match kind {
                    Kind::X509 => line.serial_number = Some(detail.clone()),
                    Kind::Jwt => line.audience = Some(detail.clone()),
                }
            }
            What::Refused { code, reason } => {
                line.event = "refused";
                line.code = Some(code);
                line.reason = Some(reason.clone());
            }
            What::Held { names } => {
                line.event = "held";
                line.names = Some(names.clone());
            }
        }
        line
    }
}

/// A time in whole seconds, as people read it.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}
