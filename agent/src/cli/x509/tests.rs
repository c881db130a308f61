use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use super::*;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Bytes,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let der = Bytes::copy_from_slice(params.self_signed(&key).unwrap().der());
    Authority { issuer: Issuer::new(params, key), der }
}

fn response(signer: &Authority, bundle: &Authority) -> X509svidResponse {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("spiffe://td/a".try_into().unwrap())];
    let leaf = params.signed_by(&key, &signer.issuer).unwrap();
    let svid = X509svid {
        spiffe_id: "spiffe://td/a".into(),
        x509_svid: Bytes::copy_from_slice(leaf.der()),
        x509_svid_key: key.serialize_der().into(),
        bundle: bundle.der.clone(),
        hint: "h".into(),
    };
    X509svidResponse { svids: vec![svid], ..X509svidResponse::default() }
}

#[test]
fn a_good_answer_is_taken_apart() {
    let root = authority();
    let mut response = response(&root, &root);
    response.svids[0].bundle = [&root.der[..], &authority().der[..]].concat().into();
    response.federated_bundles.insert("spiffe://other".into(), root.der.clone());
    let fetched = Fetched::parse(&response).unwrap();
    fetched.verify(SystemTime::now()).unwrap();
    let svid = &fetched.svids[0];
    assert_eq!((svid.chain.len(), svid.bundle.len(), &svid.hint[..]), (1, 2, "h"));
    assert_eq!(svid.bundle[0].der, root.der);
    assert_eq!(fetched.federated["spiffe://other"].len(), 1);
}

#[test]
fn another_authority_does_not_vouch_for_it() {
    let response = response(&authority(), &authority());
    let error = Fetched::parse(&response).unwrap().verify(SystemTime::now()).unwrap_err();
    assert!(
        error.to_string().starts_with(
            "\"spiffe://td/a\" SVID failed verification against bundle: x509svid: could not verify leaf certificate: \
             x509: certificate signed by unknown authority"
        ),
        "{error}"
    );
}

#[test]
fn bad_parts_are_named() {
    let root = authority();
    let refused = |spoil: fn(&mut X509svidResponse)| {
        let mut response = response(&root, &root);
        spoil(&mut response);
        Fetched::parse(&response).unwrap_err().to_string()
    };
    let entry = "failed to parse svid entry 0 for spiffe id \"spiffe://td/a\": ";
    assert_eq!(refused(|r| r.svids.clear()), "workload response contains no svids");
    assert_eq!(refused(|r| r.svids[0].x509_svid.clear()), format!("{entry}no certificates found"));
    assert_eq!(refused(|r| r.svids[0].bundle.clear()), format!("{entry}no certificates in trust bundle"));
    assert!(
        refused(|r| r.svids[0].x509_svid_key.truncate(9))
            .starts_with(&format!("{entry}failed to parse private key: "))
    );
    assert!(refused(|r| r.svids[0].x509_svid.truncate(9)).starts_with(&format!("{entry}x509: malformed")));
    assert_eq!(
        refused(|r| drop(r.federated_bundles.insert("spiffe://o".into(), Bytes::new()))),
        "no certificates in bundle for federated domain \"spiffe://o\""
    );
}
