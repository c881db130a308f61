//! Tests of the state machine, by state of the world.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use identity::{Bundle, PrivateKey, TrustDomain, WorkloadUpdate};
use proptest::prelude::*;
use prost::Message as _;

use super::{DB, WEB, answer, identity, names, svid, update, wall, with_foreign};
use crate::machine::{ACK_PATIENCE, Machine, Next, Push, RequestKind, fetch};
use crate::secret::Secrets;
use crate::wire::{
    BuildVersion, DiscoveryRequest, Kind, Metadata, MetadataEntry, Node, Protocol, Rejection,
    SECRET_TYPE_URL, SemanticVersion, Value,
};
use crate::{Options, Refusal, UnknownNames};

fn stream(options: Options) -> Machine {
    Machine::new(Protocol::Sotw, Arc::new(options), Arc::default(), 7)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn pushed(stream: &mut Machine, now: u64) -> Push {
    match stream.next(at(now), wall()) {
        Ok(Next::Push(push)) => push,
        other => panic!("no push: {other:?}"),
    }
}

fn silent(stream: &mut Machine, now: u64) -> Option<Duration> {
    match stream.next(at(now), wall()) {
        Ok(Next::Wait(until)) => until,
        other => panic!("not silent: {other:?}"),
    }
}

/// The secrets of a push, decoded by Envoy's definitions.
fn secrets(push: &Push) -> Vec<tls::Secret> {
    let bytes = push.frames().collect::<Vec<_>>().concat();
    assert_eq!(bytes[..5], [&[0], &(bytes.len() as u32 - 5).to_be_bytes()[..]].concat());
    let response = discovery::DiscoveryResponse::decode(&bytes[5..]).unwrap();
    assert_eq!((&*response.nonce, &*response.version_info), (push.nonce(), push.version_info()));
    let decode = |any: &envoy_types::pb::google::protobuf::Any| {
        assert_eq!(any.type_url, SECRET_TYPE_URL);
        tls::Secret::decode(&*any.value).unwrap()
    };
    response.resources.iter().map(decode).collect()
}

fn secret_names(push: &Push) -> Vec<String> {
    secrets(push).into_iter().map(|secret| secret.name).collect()
}

fn inline(source: Option<envoy_types::pb::envoy::config::core::v3::DataSource>) -> String {
    use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
    match source.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).unwrap(),
        other => panic!("not inline bytes: {other:?}"),
    }
}

fn validation_context(secret: tls::Secret) -> tls::CertificateValidationContext {
    match secret.r#type {
        Some(tls::secret::Type::ValidationContext(context)) => context,
        other => panic!("not a validation context: {other:?}"),
    }
}

#[test]
fn the_certificate_is_what_envoy_reads() {
    let mut stream = stream(Options::default());
    stream.request(names(&[WEB])).unwrap();
    stream.update(update(vec![identity(1, WEB, svid(WEB, 3, 60))], 1));
    let push = pushed(&mut stream, 0);
    assert_eq!(push.type_url, SECRET_TYPE_URL);
    let secret = secrets(&push).remove(0);
    assert_eq!(secret.name, WEB);
    let Some(tls::secret::Type::TlsCertificate(certificate)) = secret.r#type else {
        panic!("not a certificate")
    };
    let expected = tls::TlsCertificate {
        certificate_chain: certificate.certificate_chain.clone(),
        private_key: certificate.private_key.clone(),
        ..tls::TlsCertificate::default()
    };
    assert_eq!(certificate, expected, "nothing but chain and key is set");
    let chain = pem_contents(&inline(certificate.certificate_chain));
    assert_eq!(chain, vec![3; 8]);
    let key = inline(certificate.private_key);
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(pem_contents(&key), vec![3; 40]);
}

fn pem_contents(text: &str) -> Vec<u8> {
    use x509_parser::pem::Pem;
    Pem::read(std::io::Cursor::new(text)).unwrap().0.contents
}

