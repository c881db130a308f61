//! A caller of mutual TLS that trusts everybody, for tests that look at what a server shows and whom it accepts.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

/// A caller with an SVID.
pub(super) struct Caller(TlsConnector);

impl Caller {
    /// A caller with this certificate and key, both DER.
    pub(super) fn new(certificate: Vec<u8>, key: Vec<u8>) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("it has TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_client_auth_cert(vec![certificate.into()], PrivateKeyDer::try_from(key).expect("PKCS#8"));
        Self(TlsConnector::from(Arc::new(config.expect("they belong together"))))
    }

    /// Calls an echo, and returns the server's certificate.
    ///
    /// # Errors
    /// If the server does not accept the caller. (In TLS 1.3 the caller learns that after its handshake.)
    pub(super) async fn call(&self, socket: &Path) -> io::Result<CertificateDer<'static>> {
        let name = ServerName::try_from("anybody").expect("a name");
        let mut stream = self.0.connect(name, UnixStream::connect(socket).await?).await?;
        stream.write_all(b"x").await?;
        stream.read_u8().await?;
        let shown = stream.get_ref().1.peer_certificates().expect("the handshake is done");
        Ok(shown[0].clone().into_owned())
    }
}

/// Accepts any certificate, if its key is at hand.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
