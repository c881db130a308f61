//! The Debug service: an operator asks for the agent's own certificates, uptime and counters (SPIRE,
//! `pkg/agent/api/debug/v1`).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use identity::SpiffeId;
use proto::debug::get_info_response::Cert;
use proto::debug::{GetInfoRequest, GetInfoResponse};
use proto::types;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate, X509Name};

use crate::door::{Admission, Anonymous};

#[cfg(test)]
mod tests;

/// The service `spire.agent.debug.v1.Debug`.
#[derive(Debug)]
pub(super) struct Debug {
    admission: Arc<Admission>,
    status: Arc<crate::status::Status>,
}

impl Debug {
    pub(super) fn new(admission: Arc<Admission>, status: Arc<crate::status::Status>) -> Self {
        Self { admission, status }
    }

    pub(super) fn info(&self, _: Anonymous, _: GetInfoRequest) -> GetInfoResponse {
        let manager = self.admission.manager();
        let svids = count(manager.as_ref().map_or(0, |manager| manager.svid_count()));
        let tokens = count(manager.as_ref().map_or(0, |manager| manager.jwt_svid_count()));
        let state = self.status.state();
        let mut chain: Vec<_> = state.chain().iter().map(|der| cert(der)).collect();
        // spire-agent shows the root that the chain leads to, too.
        if let Some(manager) = manager
            && let Some(root) = root_of(state.chain(), &manager.bundle().borrow())
        {
            chain.push(root);
        }
        GetInfoResponse {
            svid_chain: chain,
            uptime: count(self.status.uptime()),
            svids_count: svids,
            last_sync_success: state.last_sync.map_or(0, seconds),
            cached_x509_svids_count: svids,
            cached_jwt_svids_count: tokens,
            cached_svidstore_x509_svids_count: 0,
        }
    }
}

/// The authority of `bundle` that is the issuer, by name, of the last certificate of `chain`. `None` if there is none,
/// or if the chain already ends with it.
fn root_of(chain: &[bytes::Bytes], bundle: &identity::Bundle) -> Option<Cert> {
    let (_, last) = X509Certificate::from_der(chain.last()?).ok()?;
    bundle.x509_authorities.iter().find_map(|authority| {
        let (_, root) = X509Certificate::from_der(&authority.der).ok()?;
        (root.subject() == last.issuer() && root.subject_pki != last.subject_pki)
            .then(|| cert(&authority.der))
    })
}

fn cert(der: &[u8]) -> Cert {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Cert::default() };
    Cert {
        id: spiffe_id(&certificate),
        expires_at: certificate.validity().not_after.timestamp(),
        subject: subject(certificate.subject()),
    }
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Option<types::Spiffeid> {
    let names = certificate.subject_alternative_name().ok()??;
    let uri = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })?;
    let id = SpiffeId::parse(uri).ok()?;
    Some(types::Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() })
}

/// A distinguished name as Go's `pkix.Name` prints it: the last part first.
fn subject(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.iter().rev() {
        for (place, attribute) in part.iter().enumerate() {
            let separator = if place > 0 { "+" } else { "," };
            if !text.is_empty() {
                text.push_str(separator);
            }
            let oid = attribute.attr_type().to_id_string();
            let name = NAMES.iter().find(|(known, _)| *known == oid).map_or(oid.as_str(), |(_, name)| name);
            let value = attribute.as_str().unwrap_or_default();
            let _ = write!(text, "{name}={}", escaped(value));
        }
    }
    text
}

/// The value of an attribute, escaped by RFC 2253 §2.4.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let escape = |place: usize, character: char| match character {
        ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
        ' ' => place == 0 || place == last,
        '#' => place == 0,
        _ => false,
    };
    value.chars().enumerate().fold(String::new(), |mut text, (place, character)| {
        if escape(place, character) {
            text.push('\\');
        }
        text.push(character);
        text
    })
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn count(number: impl TryInto<i32>) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

/// The attribute types for which Go prints a name.
const NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.17", "POSTALCODE"),
];