#[test]
fn validation_by_trust_domain_or_by_plain_roots() {
    let all = with_foreign(&update(vec![], 1));
    let mut by_domain = stream(Options::default());
    by_domain.request(names(&["spiffe://td"])).unwrap();
    by_domain.update(Arc::clone(&all));
    let context = validation_context(secrets(&pushed(&mut by_domain, 0)).remove(0));
    assert!(context.trusted_ca.is_none() && context.match_typed_subject_alt_names.is_empty());
    let validator = context.custom_validator_config.unwrap();
    assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
    let config = tls::SpiffeCertValidatorConfig::decode(&*validator.typed_config.unwrap().value).unwrap();
    assert_eq!(config.trust_domains.len(), 1);
    assert_eq!(config.trust_domains[0].name, "td");

    let mut plain = stream(Options { disable_spiffe_cert_validation: true, ..Options::default() });
    plain.request(names(&["ROOTCA"])).unwrap();
    plain.update(all);
    let secret = secrets(&pushed(&mut plain, 0)).remove(0);
    assert_eq!(secret.name, "ROOTCA");
    let context = validation_context(secret);
    let expected = tls::CertificateValidationContext {
        trusted_ca: context.trusted_ca.clone(),
        ..tls::CertificateValidationContext::default()
    };
    assert_eq!(context, expected, "nothing but the roots is set");
    assert_eq!(pem_contents(&inline(context.trusted_ca)), vec![1; 4]);
}

#[test]
fn each_name_is_judged_for_itself() {
    let mut stream = stream(Options::default());
    let list = [WEB, "default", "spiffe://td", "ROOTCA", "ALL", "spiffe://other"];
    stream.request(names(&list)).unwrap();
    stream.update(with_foreign(&update(
        vec![identity(1, WEB, svid(WEB, 3, 60)), identity(2, DB, svid(DB, 4, 60))],
        1,
    )));
    let push = pushed(&mut stream, 0);
    let mut expected: Vec<_> = list.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(secret_names(&push), expected);
    let all = secrets(&push).into_iter().find(|secret| secret.name == "ALL").unwrap();
    let config = validation_context(all).custom_validator_config.unwrap().typed_config.unwrap();
    let config = tls::SpiffeCertValidatorConfig::decode(&*config.value).unwrap();
    let domains: Vec<_> = config.trust_domains.iter().map(|domain| &*domain.name).collect();
    assert_eq!(domains, ["another", "other", "td"]);
}

#[test]
fn an_empty_list_means_everything() {
    let everything =
        with_foreign(&update(vec![identity(1, WEB, svid(WEB, 3, 60)), identity(2, DB, svid(DB, 4, 60))], 1));
    for list in [&[][..], &[""][..]] {
        let mut stream = stream(Options::default());
        stream.request(names(list)).unwrap();
        stream.update(Arc::clone(&everything));
        let expected = ["spiffe://another", "spiffe://other", "spiffe://td", DB, WEB];
        assert_eq!(secret_names(&pushed(&mut stream, 0)), expected);
    }
}

#[test]
fn an_empty_foreign_bundle_does_not_spoil_all() {
    let mut with_empty = (*with_foreign(&update(vec![], 1))).clone();
    let empty = TrustDomain::parse("other").unwrap();
    with_empty.federated.insert(empty.clone(), Arc::new(Bundle::of_x509(empty, [])));
    let mut stream = stream(Options::default());
    stream.request(names(&["ALL"])).unwrap();
    stream.update(Arc::new(with_empty));
    let context = validation_context(secrets(&pushed(&mut stream, 0)).remove(0));
    let config = context.custom_validator_config.unwrap().typed_config.unwrap();
    let config = tls::SpiffeCertValidatorConfig::decode(&*config.value).unwrap();
    let domains: Vec<_> = config.trust_domains.iter().map(|domain| &*domain.name).collect();
    assert_eq!(domains, ["another", "td"]);
}

