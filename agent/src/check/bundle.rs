//! What the server will be authenticated by: the stored bundle, and the source for a first contact.

use std::sync::Arc;
use std::time::SystemTime;

use config::{Settings, TrustBundleSource};
use identity::{Bundle, TrustDomain};
use tokio::time::{Instant, timeout_at};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::storage::Stored;
use super::{Line, at, roughly};
use crate::life::format_time;
use crate::life::stale::share_an_authority;
use crate::upstream::first_bundle::{self, Attempt};
use crate::upstream::tls::Roots;

/// What authenticates the server.
pub(super) struct Trust {
    /// What the agent will use first: the stored bundle, else the source; `None` if there is neither.
    pub(super) roots: Option<Roots>,
    /// What the source gives, where the stored bundle goes before it.
    pub(super) source: Option<Arc<Bundle>>,
    pub(super) lines: Vec<Line>,
}

/// Asks the configured source.
pub(super) async fn look(
    settings: &Settings,
    trust_domain: &TrustDomain,
    stored: &Stored,
    now: SystemTime,
    until: Instant,
) -> Trust {
    let start = format_time(now);
    let attempt = Attempt {
        is_rebootstrap: false,
        number: 1,
        start: &start,
        server_address: &settings.server_address,
        server_port: settings.server_port,
        trust_domain,
    };
    let fetched = timeout_at(until, first_bundle::fetch(&settings.trust_bundle, &attempt)).await;
    let fetched =
        fetched.unwrap_or_else(|_| Err("the source of the trust bundle does not answer in time".to_owned()));
    let present = (!stored.bundle.is_empty())
        .then(|| Arc::new(Bundle::of_x509(trust_domain.clone(), stored.bundle.iter().cloned())));
    let lines = vec![source_line(&fetched, present.as_deref(), &settings.trust_bundle, now)];
    let source = match &fetched {
        Ok(Roots::Bundle(bundle)) => Some(Arc::clone(bundle)),
        _ => None,
    };
    Trust { roots: present.map(Roots::Bundle).or_else(|| fetched.ok()), source, lines }
}

fn source_line(
    fetched: &Result<Roots, String>,
    stored: Option<&Bundle>,
    source: &TrustBundleSource,
    now: SystemTime,
) -> Line {
    match (fetched, stored) {
        (Err(reason), None) => Line::failure(
            NAME,
            reason.clone(),
            "Provide the trust bundle (`spire-server bundle show`) at its source; the agent waits for it.",
        ),
        (Err(reason), Some(_)) => Line::warning(
            NAME,
            format!("{reason}; this agent has a stored bundle, but a new node could not attest"),
            "Provide the trust bundle (`spire-server bundle show`) at its source.",
        ),
        (Ok(Roots::Insecure), stored) => Line::warning(
            NAME,
            match stored {
                Some(_) => "insecure_bootstrap is set; the stored bundle authenticates the server today",
                None => {
                    "insecure_bootstrap: whoever answers at the server's address is believed at first contact"
                }
            },
            "Set trust_bundle_path or another source, and remove insecure_bootstrap.",
        ),
        (Ok(Roots::Bundle(bundle)), Some(stored)) if !share_an_authority(bundle, stored) => Line::warning(
            NAME,
            format!(
                "the bundle of {} is stale: none of its authorities is in the stored bundle",
                describe(source)
            ),
            "Replace it (`spire-server bundle show`): this agent goes on, but a new node could not attest.",
        ),
        (Ok(Roots::Bundle(bundle)), _) => times_line(bundle, source, now),
    }
}

/// The line of the authorities' times.
fn times_line(bundle: &Bundle, source: &TrustBundleSource, now: SystemTime) -> Line {
    let from = describe(source);
    let lives: Vec<_> = bundle
        .x509_authorities
        .iter()
        .filter_map(|authority| {
            let (_, certificate) = X509Certificate::from_der(&authority.der).ok()?;
            let validity = certificate.validity();
            Some((at(validity.not_before.timestamp()), at(validity.not_after.timestamp())))
        })
        .collect();
    let count = lives.len();
    let action = "Replace it (`spire-server bundle show`), or have the server publish it at the source.";
    let Some((begin, end)) = lives.into_iter().max_by_key(|(_, end)| *end) else {
        return Line::failure(NAME, format!("the bundle of {from} has no X.509 authority"), action);
    };
    let Ok(left) = end.duration_since(now) else {
        let since = roughly(now.duration_since(end).unwrap_or_default());
        return Line::failure(
            NAME,
            format!("all authorities of the bundle of {from} have expired, the last one {since} ago"),
            action,
        );
    };
    let authorities = match count {
        1 => "one authority, which".to_owned(),
        count => format!("{count} authorities, the last of which"),
    };
    let summary = format!("the bundle of {from} has {authorities} expires in {}", roughly(left));
    // A server signs with the next authority when a sixth of the life of the present one is left.
    if left * 6 < end.duration_since(begin).unwrap_or_default() {
        Line::warning(NAME, summary, action)
    } else {
        Line::ok(NAME, summary)
    }
}

fn describe(source: &TrustBundleSource) -> String {
    match source {
        TrustBundleSource::Insecure => "insecure_bootstrap".to_owned(),
        TrustBundleSource::File { path, .. } => format!("trust_bundle_path {}", path.display()),
        TrustBundleSource::Web { url, .. } => format!("trust_bundle_url {url}"),
        TrustBundleSource::UnixSocket { socket, .. } => {
            format!("trust_bundle_unix_socket {}", socket.display())
        }
        TrustBundleSource::WorkloadApi(address) => format!("trust_bundle_spiffe_workload_api {address}"),
    }
}

const NAME: &str = "trust-bundle";

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rcgen::{CertificateParams, KeyPair};

    use super::super::Status;
    use super::*;

    fn bundle(begin: i64, end: i64) -> Bundle {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (at(begin).into(), at(end).into());
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Bundle::of_x509(TrustDomain::parse("td").unwrap(), [Bytes::from(der.der().to_vec())])
    }

    fn told(fetched: Result<Roots, String>, stored: Option<&Bundle>, now: i64) -> Line {
        source_line(&fetched, stored, &TrustBundleSource::Insecure, at(now))
    }

    #[test]
    fn a_bundle_is_judged_by_its_authorities() {
        let one = bundle(1_000_000, 2_000_000);
        let of = |bundle: &Bundle| Ok(Roots::Bundle(Arc::new(bundle.clone())));
        assert_eq!(told(of(&one), None, 1_500_000).status, Status::Ok);
        assert_eq!(told(of(&one), None, 1_900_000).status, Status::Warning);
        let expired = told(of(&one), None, 2_100_000);
        assert!(expired.status == Status::Failure && expired.summary.contains("27 hours ago"), "{expired:?}");
        let none = Bundle::of_x509(one.trust_domain.clone(), []);
        assert_eq!(told(of(&none), None, 0).status, Status::Failure);
        let other = bundle(1_000_000, 2_000_000);
        assert!(told(of(&one), Some(&other), 1_500_000).summary.contains("is stale"));
        assert_eq!(told(of(&one), Some(&one), 1_500_000).status, Status::Ok);
        assert_eq!(told(Ok(Roots::Insecure), None, 0).status, Status::Warning);
        assert_eq!(told(Err("away".into()), None, 0).status, Status::Failure);
        assert_eq!(told(Err("away".into()), Some(&one), 0).status, Status::Warning);
    }
}
