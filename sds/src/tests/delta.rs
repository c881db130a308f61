//! Tests of the state machine, by differences.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::google::protobuf::Any;
use identity::WorkloadUpdate;
use proptest::prelude::*;
use prost::Message as _;

use super::{DB, WEB, identity, names, svid, update, wall, with_foreign};
use crate::machine::{ACK_PATIENCE, Machine, Next, Push, RequestKind, fetch};
use crate::secret::Secrets;
use crate::wire::{DeltaDiscoveryRequest, DiscoveryRequest, Protocol, Rejection, SECRET_TYPE_URL};
use crate::{Options, Refusal, UnknownNames};

fn stream(options: Options) -> Machine {
    Machine::new(Protocol::Delta, Arc::new(options), Arc::default(), 7)
}

fn subscribe<'a>(names: &[&'a str]) -> DeltaDiscoveryRequest<'a> {
    DeltaDiscoveryRequest { subscribe: names.to_vec(), ..Default::default() }
}

fn unsubscribe<'a>(names: &[&'a str]) -> DeltaDiscoveryRequest<'a> {
    DeltaDiscoveryRequest { unsubscribe: names.to_vec(), ..Default::default() }
}

fn ack(push: &Push) -> DeltaDiscoveryRequest<'_> {
    DeltaDiscoveryRequest { response_nonce: push.nonce(), ..Default::default() }
}

/// What a response says: names, versions and contents of resources, and the names of removed ones.
type Said = (Vec<(String, String, Any)>, Vec<String>);