fn node(minor: Option<u32>, kind: Option<Kind>) -> Option<Node> {
    let value = Some(Value { kind });
    let entry = MetadataEntry { key: "disable_spiffe_cert_validation".into(), value };
    let version = minor.map(|minor_number| BuildVersion {
        version: Some(SemanticVersion { major_number: 1, minor_number }),
    });
    Some(Node { metadata: Some(Metadata { fields: vec![entry] }), user_agent_build_version: version })
}

fn uses_validator(options: Options, node: Option<Node>) -> bool {
    let mut stream = stream(options);
    stream.request(DiscoveryRequest { node, ..names(&["ROOTCA"]) }).unwrap();
    stream.update(update(vec![], 1));
    validation_context(secrets(&pushed(&mut stream, 0)).remove(0)).custom_validator_config.is_some()
}

#[test]
fn an_envoy_says_how_it_validates() {
    let off = || Options { disable_spiffe_cert_validation: true, ..Options::default() };
    assert!(uses_validator(Options::default(), None));
    assert!(uses_validator(Options::default(), node(Some(18), None)));
    assert!(!uses_validator(Options::default(), node(Some(17), None)));
    assert!(!uses_validator(Options::default(), node(Some(40), Some(Kind::Bool(true)))));
    assert!(!uses_validator(Options::default(), node(None, Some(Kind::Text("t".into())))));
    assert!(uses_validator(Options::default(), node(None, Some(Kind::Text("yes".into())))));
    assert!(!uses_validator(off(), node(Some(40), None)));
    assert!(uses_validator(off(), node(Some(40), Some(Kind::Bool(false)))));
}

#[test]
fn what_an_envoy_said_first_counts_for_the_stream() {
    let mut stream = stream(Options::default());
    stream.request(DiscoveryRequest { node: node(Some(17), None), ..names(&["ROOTCA"]) }).unwrap();
    stream.update(update(vec![], 1));
    let first = pushed(&mut stream, 0);
    // SPIRE issue 4608: an ACK without a node must not turn the validator on.
    assert_eq!(stream.request(answer(&first, &["ROOTCA"])).unwrap(), RequestKind::Ack);
    stream.update(update(vec![], 2));
    let context = validation_context(secrets(&pushed(&mut stream, 1)).remove(0));
    assert!(context.custom_validator_config.is_none());
}

#[test]
fn all_needs_the_validator() {
    let mut stream = stream(Options { disable_spiffe_cert_validation: true, ..Options::default() });
    stream.request(names(&["ALL"])).unwrap();
    stream.update(update(vec![], 1));
    let refusal = stream.next(at(0), wall()).unwrap_err();
    assert_eq!(refusal.to_string(), "unable to use \"SPIFFE validator\" on Envoy below 1.17");
}

#[test]
fn unknown_names_are_held_and_the_rest_is_sent() {
    let mut stream = stream(Options::default());
    stream.request(names(&[WEB, "spiffe://td", "nonsense"])).unwrap();
    stream.update(update(vec![], 1));
    let first = pushed(&mut stream, 0);
    assert_eq!(secret_names(&first), ["spiffe://td"]);
    let waiting: Vec<_> = stream.unresolved().collect();
    assert_eq!(waiting, ["nonsense", WEB]);
    stream.request(answer(&first, &[WEB, "spiffe://td", "nonsense"])).unwrap();
    assert_eq!(silent(&mut stream, 1), None);
    stream.update(update(vec![identity(1, WEB, svid(WEB, 3, 60))], 1));
    // Only the new resource is sent, because the client has the bundle.
    assert_eq!(secret_names(&pushed(&mut stream, 2)), [WEB]);
}

#[test]
fn a_stream_with_nothing_but_unknown_names_stays_silent() {
    let mut stream = stream(Options::default());
    stream.request(names(&[WEB])).unwrap();
    stream.update(update(vec![], 1));
    assert_eq!(silent(&mut stream, 0), None);
}

