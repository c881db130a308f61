//! What a test may do to the server, and see of it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::ca::Roots;
use crate::entries::{Entry, Selector};
use crate::fault::Fault;
use crate::ids;
use crate::server::Server;
use crate::state::{Counters, Grant};

/// An agent as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentInfo {
    /// Its SPIFFE ID.
    pub id: String,
    /// `join_token` or `k8s_psat`.
    pub attestation_type: String,
    /// The serial number of its active SVID, decimal.
    pub serial: String,
    /// Whether it is banned.
    pub banned: bool,
    /// From PostStatus.
    pub agent_version: String,
    /// Whether it may attest again.
    pub can_reattest: bool,
    /// Of its node, for node aliases.
    pub selectors: Vec<Selector>,
}

/// Tokens.
impl Server {
    /// A join token for one use.
    pub fn create_join_token(&self) -> String {
        let token = ids::uuid();
        let expires_at = ids::now() + ids::seconds(self.shared.options.token_ttl);
        self.shared.lock().join_tokens.insert(token.clone(), expires_at);
        token
    }

    /// A join token whose agent also answers to `alias`: as `spire-server token generate -spiffeID`, it makes an entry.
    pub fn create_join_token_for(&self, alias: &str) -> String {
        let token = self.create_join_token();
        let parent = ids::join_token_id(self.trust_domain(), &token);
        let mut entry = Entry::new(alias, parent.clone(), []);
        entry.selectors = vec![Selector { kind: "spiffe_id".to_owned(), value: parent }];
        self.create_entry(entry);
        token
    }

    /// The ID that an agent has after attesting with that join token.
    pub fn join_token_agent_id(&self, token: &str) -> String {
        ids::join_token_id(self.trust_domain(), token)
    }

    /// A service account token that this server, in the place of the cluster's API, takes for genuine.
    pub fn psat_token(&self, cluster: &str, namespace: &str, service_account: &str, node: &str) -> String {
        let token = format!("{}.{}", ids::uuid(), ids::uuid());
        let grant = Grant {
            cluster: cluster.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            node: node.to_owned(),
            expires_at: ids::now() + ids::seconds(self.shared.options.token_ttl),
        };
        self.shared.lock().grants.insert(token.clone(), grant);
        token
    }

    /// The ID that an agent on that node has after attesting by k8s_psat.
    pub fn psat_agent_id(&self, cluster: &str, node: &str) -> String {
        ids::psat_id(self.trust_domain(), cluster, node)
    }

    /// Lets a join token or a service account token expire now.
    pub fn expire_token(&self, token: &str) {
        let mut state = self.shared.lock();
        if let Some(expires_at) = state.join_tokens.get_mut(token) {
            *expires_at = 0;
        }
        if let Some(grant) = state.grants.get_mut(token) {
            grant.expires_at = 0;
        }
    }
}

/// Agents.
impl Server {
    /// All attested agents, by ID.
    pub fn agents(&self) -> Vec<AgentInfo> {
        let state = self.shared.lock();
        let info = state.nodes.iter().map(|(id, node)| AgentInfo {
            id: id.clone(),
            attestation_type: node.attestation_type.clone(),
            serial: node.serial.clone(),
            banned: node.banned,
            agent_version: node.agent_version.clone(),
            can_reattest: node.can_reattest,
            selectors: node.selectors.iter().cloned().collect(),
        });
        info.collect()
    }

    /// Forgets an agent; false where there is none. It may attest anew if it can.
    pub fn evict(&self, agent_id: &str) -> bool {
        self.shared.lock().nodes.remove(agent_id).is_some()
    }

    /// Takes the agent's SVID for expired until it attests anew; false where there is no such agent. A certificate that
    /// is expired by its dates is refused in the handshake already, unless the connection is older.
    pub fn expire_agent(&self, agent_id: &str) -> bool {
        self.shared.lock().nodes.get_mut(agent_id).is_some_and(|node| {
            node.expired = true;
            true
        })
    }

    /// Bans an agent; false where there is none. It cannot attest anew until it is evicted.
    pub fn ban(&self, agent_id: &str) -> bool {
        self.shared.lock().nodes.get_mut(agent_id).is_some_and(|node| {
            node.banned = true;
            node.serial.clear();
            node.new_serial = None;
            true
        })
    }
}

/// Registration entries.
impl Server {
    /// Adds an entry and returns its ID.
    pub fn create_entry(&self, entry: Entry) -> String {
        self.shared.lock().registry.create(entry)
    }

    /// Changes the entry with that ID; its revision number grows by one. False where there is none.
    pub fn update_entry(&self, entry: Entry) -> bool {
        self.shared.lock().registry.update(entry)
    }

