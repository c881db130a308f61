//! The state of the server, behind one lock that is never held during an await or a signature.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use proto::types::permission_denied_details::Reason;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::ca::Ca;
use crate::entries::{Entry, Selector};
use crate::fault::Fault;
use crate::ids;
use crate::peer::Caller;
use crate::registry::Registry;
use crate::server::Options;

/// The data that the listener, the services and the test's handle share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) server_id: String,
    pub(crate) counters: watch::Sender<Counters>,
    pub(crate) fault: watch::Sender<Fault>,
    /// The fault that the listener has applied.
    pub(crate) applied: watch::Sender<Fault>,
    state: Mutex<State>,
}

/// Counts of calls and results, for assertions. A call counts when the server admits it, a result when the server
/// returns it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// TLS connections that were established.
    pub connections: u64,
    /// AttestAgent calls.
    pub attest_calls: u64,
    /// AttestAgent calls that ended with an SVID.
    pub attested: u64,
    /// RenewAgent calls that ended with an SVID.
    pub renewed: u64,
    /// PostStatus calls.
    pub post_status: u64,
    /// SyncAuthorizedEntries streams whose first part was answered, and GetAuthorizedEntries calls.
    pub syncs: u64,
    /// Syncs that were answered with revisions.
    pub paged_syncs: u64,
    /// Entries sent in full.
    pub entries_sent: u64,
    /// GetBundle calls.
    pub bundles: u64,
    /// GetFederatedBundle calls.
    pub federated_bundles: u64,
    /// BatchNewX509SVID calls.
    pub sign_calls: u64,
    /// X.509-SVIDs signed for workloads.
    pub signed: u64,
    /// NewJWTSVID calls.
    pub jwt_calls: u64,
    /// Calls that were refused because of the caller's identity.
    pub denied: u64,
}

/// An attested node.
#[derive(Default)]
pub(crate) struct Node {
    pub(crate) attestation_type: String,
    pub(crate) serial: String,
    /// The serial number of a renewed SVID that the agent has not used yet.
    pub(crate) new_serial: Option<String>,
    pub(crate) can_reattest: bool,
    pub(crate) banned: bool,
    /// Whether a test has made the SVID expire, until the agent attests again.
    pub(crate) expired: bool,
    pub(crate) agent_version: String,
    pub(crate) selectors: BTreeSet<Selector>,
}

/// The subject and expiry of a projected service account token.
#[derive(Clone)]
pub(crate) struct Grant {
    pub(crate) cluster: String,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) node: String,
    pub(crate) expires_at: i64,
}

/// The bundle of another trust domain.
#[derive(Clone, Default)]
pub(crate) struct FederatedBundle {
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    pub(crate) sequence: u64,
}

/// The state behind the lock.
pub(crate) struct State {
    pub(crate) ca: Ca,
    pub(crate) registry: Registry,
    pub(crate) nodes: BTreeMap<String, Node>,
    /// The expiry of each unused join token, in seconds since the epoch.
    pub(crate) join_tokens: HashMap<String, i64>,
    pub(crate) grants: HashMap<String, Grant>,
    pub(crate) federated: BTreeMap<String, FederatedBundle>,
}

impl Shared {
    pub(crate) fn new(mut options: Options) -> Result<Self, rcgen::Error> {
        let ca = Ca::new(&options.trust_domain, ids::seconds(options.ca_ttl), options.intermediate)?;
        let mut registry = Registry::default();
        for entry in std::mem::take(&mut options.entries) {
            registry.create(entry);
        }
        Ok(Self {
            server_id: ids::server_id(&options.trust_domain),
            options,
            counters: watch::Sender::default(),
            fault: watch::Sender::default(),
            applied: watch::Sender::default(),
            state: Mutex::new(State {
                ca,
                registry,
                nodes: BTreeMap::new(),
                join_tokens: HashMap::new(),
                grants: HashMap::new(),
                federated: BTreeMap::new(),
            }),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the state in hand")
    }

    pub(crate) fn fault(&self) -> Fault {
        *self.fault.borrow()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counters)) {
        self.counters.send_modify(change);
    }

    /// The entries that the agent may see.
    pub(crate) fn authorized(&self, agent_id: &str) -> BTreeMap<String, Arc<Entry>> {
        let state = self.lock();
        let nobody = BTreeSet::new();
        let selectors = state.nodes.get(agent_id).map_or(&nobody, |node| &node.selectors);
        let mut entries = state.registry.authorized(&self.server_id, agent_id, selectors);
        if self.fault() == Fault::OneBadEntry {
            let unselected = format!("spiffe://{}/unselected", self.options.trust_domain);
            for bad in [
                Entry::new(unselected, agent_id, []).with_id("bad-entry-without-selectors"),
                Entry::new("not a SPIFFE ID", agent_id, ["unix:uid:0"])
                    .with_id("bad-entry-without-spiffe-id"),
            ] {
                entries.insert(bad.id.clone(), Arc::new(bad));
            }
        }
        entries
    }
}

impl State {
    /// Checks that the caller is an attested agent that is neither expired nor banned. The first use of a renewed SVID
    /// makes it the active one.
    pub(crate) fn authorize(&mut self, caller: &Caller) -> Result<(), Reason> {
        let node = self.nodes.get_mut(&caller.id);
        if caller.not_after < ids::now() || node.as_ref().is_some_and(|node| node.expired) {
            return Err(Reason::AgentExpired);
        }
        let node = node.ok_or(Reason::AgentNotAttested)?;
        if node.banned {
            return Err(Reason::AgentBanned);
        }
        if node.serial == caller.serial {
            return Ok(());
        }
        match node.new_serial.take_if(|new| *new == caller.serial) {
            Some(new) => node.serial = new,
            None => return Err(Reason::AgentNotActive),
        }
        Ok(())
    }
}