#[test]
fn unknown_names_are_rejected_as_spire_agent_does() {
    let mut stream = stream(Options { unknown_names: UnknownNames::Reject, ..Options::default() });
    stream.request(names(&["spiffe://td/b", "spiffe://td/a", "spiffe://td"])).unwrap();
    stream.update(update(vec![], 1));
    let refusal = stream.next(at(0), wall()).unwrap_err();
    let expected =
        "workload is not authorized for the requested identities [\"spiffe://td/a\" \"spiffe://td/b\"]";
    assert_eq!(refusal.to_string(), expected);
}

#[test]
fn an_entry_deleted_under_a_stream_is_silence() {
    let mut stream = stream(Options::default());
    stream.request(names(&[WEB])).unwrap();
    stream.update(update(vec![identity(1, WEB, svid(WEB, 3, 60))], 1));
    let push = pushed(&mut stream, 0);
    stream.request(answer(&push, &[WEB])).unwrap();
    stream.update(update(vec![], 1));
    assert_eq!(silent(&mut stream, 1), None);
    assert_eq!(stream.unresolved().len(), 1);
    // The identity is back with the same certificate, which the client still has.
    stream.update(update(vec![identity(1, WEB, svid(WEB, 3, 60))], 1));
    assert_eq!(silent(&mut stream, 2), None);
}

#[test]
fn a_bundle_stream_hears_nothing_of_an_svids_rotation() {
    let mut stream = stream(Options::default());
    stream.request(names(&["spiffe://td"])).unwrap();
    stream.update(update(vec![identity(1, WEB, svid(WEB, 3, 60))], 1));
    let push = pushed(&mut stream, 0);
    stream.request(answer(&push, &["spiffe://td"])).unwrap();
    stream.update(update(vec![identity(1, WEB, svid(WEB, 4, 60))], 1));
    assert_eq!(silent(&mut stream, 1), None);
    stream.update(update(vec![identity(1, WEB, svid(WEB, 4, 60))], 2));
    let next = pushed(&mut stream, 2);
    assert_ne!(next.version_info(), push.version_info());
    assert_ne!(next.nonce(), push.nonce());
}

#[test]
fn equal_content_has_an_equal_version_on_every_stream_and_no_key_in_it() {
    let version = |serial, key: u8| {
        let mut stream = stream(Options::default());
        let mut svid = (*svid(WEB, serial, 60).unwrap()).clone();
        svid.key = PrivateKey::from_pkcs8(vec![key; 40]);
        stream.request(names(&[WEB])).unwrap();
        stream.update(update(vec![identity(1, WEB, Some(Arc::new(svid)))], 1));
        pushed(&mut stream, 0).version_info().to_owned()
    };
    assert_eq!(version(3, 1), version(3, 2));
    assert_ne!(version(3, 1), version(4, 1));
}

#[test]
fn the_version_in_a_first_request_does_not_count() {
    let mut stream = stream(Options::default());
    stream.update(update(vec![], 1));
    stream.request(DiscoveryRequest { version_info: "anything", ..names(&["ROOTCA"]) }).unwrap();
    pushed(&mut stream, 0);
}

#[test]
fn one_unanswered_response_and_the_latest_state_wins() {
    let mut stream = stream(Options::default());
    stream.request(names(&[WEB])).unwrap();
    stream.update(update(vec![identity(1, WEB, svid(WEB, 3, 60))], 1));
    let first = pushed(&mut stream, 0);
    for serial in 4..9 {
        stream.update(update(vec![identity(1, WEB, svid(WEB, serial, 60))], 1));
        assert_eq!(silent(&mut stream, 1), Some(ACK_PATIENCE));
    }
    stream.request(answer(&first, &[WEB])).unwrap();
    let Some(tls::secret::Type::TlsCertificate(certificate)) =
        secrets(&pushed(&mut stream, 2)).remove(0).r#type
    else {
        panic!("not a certificate")
    };
    assert_eq!(pem_contents(&inline(certificate.certificate_chain)), vec![8; 8]);
    assert_eq!(silent(&mut stream, 3), None);
}

