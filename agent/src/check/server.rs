//! The way to the server, and who answers there.

use std::io;
use std::time::{Duration, SystemTime};

use config::{RebootstrapMode, Settings};
use futures_util::future::join_all;
use identity::chain::verify_svid;
use identity::{Bundle, SpiffeId, TrustDomain};
use tokio::time::Instant;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::bundle::{self, Trust};
use super::storage::Stored;
use super::{Line, at, roughly};
use crate::upstream::ServerError;
use crate::upstream::probe::{self, Connected, Shown, Way};
use crate::upstream::tls::{KeyExchange, Roots};

/// The lines of the bundle, the way to the server and its identity.
pub(super) async fn lines(
    settings: &Settings,
    stored: &Stored,
    now: SystemTime,
    until: Instant,
) -> Vec<Line> {
    // A trust domain that is none is a problem of the configuration.
    let Ok(trust_domain) = TrustDomain::parse(&settings.trust_domain) else { return Vec::new() };
    let ways = settings
        .server_hosts()
        .map(async |host| (host, probe::connect(host, settings.server_port, until).await));
    let (trust, ways) =
        tokio::join!(bundle::look(settings, &trust_domain, stored, now, until), join_all(ways));
    let Trust { roots, source, mut lines } = trust;
    let mut reached = None;
    for (host, mut way) in ways {
        let connected = way.connected.take();
        lines.extend(way_lines(&settings.host_port(host), &way, connected.as_ref()));
        reached = reached.or_else(|| connected.and_then(Result::ok));
    }
    let Some(connected) = reached else {
        lines.push(unseen_clock());
        return lines;
    };
    let shown = handshake(settings, &trust_domain, roots.as_ref(), connected, until).await;
    lines.push(tls_line(&shown, roots.as_ref(), settings));
    if let Some(line) = source_helps(&shown, source.as_deref(), settings.rebootstrap_mode, now) {
        lines.push(line);
    }
    lines.push(shown.chain.first().map_or_else(unseen_clock, |leaf| clock_line(leaf, now)));
    lines
}

async fn handshake(
    settings: &Settings,
    trust_domain: &TrustDomain,
    roots: Option<&Roots>,
    connected: Connected,
    until: Instant,
) -> Shown {
    let key_exchange = match settings.experimental.require_pq_kem {
        true => KeyExchange::PostQuantum,
        false => KeyExchange::Preferred,
    };
    let server = SpiffeId::parse(&format!("{}/spire/server", trust_domain.id()));
    match server {
        Ok(server) => {
            // Without roots it still tells who answers there.
            let roots = roots.unwrap_or(&Roots::Insecure);
            connected.handshake(roots, &server, key_exchange, until).await
        }
        Err(reason) => Shown { verdict: Err(ServerError::Untrusted(reason.to_string())), chain: Vec::new() },
    }
}

/// The lines of the way to one server, at `address`.
fn way_lines(address: &str, way: &Way, connected: Option<&io::Result<Connected>>) -> Vec<Line> {
    let mut lines = Vec::new();
    let whose = way.proxy.as_deref().unwrap_or(address);
    if let Some(proxy) = &way.proxy {
        lines.push(Line::ok(
            "server-proxy",
            format!(
                "{address} is reached through the proxy {proxy} (HTTPS_PROXY; NO_PROXY does not exempt it)"
            ),
        ));
    }
    lines.push(match &way.addresses {
        Ok(found) if found.len() == 1 => {
            Line::ok("server-dns", format!("{whose} has one address: {}", found[0].ip()))
        }
        Ok(found) => Line::ok("server-dns", format!("{whose} has {} addresses", found.len())),
        Err(reason) => Line::failure(
            "server-dns",
            format!("{whose} has no address: {reason}"),
            "Correct server_address (or HTTPS_PROXY), or the name server in /etc/resolv.conf. In a pod with \
             hostNetwork, set `dnsPolicy: ClusterFirstWithHostNet`.",
        ),
    });
    match connected {
        None => {}
        Some(Ok(_)) => lines.push(Line::ok("server-connect", format!("{address} takes connections"))),
        Some(Err(reason)) => lines.push(connect_failure(address, way.proxy.as_deref(), reason)),
    }
    lines
}

fn connect_failure(address: &str, proxy: Option<&str>, reason: &io::Error) -> Line {
    let action = match (proxy, reason.kind()) {
        (Some(proxy), _) => {
            format!("Have the proxy {proxy} allow CONNECT to {address}, or name the server in NO_PROXY.")
        }
        (None, io::ErrorKind::ConnectionRefused) => {
            "Start the server, or correct server_address and server_port.".to_owned()
        }
        (None, io::ErrorKind::TimedOut) => {
            "Something swallows the packets: look at firewalls, network policies and security groups."
                .to_owned()
        }
        _ => "Look at the route to the server, and at server_address and server_port.".to_owned(),
    };
    Line::failure("server-connect", format!("{address} cannot be connected to: {reason}"), action)
}

