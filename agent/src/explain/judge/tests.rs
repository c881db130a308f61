use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{Entry, Selector, Selectors, SpiffeId, TrustDomain};

use super::*;
use crate::explain::facts::{AgentFacts, Attested};
use crate::manager::HeldSvid;
use crate::record::Event;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn selector(text: &str) -> Selector {
    let (kind, value) = text.split_once(':').unwrap();
    Selector::new(kind, value).unwrap()
}

fn held(id: &str, path: &str, selectors: &[&str]) -> Held {
    let entry = Entry {
        id: id.into(),
        spiffe_id: SpiffeId::parse(&format!("spiffe://td/{path}")).unwrap(),
        selectors: selectors.iter().map(|text| selector(text)).collect(),
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        revision: 1,
        store_svid: false,
        hint: String::new(),
        created_at: 0,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    };
    let svid = HeldSvid {
        serial: "1f".to_owned(),
        not_before: now() - Duration::from_secs(60),
        not_after: now() + Duration::from_secs(3600),
        is_tainted: false,
    };
    Held { entry: Arc::new(entry), svid: Some(svid), refusal: None }
}

/// A sound agent with one entry, and a process that has its selectors.
fn facts() -> Facts {
    Facts {
        now: now(),
        agent: AgentFacts {
            spiffe_id: Some("spiffe://td/spire/agent/x".to_owned()),
            is_refused: false,
            last_sync: Some(now() - Duration::from_secs(2)),
            sync_interval: Duration::from_secs(5),
            trouble: None,
            stale_source: false,
            has_taint: false,
        },
        subject: process(&["unix:uid:1000", "unix:gid:1000"]),
        entries: vec![held("web", "web", &["unix:uid:1000"])],
        bundles: vec!["td".to_owned()],
        events: Vec::new(),
        budget: None,
    }
}

fn process(selectors: &[&str]) -> Subject {
    let found = selectors.iter().map(|text| selector(text)).collect();
    Subject::Process { pid: 7, attested: vec![Attested { attestor: "unix", outcome: Outcome::Found(found) }] }
}

fn attested(outcome: Outcome) -> Subject {
    Subject::Process { pid: 7, attested: vec![Attested { attestor: "k8s", outcome }] }
}

fn event(what: What) -> Event {
    Event { at: now() - Duration::from_secs(5), pid: 7, uid: 1000, method: "FetchX509SVID", what }
}

/// The codes of all causes, and the text of the first finding.
fn found(facts: &Facts) -> (Vec<&'static str>, String) {
    let findings = judge(facts, Reader { is_root: true, logged: &[] });
    let causes = findings.iter().filter(|finding| finding.severity == Severity::Cause);
    (causes.map(|finding| finding.code).collect(), findings[0].text.clone())
}

#[track_caller]
fn check(facts: &Facts, code: &'static str, part: &str) {
    let (causes, text) = found(facts);
    assert_eq!(causes, [code]);
    assert!(text.contains(part), "{text}");
}

#[track_caller]
fn warns(facts: &Facts, code: &'static str) {
    let findings = judge(facts, Reader { is_root: true, logged: &[] });
    assert!(findings.iter().any(|one| one.code == code && one.severity == Severity::Warning), "{findings:?}");
    assert!(findings.iter().all(|one| one.severity != Severity::Cause), "{findings:?}");
}

#[test]
fn an_identity() {
    let (causes, text) = found(&facts());
    assert!(causes.is_empty());
    assert_eq!(text, "spiffe://td/web by entry web, serial 1f, valid for 3600 s");
}

#[test]
fn no_entry() {
    let none = Facts { entries: Vec::new(), ..facts() };
    check(&none, "no-entry", "authorizes no entry");
    let others = Facts { entries: vec![held("x", "x", &["k8s:ns:x"])], ..facts() };
    check(&others, "no-entry", "none of the 1 entries");
    let findings = judge(&others, Reader { is_root: true, logged: &[] });
    assert!(
        findings
            .iter()
            .any(|one| one.code == "other-parent" && one.action.contains("spiffe://td/spire/agent/x"))
    );
}

#[test]
fn one_selector_missing() {
    let entries = vec![
        held("far", "far", &["unix:uid:1000", "k8s:ns:a", "k8s:sa:b"]),
        held("near", "near", &["unix:uid:1000", "unix:gid:1000", "k8s:ns:web"]),
        held("nearer-in-name", "other", &["unix:uid:1000", "k8s:ns:c"]),
    ];
    let facts = Facts { entries, ..facts() };
    check(
        &facts,
        "selector-missing",
        "the nearest is near (spiffe://td/near), and the process lacks k8s:ns:web",
    );
    let nearest: Vec<_> =
        facts.nearest(&facts.selectors()).iter().map(|near| near.entry.id.to_string()).collect();
    assert_eq!(nearest, ["near", "nearer-in-name", "far"]);
}