#[test]
fn a_client_that_never_acks_gets_the_newest_after_five_seconds() {
    let mut stream = stream(Options::default());
    stream.request(names(&["ROOTCA"])).unwrap();
    stream.update(update(vec![], 1));
    pushed(&mut stream, 0);
    stream.update(update(vec![], 2));
    assert_eq!(silent(&mut stream, 4), Some(at(5)));
    pushed(&mut stream, 5);
    assert_eq!(silent(&mut stream, 6), None);
}

#[test]
fn a_nack_is_told_and_not_answered() {
    let mut stream = stream(Options::default());
    stream.request(names(&["ROOTCA"])).unwrap();
    stream.update(update(vec![], 1));
    let push = pushed(&mut stream, 0);
    let rejection = Rejection { code: 13, message: "failed to load trusted CA".into() };
    let nack =
        DiscoveryRequest { version_info: "", error_detail: Some(rejection), ..answer(&push, &["ROOTCA"]) };
    assert_eq!(stream.request(nack).unwrap(), RequestKind::Nack("failed to load trusted CA".into()));
    assert_eq!(silent(&mut stream, 1), None);
    stream.update(update(vec![], 2));
    pushed(&mut stream, 2);
}

#[test]
fn a_nonce_from_before_is_ignored() {
    let mut stream = stream(Options::default());
    stream.request(names(&["ROOTCA"])).unwrap();
    stream.update(update(vec![], 1));
    let first = pushed(&mut stream, 0);
    stream.request(answer(&first, &["ROOTCA"])).unwrap();
    stream.update(update(vec![], 2));
    let second = pushed(&mut stream, 1);
    for replay in [answer(&first, &[WEB]), names(&[WEB])] {
        assert_eq!(stream.request(replay).unwrap(), RequestKind::Stale { expected: second.nonce().into() });
    }
    assert!(!stream.answered());
    assert_eq!(stream.request(answer(&second, &["ROOTCA"])).unwrap(), RequestKind::Ack);
}

#[test]
fn other_names_are_answered_in_full() {
    let mut stream = stream(Options::default());
    stream.request(names(&["ROOTCA"])).unwrap();
    stream.update(update(vec![identity(1, WEB, svid(WEB, 3, 60))], 1));
    let push = pushed(&mut stream, 0);
    assert_eq!(stream.request(answer(&push, &["ROOTCA", WEB])).unwrap(), RequestKind::Asked);
    assert_eq!(secret_names(&pushed(&mut stream, 1)), ["ROOTCA", WEB]);
}

#[test]
fn an_expired_svid_is_never_sent_anew() {
    let expired = update(vec![identity(1, WEB, svid(WEB, 3, 0))], 1);
    let mut new = stream(Options::default());
    new.request(names(&[WEB])).unwrap();
    new.update(Arc::clone(&expired));
    assert_eq!(new.next(at(0), wall()).unwrap_err(), Refusal::Expired { spiffe_id: WEB.into() });

    let mut held = stream(Options::default());
    held.request(names(&[WEB])).unwrap();
    held.update(update(vec![identity(1, WEB, svid(WEB, 2, 60))], 1));
    let push = pushed(&mut held, 0);
    held.request(answer(&push, &[WEB])).unwrap();
    held.update(expired);
    assert_eq!(silent(&mut held, 1), None);
}

