//! The HTTP listener that Prometheus scrapes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use config::Prometheus;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::Full;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, warn};
use transport::Complaints;

use super::Gauges;
use super::tls::Acceptor;
use crate::http1::{self, Turn};
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
    let (tls, complaints) = (Arc::new(tls), Arc::new(Complaints::default()));
    let (slots, turn) = (Arc::new(Semaphore::new(CONNECTIONS)), Turn::default());
    loop {
        let failed = |reason: &std::io::Error| warn!(error = %reason, "Prometheus listener cannot accept a connection");
        let (stream, slot) = http1::accept(&listener, &slots, failed).await;
        let (gauges, tls, turn) = (gauges.clone(), Arc::clone(&tls), turn.clone());
        let complaints = Arc::clone(&complaints);
        tokio::spawn(async move {
            match &*tls {
                None => converse(stream, &gauges, &turn).await,
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => converse(stream, &gauges, &turn).await,
                    // Anybody who reaches the port can fail as often as it connects.
                    Err(reason) if complaints.admit("scrapers", "handshake") => {
                        warn!(error = %reason, "TLS handshake of a scraper failed");
                    }
                    Err(_) => {}
                },
            }
            drop(slot);
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, gauges: &Gauges, turn: &Turn) {
    let respond = |_| turn.take(async { answer(gauges) });
    if let Err(reason) = http1::converse(stream, HEADER_LIMIT, respond).await {
        debug!(error = %reason, "Connection of a scraper ended");
    }
}

fn answer(gauges: &Gauges) -> http::Response<Full<Bytes>> {
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
