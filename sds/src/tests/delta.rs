//! Tests of the state machine, by differences.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::google::protobuf::Any;
use identity::WorkloadUpdate;
use prost::Message as _;

use super::{DB, WEB, identity, names, svid, update, wall, with_foreign};
use crate::machine::{ACK_PATIENCE, Machine, Next, Push, RequestKind};
use crate::wire::{DeltaDiscoveryRequest, Protocol, Rejection, SECRET_TYPE_URL};
use crate::{Options, Refusal, UnknownNames};

fn stream(options: Options) -> Machine {
    Machine::new(Protocol::Delta, Arc::new(options), Arc::default(), 7)
}

pub(super) fn subscribe<'a>(names: &[&'a str]) -> DeltaDiscoveryRequest<'a> {
    DeltaDiscoveryRequest { subscribe: names.to_vec(), ..Default::default() }
}

fn unsubscribe<'a>(names: &[&'a str]) -> DeltaDiscoveryRequest<'a> {
    DeltaDiscoveryRequest { unsubscribe: names.to_vec(), ..Default::default() }
}

pub(super) fn ack(push: &Push) -> DeltaDiscoveryRequest<'_> {
    DeltaDiscoveryRequest { response_nonce: push.nonce(), ..Default::default() }
}

/// What a response says: names, versions and contents of resources, and the names of removed ones.
pub(super) type Said = (Vec<(String, String, Any)>, Vec<String>);

/// Decodes a response by Envoy's definitions.
pub(super) fn said(push: &Push) -> Said {
    let bytes = push.frames().collect::<Vec<_>>().concat();
    assert_eq!(bytes[..5], [&[0], &(bytes.len() as u32 - 5).to_be_bytes()[..]].concat());
    let response = discovery::DeltaDiscoveryResponse::decode(&bytes[5..]).unwrap();
    assert_eq!((&*response.nonce, &*response.system_version_info), (push.nonce(), push.version_info()));
    assert_eq!(response.type_url, SECRET_TYPE_URL);
    let resources = response.resources.into_iter().map(|resource| {
        let inner = resource.resource.unwrap();
        assert_eq!(inner.type_url, SECRET_TYPE_URL);
        (resource.name, resource.version, inner)
    });
    (resources.collect(), response.removed_resources)
}

pub(super) fn next(stream: &mut Machine, now: u64) -> Option<Push> {
    match stream.next(Duration::from_secs(now), wall()).unwrap() {
        Next::Push(push) => Some(push),
        Next::Wait(_) => None,
    }
}

/// The names that a response sends, and those that it removes.
fn moved(stream: &mut Machine, now: u64) -> (Vec<String>, Vec<String>) {
    let push = next(stream, now).expect("a response");
    stream.delta_request(ack(&push)).unwrap();
    let (sent, removed) = said(&push);
    (sent.into_iter().map(|(name, ..)| name).collect(), removed)
}

fn both() -> Arc<WorkloadUpdate> {
    update(vec![identity(1, WEB, svid(WEB, 3, 60)), identity(2, DB, svid(DB, 4, 60))], 1)
}

/// A stream of a client that says it has the web's secret of [`both`].
fn of_a_client_that_has_web() -> Machine {
    let mut old = stream(Options::default());
    old.delta_request(subscribe(&[WEB])).unwrap();
    old.update(both());
    let (had, _) = said(&next(&mut old, 0).unwrap());
    let mut new = stream(Options::default());
    let initial_resource_versions = vec![(WEB, &*had[0].1)];
    new.delta_request(DeltaDiscoveryRequest { initial_resource_versions, ..subscribe(&[WEB]) }).unwrap();
    new
}

#[test]
fn a_resource_is_wrapped_with_its_name_and_version() {
    let mut stream = stream(Options::default());
    stream.delta_request(subscribe(&[WEB, "ROOTCA"])).unwrap();
    stream.update(both());
    let push = next(&mut stream, 0).unwrap();
    let (sent, removed) = said(&push);
    let mut sotw = Machine::new(Protocol::Sotw, Arc::default(), Arc::default(), 7);
    sotw.request(names(&[WEB, "ROOTCA"])).unwrap();
    sotw.update(both());
    let Next::Push(same) = sotw.next(Duration::ZERO, wall()).unwrap() else { panic!("no response") };
    assert_eq!((sent.len(), removed.len()), (2, 0));
    for ((name, version, any), encoded) in sent.iter().zip(&same.resources) {
        assert_eq!(**name, *encoded.name);
        assert_eq!(any.encode_to_vec(), encoded.resource, "the secret is the one of the other protocol");
        assert_eq!(version.len(), 16);
    }
}

