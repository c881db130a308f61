//! A client of HTTP/1.1, with or without TLS. Each request has its own connection.

use std::net::SocketAddr;
use std::sync::Arc;

use dev::kube::{Authority, Certificate};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, client};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    name: &'static str,
    tls: Option<Arc<ClientConfig>>,
    headers: Vec<(&'static str, String)>,
}

/// An answer whose body is still arriving.
pub(crate) struct Stream {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, name: "127.0.0.1", tls: None, headers: Vec::new() }
    }

    pub(crate) fn tls(address: SocketAddr, trusted: &Authority, own: Option<&Certificate>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(trusted.pem())).expect("a certificate of dev's");
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(roots);
        let config = match own {
            None => config.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key of dev's");
                let chain = vec![certificate(&own.chain)];
                config.with_client_auth_cert(chain, key).expect("the key fits the certificate")
            }
        };
        Self { tls: Some(Arc::new(config)), ..Self::plain(address) }
    }

    pub(crate) fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    pub(crate) fn token(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    pub(crate) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sends a GET. Returns the status and the complete body.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        let response = self.open(path).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8(body.to_vec())?))
    }

    pub(crate) async fn json(&self, path: &str) -> Result<(u16, Value)> {
        let (status, text) = self.get(path).await?;
        Ok((status, serde_json::from_str(&text)?))
    }

    pub(crate) async fn stream(&self, path: &str) -> Result<Stream> {
        Ok(Stream { body: self.open(path).await?.into_body(), buffer: Vec::new() })
    }

    async fn open(&self, path: &str) -> Result<Response<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        let Some(tls) = &self.tls else { return self.send(stream, path).await };
        let stream =
            TlsConnector::from(Arc::clone(tls)).connect(ServerName::try_from(self.name)?, stream).await?;
        self.send(stream, path).await
    }

    async fn send<S>(&self, stream: S, path: &str) -> Result<Response<Incoming>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::get(path).header("host", self.address.to_string());
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        Ok(sender.send_request(request.body(Empty::<Bytes>::new())?).await?)
    }
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate of dev's")
}

impl Stream {
    /// The next line as JSON; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => self.buffer.extend_from_slice(frame?.data_ref().map_or(&[], |data| &data[..])),
            }
        }
    }
}
