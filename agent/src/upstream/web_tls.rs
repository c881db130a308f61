//! TLS with hosts that have a name and a certificate of the web: proxies, servers of trust bundles,
//! and receivers of OTLP.

use std::io;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// A byte stream to a server, through whatever lies between.
pub(crate) type Stream = Box<dyn Duplex>;

/// What a connection can do.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// Reads the system's authorities, which `SSL_CERT_FILE` and `SSL_CERT_DIR` may name, on another thread.
pub(crate) async fn system_roots() -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await?;
    roots.add_parsable_certificates(found.certs);
    Ok(roots)
}

/// Makes the handshake with `host`, whose certificate must be of one of `roots`. `protocol` is what will be spoken
/// (ALPN), if the host shall know.
pub(crate) async fn secure<S: Duplex + 'static>(
    host: &str,
    stream: S,
    roots: RootCertStore,
    protocol: Option<&[u8]>,
) -> io::Result<Stream> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let versions = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = versions.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}