    /// Deletes an entry; false where there is none.
    pub fn delete_entry(&self, id: &str) -> bool {
        self.shared.lock().registry.delete(id)
    }

    /// All entries, by ID.
    pub fn entries(&self) -> Vec<Entry> {
        self.shared.lock().registry.all()
    }

    /// Makes these the entries: what is equal stays untouched, what differs is updated, the rest is deleted.
    pub fn replace_entries(&self, entries: Vec<Entry>) {
        self.shared.lock().registry.replace(entries);
    }
}

/// Bundles and authorities.
impl Server {
    /// The trust bundle as PEM.
    pub fn bundle_pem(&self) -> String {
        let encode = |der: &CertificateDer<'_>| pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec()));
        self.roots().authorities.iter().map(|root| encode(&root.certificate)).collect()
    }

    /// The trust bundle as a SPIFFE bundle (a JWKS).
    pub fn bundle_spiffe_json(&self) -> String {
        let roots = self.roots();
        let keys = roots.authorities.iter().map(|root| {
            let (x, y) = root.point[1..].split_at(root.point.len() / 2);
            serde_json::json!({
                "use": "x509-svid",
                "kty": "EC",
                "crv": "P-256",
                "x": URL_SAFE_NO_PAD.encode(x),
                "y": URL_SAFE_NO_PAD.encode(y),
                "x5c": [STANDARD.encode(&root.certificate)],
            })
        });
        let mut bundle = serde_json::json!({
            "keys": keys.collect::<Vec<_>>(),
            "spiffe_sequence": roots.sequence,
        });
        if self.shared.options.refresh_hint > 0 {
            bundle["spiffe_refresh_hint"] = self.shared.options.refresh_hint.into();
        }
        bundle.to_string()
    }

    /// Makes the next CA: the bundle holds both, the old one still signs.
    pub fn prepare_ca(&self) {
        self.shared.lock().ca.prepare().expect(CA);
    }

    /// Declares the CAs compromised that neither sign nor are prepared to.
    pub fn taint_old_cas(&self) {
        self.shared.lock().ca.taint_old();
    }

    /// The prepared CA (one is made where there is none) signs from now on; the bundle keeps the old one.
    pub fn rotate_ca(&self) {
        self.shared.lock().ca.activate().expect(CA);
    }

    /// Takes the CAs out of the bundle that sign no more. After [`rotate_ca`](Self::rotate_ca) this leaves an agent that
    /// missed the rotation with an unknown authority.
    pub fn forget_old_cas(&self) {
        self.shared.lock().ca.forget_old();
    }

    /// Sets the bundle of another trust domain, as DER certificates.
    pub fn set_federated_bundle(&self, trust_domain: &str, authorities: Vec<Vec<u8>>) {
        let mut state = self.shared.lock();
        let bundle = state.federated.entry(trust_domain.to_owned()).or_default();
        bundle.authorities = authorities.into_iter().map(CertificateDer::from).collect();
        bundle.sequence += 1;
    }

    /// Sets the bundle of another trust domain, as PEM; what is not a PEM block is passed over.
    pub fn set_federated_bundle_pem(&self, trust_domain: &str, authorities: &str) {
        let blocks = pem::parse_many(authorities).unwrap_or_default();
        let der = blocks.into_iter().map(pem::Pem::into_contents).collect();
        self.set_federated_bundle(trust_domain, der);
    }

    /// Forgets the bundle of another trust domain; false where there is none.
    pub fn remove_federated_bundle(&self, trust_domain: &str) -> bool {
        self.shared.lock().federated.remove(trust_domain).is_some()
    }

    fn roots(&self) -> Roots {
        self.shared.lock().ca.roots().expect(CA)
    }
}

/// Faults, and what was called.
impl Server {
    /// Misbehaves from now on; the listener has carried it out when this returns.
    pub async fn fault(&self, fault: Fault) {
        let mut applied = self.shared.applied.subscribe();
        self.shared.fault.send_replace(fault);
        // An error means that the listener has ended, and so has everything else.
        let _ = applied.wait_for(|applied| *applied == fault).await;
    }

    /// What was called until now.
    pub fn counters(&self) -> Counters {
        *self.shared.counters.borrow()
    }

    /// Follows the counters.
    pub fn watch_counters(&self) -> watch::Receiver<Counters> {
        self.shared.counters.subscribe()
    }

    /// Waits until the counters are so (give it a timeout of your own).
    pub async fn counted(&self, enough: impl FnMut(&Counters) -> bool) -> Counters {
        let mut counters = self.watch_counters();
        *counters.wait_for(enough).await.expect("the server holds the sender")
    }
}

const CA: &str = "P-256 keys and certificates of this trust domain could be made at the start";
