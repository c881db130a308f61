//! A connection to the kubelet: TCP, TLS unless on the read-only port, HTTP/1.1.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::inputs::Inputs;
use super::{KubeletError, KubeletOptions, Port, tls};

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
            let config = tls::config(options, inputs).map_err(failed)?;
            let name = ServerName::try_from(host.to_owned());
            let name = name.map_err(|reason| failed(io::Error::other(reason)))?;
            let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
            let stream = stream.map_err(|source| failed(tls::reason(source)))?;
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

const LOOPBACK: &str = "127.0.0.1";
