//! TLS with the server. It must hold an X.509-SVID of `spiffe://<trust domain>/spire/server` that chains to the own
//! trust domain's bundle; host names do not matter (SPIRE, `dial.go`; X509-SVID §5).

use std::sync::Arc;

use identity::{Bundle, SpiffeId, X509Svid};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{
    CryptoProvider, SupportedKxGroup, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};

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
    let provider =
        Arc::new(CryptoProvider { kx_groups: key_exchange.groups(), ..aws_lc_rs::default_provider() });
    let anchors = match roots {
        Roots::Bundle(bundle) => Some(anchors(bundle)),
        Roots::Insecure => None,
    };
    let verifier = Verifier { anchors, server: server.clone(), provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
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

/// An authority that cannot be read is left out: one bad one must not block the others.
fn anchors(bundle: &Bundle) -> Vec<TrustAnchor<'static>> {
    let anchor =
        |der: &[u8]| webpki::anchor_from_trusted_cert(&CertificateDer::from(der)).ok().map(|a| a.to_owned());
    bundle.x509_authorities.iter().filter_map(|authority| anchor(&authority.der)).collect()
}

#[derive(Debug)]
struct Verifier {
    /// `None`: any chain will do.
    anchors: Option<Vec<TrustAnchor<'static>>>,
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
        if let Some(anchors) = &self.anchors {
            verify_chain(leaf, intermediates, anchors, now, webpki::KeyUsage::server_auth())?;
        }
        let found = X509Svid::leaf_id(leaf);
        if found.as_ref() == Ok(&self.server) {
            return Ok(ServerCertVerified::assertion());
        }
        let found = found.map_or_else(|reason| reason.to_string(), |id| id.to_string());
        let wrong = WrongServer { found, expected: self.server.to_string() };
        Err(CertificateError::Other(rustls::OtherError(Arc::new(wrong))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// An X.509-SVID's chain against the authorities of its trust domain (X509-SVID §5.1); names are the caller's matter.
///
/// # Errors
/// [`rustls::Error::InvalidCertificate`]; only an unknown issuer is [`CertificateError::UnknownIssuer`].
pub fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    now: UnixTime,
    usage: webpki::KeyUsage,
) -> Result<(), rustls::Error> {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let judged = webpki::EndEntityCert::try_from(leaf).and_then(|leaf| {
        leaf.verify_for_usage(algorithms, anchors, intermediates, now, usage, None, None).map(drop)
    });
    judged.map_err(|reason| match reason {
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))).into(),
    })
}