fn tls_line(shown: &Shown, roots: Option<&Roots>, settings: &Settings) -> Line {
    let name = "server-tls";
    let reason = match (&shown.verdict, roots) {
        (Ok(()), Some(Roots::Bundle(_))) => {
            return Line::ok(name, "the server has the identity of this trust domain's server");
        }
        (Ok(()), Some(Roots::Insecure)) => {
            return Line::warning(
                name,
                "the server calls itself this trust domain's server; insecure_bootstrap lets nothing prove it",
                "Set trust_bundle_path or another source, and remove insecure_bootstrap.",
            );
        }
        (Ok(()), None) => {
            return Line::warning(
                name,
                "the server calls itself this trust domain's server, but there is no trust bundle to prove it by",
                "Provide the trust bundle.",
            );
        }
        (Err(reason), _) => reason,
    };
    let action = match reason {
        ServerError::UnknownAuthority => {
            "Replace the trust bundle by that of this server (`spire-server bundle show`), or correct server_address."
        }
        ServerError::Untrusted(text) if text.contains("unexpected server ID") => {
            "Correct trust_domain or server_address: another trust domain's server, or no server, answers there."
        }
        ServerError::Untrusted(text) if text.contains("expired or is not yet valid") => {
            "Compare the clocks of this node and of the server (see `clock`)."
        }
        ServerError::Unreachable(_) if settings.experimental.require_pq_kem => {
            "Something answers that is no SPIRE server, or one without X25519MLKEM768 (require_pq_kem)."
        }
        _ => "See what answers at server_address: it accepts connections, and is no SPIRE server that works.",
    };
    Line::failure(name, reason.to_string(), action)
}

/// The line for a server that the stored bundle does not authenticate, and that of the source does.
fn source_helps(
    shown: &Shown,
    source: Option<&Bundle>,
    mode: RebootstrapMode,
    now: SystemTime,
) -> Option<Line> {
    let (Err(ServerError::UnknownAuthority), Some(source)) = (&shown.verdict, source) else { return None };
    let chain = shown.chain.iter().map(|der| &**der);
    let authorities = source.x509_authorities.iter().map(|authority| &*authority.der);
    verify_svid(chain, &source.trust_domain, authorities, now).ok()?;
    Some(Line::warning(
        "server-tls",
        "the stored bundle is too old for this server, and the one of the configured source is not",
        match mode {
            RebootstrapMode::Never => {
                "Set rebootstrap_mode, or remove agent-data.json, so that the agent takes the source's bundle."
            }
            RebootstrapMode::Auto | RebootstrapMode::Always => {
                "Nothing: the agent takes the source's bundle after rebootstrap_delay."
            }
        },
    ))
}

fn unseen_clock() -> Line {
    Line::warning(
        CLOCK,
        "not compared: the server has shown no certificate",
        "Reach the server first; meanwhile see that time is synchronised.",
    )
}

/// The line of this node's clock. gRPC has no `Date`, so all that tells the server's time is its certificate.
fn clock_line(leaf: &[u8], now: SystemTime) -> Line {
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return unseen_clock() };
    let (begin, end) =
        (at(leaf.validity().not_before.timestamp()), at(leaf.validity().not_after.timestamp()));
    if let Ok(early) = begin.duration_since(now).map(|early| early.max(Duration::from_secs(1)))
        && begin > now
    {
        return Line::failure(
            CLOCK,
            format!(
                "the server's certificate is not valid before {} from now: this node's clock is late, or the server's \
                 is early",
                roughly(early)
            ),
            "Set the clocks of this node and of the server (chrony, systemd-timesyncd).",
        );
    }
    match now.duration_since(end) {
        Ok(late) => Line::failure(
            CLOCK,
            format!(
                "the server's certificate expired {} ago: this node's clock is early, or the server has not renewed it",
                roughly(late)
            ),
            "Set this node's clock; if it is right, restart the server.",
        ),
        Err(_) => {
            let since = roughly(now.duration_since(begin).unwrap_or_default());
            let left = roughly(end.duration_since(now).unwrap_or_default());
            Line::ok(
                CLOCK,
                format!(
                    "within the times of the server's certificate (since {since}, for {left}); gRPC tells nothing more exact"
                ),
            )
        }
    }
}

const CLOCK: &str = "clock";

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::super::Status;
    use super::*;

    #[test]
    fn the_clock_is_held_against_the_certificate() {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (at(1_000_000).into(), at(1_003_600).into());
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let told = |seconds| clock_line(der.der(), at(seconds));
        assert_eq!(told(1_000_000).status, Status::Ok);
        assert!(told(999_000).summary.contains("16 minutes from now: this node's clock is late"));
        assert!(told(1_010_800).summary.contains("expired 2 hours ago: this node's clock is early"));
        assert_eq!(clock_line(b"", at(0)).status, Status::Warning);
    }

    #[test]
    fn what_is_in_the_way_decides_the_advice() {
        let action = |proxy, kind: io::ErrorKind| connect_failure("s:1", proxy, &kind.into()).action;
        assert!(action(None, io::ErrorKind::ConnectionRefused).starts_with("Start the server"));
        assert!(action(None, io::ErrorKind::TimedOut).contains("firewalls"));
        assert!(action(Some("p:3128"), io::ErrorKind::Other).contains("NO_PROXY"));
    }
}
