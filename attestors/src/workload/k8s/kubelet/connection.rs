//! A connection to the kubelet: TCP, TLS unless on the read-only port, HTTP/1.1.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::inputs::Inputs;
use super::{KubeletError, KubeletOptions, Port};

/// An open connection to the kubelet.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    host: HeaderValue,
}

impl Connection {
    pub(super) async fn open(options: &KubeletOptions, inputs: &Inputs) -> Result<Self, KubeletError> {
        let (host, port) = match (options.port, &options.node_name) {
            (Port::ReadOnly(port), _) | (Port::Secure(port), None) => (LOOPBACK, port),
            (Port::Secure(port), Some(name)) => (&**name, port),
        };
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let failed = |source| KubeletError::Connect { address: address.clone(), source };
        let authority = HeaderValue::from_str(&address).map_err(|reason| failed(io::Error::other(reason)))?;
        let tcp = TcpStream::connect(&address).await.map_err(failed)?;
        let sender = if let Port::ReadOnly(_) = options.port {
            handshake(tcp).await?
        } else {
            let config = tls(options, inputs).map_err(failed)?;
            let name = ServerName::try_from(host.to_owned());
            let name = name.map_err(|reason| failed(io::Error::other(reason)))?;
            let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(failed)?;
            handshake(stream).await?
        };
        Ok(Self { sender, host: authority })
    }

    pub(super) fn host(&self) -> HeaderValue {
        self.host.clone()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    pub(super) async fn send(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Empty<Bytes>>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn tls(options: &KubeletOptions, inputs: &Inputs) -> io::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let trust = match inputs.authorities() {
        None => Trust::Anyone,
        Some(pem) => Trust::Chain { authorities: certificates(pem)?, named: options.node_name.is_some() },
    };
    let verifier = Verifier { trust, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some((chain, key)) = inputs.certificate() else { return Ok(builder.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|reason| invalid("private key", reason))?;
    builder.with_client_auth_cert(certificates(chain)?, key).map_err(io::Error::other)
}

fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|reason| invalid("certificates", reason))?;
    if found.is_empty() { Err(invalid("certificates", "there are none")) } else { Ok(found) }
}

fn invalid(what: &str, reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unable to parse {what}: {reason}"))
}

/// Which certificates of the kubelet are accepted.
#[derive(Debug)]
enum Trust {
    /// Any certificate (`skip_kubelet_verification`).
    Anyone,
    /// A certificate that chains to one of these authorities. With `named` it must be for the node's name; otherwise
    /// it may be for any name (SPIRE, `kubeletclient.go`).
    Chain { authorities: Vec<CertificateDer<'static>>, named: bool },
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Chain { authorities, named } = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(leaf)?;
        // A kubelet may sign its own certificate. If that certificate itself is configured as an authority, it must
        // only be valid.
        if authorities.iter().any(|authority| authority == leaf) {
            valid(leaf, now)?;
        } else {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(authorities.iter().cloned());
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, &roots, intermediates, now, algorithms)?;
        }
        if *named {
            verify_server_name(&certificate, name)?;
        }
        Ok(ServerCertVerified::assertion())
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

/// Checks the validity period and the extended key usage of a self-signed certificate.
fn valid(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    match certificate.extended_key_usage() {
        Ok(Some(usage)) if !usage.value.server_auth && !usage.value.any => {
            Err(CertificateError::InvalidPurpose.into())
        }
        _ => Ok(()),
    }
}

const LOOPBACK: &str = "127.0.0.1";
