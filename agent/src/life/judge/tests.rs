//! Every reason of the server, for agents that can attest again and for those that cannot.

use std::sync::Arc;

use attestors::node::{Attestor, JoinToken, K8sPsat};
use config::KeyManager;
use identity::{Bundle, SpiffeId, TrustDomain, X509Svid};
use tokio::sync::watch;
use tonic::Status;

use super::super::{Outlets, Stored};
use super::*;
use crate::continuity::Changes;

const ALL: [Reason; 5] = [
    Reason::AgentExpired,
    Reason::AgentNotAttested,
    Reason::AgentNotActive,
    Reason::AgentBanned,
    Reason::AgentMustReattest,
];

fn psat() -> Attestor {
    K8sPsat { cluster: "c".into(), token_path: "none".into() }.into()
}

async fn lifecycle(settings: &str, reattestable: bool) -> (Lifecycle, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "agent {{ trust_domain = \"td\" server_address = \"localhost\" server_port = 1 trust_bundle_path = \"bundle\" \
         data_dir = \"{}\" {settings} }} plugins {{ }}",
        folder.path().display()
    );
    let settings =
        config::Settings::load(&text, &config::Overrides::default(), &|_| unreachable!("no files")).unwrap();
    let attestor = if reattestable { psat() } else { JoinToken::new("t".into()).into() };
    let domain = TrustDomain::parse("td").unwrap();
    let ready = watch::channel(None).0;
    let stored = Stored::read(settings.data_dir.clone(), KeyManager::Memory, || None).await.unwrap();
    let outlets = Outlets {
        ready,
        status: Arc::new(crate::status::Status::new()),
        kept: watch::channel(None).0,
        changes: Changes::default(),
        metrics: crate::telemetry::Metrics::default(),
    };
    let mut lifecycle = Lifecycle::new(
        Arc::new(settings),
        domain.clone(),
        (attestor, watch::channel(None).1),
        stored,
        outlets,
    )
    .unwrap();
    lifecycle.data.reattestable = reattestable;
    lifecycle.bundle = Some(Arc::new(Bundle::of_x509(domain, [])));
    (lifecycle, folder)
}

async fn with_svid(mut lifecycle: Lifecycle, ttl: u64) -> Lifecycle {
    let now = SystemTime::now();
    let svid = X509Svid {
        id: SpiffeId::parse("spiffe://td/spire/agent/x").unwrap(),
        chain: vec![],
        key: lifecycle.keys.renew(None).await.unwrap().key,
        not_before: now - Duration::from_secs(60),
        not_after: now + Duration::from_secs(ttl),
        serial: String::new(),
    };
    lifecycle.set_own(Arc::new(svid));
    lifecycle
}

fn refused(reason: Reason) -> ServerError {
    ServerError::Refused { reason, message: "authorization denied".into() }
}

#[tokio::test]
async fn a_refusal_makes_a_reattestable_agent_attest_anew_unless_it_is_banned() {
    for reason in ALL {
        let (lifecycle, _folder) = lifecycle("", true).await;
        let mut lifecycle = with_svid(lifecycle, 60).await;
        let verdict = lifecycle.judge(Doing::Syncing, refused(reason), 1);
        if reason == Reason::AgentBanned {
            assert!(matches!(verdict, Err(Fatal::Refused { .. })));
            assert!(lifecycle.own.is_none(), "the SVID is removed");
        } else {
            assert_eq!(verdict.unwrap(), Verdict::Attest, "{reason:?}");
            assert!(lifecycle.own.is_some(), "callers keep what they have");
        }
    }
}

#[tokio::test]
async fn a_refusal_ends_an_agent_that_cannot_attest_anew() {
    for reason in ALL {
        let (lifecycle, _folder) = lifecycle("", false).await;
        let mut lifecycle = with_svid(lifecycle, 60).await;
        lifecycle.attestor = Arc::new(psat());
        assert!(
            matches!(lifecycle.judge(Doing::Syncing, refused(reason), 1), Err(Fatal::Refused { .. })),
            "{reason:?}"
        );
        assert!(lifecycle.own.is_none());
    }
}

/// A manager without entries.
fn manager() -> crate::manager::Manager {
    let bundle = Arc::new(Bundle::of_x509(TrustDomain::parse("td").unwrap(), []));
    crate::manager::Manager::start(crate::manager::Parts {
        changes: Changes::default(),
        rules: cache::Options::default(),
        bundle,
        mint: Arc::new(|_| Box::pin(async { Ok(Vec::new()) })),
        sign: Arc::new(|_| Box::pin(std::future::pending())),
        jwt_limit: 1,
        demand: tokio::sync::mpsc::channel(1).0,
        clock: SystemTime::now,
        metrics: crate::telemetry::Metrics::default(),
    })
}

#[tokio::test]
async fn an_agent_that_serves_hears_a_refusal_twice_but_a_ban_once() {
    let (lifecycle, _folder) = lifecycle("", false).await;
    let mut lifecycle = with_svid(lifecycle, 60).await;
    lifecycle.manager = Some(manager());
    let unknown = || refused(Reason::AgentNotAttested);
    assert!(lifecycle.looks_refused(&unknown()));
    assert_eq!(lifecycle.judge(Doing::Syncing, unknown(), 1).unwrap(), Verdict::Confirm);
    assert!(lifecycle.own.is_some());
    assert!(matches!(lifecycle.judge(Doing::Syncing, unknown(), 2), Err(Fatal::Refused { .. })));
    let mut lifecycle = with_svid(lifecycle, 60).await;
    let banned = lifecycle.judge(Doing::Syncing, refused(Reason::AgentBanned), 1);
    assert!(matches!(banned, Err(Fatal::Refused { .. })));
}

