//! Any text is a trust bundle, in PEM or in SPIFFE's JSON, or is refused. A bundle has at least one authority, each
//! authority is a certificate, and writing and reading the bundle again, in either form, gives the same bundle.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::{Bundle, TrustDomain};
use serde_json::json;

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let domain = TrustDomain::parse("td").expect("a name");
    let pem = Bundle::from_pem(domain.clone(), text);
    let json = Bundle::from_spiffe_json(domain.clone(), text);
    assert!(pem.is_err() || json.is_err(), "the two forms have nothing in common");
    let Ok(bundle) = pem.or(json) else { return };
    assert!(!bundle.x509_authorities.is_empty() && bundle.jwt_authorities.is_empty());
    assert!(bundle.x509_authorities.iter().all(|authority| !authority.der.is_empty() && !authority.tainted));
    let length: usize = bundle.x509_authorities.iter().map(|authority| authority.der.len()).sum();
    assert_eq!(bundle.x509_der().len(), length);
    assert_eq!(Bundle::from_pem(domain.clone(), bundle.x509_pem().as_bytes()).as_ref(), Ok(&bundle));
    let key = |der: &[u8]| json!({ "use": "x509-svid", "kty": "EC", "x5c": [STANDARD.encode(der)] });
    let keys: Vec<_> = bundle.x509_authorities.iter().map(|authority| key(&authority.der)).collect();
    let written = json!({ "spiffe_sequence": 1, "keys": keys }).to_string();
    assert_eq!(Bundle::from_spiffe_json(domain, written.as_bytes()).as_ref(), Ok(&bundle));
});