#[test]
fn subscriptions_come_and_go() {
    let mut stream = stream(Options::default());
    assert_eq!(stream.delta_request(subscribe(&[WEB])).unwrap(), RequestKind::Asked);
    stream.update(both());
    assert_eq!(moved(&mut stream, 0), (vec![WEB.into()], vec![]));
    // Only the new one is sent.
    stream.delta_request(subscribe(&[DB])).unwrap();
    assert_eq!(moved(&mut stream, 1), (vec![DB.into()], vec![]));
    // One that is asked for again is sent again.
    stream.delta_request(subscribe(&[WEB])).unwrap();
    assert_eq!(moved(&mut stream, 2), (vec![WEB.into()], vec![]));
    stream.delta_request(unsubscribe(&[WEB, "spiffe://td/never"])).unwrap();
    stream.update(update(vec![identity(1, WEB, svid(WEB, 5, 60)), identity(2, DB, svid(DB, 6, 60))], 1));
    assert_eq!(moved(&mut stream, 3), (vec![DB.into()], vec![]));
    // Without a subscription the stream stays, silent.
    stream.delta_request(unsubscribe(&[DB])).unwrap();
    stream.update(both());
    assert!(next(&mut stream, 4).is_none());
}

#[test]
fn an_answer_and_a_subscription_in_one_request() {
    let mut stream = stream(Options::default());
    stream.delta_request(subscribe(&[WEB])).unwrap();
    stream.update(both());
    let push = next(&mut stream, 0).unwrap();
    let request = DeltaDiscoveryRequest { subscribe: vec![DB], ..ack(&push) };
    assert_eq!(stream.delta_request(request).unwrap(), RequestKind::Asked);
    assert_eq!(moved(&mut stream, 0).0, [DB]);
}

#[test]
fn a_subscription_does_not_wait_for_an_answer() {
    let mut stream = stream(Options::default());
    stream.delta_request(subscribe(&[WEB])).unwrap();
    stream.update(both());
    let first = next(&mut stream, 0).unwrap();
    stream.delta_request(subscribe(&[DB])).unwrap();
    let second = next(&mut stream, 0).unwrap();
    assert_eq!(second.resources.len(), 1);
    // The answer to the first comes late. It is not one to the second.
    assert_eq!(stream.delta_request(ack(&first)).unwrap(), RequestKind::Ack);
    assert!(!stream.answered());
    stream.delta_request(ack(&second)).unwrap();
    assert!(stream.answered());
}

#[test]
fn everything_is_subscribed_to_by_a_star_or_by_no_name() {
    let everything = with_foreign(&both());
    let all = ["spiffe://another", "spiffe://other", "spiffe://td", DB, WEB];
    for list in [&[][..], &[""], &["*"]] {
        let mut stream = stream(Options::default());
        stream.delta_request(subscribe(list)).unwrap();
        stream.update(Arc::clone(&everything));
        assert_eq!(moved(&mut stream, 0).0, all);
        // An alias besides.
        stream.delta_request(subscribe(&["default"])).unwrap();
        assert_eq!(moved(&mut stream, 0).0, ["default"]);
        // What is gone is removed, under each of its names.
        stream.update(update(vec![], 1));
        let gone = ["default", "spiffe://another", "spiffe://other", DB, WEB];
        assert_eq!(moved(&mut stream, 1), (vec![], gone.map(String::from).to_vec()));
        stream.delta_request(unsubscribe(&["*"])).unwrap();
        stream.update(Arc::clone(&everything));
        assert_eq!(moved(&mut stream, 2).0, ["default"]);
        stream.delta_request(subscribe(&["*"])).unwrap();
        assert_eq!(moved(&mut stream, 3).0.len(), all.len() + 1);
    }
}

