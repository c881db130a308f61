//! Health checks: over HTTP for the kubelet, over gRPC for `healthcheck` and scripts.
//!
//! `/live` tells that the process answers. It never fails for a remote reason, because otherwise the kubelet would
//! restart every agent during an outage of the server. `/ready` and SERVING need attestation and the first sync, and
//! that the server still accepts the agent's certificate.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
use hyper::body::Incoming;
use proto::health::health_check_response::ServingStatus;
use proto::health::{HealthCheckRequest, HealthCheckResponse};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::Status;
use tracing::{info, warn};

use crate::door::Anonymous;
use crate::http1;
use crate::status;

/// The service `grpc.health.v1.Health`.
#[derive(Debug)]
pub(crate) struct Health {
    status: Arc<status::Status>,
}

impl Health {
    /// The health of the agent of this status.
    pub(crate) fn new(status: Arc<status::Status>) -> Self {
        Self { status }
    }

    pub(super) fn check(
        &self,
        _: Anonymous,
        request: &HealthCheckRequest,
    ) -> Result<HealthCheckResponse, Status> {
        if !request.service.is_empty() {
            return Err(Status::invalid_argument("per-service health is not supported"));
        }
        let status = if self.status.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(HealthCheckResponse { status: status.into() })
    }
}

/// Serves `/live` and `/ready` for ever. An address that cannot be bound is logged, and the agent goes on without
/// health checks (SPIRE does so too).
pub(crate) async fn serve(settings: config::HealthChecks, status: Arc<status::Status>) {
    let address = settings.address();
    let listener = match TcpListener::bind(&address).await {
        Ok(listener) => listener,
        Err(reason) => {
            warn!(address = %address, error = %reason, "Error serving health checks");
            return;
        }
    };
    // With port 0 the system has chosen the port.
    let bound = listener.local_addr().map_or(address, |bound| bound.to_string());
    info!(address = %bound, "Serving health checks");
    let settings = Arc::new(settings);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let failed = |reason: &std::io::Error| warn!(error = %reason, "Health check connection failed");
        let (stream, slot) = http1::accept(&listener, &slots, failed).await;
        let (settings, status) = (Arc::clone(&settings), Arc::clone(&status));
        tokio::spawn(async move {
            let respond = |request| std::future::ready(answer(&settings, &status, &request));
            let _ = http1::converse(stream, HEADER_LIMIT, respond).await;
            drop(slot);
        });
    }
}

fn answer(
    settings: &config::HealthChecks,
    status: &status::Status,
    request: &http::Request<Incoming>,
) -> http::Response<Full<Bytes>> {
    let path = request.uri().path();
    let (code, body) = if path == settings.live_path {
        (200, HEALTHY)
    } else if path == settings.ready_path {
        if status.is_ready() { (200, HEALTHY) } else { (500, NOT_READY) }
    } else {
        (404, "{}")
    };
    let mut response = http::Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

const HEALTHY: &str = r#"{"agent":{}}"#;
const NOT_READY: &str = r#"{"agent":{"make_new_x509_err":"workload api is unavailable"}}"#;
/// The most connections at one time.
const CONNECTIONS: usize = 64;
/// How long a client may take to send the head of a request.
const HEADER_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);
