//! One look at the server that changes nothing: names, proxy, TCP, and the handshake with the certificate that it shows.
//! Each step is the one that a [`Link`](super::link::Link) makes.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use identity::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::ServerError;
use super::dial::Dialer;
use super::link::{server_name, untrusted};
use super::proxy::Proxy;
use super::tls::{KeyExchange, Roots, client_config, verifier};
use super::web_tls::Stream;

/// The way to the server, as far as it leads.
pub(crate) struct Way {
    /// `host:port` of the proxy in use.
    pub(crate) proxy: Option<String>,
    /// The addresses of the server, or of the proxy where there is one.
    pub(crate) addresses: io::Result<Vec<SocketAddr>>,
    /// The connection; `None` if there was no address to try.
    pub(crate) connected: Option<io::Result<Connected>>,
}

/// A connection to the server, through the proxy where there is one.
pub(crate) struct Connected(Stream);

/// What the server has shown.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Whether the roots accept it.
    pub(crate) verdict: Result<(), ServerError>,
    /// Its certificates in DER, leaf first. Empty if the handshake did not come so far.
    pub(crate) chain: Vec<Vec<u8>>,
}

/// Looks up the server's name and connects to it.
pub(crate) async fn connect(host: &str, port: u16, until: Instant) -> Way {
    let dialer = Dialer::new(host.to_owned(), port);
    let proxy = Proxy::of_environment(host, port);
    let (name, at) = proxy.as_ref().map_or((host, port), |proxy| (&*proxy.host, proxy.port));
    let addresses = within(until, dialer.resolve(name, at)).await;
    let connected = match &addresses {
        Ok(_) => Some(within(until, dialer.dial()).await.map(Connected)),
        Err(_) => None,
    };
    let proxy = proxy.map(|proxy| format!("{}:{}", proxy.host, proxy.port));
    Way { proxy, addresses, connected }
}

impl Connected {
    /// Makes the handshake, without a certificate of the agent's own.
    pub(crate) async fn handshake(
        self,
        roots: &Roots,
        server: &SpiffeId,
        key_exchange: KeyExchange,
        until: Instant,
    ) -> Shown {
        let chain = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let verdict = async {
            let mut config = client_config(roots, server, None, key_exchange)
                .map_err(|reason| ServerError::Untrusted(reason.to_string()))?;
            let inner = verifier(roots, server, Arc::clone(config.crypto_provider()));
            let witness = Witness { inner, chain: Arc::clone(&chain) };
            config.dangerous().set_certificate_verifier(Arc::new(witness));
            let connector = TlsConnector::from(Arc::new(config));
            within(until, connector.connect(server_name(), self.0)).await.map(drop).map_err(untrusted)
        };
        let verdict = verdict.await;
        let chain = std::mem::take(&mut *chain.lock().unwrap_or_else(PoisonError::into_inner));
        Shown { verdict, chain }
    }
}

async fn within<T>(until: Instant, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
    timeout_at(until, work).await.unwrap_or_else(|_| late())
}

/// A verifier that keeps what it was shown.
#[derive(Debug)]
struct Witness {
    inner: Arc<dyn ServerCertVerifier>,
    chain: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = std::iter::once(leaf).chain(intermediates).map(|der| der.to_vec()).collect();
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = shown;
        self.inner.verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
