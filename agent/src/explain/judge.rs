//! Finds out why a process has or lacks an identity. It only thinks: all facts come in.

use serde::Serialize;

use super::facts::{Facts, Near, Outcome, Subject};
use super::shown::Reader;
use crate::manager::Held;
use crate::record::What;

/// One reason, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// A name that does not change, for scripts.
    pub(crate) code: &'static str,
    pub(crate) severity: Severity,
    /// What is the case.
    pub(crate) text: String,
    /// What to do; empty if nothing is to be done.
    pub(crate) action: String,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// An identity is missing because of it.
    Cause,
    /// It will matter, or may be why.
    Warning,
    /// All is well.
    Ok,
}

/// All findings, causes first.
pub(crate) fn judge(facts: &Facts, reader: Reader<'_>) -> Vec<Finding> {
    let mut findings = Findings { list: Vec::new(), reader };
    findings.agent(facts);
    findings.subject(facts);
    if !matches!(facts.subject, Subject::NoProcess { .. }) && facts.agent.last_sync.is_some() {
        findings.entries(facts);
    }
    findings.events(facts);
    findings.list.sort_by_key(|finding| finding.severity);
    findings.list
}

struct Findings<'a> {
    list: Vec<Finding>,
    reader: Reader<'a>,
}

impl Findings<'_> {
    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        text: impl Into<String>,
        action: impl Into<String>,
    ) {
        self.list.push(Finding { code, severity, text: text.into(), action: action.into() });
    }

    /// What is wrong with the agent, for all callers.
    fn agent(&mut self, facts: &Facts) {
        let agent = &facts.agent;
        let trouble = agent.trouble.as_deref().unwrap_or("no attempt has ended yet");
        if agent.spiffe_id.is_none() {
            let text = format!("the agent is not attested: {trouble}");
            self.add(Severity::Cause, "agent-not-attested", text, "run `finial check` on this node");
        } else if agent.last_sync.is_none() {
            let text = format!("the agent has had no entries from the server yet: {trouble}");
            self.add(Severity::Cause, "agent-not-synced", text, "run `finial check` on this node");
        }
        if agent.is_refused {
            self.add(
                Severity::Cause,
                "agent-refused",
                "the server does not accept the agent's certificate any more, and its node attestor works once",
                "start the agent with a new join token",
            );
        }
        if let Some(synced) = agent.last_sync {
            let age = facts.now.duration_since(synced).unwrap_or_default();
            if age > agent.sync_interval * OLD + OLD_AT_LEAST {
                let text = format!(
                    "the last sync with the server is {} s old; later changes of entries are not known here: {trouble}",
                    age.as_secs()
                );
                let action = "look at the server and at the way to it (`finial check`)";
                self.add(Severity::Warning, "sync-old", text, action);
            }
        }
        if agent.stale_source {
            self.add(
                Severity::Warning,
                "bundle-stale",
                "the configured trust bundle has none of the server's present authorities: a new node could not attest",
                "replace the file of trust_bundle_path",
            );
        }
        if agent.has_taint {
            self.add(
                Severity::Warning,
                "authority-tainted",
                "the server's bundle has a tainted authority: what it signed is being replaced",
                "see that every workload has a new SVID before the authority is revoked",
            );
        }
    }

    /// What is wrong with the process, or with what is known of it.
    fn subject(&mut self, facts: &Facts) {
        let attested = match &facts.subject {
            Subject::NoProcess { pid } => {
                let text = format!("there is no process with pid {pid} in the agent's pid namespace");
                let action = "give the pid as the host sees it; in Kubernetes the agent needs hostPID";
                self.add(Severity::Cause, "process-dead", text, action);
                return;
            }
            Subject::Selectors(_) => return,
            Subject::Process { attested, .. } => attested,
        };
        let has_failed = attested.iter().all(|one| matches!(one.outcome, Outcome::Failed(_)));
        for one in attested {
            match &one.outcome {
                Outcome::Found(_) => {}
                Outcome::Unseen(reason) => {
                    let text = format!(
                        "attestor {:?} does not see the process's container yet: {reason}",
                        one.attestor
                    );
                    let action = "wait for the container's status; a container that is listed nowhere is not of this \
                                  node's kubelet";
                    self.add(Severity::Cause, "container-not-seen", text, action);
                }
                Outcome::Failed(reason) => {
                    let severity = if has_failed { Severity::Cause } else { Severity::Warning };
                    let text = format!("attestor {:?} failed: {reason}", one.attestor);
                    let action = "its selectors are missing; run `finial check` on this node";
                    self.add(severity, "attestor-failed", text, action);
                }
            }
        }
    }

    /// Which entries match, and what they give.
    fn entries(&mut self, facts: &Facts) {
        let selectors = facts.selectors();
        let matched = facts.matched(&selectors);
        if matched.is_empty() {
            self.no_match(facts, &facts.nearest(&selectors));
        }
        for held in matched {
            self.matched(facts, held);
        }
    }

    fn no_match(&mut self, facts: &Facts, nearest: &[Near]) {
        let agent = facts.agent.spiffe_id.as_deref().unwrap_or_default();
        let among = match facts.entries.len() {
            0 => "the server authorizes no entry for this agent".to_owned(),
            count => format!("none of the {count} entries that the server authorizes for this agent matches"),
        };
        let Some(best) = nearest.first() else {
            let action = format!(
                "register one whose selectors the process has (`spire-server entry create`), with the parent {agent} or \
                 an alias of this node"
            );
            self.add(Severity::Cause, "no-entry", among, action);
            self.other_parent(agent);
            return;
        };
        let missing: Vec<String> = best.missing.iter().map(|one| self.reader.show(one)).collect();
        let text = format!(
            "{among}; the nearest is {} ({}), and the process lacks {}",
            best.entry.id,
            best.entry.spiffe_id,
            missing.join(", ")
        );
        let action = "correct the selectors of the entry, or give the process what is missing";
        self.add(Severity::Cause, "selector-missing", text, action);
        self.other_parent(agent);
    }

    /// The agent knows only its own entries, so it cannot tell.
    fn other_parent(&mut self, agent: &str) {
        self.add(
            Severity::Warning,
            "other-parent",
            "if there is a matching entry at the server, it has another parent, so it is not sent to this agent",
            format!("compare its parent ID with {agent} and with the aliases of this node"),
        );
    }

    fn matched(&mut self, facts: &Facts, held: &Held) {
        let (id, entry) = (&held.entry.spiffe_id, &held.entry.id);
        match (&held.svid, &held.refusal) {
            (None, Some(reason)) => {
                let text = format!("the server does not sign for {id} (entry {entry}): {reason}");
                self.add(Severity::Cause, "svid-not-minted", text, "look at the server's log");
            }
            (None, None) => {
                let text = format!("{id} (entry {entry}) is being signed, or will be when somebody asks");
                self.add(Severity::Warning, "svid-not-minted", text, "ask again");
            }
            (Some(svid), refusal) if svid.not_after <= facts.now => {
                let why = refusal.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
                let text = format!("the SVID of {id} (entry {entry}) has expired and is not renewed{why}");
                let action = "an expired SVID is never handed out; look at the server and at the way to it";
                self.add(Severity::Cause, "svid-expired", text, action);
            }
            (Some(svid), _) => {
                let left = svid.not_after.duration_since(facts.now).unwrap_or_default().as_secs();
                let text = format!("{id} by entry {entry}, serial {}, valid for {left} s", svid.serial);
                self.add(Severity::Ok, "identity", text, "");
                if svid.is_tainted {
                    let text =
                        format!("the SVID of {id} is signed by a tainted authority; a new one is asked for");
                    self.add(
                        Severity::Warning,
                        "svid-tainted",
                        text,
                        "look at the server's log if this stays",
                    );
                }
            }
        }
        for domain in &held.entry.federates_with {
            if !facts.bundles.iter().any(|have| have == domain.name()) {
                let text =
                    format!("entry {entry} federates with {domain}, whose bundle the server does not have");
                let action = "see `spire-server bundle list` and the server's federates_with";
                self.add(Severity::Warning, "federated-bundle-missing", text, action);
            }
        }
    }

    /// What happened to the process lately.
    fn events(&mut self, facts: &Facts) {
        let is_recent = |at| facts.now.duration_since(at).unwrap_or_default() <= RECENT;
        let recent = facts.events.iter().filter(|event| is_recent(event.at));
        let (mut limited, mut refused) = (None, None);
        for event in recent {
            match &event.what {
                What::Refused { reason, .. } if reason.starts_with("rate limit exceeded") => {
                    limited = Some(format!("{}: {reason}", event.method));
                }
                What::Refused { code: "ResourceExhausted", reason } => {
                    refused = Some(format!("{}: {reason}", event.method));
                }
                What::Refused { .. } | What::Issued { .. } | What::Held { .. } => {}
            }
        }
        if let Some(text) = limited {
            let action = "call less often, or raise the limit in experimental { ratelimit { } }";
            self.add(Severity::Cause, "rate-limited", text, action);
        }
        if let Some(text) = refused {
            let held = facts.budget.map_or_else(String::new, |(held, limit)| {
                format!("; its group holds {} of {} KiB", held / 1024, limit / 1024)
            });
            let action = "close connections and streams that are not needed, and read what is answered";
            self.add(Severity::Cause, "over-budget", format!("{text}{held}"), action);
        }
        let last_held = facts.events.iter().rev().find_map(|event| match &event.what {
            What::Held { names } => Some(names),
            What::Issued { .. } | What::Refused { .. } => None,
        });
        for name in last_held.into_iter().flatten() {
            self.held_name(facts, name);
        }
    }

    fn held_name(&mut self, facts: &Facts, name: &str) {
        let selectors = facts.selectors();
        let is_granted = |held: &&Held| held.entry.selectors.is_subset_of(&selectors);
        let of_name: Vec<&Held> =
            facts.entries.iter().filter(|held| held.entry.spiffe_id.as_str() == name).collect();
        if of_name.iter().any(is_granted) {
            return;
        }
        let Some(another) = of_name.first() else {
            let text = format!("it asks SDS for {name:?}, which no entry of this agent grants");
            self.add(Severity::Cause, "name-unknown", text, "correct the name, or register it");
            return;
        };
        let missing = another.entry.selectors.iter().filter(|one| !selectors.iter().any(|has| has == *one));
        let missing: Vec<String> = missing.map(|one| self.reader.show(one)).collect();
        let text = format!(
            "it asks SDS for {name:?}, which is another's: entry {} wants {}, which it lacks",
            another.entry.id,
            missing.join(", ")
        );
        self.add(Severity::Cause, "name-of-another", text, "ask for its own name, or `default`");
    }
}

/// A sync is old after this many intervals, and some time.
const OLD: u32 = 3;
const OLD_AT_LEAST: std::time::Duration = std::time::Duration::from_secs(10);
/// How long a refusal counts as a reason.
const RECENT: std::time::Duration = std::time::Duration::from_mins(2);

#[cfg(test)]
mod tests;
