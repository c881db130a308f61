//! The output of the commands: text for people, JSON for scripts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::workload::X509svidResponse;
use serde_json::{Value, json};

use super::x509::{Certificate, Svid};
use crate::golang;

/// The output format, by `-output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    #[default]
    Pretty,
    Json,
}

impl Format {
    /// Reads the value of `-output`.
    ///
    /// # Errors
    /// [`UnknownFormat`].
    pub(super) fn parse(text: &str) -> Result<Self, UnknownFormat> {
        match text.to_lowercase().as_str() {
            "pretty" | "prettyprint" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat(text.to_owned())),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }
}

/// A value of `-output` that is neither `pretty` nor `json`.
#[derive(Debug, thiserror::Error)]
#[error("bad formatter flag: unknown format option: {0:?}")]
pub(super) struct UnknownFormat(String);

/// The X.509-SVIDs as text for people, without the last newline. `took` is the time until they were received.
pub(super) fn pretty(
    svids: &[Svid],
    federated: &BTreeMap<String, Vec<Certificate>>,
    took: Duration,
) -> String {
    let plural = if svids.len() == 1 { "" } else { "s" };
    let mut text = format!("Received {} svid{plural} after {}\n", svids.len(), golang::duration(took));
    for svid in svids {
        let _ = writeln!(text, "\nSPIFFE ID:\t\t{}", svid.id);
        if !svid.hint.is_empty() {
            let _ = writeln!(text, "Hint:\t\t\t{}", svid.hint);
        }
        validity(&mut text, "SVID", &svid.chain[0]);
        for (number, intermediate) in svid.chain.iter().enumerate().skip(1) {
            validity(&mut text, &format!("Intermediate #{number}"), intermediate);
        }
        authorities(&mut text, "", &svid.bundle);
        for (trust_domain, bundle) in federated {
            authorities(&mut text, &format!("[{trust_domain}] "), bundle);
        }
    }
    text
}

fn authorities(text: &mut String, prefix: &str, bundle: &[Certificate]) {
    for (number, authority) in (1..).zip(bundle) {
        validity(text, &format!("{prefix}CA #{number}"), authority);
    }
}

fn validity(text: &mut String, what: &str, certificate: &Certificate) {
    let _ = writeln!(text, "{what} Valid After:\t{}", golang::time(certificate.not_before));
    let _ = writeln!(text, "{what} Valid Until:\t{}", golang::time(certificate.not_after));
}

/// The answer as one line of JSON: all fields of the message, sorted by name.
pub(super) fn json(response: &X509svidResponse) -> String {
    let bytes = |bytes: &[u8]| Value::String(STANDARD.encode(bytes));
    let svids = response.svids.iter().map(|svid| {
        json!({
            "spiffe_id": svid.spiffe_id,
            "x509_svid": bytes(&svid.x509_svid),
            "x509_svid_key": bytes(&svid.x509_svid_key),
            "bundle": bytes(&svid.bundle),
            "hint": svid.hint,
        })
    });
    let federated = response.federated_bundles.iter().map(|(id, ders)| (id.clone(), bytes(ders)));
    let value = json!({
        "svids": svids.collect::<Vec<_>>(),
        "crl": response.crl.iter().map(|crl| bytes(crl)).collect::<Vec<_>>(),
        "federated_bundles": federated.collect::<serde_json::Map<_, _>>(),
    });
    escape_html(&value.to_string())
}

/// Escapes JSON as Go's encoder does, which makes it safe inside HTML. These characters occur only in strings.
pub(super) fn escape_html(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
pub(super) mod tests;