#[test]
fn one_bad_svid_does_not_block_the_others() {
    let mixed = update(
        vec![identity(1, WEB, svid(WEB, 3, 0)), identity(2, DB, None), identity(3, DB, svid(DB, 4, 60))],
        1,
    );
    let mut stream = stream(Options::default());
    stream.request(names(&[])).unwrap();
    stream.update(Arc::clone(&mixed));
    assert_eq!(secret_names(&pushed(&mut stream, 0)), ["spiffe://td", DB]);
    let one_shot =
        |list: &[&str]| fetch(&Options::default(), &Secrets::default(), names(list), &mixed, wall());
    assert_eq!(secret_names(&one_shot(&[]).unwrap()), ["spiffe://td", DB]);
    // Two entries grant this ID; the first has no SVID yet.
    assert_eq!(secret_names(&one_shot(&[DB]).unwrap()), [DB]);
    assert!(matches!(one_shot(&[WEB]), Err(Refusal::Expired { .. })));
}

#[test]
fn an_svid_that_is_granted_and_not_minted_is_waited_for() {
    let mut stream = stream(Options { unknown_names: UnknownNames::Reject, ..Options::default() });
    stream.request(names(&[WEB])).unwrap();
    stream.update(update(vec![identity(1, WEB, None)], 1));
    assert_eq!(silent(&mut stream, 0), None);
    stream.update(update(vec![identity(1, WEB, svid(WEB, 1, 60))], 1));
    assert_eq!(secret_names(&pushed(&mut stream, 1)), [WEB]);
}

#[test]
fn fetching_answers_in_full_or_not_at_all() {
    let some = update(vec![identity(1, WEB, svid(WEB, 1, 60)), identity(2, DB, None)], 1);
    let fetch = |list: &[&str]| fetch(&Options::default(), &Secrets::default(), names(list), &some, wall());
    let push = fetch(&[WEB, "ROOTCA"]).unwrap();
    assert_eq!((push.version_info(), push.nonce()), ("", ""));
    assert_eq!(secret_names(&push), ["ROOTCA", WEB]);
    assert!(matches!(fetch(&["spiffe://td/x", WEB]), Err(Refusal::NotAuthorized(_))));
    assert!(matches!(fetch(&[DB]), Err(Refusal::NotMinted { .. })));
}

#[test]
fn a_flood_of_names_is_refused() {
    let mut stream = stream(Options::default());
    let long = "x".repeat(100);
    assert!(matches!(stream.request(names(&vec![&*long; 10_000])), Err(Refusal::TooManyNames { .. })));
    assert!(matches!(stream.request(names(&vec![""; 100_000])), Err(Refusal::TooManyNames { .. })));
}

#[test]
fn a_type_url_is_echoed_and_limited() {
    let mut stream = stream(Options::default());
    let long = "t".repeat(60_000);
    let refused = stream.request(DiscoveryRequest { type_url: &long, ..names(&["ROOTCA"]) });
    assert!(matches!(refused, Err(Refusal::LongTypeUrl { .. })));
    let before = stream.kept();
    stream.request(DiscoveryRequest { type_url: &long[..200], ..names(&["ROOTCA"]) }).unwrap();
    assert!(stream.kept() >= before + 200);
    stream.update(update(vec![], 1));
    assert_eq!(pushed(&mut stream, 0).type_url, long[..200]);
}

#[test]
fn secrets_are_encoded_once_and_shared() {
    let shared = Arc::new(Secrets::default());
    let one = update(vec![identity(1, WEB, svid(WEB, 3, 60))], 1);
    let mut streams = [0, 1].map(|salt| {
        let mut stream = Machine::new(Protocol::Sotw, Arc::default(), Arc::clone(&shared), salt);
        stream.request(names(&[WEB])).unwrap();
        stream.update(Arc::clone(&one));
        stream
    });
    let [a, b] = streams.each_mut().map(|stream| pushed(stream, 0).resources.remove(0));
    assert!(Arc::ptr_eq(&a, &b));
}