#[test]
fn what_is_gone_is_removed_and_comes_back() {
    let mut stream = stream(Options::default());
    stream.delta_request(subscribe(&[WEB, "spiffe://other"])).unwrap();
    stream.update(with_foreign(&both()));
    assert_eq!(moved(&mut stream, 0).0.len(), 2);
    stream.update(update(vec![], 1));
    let gone = vec!["spiffe://other".to_owned(), WEB.to_owned()];
    assert_eq!(moved(&mut stream, 1), (vec![], gone.clone()));
    assert_eq!(stream.unresolved().len(), 2);
    assert!(next(&mut stream, 2).is_none());
    // The same secrets are sent again, because the client has dropped them.
    stream.update(with_foreign(&both()));
    assert_eq!(moved(&mut stream, 3), (gone, vec![]));
}

#[test]
fn what_was_never_there_is_waited_for_in_silence() {
    let mut stream = stream(Options::default());
    stream.delta_request(subscribe(&[WEB, "nonsense"])).unwrap();
    stream.update(update(vec![], 1));
    assert!(next(&mut stream, 0).is_none());
    assert_eq!(stream.unresolved().collect::<Vec<_>>(), ["nonsense", WEB]);
    stream.update(both());
    assert_eq!(moved(&mut stream, 1).0, [WEB]);
}

#[test]
fn an_svid_that_has_expired_or_is_not_minted_is_not_removed() {
    let mut stream = stream(Options::default());
    stream.delta_request(subscribe(&[WEB, DB])).unwrap();
    stream.update(both());
    moved(&mut stream, 0);
    stream.update(update(vec![identity(1, WEB, svid(WEB, 3, 0)), identity(2, DB, None)], 1));
    assert!(next(&mut stream, 1).is_none());
}

#[test]
fn a_client_that_comes_back_is_sent_what_is_different() {
    let mut old = stream(Options::default());
    let list = [WEB, DB, "ROOTCA", "spiffe://other"];
    old.delta_request(subscribe(&list)).unwrap();
    old.update(with_foreign(&both()));
    let (had, _) = said(&next(&mut old, 0).unwrap());
    let versions: Vec<_> = had.iter().map(|(name, version, _)| (&**name, &**version)).collect();
    assert_eq!(versions.len(), 4);
    // The new stream finds another SVID for the database, and neither the web's entry nor the federation. Its version of
    // the roots is not one of ours, and a name that it does not want does not count.
    let mut foreign = versions.clone();
    foreign.extend([("ROOTCA", "7"), ("spiffe://td/unwanted", "1")]);
    foreign.retain(|(name, version)| *name != "ROOTCA" || *version == "7");
    let rotated = update(vec![identity(2, DB, svid(DB, 9, 60))], 1);
    for (versions, sent) in [(versions, vec![DB]), (foreign, vec!["ROOTCA", DB])] {
        let mut new = stream(Options::default());
        let initial = DeltaDiscoveryRequest { initial_resource_versions: versions, ..subscribe(&list) };
        new.delta_request(initial).unwrap();
        new.update(Arc::clone(&rotated));
        let gone = vec!["spiffe://other".to_owned(), WEB.to_owned()];
        assert_eq!(moved(&mut new, 0), (sent.iter().map(ToString::to_string).collect(), gone));
        assert!(next(&mut new, 1).is_none());
    }
}

#[test]
fn versions_of_a_client_wait_for_an_svid_that_is_not_minted_yet() {
    let mut new = of_a_client_that_has_web();
    new.update(update(vec![identity(1, WEB, None)], 1));
    assert!(next(&mut new, 0).is_none());
    new.update(both());
    assert!(next(&mut new, 1).is_none(), "the client has this version");
    new.update(update(vec![], 1));
    assert_eq!(moved(&mut new, 2), (vec![], vec![WEB.into()]));
}

#[test]
fn a_nack_is_told_and_not_answered() {
    let mut stream = stream(Options::default());
    stream.delta_request(subscribe(&["ROOTCA"])).unwrap();
    stream.update(both());
    let push = next(&mut stream, 0).unwrap();
    let rejection = Rejection { code: 13, message: "failed to load trusted CA".into() };
    let nack = DeltaDiscoveryRequest { error_detail: Some(rejection), ..ack(&push) };
    let kind = stream.delta_request(nack).unwrap();
    assert_eq!(kind, RequestKind::Nack("failed to load trusted CA".into()));
    assert!(next(&mut stream, 1).is_none());
    stream.update(update(vec![], 2));
    assert!(next(&mut stream, 2).is_some());
}

