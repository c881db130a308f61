//! A peer, and policies to check it against.

use std::io;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use san::names::Names;
use san::{Policy, read};
use serde_json::json;

/// The peer's certificate. Its names are `spiffe://td/web` and `web.local`.
#[must_use]
pub fn chain() -> [CertificateDer<'static>; 1] {
    [CertificateDer::from(LEAF)]
}

/// The names in the peer's certificate.
///
/// # Panics
/// Never: they are well-formed.
#[must_use]
pub fn names() -> Names<'static> {
    Names::parse(NAMES).expect("well-formed")
}

/// A time at which the peer's certificate is valid.
#[must_use]
pub fn at() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

/// A policy with this many matchers. Only the last one accepts the peer.
///
/// # Panics
/// Never: it is well-formed.
#[must_use]
pub fn policy(matchers: usize) -> Policy {
    let uri =
        |n| json!({ "san_type": "URI", "matcher": { "exact": format!("spiffe://td/ns/yelb/sa/app-{n}") } });
    let mut list: Vec<_> = (1..matchers).map(uri).collect();
    list.push(json!({ "san_type": "URI", "matcher": { "safe_regex": { "regex": "spiffe://td/w[a-z]+" } } }));
    let context = json!({
        "trusted_ca": { "inline_string": ROOT },
        "match_typed_subject_alt_names": list,
    });
    let reading = read::policy(&context, &|_| Err(io::ErrorKind::NotFound.into())).expect("well-formed");
    Policy::compile(&reading.context).expect("it compiles")
}

const LEAF: &[u8] = include_bytes!("../../../fuzz/testdata/leaf.der");
const ROOT: &str = include_str!("../../../fuzz/testdata/root.pem");
/// The value of the certificate's subjectAltName extension.
const NAMES: &[u8] = b"\x30\x1c\x86\x0fspiffe://td/web\x82\x09web.local";
