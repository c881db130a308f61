//! Both protocols, driven by the same random history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use identity::WorkloadUpdate;
use proptest::prelude::*;
use prost::Message as _;

use super::delta::{ack, next, said, subscribe};
use super::{DB, WEB, identity, names, svid, update, wall, with_foreign};
use crate::Options;
use crate::machine::{ACK_PATIENCE, Machine, Push, fetch};
use crate::secret::Secrets;
use crate::wire::{DeltaDiscoveryRequest, DiscoveryRequest, Protocol, Rejection};

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
