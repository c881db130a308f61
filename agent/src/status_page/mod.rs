//! The status page (`experimental { status_address }`): what `finial top` shows, in a browser. It is read-only and has no
//! key material and no selectors.
//!
//! The page is complete without JavaScript, which only refreshes it. A page of another site must not read it, so a request
//! must name this host (against DNS rebinding), and the answer forbids to be framed or to load anything.

mod html;
mod plot;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::explain::Inspector;
use crate::http1::{self, Turn};

/// Serves the page for ever. An address that cannot be bound is logged, and the agent goes on without the page.
pub(crate) async fn serve(address: String, inspector: Inspector) {
    let listener = match TcpListener::bind(&address).await {
        Ok(listener) => listener,
        Err(reason) => {
            warn!(address = %address, error = %reason, "Cannot serve the status page");
            return;
        }
    };
    // With port 0 the system has chosen the port.
    let bound = listener.local_addr().map_or_else(|_| address.clone(), |bound| bound.to_string());
    info!(address = %bound, "Serving the status page");
    let host: Arc<str> = address.rsplit_once(':').map_or(&*address, |(host, _)| host).into();
    let (slots, turn) = (Arc::new(Semaphore::new(CONNECTIONS)), Turn::default());
    loop {
        let (stream, slot) = http1::accept(&listener, &slots, |_| ()).await;
        let (inspector, host, turn) = (inspector.clone(), Arc::clone(&host), turn.clone());
        tokio::spawn(async move {
            let (inspector, host, turn) = (&inspector, &*host, &turn);
            let respond = |request| async move { answer(inspector, host, turn, &request).await };
            if let Err(reason) = http1::converse(stream, HEADER_LIMIT, respond).await {
                debug!(error = %reason, "Connection of a browser ended");
            }
            drop(slot);
        });
    }
}

async fn answer(
    inspector: &Inspector,
    host: &str,
    turn: &Turn,
    request: &http::Request<Incoming>,
) -> Response<Full<Bytes>> {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !http1::is_this_host(named, host) {
        return text(StatusCode::FORBIDDEN, "Ask for this page by its address.\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "This page can only be read.\n");
    }
    match request.uri().path() {
        "/" => {
            let page = turn.take(async { html::page(&inspector.overview().await) }).await;
            respond(StatusCode::OK, "text/html; charset=utf-8", page)
        }
        "/status.json" => match turn.take(async { serde_json::to_string(&inspector.overview().await) }).await
        {
            Ok(json) => respond(StatusCode::OK, "application/json", json),
            Err(reason) => text(StatusCode::INTERNAL_SERVER_ERROR, &reason.to_string()),
        },
        _ => text(StatusCode::NOT_FOUND, "There is / and /status.json.\n"),
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Nothing is loaded, framed, sent or kept.
const HEADERS: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
];
/// The most connections at one time.
const CONNECTIONS: usize = 16;
/// How long a client may take to send the head of a request.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
