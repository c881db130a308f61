//! TLS of the listener for Prometheus: which certificate it shows, and which clients it lets in.
//!
//! Everything is looked at anew for each connection, so a renewed certificate is in use at once. A scraper connects a few
//! times a minute at most.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use attestors::file;
use config::{ListenerCertificate, PrometheusTls, Scrapers};
use identity::chain::{self, Purpose, Tls, verify_handshake, verify_svid};
use identity::{Bundle, X509Svid};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Gauges;
use crate::upstream::tls::KeyExchange;

/// Makes the server's side of the handshake.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) settings: PrometheusTls,
    pub(super) key_exchange: KeyExchange,
    /// Knows the agent's SVID and the bundles.
    pub(super) gauges: Gauges,
}

impl Acceptor {
    /// Makes the handshake on one connection.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config().await?;
        let handshake = TlsAcceptor::from(Arc::new(config)).accept(stream);
        timeout(HANDSHAKE, handshake).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn config(&self) -> io::Result<ServerConfig> {
        let provider = self.key_exchange.provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = match self.clients().await? {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(Arc::new(Verifier { clients, provider })),
        };
        let certified = SingleCertAndKey::from(self.certificate().await?);
        let mut config = builder.with_cert_resolver(Arc::new(certified));
        // A client that is let in no longer must not resume a session.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    async fn certificate(&self) -> io::Result<CertifiedKey> {
        match &self.settings.certificate {
            ListenerCertificate::AgentSvid => {
                let svid = self.gauges.status.state().svid;
                let svid = svid.ok_or_else(|| io::Error::other("the agent has no SVID yet"))?;
                let chain = svid.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
                Ok(CertifiedKey::new(chain, Arc::new(svid.key.clone())))
            }
            ListenerCertificate::Files { certificate, key } => {
                let chain = certificates(certificate).await?;
                let named = |reason: String| io::Error::other(format!("key_file {key}: {reason}"));
                let pem = file::load_bytes(Path::new(key), FILE)
                    .await
                    .map_err(|reason| named(reason.to_string()))?;
                let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|reason| named(reason.to_string()))?;
                let key = any_supported_type(&key).map_err(|reason| named(reason.to_string()))?;
                let certified = CertifiedKey::new(chain, key);
                certified
                    .keys_match()
                    .map_err(|_| io::Error::other("key_file and cert_file do not belong together"))?;
                Ok(certified)
            }
        }
    }

    async fn clients(&self) -> io::Result<Option<Clients>> {
        match &self.settings.clients {
            Scrapers::Anyone => Ok(None),
            Scrapers::SignedBy(file) => Ok(Some(Clients::SignedBy(certificates(file).await?))),
            Scrapers::SpiffeIds(ids) => {
                let manager = self.gauges.manager.borrow().clone();
                let manager = manager.ok_or_else(|| io::Error::other("the agent has no bundles yet"))?;
                let bundles = manager.bundles().borrow().values().cloned().collect();
                Ok(Some(Clients::SpiffeIds { ids: ids.clone(), bundles }))
            }
        }
    }
}

/// The certificates of a PEM file.
async fn certificates(path: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let named = |reason: &dyn std::fmt::Display| io::Error::other(format!("{path}: {reason}"));
    let pem = file::load_bytes(Path::new(path), FILE).await.map_err(|reason| named(&reason))?;
    let found: Vec<_> = identity::pem_certificates(&pem).into_iter().map(CertificateDer::from).collect();
    if found.is_empty() { Err(named(&"there is no certificate")) } else { Ok(found) }
}

/// Which clients are let in.
#[derive(Debug)]
enum Clients {
    /// Those with a certificate of one of these authorities.
    SignedBy(Vec<CertificateDer<'static>>),
    /// Those with an X.509-SVID of one of these IDs.
    SpiffeIds { ids: Vec<String>, bundles: Vec<Arc<Bundle>> },
}

#[derive(Debug)]
struct Verifier {
    clients: Clients,
    provider: Arc<CryptoProvider>,
}

/// The client is somebody else.
#[derive(Debug, thiserror::Error)]
#[error("unexpected ID {0:?}")]
struct Unexpected(String);

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        match &self.clients {
            Clients::SignedBy(authorities) => {
                let intermediates = intermediates.iter().map(|der| &**der);
                let authorities = authorities.iter().map(|der| &**der);
                chain::verify(leaf, intermediates, authorities, Purpose::Client, now).map_err(refusal)?;
            }
            Clients::SpiffeIds { ids, bundles } => {
                let id = X509Svid::leaf_id(leaf).map_err(refusal)?;
                let unexpected = || refusal(Unexpected(id.to_string()));
                if !ids.iter().any(|one| one == id.as_str()) {
                    return Err(unexpected());
                }
                let bundle = bundles.iter().find(|bundle| id.is_member_of(&bundle.trust_domain));
                let bundle = bundle.ok_or_else(unexpected)?;
                let chain = std::iter::once(leaf).chain(intermediates).map(|der| &**der);
                let authorities = bundle.x509_authorities.iter().map(|authority| &*authority.der);
                verify_svid(chain, &bundle.trust_domain, authorities, now).map_err(refusal)?;
            }
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed(Tls::V12, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed(Tls::V13, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn signed(
    tls: Tls,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    verify_handshake(certificate, tls, u16::from(signature.scheme), message, signature.signature())
        .map(|()| HandshakeSignatureValid::assertion())
        .map_err(refusal)
}

fn refusal(reason: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    CertificateError::Other(rustls::OtherError(Arc::new(reason))).into()
}

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The most bytes of a file with keys or certificates.
const FILE: u64 = 1024 * 1024;