#[test]
fn values_are_not_told_to_others_than_root() {
    let facts =
        Facts { entries: vec![held("x", "x", &["unix:uid:1000", "docker:env:KEY=secret"])], ..facts() };
    let findings = judge(&facts, Reader { is_root: false, logged: &[] });
    assert!(!format!("{findings:?}").contains("secret"), "{findings:?}");
}

#[test]
fn attestors() {
    let failed =
        Facts { subject: attested(Outcome::Failed("kubelet: 403".into())), entries: vec![], ..facts() };
    let (causes, text) = found(&failed);
    assert_eq!(causes, ["attestor-failed", "no-entry"]);
    assert!(text.contains("kubelet: 403"));
    let unseen =
        Facts { subject: attested(Outcome::Unseen("not listed".into())), entries: vec![], ..facts() };
    assert_eq!(found(&unseen).0, ["container-not-seen", "no-entry"]);
    let Subject::Process { pid, mut attested } = process(&["unix:uid:1000"]) else { unreachable!() };
    attested.push(Attested { attestor: "k8s", outcome: Outcome::Failed("away".into()) });
    warns(&Facts { subject: Subject::Process { pid, attested }, ..facts() }, "attestor-failed");
}

#[test]
fn a_process_that_is_gone() {
    check(
        &Facts { subject: Subject::NoProcess { pid: 7 }, ..facts() },
        "process-dead",
        "no process with pid 7",
    );
}

#[test]
fn selectors_instead_of_a_process() {
    let selectors: Selectors = [selector("unix:uid:1000")].into_iter().collect();
    assert_eq!(found(&Facts { subject: Subject::Selectors(selectors), ..facts() }).0, [""; 0]);
}

#[test]
fn the_agent_itself() {
    let agent = |change: fn(&mut AgentFacts)| {
        let mut facts = facts();
        change(&mut facts.agent);
        facts
    };
    let unattested = agent(|agent| {
        agent.spiffe_id = None;
        agent.last_sync = None;
        agent.trouble = Some("token is spent".to_owned());
    });
    check(&unattested, "agent-not-attested", "token is spent");
    check(&agent(|agent| agent.last_sync = None), "agent-not-synced", "no attempt has ended yet");
    check(&agent(|agent| agent.is_refused = true), "agent-refused", "works once");
    let old = agent(|agent| {
        agent.last_sync = Some(now() - Duration::from_secs(100));
        agent.trouble = Some("refused".to_owned());
    });
    warns(&old, "sync-old");
    warns(&agent(|agent| agent.stale_source = true), "bundle-stale");
    warns(&agent(|agent| agent.has_taint = true), "authority-tainted");
}

#[test]
fn svids() {
    let with = |change: fn(&mut Held)| {
        let mut facts = facts();
        change(&mut facts.entries[0]);
        facts
    };
    let refused = with(|held| {
        held.svid = None;
        held.refusal = Some("CSR is wrong".to_owned());
    });
    check(&refused, "svid-not-minted", "CSR is wrong");
    warns(&with(|held| held.svid = None), "svid-not-minted");
    let expired = with(|held| held.svid.as_mut().unwrap().not_after = now());
    check(&expired, "svid-expired", "has expired");
    warns(&with(|held| held.svid.as_mut().unwrap().is_tainted = true), "svid-tainted");
    let federates = with(|held| {
        let entry = Arc::make_mut(&mut held.entry);
        entry.federates_with = [TrustDomain::parse("other").unwrap()].into_iter().collect();
    });
    warns(&federates, "federated-bundle-missing");
}

#[test]
fn what_happened_lately() {
    let with = |what| Facts { events: vec![event(what)], ..facts() };
    let limited = What::Refused {
        code: "Unavailable",
        reason: "rate limit exceeded for /SpiffeWorkloadAPI/FetchX509SVID".to_owned(),
    };
    check(&with(limited.clone()), "rate-limited", "FetchX509SVID: rate limit exceeded");
    let full =
        What::Refused { code: "ResourceExhausted", reason: "the group holds as much as one may".to_owned() };
    check(&Facts { budget: Some((2048, 4096)), ..with(full) }, "over-budget", "its group holds 2 of 4 KiB");
    let mut old = with(limited);
    old.events[0].at = now() - Duration::from_secs(600);
    assert!(found(&old).0.is_empty(), "long ago");
}

#[test]
fn names_that_sds_streams_wait_for() {
    let with = |name: &str| {
        let mut facts = Facts { events: vec![event(What::Held { names: vec![name.to_owned()] })], ..facts() };
        facts.entries.push(held("db", "db", &["unix:uid:999"]));
        facts
    };
    check(&with("spiffe://td/db"), "name-of-another", "entry db wants unix:uid:999, which it lacks");
    check(&with("spiffe://td/typo"), "name-unknown", "spiffe://td/typo");
    assert!(found(&with("spiffe://td/web")).0.is_empty(), "granted by now");
}