/// Decodes a response by Envoy's definitions.
fn said(push: &Push) -> Said {
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

fn next(stream: &mut Machine, now: u64) -> Option<Push> {
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
    let mut old = stream(Options::default());
    old.delta_request(subscribe(&[WEB])).unwrap();
    old.update(both());
    let (had, _) = said(&next(&mut old, 0).unwrap());
    let mut new = stream(Options::default());
    let versions = vec![(WEB, &*had[0].1)];
    new.delta_request(DeltaDiscoveryRequest { initial_resource_versions: versions, ..subscribe(&[WEB]) })
        .unwrap();
    new.update(update(vec![identity(1, WEB, None)], 1));
    assert!(next(&mut new, 0).is_none());
    let mut gone = new;
    gone.update(both());
    assert!(next(&mut gone, 1).is_none(), "the client has this version");
    gone.update(update(vec![], 1));
    assert_eq!(moved(&mut gone, 2), (vec![], vec![WEB.into()]));
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

#[derive(Debug, Clone)]
enum Op {
    Ask(u8),
    AskAgain(u8),
    Answer { nack: bool },
    Late,
    Reconnect,
    Update { web: Option<u8>, db: Option<u8>, foreign: bool, authority: u8 },
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let serial = || prop::option::of(0u8..3);
    prop_oneof![
        2 => (1u8..32).prop_map(Op::Ask),
        1 => (0u8..32).prop_map(Op::AskAgain),
        4 => prop::bool::weighted(0.2).prop_map(|nack| Op::Answer { nack }),
        1 => Just(Op::Late),
        1 => Just(Op::Reconnect),
        4 => (serial(), serial(), any::<bool>(), 0u8..3)
            .prop_map(|(web, db, foreign, authority)| Op::Update { web, db, foreign, authority }),
        1 => (0u64..7).prop_map(Op::Pass),
    ]
}

/// A client of each protocol that asks for the same.
struct Clients {
    options: Arc<Options>,
    asked: BTreeSet<&'static str>,
    sotw: (Machine, Vec<Push>, BTreeMap<String, Vec<u8>>),
    delta: (Machine, Vec<Push>, BTreeMap<String, Versioned>),
}

/// A resource's version and content.
type Versioned = (String, Vec<u8>);

const NAMES: [&str; 5] = [WEB, DB, "ROOTCA", "spiffe://other", "spiffe://td/none"];

fn chosen(mask: u8) -> BTreeSet<&'static str> {
    (0..NAMES.len()).filter(|bit| mask & (1 << bit) != 0).map(|bit| NAMES[bit]).collect()
}

impl Clients {
    fn new(update: &Arc<WorkloadUpdate>) -> Self {
        let options = Arc::<Options>::default();
        let machine = |protocol| Machine::new(protocol, Arc::clone(&options), Arc::default(), 7);
        let (sotw, delta) = (machine(Protocol::Sotw), machine(Protocol::Delta));
        let mut clients = Self {
            asked: chosen(4),
            sotw: (sotw, Vec::new(), BTreeMap::new()),
            delta: (delta, Vec::new(), BTreeMap::new()),
            options,
        };
        clients.connect(update);
        clients
    }

    fn connect(&mut self, update: &Arc<WorkloadUpdate>) {
        let machine = |protocol| Machine::new(protocol, Arc::clone(&self.options), Arc::default(), 7);
        (self.sotw.0, self.delta.0) = (machine(Protocol::Sotw), machine(Protocol::Delta));
        (self.sotw.1, self.delta.1) = (Vec::new(), Vec::new());
        let list: Vec<&str> = self.asked.iter().copied().collect();
        self.sotw.0.request(names(&list)).unwrap();
        let versions = self.delta.2.iter().map(|(name, (version, _))| (&**name, &**version)).collect();
        let first = DeltaDiscoveryRequest { initial_resource_versions: versions, ..subscribe(&list) };
        self.delta.0.delta_request(first).unwrap();
        self.update(update);
    }

    fn update(&mut self, update: &Arc<WorkloadUpdate>) {
        self.sotw.0.update(Arc::clone(update));
        self.delta.0.update(Arc::clone(update));
    }

    fn ask(&mut self, asked: BTreeSet<&'static str>) {
        let list: Vec<&str> = asked.iter().copied().collect();
        let nonce = self.sotw.1.last().map_or("", Push::nonce);
        self.sotw.0.request(DiscoveryRequest { response_nonce: nonce, ..names(&list) }).unwrap();
        self.sotw.2.retain(|name, _| asked.contains(&**name));
        let new = asked.difference(&self.asked).copied().collect();
        let old = self.asked.difference(&asked).copied().collect();
        let request = DeltaDiscoveryRequest { subscribe: new, unsubscribe: old, ..Default::default() };
        self.delta.0.delta_request(request).unwrap();
        self.delta.2.retain(|name, _| asked.contains(&**name));
        self.asked = asked;
    }

    fn answer(&mut self, nack: bool) {
        let rejection = || nack.then(Rejection::default);
        let list: Vec<&str> = self.asked.iter().copied().collect();
        if let Some(push) = self.sotw.1.last() {
            let answer = DiscoveryRequest { error_detail: rejection(), ..super::answer(push, &list) };
            self.sotw.0.request(answer).unwrap();
        }
        if let Some(push) = self.delta.1.last() {
            let answer = DeltaDiscoveryRequest { error_detail: rejection(), ..ack(push) };
            self.delta.0.delta_request(answer).unwrap();
        }
    }

    /// Takes what the machines send at this time.
    fn take(&mut self, now: u64) {
        if let Some(push) = next(&mut self.sotw.0, now) {
            assert!(push.removed.is_empty() && !push.resources.is_empty());
            let sent = push.resources.iter();
            self.sotw.2.extend(sent.map(|encoded| (encoded.name.to_string(), encoded.resource.to_vec())));
            self.sotw.1.push(push);
        }
        let unanswered = !self.delta.0.answered();
        if let Some(push) = next(&mut self.delta.0, now) {
            assert!(!unanswered || now >= ACK_PATIENCE.as_secs(), "two unanswered responses");
            let (sent, removed) = said(&push);
            assert!(!sent.is_empty() || !removed.is_empty());
            for (name, version, any) in sent {
                self.delta.2.insert(name, (version, any.encode_to_vec()));
            }
            for name in removed {
                assert!(self.delta.2.remove(&name).is_some(), "{name} is removed without need");
            }
            self.delta.1.push(push);
        }
    }
}

proptest! {
    /// Both protocols, driven by the same history, end with the same secrets at the client. A client of the
    /// differences also has nothing that it may not have any more.
    #[test]
    fn both_protocols_end_with_the_same_secrets(ops in prop::collection::vec(op(), 1..40)) {
        let mut latest = update(vec![], 0);
        let mut clients = Clients::new(&latest);
        let mut now = 0;
        let answers = std::iter::repeat_n(Op::Answer { nack: false }, 4);
        for op in ops.into_iter().chain(answers) {
            match op {
                Op::Ask(mask) => clients.ask(chosen(mask)),
                Op::AskAgain(mask) => {
                    let again: Vec<_> = clients.asked.intersection(&chosen(mask)).copied().collect();
                    clients.delta.0.delta_request(subscribe(&again)).unwrap();
                }
                Op::Answer { nack } => clients.answer(nack),
                Op::Late => if let [.., old, _] = &*clients.delta.1 {
                    clients.delta.0.delta_request(ack(old)).unwrap();
                },
                Op::Reconnect => clients.connect(&latest),
                Op::Update { web, db, foreign, authority } => {
                    let web = web.map(|serial| identity(1, WEB, svid(WEB, serial, 60)));
                    let db = db.map(|serial| identity(2, DB, svid(DB, serial, 60)));
                    latest = update(web.into_iter().chain(db).collect(), authority);
                    if foreign {
                        latest = with_foreign(&latest);
                    }
                    clients.update(&latest);
                }
                Op::Pass(seconds) => now += seconds,
            }
            clients.take(now);
        }
        let wanted = wanted(&latest, &clients.asked);
        let has: BTreeMap<_, _> =
            clients.delta.2.iter().map(|(name, (_, secret))| (name.clone(), secret.clone())).collect();
        prop_assert_eq!(&has, &wanted);
        for (name, secret) in wanted {
            prop_assert_eq!(clients.sotw.2.get(&name), Some(&secret));
        }
    }
}

/// What a client that asks for these names must have, computed from scratch.
fn wanted(update: &WorkloadUpdate, asked: &BTreeSet<&str>) -> BTreeMap<String, Vec<u8>> {
    let fetched = asked.iter().filter_map(|name| {
        let fetched = fetch(&Options::default(), &Secrets::default(), names(&[name]), update, wall()).ok()?;
        let encoded = fetched.resources.first()?;
        Some((encoded.name.to_string(), encoded.resource.to_vec()))
    });
    fetched.collect()
}