#[derive(Debug, Clone)]
enum Op {
    Ask(u8),
    Ack,
    Nack,
    Replay(usize),
    Update { web: Option<u8>, db: Option<u8>, authority: u8 },
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => (0u8..16).prop_map(Op::Ask),
        4 => Just(Op::Ack),
        1 => Just(Op::Nack),
        1 => (0usize..4).prop_map(Op::Replay),
        4 => (prop::option::of(0u8..3), prop::option::of(0u8..3), 0u8..3)
            .prop_map(|(web, db, authority)| Op::Update { web, db, authority }),
        1 => (0u64..7).prop_map(Op::Pass),
    ]
}

proptest! {
    /// After any sequence of events at most one response is unanswered (or patience has run out), no push is without
    /// news, and a client that answers everything has the latest state of all that it asked for.
    #[test]
    fn any_sequence_of_events_ends_with_the_latest_state(ops in prop::collection::vec(op(), 1..40)) {
        let mut stream = stream(Options::default());
        let all = [WEB, DB, "ROOTCA", "spiffe://td/none"];
        let mut asked: Vec<&str> = vec!["ROOTCA"];
        let mut now = 0;
        let mut pushes: Vec<Push> = Vec::new();
        let mut held = std::collections::BTreeMap::new();
        let mut latest = update(vec![], 0);
        stream.request(names(&asked)).unwrap();
        stream.update(Arc::clone(&latest));
        let ops = ops.into_iter().chain([Op::Ack, Op::Ack, Op::Ack]);
        for op in ops {
            match op {
                Op::Ask(mask) => {
                    asked = (0..4).filter(|bit| mask & (1 << bit) != 0).map(|bit| all[bit]).collect();
                    let request = pushes.last().map_or_else(|| names(&asked), |push| answer(push, &asked));
                    stream.request(request).unwrap();
                }
                Op::Ack | Op::Nack => if let Some(push) = pushes.last() {
                    let rejection = matches!(op, Op::Nack).then(Rejection::default);
                    stream.request(DiscoveryRequest { error_detail: rejection, ..answer(push, &asked) }).unwrap();
                },
                Op::Replay(back) => if pushes.len() > back + 1 {
                    let old = &pushes[pushes.len() - back - 2];
                    let stale = matches!(stream.request(answer(old, &[])).unwrap(), RequestKind::Stale { .. });
                    prop_assert!(stale);
                },
                Op::Update { web, db, authority } => {
                    let web = web.map(|serial| identity(1, WEB, svid(WEB, serial, 60)));
                    let db = db.map(|serial| identity(2, DB, svid(DB, serial, 60)));
                    latest = update(web.into_iter().chain(db).collect(), authority);
                    stream.update(Arc::clone(&latest));
                }
                Op::Pass(seconds) => now += seconds,
            }
            let unanswered = !stream.answered();
            let before = pushes.len();
            while let Next::Push(push) = stream.next(at(now), wall()).unwrap() {
                for secret in secrets(&push) {
                    held.insert(secret.name.clone(), secret);
                }
                pushes.push(push);
            }
            prop_assert!(pushes.len() <= before + 1);
            if unanswered && pushes.len() > before {
                prop_assert!(now >= ACK_PATIENCE.as_secs());
            }
        }
        let wanted = fetch_all(&latest, &asked);
        for (name, secret) in wanted {
            prop_assert_eq!(held.get(&name), Some(&secret));
        }
    }
}

/// What a client that asks for these names must have, computed from scratch.
fn fetch_all(update: &WorkloadUpdate, asked: &[&str]) -> Vec<(String, tls::Secret)> {
    let known = |name: &&&str| {
        **name == "ROOTCA" || update.identities.iter().any(|i| i.entry.spiffe_id.as_str() == **name)
    };
    let list: Vec<&str> = asked.iter().filter(known).copied().collect();
    if list.is_empty() && !asked.is_empty() {
        return vec![];
    }
    let push = fetch(&Options::default(), &Secrets::default(), names(&list), update, wall()).unwrap();
    secrets(&push).into_iter().map(|secret| (secret.name.clone(), secret)).collect()
}