#[tokio::test]
async fn a_stored_svid_that_is_refused_at_start_gives_way_to_the_join_token() {
    let (lifecycle, _folder) = lifecycle("", false).await;
    let mut lifecycle = with_svid(lifecycle, 60).await;
    assert_eq!(
        lifecycle.judge(Doing::Syncing, refused(Reason::AgentNotAttested), 1).unwrap(),
        Verdict::Rebootstrap
    );
    assert!(lifecycle.own.is_none());
}

#[tokio::test]
async fn a_certificate_that_is_refused_is_replaced_where_the_agent_can_attest_anew() {
    let refused = || ServerError::CertificateRefused("BadCertificate".into());
    for (reattestable, expected) in [(true, Verdict::Attest), (false, Verdict::Retry)] {
        let (lifecycle, _folder) = lifecycle("", reattestable).await;
        let mut lifecycle = with_svid(lifecycle, 60).await;
        lifecycle.status.synced(SystemTime::now());
        assert_eq!(lifecycle.judge(Doing::Syncing, refused(), 100).unwrap(), expected);
        assert!(lifecycle.own.is_some(), "callers keep what they have");
        assert_eq!(lifecycle.status.is_ready(), reattestable, "health says what cannot mend itself");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_tried_again() {
    let reasons = || {
        [
            ServerError::Unreachable("refused".into()),
            ServerError::Timeout(Duration::from_secs(30)),
            ServerError::Status(Box::new(Status::permission_denied("without details"))),
            ServerError::Malformed("bundle".into()),
        ]
    };
    for reason in reasons() {
        let (lifecycle, _folder) = lifecycle("", false).await;
        let mut lifecycle = with_svid(lifecycle, 60).await;
        assert_eq!(lifecycle.judge(Doing::Syncing, reason, 100).unwrap(), Verdict::Retry);
    }
    // With an expired SVID the agent attests again if it can and the server is there, or else waits until the server itself
    // refuses it.
    for reason in reasons() {
        let (lifecycle, _folder) = lifecycle("", true).await;
        let away = matches!(reason, ServerError::Unreachable(_));
        let expected = if away { Verdict::Retry } else { Verdict::Attest };
        assert_eq!(with_svid(lifecycle, 0).await.judge(Doing::Syncing, reason, 1).unwrap(), expected);
    }
    let (lifecycle, _folder) = lifecycle("", false).await;
    let mut lifecycle = with_svid(lifecycle, 0).await;
    let gone = || ServerError::Status(Box::new(Status::unknown("transport error")));
    assert_eq!(lifecycle.judge(Doing::Syncing, gone(), REFUSALS - 1).unwrap(), Verdict::Retry);
    assert!(matches!(lifecycle.judge(Doing::Syncing, gone(), REFUSALS), Err(Fatal::Refused { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_authority_by_mode() {
    let (mut never, _folder) = lifecycle("", true).await;
    // First contact lasts a minute with a stored SVID too.
    assert_eq!(never.judge(Doing::Syncing, ServerError::UnknownAuthority, 1).unwrap(), Verdict::Retry);
    tokio::time::advance(FIRST_CONTACT).await;
    assert!(matches!(
        never.judge(Doing::Syncing, ServerError::UnknownAuthority, 1),
        Err(Fatal::UnknownAuthority(_))
    ));

    let (always, folder) = lifecycle("rebootstrap_mode = \"always\" rebootstrap_delay = \"1h\"", true).await;
    let mut always = with_svid(always, 60).await;
    assert_eq!(always.judge(Doing::Syncing, ServerError::UnknownAuthority, 1).unwrap(), Verdict::Retry);
    // The start of the delay survives a restart.
    always.keeper.flush(Duration::from_secs(60)).await;
    let stored = std::fs::read_to_string(folder.path().join("agent-data.json")).unwrap();
    assert!(
        stored.contains("\"bootstrap_use\":2") && stored.contains("\"connection_attempts\":0"),
        "{stored}"
    );
    always.data.bootstrap_start_time = format_time(SystemTime::now() - Duration::from_secs(3601));
    assert_eq!(always.judge(Doing::Syncing, ServerError::UnknownAuthority, 1).unwrap(), Verdict::Rebootstrap);
    assert!(always.own.is_none() && always.bundle.is_none(), "the configured source is trusted anew");
}

#[tokio::test]
async fn auto_does_without_where_the_attestor_works_once() {
    let (mut auto, _folder) = lifecycle("rebootstrap_mode = \"auto\"", false).await;
    auto.check_mode().unwrap();
    assert_eq!(auto.mode, RebootstrapMode::Never);
    let (mut always, _folder) = lifecycle("rebootstrap_mode = \"always\"", false).await;
    assert!(matches!(always.check_mode(), Err(Fatal::Configuration(_))));
}

#[tokio::test(start_paused = true)]
async fn first_contact_with_an_unknown_authority_lasts_a_minute() {
    let (mut lifecycle, _folder) = lifecycle("", true).await;
    let start = Instant::now();
    lifecycle.judge_attestation(ServerError::UnknownAuthority, start).unwrap();
    tokio::time::advance(FIRST_CONTACT).await;
    let fatal = lifecycle.judge_attestation(ServerError::UnknownAuthority, start).unwrap_err();
    // The source keeps its type, not only its text.
    assert!(
        matches!(fatal, Fatal::Refused { source, .. } if matches!(*source, ServerError::UnknownAuthority))
    );
    assert!(lifecycle.judge_attestation(ServerError::Unreachable("down".into()), start).is_ok());
    lifecycle.mode = RebootstrapMode::Always;
    assert!(lifecycle.judge_attestation(ServerError::UnknownAuthority, start).is_ok());
}
