//! The methods by which a test controls the server and observes it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::ca::{JwtKeys, Roots};
use crate::entries::{Entry, Selector};
use crate::fault::Fault;
use crate::ids;
use crate::server::Server;
use crate::state::{Counters, Grant};

/// An attested agent, as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentInfo {
    /// The agent's SPIFFE ID.
    pub id: String,
    /// The name of its node attestor: `join_token` or `k8s_psat`.
    pub attestation_type: String,
    /// The serial number of its active SVID, decimal.
    pub serial: String,
    /// Whether the agent is banned.
    pub banned: bool,
    /// The version that the agent reported by PostStatus; empty before.
    pub agent_version: String,
    /// Whether the agent may attest again.
    pub can_reattest: bool,
    /// The selectors of its node, which node aliases are matched with.
    pub selectors: Vec<Selector>,
}

/// Tokens.
impl Server {
    /// Creates a join token, which can be used once.
    pub fn create_join_token(&self) -> String {
        let token = ids::uuid();
        let expires_at = ids::now() + ids::seconds(self.shared.options.token_ttl);
        self.shared.lock().join_tokens.insert(token.clone(), expires_at);
        token
    }

    /// Creates a join token and a node alias for its agent, as `spire-server token generate -spiffeID` does.
    pub fn create_join_token_for(&self, alias: &str) -> String {
        let token = self.create_join_token();
        let parent = ids::join_token_id(self.trust_domain(), &token);
        let mut entry = Entry::new(alias, parent.clone(), []);
        entry.selectors = vec![Selector { kind: "spiffe_id".to_owned(), value: parent }];
        self.create_entry(entry);
        token
    }

    /// The SPIFFE ID of the agent that attests with this join token.
    pub fn join_token_agent_id(&self, token: &str) -> String {
        ids::join_token_id(self.trust_domain(), token)
    }

    /// Creates a service account token that this server accepts as genuine. The server takes the place of the cluster's
    /// TokenReview API.
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

    /// The SPIFFE ID of an agent on this node that attests by k8s_psat.
    pub fn psat_agent_id(&self, cluster: &str, node: &str) -> String {
        ids::psat_id(self.trust_domain(), cluster, node)
    }

    /// Makes a join token or a service account token expire now.
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

    /// Evicts an agent. It may attest again if it can. Returns false if there is no such agent.
    pub fn evict(&self, agent_id: &str) -> bool {
        self.shared.lock().nodes.remove(agent_id).is_some()
    }

    /// Treats the agent's SVID as expired until it attests again. Returns false if there is no such agent. (The
    /// handshake already refuses a certificate that is expired by its dates, unless the connection is older.)
    pub fn expire_agent(&self, agent_id: &str) -> bool {
        self.shared.lock().nodes.get_mut(agent_id).is_some_and(|node| {
            node.expired = true;
            true
        })
    }

    /// Bans an agent. It cannot attest again until it is evicted. Returns false if there is no such agent.
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

    /// Replaces the entry with the same ID and increments its revision number. Returns false if there is none.
    pub fn update_entry(&self, entry: Entry) -> bool {
        self.shared.lock().registry.update(entry)
    }

    /// Deletes an entry. Returns false if there is none.
    pub fn delete_entry(&self, id: &str) -> bool {
        self.shared.lock().registry.delete(id)
    }

    /// All entries, sorted by ID.
    pub fn entries(&self) -> Vec<Entry> {
        self.shared.lock().registry.all()
    }

    /// Replaces all entries. An entry that is equal stays untouched, one that differs is updated, and the others are
    /// deleted.
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

    /// Makes the next CA. The bundle then holds both, and the old one still signs.
    pub fn prepare_ca(&self) {
        self.shared.lock().ca.prepare().expect(CA);
    }

    /// Taints all CAs except the one that signs and the prepared one.
    pub fn taint_old_cas(&self) {
        self.shared.lock().ca.taint_old();
    }

    /// Makes the prepared CA sign from now on, and prepares one first if there is none. The bundle keeps the old CA.
    pub fn rotate_ca(&self) {
        self.shared.lock().ca.activate().expect(CA);
    }

    /// Removes all CAs from the bundle except the one that signs and the prepared one. After
    /// [`rotate_ca`](Self::rotate_ca), an agent that missed the rotation does not know the server's authority any more.
    pub fn forget_old_cas(&self) {
        self.shared.lock().ca.forget_old();
    }

    /// The IDs of the keys in the bundle that JWT-SVIDs are validated by, that of the signing key last.
    pub fn jwt_key_ids(&self) -> Vec<String> {
        self.shared.lock().ca.jwt().all().iter().map(|key| key.id.clone()).collect()
    }

    /// Makes a new key sign JWT-SVIDs from now on. The bundle keeps the old one.
    pub fn rotate_jwt_key(&self) {
        self.shared.lock().ca.change_jwt(JwtKeys::rotate);
    }

    /// Taints the keys that sign no JWT-SVIDs any more.
    pub fn taint_old_jwt_keys(&self) {
        self.shared.lock().ca.change_jwt(JwtKeys::taint_old);
    }

    /// Removes the keys from the bundle that sign no JWT-SVIDs any more.
    pub fn forget_old_jwt_keys(&self) {
        self.shared.lock().ca.change_jwt(JwtKeys::forget_old);
    }

    /// Sets the bundle of another trust domain, as DER certificates.
    pub fn set_federated_bundle(&self, trust_domain: &str, authorities: Vec<Vec<u8>>) {
        let mut state = self.shared.lock();
        let bundle = state.federated.entry(trust_domain.to_owned()).or_default();
        bundle.authorities = authorities.into_iter().map(CertificateDer::from).collect();
        bundle.sequence += 1;
    }

    /// Sets the bundle of another trust domain, as PEM. Text outside of PEM blocks is ignored.
    pub fn set_federated_bundle_pem(&self, trust_domain: &str, authorities: &str) {
        let blocks = pem::parse_many(authorities).unwrap_or_default();
        let der = blocks.into_iter().map(pem::Pem::into_contents).collect();
        self.set_federated_bundle(trust_domain, der);
    }

    /// Removes the bundle of another trust domain. Returns false if there is none.
    pub fn remove_federated_bundle(&self, trust_domain: &str) -> bool {
        self.shared.lock().federated.remove(trust_domain).is_some()
    }

    fn roots(&self) -> Roots {
        self.shared.lock().ca.roots().expect(CA)
    }
}

/// Faults and counters.
impl Server {
    /// Sets the fault. When this returns, the listener has applied it.
    pub async fn fault(&self, fault: Fault) {
        let mut applied = self.shared.applied.subscribe();
        self.shared.fault.send_replace(fault);
        // An error means that the listener has ended, and so has everything else.
        let _ = applied.wait_for(|applied| *applied == fault).await;
    }

    /// The present counters.
    pub fn counters(&self) -> Counters {
        *self.shared.counters.borrow()
    }

    /// Watches the counters.
    pub fn watch_counters(&self) -> watch::Receiver<Counters> {
        self.shared.counters.subscribe()
    }

    /// Waits until `enough` is true for the counters. It has no timeout of its own.
    pub async fn counted(&self, enough: impl FnMut(&Counters) -> bool) -> Counters {
        let mut counters = self.watch_counters();
        *counters.wait_for(enough).await.expect("the server holds the sender")
    }
}

const CA: &str = "P-256 keys and certificates of this trust domain could be made at the start";
