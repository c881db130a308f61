//! The table that Go made (`tests/peers/go/chains`), and what differs from it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::*;
use crate::TrustDomain;

struct Table {
    certificates: Vec<Vec<u8>>,
    rows: Vec<Value>,
}

impl Table {
    fn read() -> Self {
        let table: Value = serde_json::from_str(include_str!("../../testdata/chains.json")).unwrap();
        let der = |text: &Value| STANDARD.decode(text.as_str().unwrap()).unwrap();
        let certificates = table["certificates"].as_array().unwrap().iter().map(der).collect();
        Self { certificates, rows: table["rows"].as_array().unwrap().clone() }
    }

    fn der(&self, number: &Value) -> &[u8] {
        &self.certificates[usize::try_from(number.as_u64().unwrap()).unwrap()]
    }

    fn judge(&self, row: &Value) -> Result<(), SvidChainError> {
        let ders = |list: &Value| list.as_array().unwrap().iter().map(|n| self.der(n)).collect::<Vec<_>>();
        let (leaf, others, anchors) =
            (self.der(&row["leaf"]), ders(&row["intermediates"]), ders(&row["roots"]));
        let now = OffsetDateTime::parse(row["at"].as_str().unwrap(), &Rfc3339).unwrap().into();
        let purpose = match row["usage"].as_str().unwrap() {
            "svid" => {
                let chain = std::iter::once(leaf).chain(others);
                return verify_svid(chain, &TrustDomain::parse("td.example").unwrap(), anchors, now)
                    .map(drop);
            }
            "any" => Purpose::Any,
            "server" => Purpose::Server,
            "client" => Purpose::Client,
            "either" => Purpose::ServerOrClient,
            other => panic!("{other}"),
        };
        Ok(verify(leaf, others, anchors, purpose, now)?)
    }
}

fn kind(judged: &Result<(), SvidChainError>) -> &'static str {
    let Err(reason) = judged else { return "accepted" };
    match reason {
        SvidChainError::Malformed(_) | SvidChainError::Chain(ChainError::Malformed(_)) => "malformed",
        SvidChainError::Chain(reason) => match reason {
            ChainError::Malformed(_) => "malformed",
            ChainError::CriticalExtension => "critical extension",
            ChainError::NotYetValid { .. } | ChainError::Expired { .. } => "expired",
            ChainError::NotAuthorizedToSign => "not a CA",
            ChainError::PathLength => "path length",
            ChainError::Name(_) => "name constraint",
            ChainError::Purpose => "usage",
            ChainError::Policies { .. } => "no valid chains",
            ChainError::UnknownAuthority(_) => "unknown authority",
            ChainError::SignatureLimit => "signature limit",
        },
        _ => "not an SVID",
    }
}

/// A row where this verifier differs, in words.
fn difference(table: &Table, row: &Value) -> Option<String> {
    let (verdict, error) = (row["verdict"].as_str().unwrap(), row["error"].as_str().unwrap());
    let judged = table.judge(row);
    let text = judged.as_ref().map_or_else(|reason| reason.to_string(), |()| String::new());
    let own_words = ["could not verify leaf certificate: ", "unable to parse certificate: "];
    let text = text.trim_start_matches("x509svid: ");
    let text = own_words.iter().fold(text, |text, words| text.trim_start_matches(words));
    let same_text = text == error || OTHER_WORDS.iter().any(|words| error.contains(words));
    let same = kind(&judged) == verdict && same_text;
    (!same).then(|| format!("go: {verdict}: {error}\n  ours: {}: {text}", kind(&judged)))
}

#[test]
fn every_row_is_judged_as_by_go() {
    let table = Table::read();
    assert!(table.rows.len() >= 80);
    let name = |row: &Value| format!("{}: {}", row["group"].as_str().unwrap(), row["name"].as_str().unwrap());
    let rows = table.rows.iter().map(|row| (name(row), row));
    let different = rows.filter_map(|(name, row)| Some((name, difference(&table, row)?)));
    let (refused, wrong): (Vec<_>, Vec<_>) =
        different.partition(|(name, _)| REFUSED.iter().any(|refused| refused == name));
    let wrong: Vec<_> = wrong.iter().map(|(name, what)| format!("{name}\n  {what}")).collect();
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(refused.len(), REFUSED.len(), "an exception that is none any more");
    for (name, what) in refused {
        assert!(
            what.starts_with("go: accepted") && what.contains("algorithm unimplemented"),
            "{name}: {what}"
        );
    }
}

/// What Go accepts and this verifier refuses: aws-lc-rs has neither P-224 nor these uses of RSA below 2048 bits.
const REFUSED: [&str; 6] = [
    "algorithms: ECDSA P-224 with SHA-256",
    "algorithms: ECDSA P-224 with SHA-384",
    "algorithms: ECDSA P-224 with SHA-512",
    "algorithms: RSA 1024 with SHA-384",
    "algorithms: RSA 1024 with PSS SHA-256",
    "algorithms: RSA 1024 with PSS SHA-384",
];

/// Go's messages with details that ours leave out.
const OTHER_WORDS: [&str; 7] = [
    "cannot parse URI \"",
    "invalid mask",
    "duplicate extension",
    "of length",
    "string type",
    "point encoding",
    "failed to parse",
];
