//! The server's side of TLS: each handshake gets a new certificate, and client certificates are optional.

use std::sync::{Arc, LazyLock};

use rcgen::KeyPair;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use crate::ca::Leaf;
use crate::fault::Fault;
use crate::ids;
use crate::server::Error;
use crate::state::Shared;

/// The TLS configuration of one connection: TLS 1.2 and 1.3, with the present authorities.
pub(crate) fn config(shared: &Shared) -> Result<ServerConfig, Error> {
    let (roots, signer) = {
        let mut state = shared.lock();
        (state.ca.roots()?, state.ca.signer()?)
    };
    let id = match shared.fault() {
        Fault::WrongServerId => format!("spiffe://{}/not/the/server", shared.options.trust_domain),
        _ => shared.server_id.clone(),
    };
    let key = KeyPair::generate()?;
    let leaf = Leaf { spiffe_id: &id, dns_names: &[], ttl: ids::seconds(shared.options.svid_ttl) };
    let (chain, _) = signer.issue(&leaf, &key)?;

    let mut store = RootCertStore::empty();
    for root in &roots.authorities {
        store.add(root.certificate.clone())?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&PROVIDER))
        .clear_root_hint_subjects()
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
