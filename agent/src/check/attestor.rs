//! What the node attestor will present to the server.

use std::path::Path;
use std::time::SystemTime;

use attestors::file;
use attestors::node::NodeError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config::{NodeAttestor, Settings};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::storage::{Stored, Svid};
use super::token::Claims;
use super::{Line, at, roughly};
use crate::wiring::node_attestor;

/// The lines. Nothing is presented to the server.
pub(super) async fn lines(
    settings: &Settings,
    stored: &Stored,
    now: SystemTime,
    until: Instant,
) -> Vec<Line> {
    let Ok(plugins) = settings.plugins() else { return Vec::new() };
    if settings.join_token.is_some() || plugins.node_attestor == NodeAttestor::JoinToken {
        return vec![join_token(settings.join_token.is_some(), stored.svid)];
    }
    if let NodeAttestor::K8sPsat { token_path, .. } = &plugins.node_attestor {
        return vec![psat(token_path, now, until).await];
    }
    // Begins an attestation as the agent does, and lets it go: files are read, a port is opened and closed.
    let attestor = node_attestor(settings, plugins);
    let begun = timeout_at(until, attestor.begin()).await;
    vec![match begun {
        Err(_) => Line::failure(NAME, format!("{} is not ready in time", attestor.name()), READABLE),
        Ok(Err(reason)) => refused(&reason),
        Ok(Ok(mut conversation)) => match &plugins.node_attestor {
            NodeAttestor::X509Pop(_) => certificate(&conversation.payload(), now),
            _ => Line::ok(NAME, format!("{}: its port is free", attestor.name())),
        },
    }]
}

fn join_token(is_given: bool, svid: Svid) -> Line {
    match (is_given, svid) {
        (false, Svid::Valid(_)) => {
            Line::ok(NAME, "join_token: none is given, and none is needed beside the stored SVID")
        }
        (false, _) => Line::failure(
            NAME,
            "join_token: no token is given, and there is no stored SVID that the agent could go on with",
            "Run `spire-server token generate`, and set join_token, join_token_file or -joinToken.",
        ),
        (true, Svid::None) => {
            Line::ok(NAME, "join_token: a token is given, and this node has not used one yet")
        }
        (true, Svid::Valid(_)) => Line::ok(
            NAME,
            "join_token: a token is given, and is not needed: the agent goes on with its stored SVID",
        ),
        (true, _) => Line::warning(
            NAME,
            "join_token: a token is given, but this node has attested before (agent-data.json): if by this token, it \
             is spent",
            "Run `spire-server token generate` for a new one, unless this one is new. With KeyManager \"disk\" a restart \
             needs none.",
        ),
    }
}

async fn psat(path: &Path, now: SystemTime, until: Instant) -> Line {
    let shown = path.display().to_string();
    let text = timeout_at(until, file::load_text(path, TOKEN_BYTES)).await;
    let token = match text {
        Ok(Ok(token)) => token,
        Ok(Err(reason)) => {
            let summary = format!("k8s_psat: unable to load token from {shown}: {reason}");
            return Line::failure(NAME, summary, READABLE);
        }
        Err(_) => {
            return Line::failure(NAME, format!("k8s_psat: {shown} is not read in time"), READABLE);
        }
    };
    match Claims::of(&token) {
        Some(claims) => claims.line(&shown, now),
        None => Line::failure(
            NAME,
            format!("k8s_psat: what {shown} holds is no JSON Web Token"),
            "Mount a projected token: `serviceAccountToken` with `audience: spire-server`.",
        ),
    }
}

fn refused(reason: &NodeError) -> Line {
    let action = match reason {
        NodeError::Listen { .. } => "Stop what listens on the port, or set another `port`.",
        NodeError::WorkloadApi(_) => "Start the other agent, and register this one with it.",
        NodeError::Credential { .. } => "Give the files of a certificate and of its own key.",
        _ => READABLE,
    };
    Line::failure(NAME, reason.to_string(), action)
}

/// The payload of x509pop.
#[derive(Deserialize)]
struct Payload {
    certificates: Vec<String>,
}

fn certificate(payload: &[u8], now: SystemTime) -> Line {
    let leaf = serde_json::from_slice::<Payload>(payload)
        .ok()
        .and_then(|payload| payload.certificates.into_iter().next());
    let leaf = leaf.and_then(|leaf| STANDARD.decode(leaf).ok()).unwrap_or_default();
    let Ok((_, leaf)) = X509Certificate::from_der(&leaf) else {
        return Line::failure(NAME, "x509pop: the certificate is malformed", READABLE);
    };
    validity("x509pop: the key belongs to the certificate, which", &leaf, now)
}

/// The line of the times of a certificate.
fn validity(what: &str, leaf: &X509Certificate<'_>, now: SystemTime) -> Line {
    let (begin, end) =
        (at(leaf.validity().not_before.timestamp()), at(leaf.validity().not_after.timestamp()));
    let renew = "Replace the certificate; the files are read again at each attestation.";
    if let Ok(early) = begin.duration_since(now).map(roughly)
        && begin > now
    {
        return Line::failure(NAME, format!("{what} is not valid before {early} from now"), CLOCK);
    }
    match end.duration_since(now) {
        Err(_) => {
            let since = roughly(now.duration_since(end).unwrap_or_default());
            Line::failure(NAME, format!("{what} expired {since} ago"), renew)
        }
        // A sixth of its life is left.
        Ok(left) if left * 6 < end.duration_since(begin).unwrap_or_default() => {
            Line::warning(NAME, format!("{what} expires in {}", roughly(left)), renew)
        }
        Ok(left) => Line::ok(NAME, format!("{what} is valid for {}", roughly(left))),
    }
}

pub(super) const NAME: &str = "node-attestor";
const READABLE: &str = "Give the agent's user a readable file at this path; the agent waits for it.";
const CLOCK: &str = "Set this node's clock, or replace the certificate.";
const TOKEN_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};

    use super::super::Status;
    use super::*;

    #[test]
    fn a_join_token_works_once() {
        let now = SystemTime::now();
        let valid = Svid::Valid(now + Duration::from_hours(1));
        let status = |given, svid| join_token(given, svid).status;
        assert_eq!(status(true, Svid::None), Status::Ok);
        assert_eq!(status(false, valid), Status::Ok);
        assert_eq!(status(true, valid), Status::Ok);
        assert_eq!(status(false, Svid::None), Status::Failure);
        for svid in [Svid::Expired(now), Svid::WithoutKey, Svid::Corrupt] {
            assert_eq!(status(true, svid), Status::Warning);
            assert_eq!(status(false, svid), Status::Failure);
        }
    }

    #[test]
    fn a_certificate_is_judged_by_its_times() {
        let mut params = CertificateParams::default();
        params.not_before = at(1_000_000).into();
        params.not_after = at(2_000_000).into();
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let payload = serde_json::json!({"certificates": [STANDARD.encode(der.der())]}).to_string();
        let told = |seconds| certificate(payload.as_bytes(), at(seconds));
        assert_eq!(told(1_000_000).status, Status::Ok);
        assert_eq!(told(1_950_000).status, Status::Warning);
        assert!(told(2_100_000).summary.contains("expired 27 hours ago"));
        assert_eq!(told(900_000).action, CLOCK);
        assert_eq!(certificate(b"{}", at(0)).status, Status::Failure);
    }
}