#[test]
fn one_unanswered_response_and_the_latest_state_wins() {
    let mut stream = stream(Options::default());
    stream.delta_request(subscribe(&["ROOTCA"])).unwrap();
    stream.update(update(vec![], 1));
    let first = next(&mut stream, 0).unwrap();
    for authority in 2..5 {
        stream.update(update(vec![], authority));
        assert!(next(&mut stream, 1).is_none());
    }
    stream.delta_request(ack(&first)).unwrap();
    assert!(next(&mut stream, 2).is_some());
    stream.update(update(vec![], 5));
    assert!(next(&mut stream, 3).is_none());
    assert!(next(&mut stream, 2 + ACK_PATIENCE.as_secs()).is_some());
}

#[test]
fn unknown_names_can_be_rejected() {
    let mut stream = stream(Options { unknown_names: UnknownNames::Reject, ..Options::default() });
    stream.delta_request(subscribe(&["spiffe://td", WEB])).unwrap();
    stream.update(update(vec![], 1));
    let refusal = stream.next(Duration::ZERO, wall()).unwrap_err();
    assert_eq!(refusal, Refusal::NotAuthorized(vec![WEB.into()]));
}

#[test]
fn names_of_a_stream_are_limited_together() {
    let mut stream = stream(Options::default());
    let many: Vec<String> = (0..4_000).map(|n| format!("spiffe://td/{n}")).collect();
    let refused = many.chunks(100).find_map(|chunk| {
        let list: Vec<_> = chunk.iter().map(String::as_str).collect();
        stream.delta_request(subscribe(&list)).err()
    });
    assert!(matches!(refused, Some(Refusal::TooManyNames { .. })), "{refused:?}");
    let versions = many.iter().map(|name| (&**name, "1")).collect();
    let claims = DeltaDiscoveryRequest { initial_resource_versions: versions, ..Default::default() };
    let refused = self::stream(Options::default()).delta_request(claims);
    assert!(matches!(refused, Err(Refusal::TooManyNames { .. })));
}

#[test]
fn what_is_asked_for_again_is_sent_again_whatever_the_client_had() {
    let mut new = of_a_client_that_has_web();
    new.update(update(vec![identity(1, WEB, None)], 1));
    assert!(next(&mut new, 0).is_none(), "it is not minted yet");
    new.delta_request(subscribe(&[WEB])).unwrap();
    new.update(both());
    assert_eq!(moved(&mut new, 1).0, [WEB]);
}

#[test]
fn what_is_unsubscribed_below_a_wildcard_is_sent_again_or_removed() {
    let mut stream = stream(Options::default());
    stream.delta_request(subscribe(&["*", "default", WEB])).unwrap();
    stream.update(both());
    assert_eq!(moved(&mut stream, 0).0, ["default", "spiffe://td", DB, WEB]);
    stream.delta_request(unsubscribe(&["default", WEB])).unwrap();
    assert_eq!(moved(&mut stream, 1), (vec![WEB.into()], vec!["default".into()]));
    assert!(next(&mut stream, 2).is_none());
}

#[test]
fn what_a_wildcard_does_not_cover_is_removed_at_a_client_that_says_it_has_it() {
    let mut stream = stream(Options::default());
    let names = ["default", "jwt-svid?x", "jwt-svid?audience=a", "spiffe://td/gone"];
    let versions = names.iter().map(|name| (*name, "1")).collect();
    stream
        .delta_request(DeltaDiscoveryRequest { initial_resource_versions: versions, ..subscribe(&["*"]) })
        .unwrap();
    stream.update(both());
    let mut expected = names.map(String::from).to_vec();
    expected.sort();
    assert_eq!(moved(&mut stream, 0).1, expected);
    assert_eq!(stream.names(), 0, "nothing is kept of it");
}

#[test]
fn nothing_is_removed_while_an_attestor_is_away() {
    let mut stream = stream(Options::default());
    stream.delta_request(subscribe(&[WEB])).unwrap();
    stream.update(both());
    moved(&mut stream, 0);
    stream.may_remove(false);
    stream.update(update(vec![], 1));
    assert!(next(&mut stream, 1).is_none());
    stream.may_remove(true);
    stream.update(update(vec![], 1));
    assert_eq!(moved(&mut stream, 2).1, [WEB]);
}
