use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::*;

#[test]
fn a_certificate_as_go_shows_it() {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "US");
    params.distinguished_name.push(DnType::OrganizationName, "SPIRE, Inc");
    params.distinguished_name.push(DnType::CommonName, "#1");
    params.subject_alt_names = vec![SanType::URI("spiffe://td/a/b".try_into().unwrap())];
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let shown = cert(certificate.der());
    assert_eq!(shown.subject, r"CN=\#1,O=SPIRE\, Inc,C=US");
    assert_eq!(shown.id, Some(types::Spiffeid { trust_domain: "td".into(), path: "/a/b".into() }));
    assert_eq!(cert(b"none"), Cert::default());
}
