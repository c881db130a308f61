//! TLS with the server. It must hold an X.509-SVID of `spiffe://<trust domain>/spire/server` that chains to the own
//! trust domain's bundle by the rules of [`identity::chain`]; host names do not matter (SPIRE, `dial.go`; X509-SVID §5).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::chain::{SvidChainError, Tls, verify_handshake, verify_svid};
use identity::{Bundle, SpiffeId, X509Svid};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::keys::AgentSvid;

/// What decides whether a server is the server.
#[derive(Debug, Clone)]
pub enum Roots {
    /// The authorities of our trust domain.
    Bundle(Arc<Bundle>),
    /// `insecure_bootstrap`: whoever calls itself the server, at first contact only.
    Insecure,
}

/// How a connection's secret is agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyExchange {
    /// X25519MLKEM768 where the server has it, as Go's crypto/tls offers it first.
    Preferred,
    /// X25519MLKEM768 and nothing else (`require_pq_kem`).
    PostQuantum,
}

impl KeyExchange {
    /// What the configuration asks for.
    pub(crate) fn of(settings: &config::Settings) -> Self {
        if settings.experimental.require_pq_kem { Self::PostQuantum } else { Self::Preferred }
    }

    /// The cryptography of connections whose secret is agreed on like this.
    pub(crate) fn provider(self) -> Arc<CryptoProvider> {
        Arc::new(CryptoProvider { kx_groups: self.groups(), ..aws_lc_rs::default_provider() })
    }

    fn groups(self) -> Vec<&'static dyn SupportedKxGroup> {
        let post_quantum: &[&'static dyn SupportedKxGroup] = &[kx_group::X25519MLKEM768];
        let others: &[&'static dyn SupportedKxGroup] =
            &[kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
        match self {
            Self::Preferred => [post_quantum, others].concat(),
            Self::PostQuantum => post_quantum.to_vec(),
        }
    }
}

/// The configuration of one connection. Without `svid` the agent is nobody yet.
///
/// # Errors
/// When the cryptographic library lacks what TLS needs.
pub fn client_config(
    roots: &Roots,
    server: &SpiffeId,
    svid: Option<&AgentSvid>,
    key_exchange: KeyExchange,
) -> Result<ClientConfig, rustls::Error> {
    let provider = key_exchange.provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier(roots, server, provider));
    let mut config = match svid {
        None => builder.with_no_client_auth(),
        Some(svid) => {
            let chain = svid.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
            let certified = CertifiedKey::new(chain, Arc::new(svid.key.clone()));
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A session of the identity before this one must not be resumed.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// What accepts or refuses the server's certificate.
pub(super) fn verifier(
    roots: &Roots,
    server: &SpiffeId,
    provider: Arc<CryptoProvider>,
) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Verifier { roots: roots.clone(), server: server.clone(), provider })
}

#[derive(Debug)]
struct Verifier {
    roots: Roots,
    server: SpiffeId,
    provider: Arc<CryptoProvider>,
}

/// The server is somebody else.
#[derive(Debug, thiserror::Error)]
#[error("unexpected server ID {found:?}, expected {expected:?}")]
struct WrongServer {
    found: String,
    expected: String,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = match &self.roots {
            Roots::Bundle(bundle) => {
                let chain = std::iter::once(leaf).chain(intermediates).map(|der| &**der);
                let authorities = bundle.x509_authorities.iter().map(|authority| &*authority.der);
                let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
                verify_svid(chain, &bundle.trust_domain, authorities, now).map_err(refusal)?
            }
            Roots::Insecure => X509Svid::leaf_id(leaf).map_err(|reason| self.wrong(reason.to_string()))?,
        };
        if found == self.server {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(self.wrong(found.to_string()))
        }
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

impl Verifier {
    fn wrong(&self, found: String) -> rustls::Error {
        let wrong = WrongServer { found, expected: self.server.to_string() };
        CertificateError::Other(rustls::OtherError(Arc::new(wrong))).into()
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
        .map_err(|reason| CertificateError::Other(rustls::OtherError(Arc::new(reason))).into())
}

/// Only an unknown authority is [`CertificateError::UnknownIssuer`].
fn refusal(reason: SvidChainError) -> rustls::Error {
    if reason.is_unknown_authority() {
        return CertificateError::UnknownIssuer.into();
    }
    CertificateError::Other(rustls::OtherError(Arc::new(reason))).into()
}

#[cfg(test)]
mod tests;
