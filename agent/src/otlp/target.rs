//! A connection to the receiver, and one exchange on it. gRPC is framed here: one request, one answer.

use std::io;
use std::time::Duration;

use attestors::file;
use bytes::{BufMut as _, Bytes, BytesMut};
use config::{Otlp, OtlpProtocol};
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::answer::{self, Answer, Failed};
use crate::upstream::dial::Dialer;
use crate::upstream::web_tls::{self, Stream};

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Metrics,
    Logs,
}

impl Signal {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// The path of gRPC's method.
    fn method(self) -> &'static str {
        match self {
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }
}

/// Where one signal goes.
#[derive(Debug)]
pub(super) struct Target {
    settings: Otlp,
    signal: Signal,
    dialer: Dialer,
}

impl Target {
    pub(super) fn new(settings: Otlp, signal: Signal) -> Self {
        let dialer = Dialer::new(settings.endpoint.host.clone(), settings.endpoint.port);
        Self { settings, signal, dialer }
    }

    pub(super) fn signal(&self) -> Signal {
        self.signal
    }

    /// The receiver as it is logged. A path may hold a key, so it is left out.
    pub(super) fn told(&self) -> String {
        let scheme = if self.settings.endpoint.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.settings.endpoint.authority())
    }

    /// Sends a request on the connection of before, or on a new one. A connection that the receiver closed meanwhile is
    /// no failure. The request may then arrive twice, which OTLP allows.
    ///
    /// The connection is held again after an answer. Whoever gives up before closes it, so that no answer comes late.
    pub(super) async fn send(&self, held: &mut Option<Connection>, body: &Bytes) -> Result<(), Failed> {
        let sent = timeout(LIMIT, async {
            if let Some(mut connection) = held.take().filter(Connection::is_open) {
                match self.exchange(&mut connection, body).await {
                    Err(Failed::Broken(_)) => {}
                    answered => {
                        *held = Some(connection);
                        return answered;
                    }
                }
            }
            let connection = self.connect().await;
            let mut connection = connection.map_err(|reason| Failed::Broken(reason.to_string()))?;
            let answered = self.exchange(&mut connection, body).await;
            *held = Some(connection).filter(|_| !matches!(answered, Err(Failed::Broken(_))));
            answered
        });
        sent.await.unwrap_or_else(|_| Err(Failed::Broken(format!("no answer within {LIMIT:?}"))))
    }

    async fn connect(&self) -> io::Result<Connection> {
        let endpoint = &self.settings.endpoint;
        let grpc = self.settings.protocol == OtlpProtocol::Grpc;
        let stream = self.dialer.dial().await?;
        let stream: Stream = if endpoint.tls {
            let protocol: &[u8] = if grpc { b"h2" } else { b"http/1.1" };
            web_tls::secure(&endpoint.host, stream, self.roots().await?, Some(protocol)).await?
        } else {
            stream
        };
        Connection::open(stream, grpc).await.map_err(io::Error::other)
    }

    /// The file is read for each connection, so that a new one is in use without a restart.
    async fn roots(&self) -> io::Result<RootCertStore> {
        let Some(path) = &self.settings.ca_file else {
            let roots = web_tls::system_roots().await?;
            let none =
                "this system has no authorities of the web: set ca_file, SSL_CERT_FILE or SSL_CERT_DIR";
            return if roots.is_empty() { Err(io::Error::other(none)) } else { Ok(roots) };
        };
        let named = |reason: &dyn std::fmt::Display| {
            io::Error::other(format!("ca_file {}: {reason}", path.display()))
        };
        let pem = file::load_bytes(path, CA_FILE).await.map_err(|reason| named(&reason))?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(
            identity::pem_certificates(&pem).into_iter().map(CertificateDer::from),
        );
        if roots.is_empty() { Err(named(&"there is no certificate")) } else { Ok(roots) }
    }

    async fn exchange(&self, connection: &mut Connection, body: &Bytes) -> Result<(), Failed> {
        let request = self.request(body).map_err(|reason| Failed::Refused(reason.to_string()))?;
        let broken =
            |reason: &(dyn std::error::Error + 'static)| Failed::Broken(crate::upstream::whole(reason));
        let response = connection.send(request).await.map_err(|reason| broken(&reason))?;
        let (head, body) = response.into_parts();
        // Neither the length nor the content of what comes is trusted.
        let body = Limited::new(body, ANSWER).collect().await.map_err(|reason| broken(&*reason))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let answer = Answer { status: head.status, headers: head.headers, trailers, body: body.to_bytes() };
        match self.settings.protocol {
            OtlpProtocol::Grpc => answer::of_grpc(&answer),
            OtlpProtocol::Http => answer::of_http(&answer),
        }
    }

    fn request(&self, body: &Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
        let endpoint = &self.settings.endpoint;
        let mut request = match self.settings.protocol {
            OtlpProtocol::Grpc => {
                let scheme = if endpoint.tls { "https" } else { "http" };
                let uri = format!("{scheme}://{}{}", endpoint.authority(), self.signal.method());
                Request::post(uri)
                    .header(CONTENT_TYPE, "application/grpc")
                    .header(TE, "trailers")
                    .body(Full::new(framed(body)))?
            }
            OtlpProtocol::Http => Request::post(format!("{}/v1/{}", endpoint.path, self.signal.name()))
                .header(HOST, endpoint.authority())
                .header(CONTENT_TYPE, "application/x-protobuf")
                .header(ACCEPT, "application/x-protobuf")
                .body(Full::new(body.clone()))?,
        };
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("finial/", env!("CARGO_PKG_VERSION"))));
        self.put_secrets(headers)?;
        Ok(request)
    }

    fn put_secrets(&self, headers: &mut HeaderMap) -> Result<(), http::Error> {
        for (name, value) in self.settings.headers.expose() {
            let mut value = HeaderValue::try_from(&***value)?;
            value.set_sensitive(true);
            headers.insert(HeaderName::try_from(&**name)?, value);
        }
        Ok(())
    }
}

/// One message of gRPC: not compressed, and its length.
fn framed(message: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a request has a megabyte or two"));
    frame.put_slice(message);
    frame.freeze()
}

/// An open connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    driver: JoinHandle<()>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(stream: Stream, http2: bool) -> hyper::Result<Self> {
        let stream = TokioIo::new(stream);
        if http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).max_header_list_size(HEAD).initial_stream_window_size(WINDOW);
            let (sender, connection) =
                builder.initial_connection_window_size(WINDOW).handshake(stream).await?;
            let driver = tokio::spawn(async move { drop(connection.await) });
            return Ok(Self { sender: Sender::Http2(sender), driver });
        }
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER);
        let (sender, connection) = builder.handshake(stream).await?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender: Sender::Http1(sender), driver })
    }

    fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                // The answer before may have been read, but not to its very end.
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => sender.send_request(request).await,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// How long an export may take, from the connection to the last byte of the answer (OpenTelemetry's default).
const LIMIT: Duration = Duration::from_secs(10);
/// The most bytes of the body of an answer.
const ANSWER: usize = 64 * 1024;
/// The most bytes of the headers of an answer.
const HEAD: u32 = 16 * 1024;
/// The read buffer of HTTP/1.1, which limits the head of an answer, in bytes.
const BUFFER: usize = 64 * 1024;
/// Flow-control window of HTTP/2 in bytes.
const WINDOW: u32 = 64 * 1024 - 1;
/// The most bytes of the file of authorities.
const CA_FILE: u64 = 1024 * 1024;
