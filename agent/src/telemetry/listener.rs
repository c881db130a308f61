//! The HTTP listener that Prometheus scrapes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use config::Prometheus;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::Gauges;
use super::tls::Acceptor;
use crate::upstream::tls::KeyExchange;

/// Serves metrics for ever, under every path. An address that cannot be bound is logged, and the agent goes on (SPIRE,
/// `prometheus.go`).
pub(super) async fn serve(settings: Prometheus, key_exchange: KeyExchange, gauges: Gauges) {
    let address = settings.address();
    let listener = match TcpListener::bind(&address).await {
        Ok(listener) => listener,
        Err(reason) => {
            warn!(address = %address, error = %reason, "Prometheus listener stopped unexpectedly");
            return;
        }
    };
    let tls = settings.tls.map(|settings| Acceptor { settings, key_exchange, gauges: gauges.clone() });
    let tls = Arc::new(tls);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(reason) => {
                warn!(error = %reason, "Prometheus listener cannot accept a connection");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        let (gauges, tls) = (gauges.clone(), Arc::clone(&tls));
        tokio::spawn(async move {
            match &*tls {
                None => converse(stream, &gauges).await,
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => converse(stream, &gauges).await,
                    Err(reason) => warn!(error = %reason, "TLS handshake of a scraper failed"),
                },
            }
            drop(slot);
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, gauges: &Gauges) {
    let service = service_fn(|request| {
        let response = answer(gauges, &request);
        async { Ok::<_, Infallible>(response) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT).max_buf_size(BUFFER);
    if let Err(reason) = server.serve_connection(TokioIo::new(stream), service).await {
        debug!(error = %reason, "Connection of a scraper ended");
    }
}

fn answer(gauges: &Gauges, _: &http::Request<Incoming>) -> http::Response<Full<Bytes>> {
    let mut response = http::Response::new(Full::new(Bytes::from(gauges.text())));
    let kind = HeaderValue::from_static(telemetry::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The most connections at one time. Others wait in the queue of the socket.
const CONNECTIONS: usize = 16;
/// How long a client may take to send the head of a request (SPIRE, `ReadHeaderTimeout`); idle connections end after it,
/// too.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// The read buffer of a connection, in bytes.
const BUFFER: usize = 16 * 1024;
/// The wait after a connection could not be accepted.
const AGAIN: Duration = Duration::from_millis(100);
