//! The outcomes of a batch, by the server's answer.

use identity::{Selector, SpiffeId};
use proto::types::{Status, X509svid};
use rcgen::{CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair, SanType};
use rustls_pki_types::CertificateSigningRequestDer;

use super::*;

fn entry(name: &str) -> Arc<Entry> {
    Arc::new(Entry {
        id: name.into(),
        spiffe_id: id(name),
        selectors: [Selector::new("unix", "uid:1").unwrap()].into_iter().collect(),
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        revision: 1,
        store_svid: false,
        hint: String::new(),
        created_at: 0,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    })
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://td/{name}")).unwrap()
}

/// The keys of two entries, and the parameters that are sent for them.
fn batch() -> (Keys, Vec<NewX509svidParams>) {
    requests(vec![entry("a"), entry("b")], KeyType::EcP256)
}

/// The server's result: a certificate of the CSR's key for this name.
fn signed(params: &NewX509svidParams, name: &str) -> SignedResult {
    let mut request =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(&params.csr[..]))
            .unwrap();
    request.params.subject_alt_names = vec![SanType::URI(id(name).as_str().try_into().unwrap())];
    let issuer = Issuer::new(CertificateParams::default(), KeyPair::generate().unwrap());
    let chain = vec![Bytes::copy_from_slice(request.signed_by(&issuer).unwrap().der())];
    SignedResult { status: None, svid: Some(X509svid { cert_chain: chain, ..X509svid::default() }) }
}

/// The SPIFFE ID or the reason of each outcome.
fn ids_or_reasons(outcomes: Vec<Outcome>) -> Vec<Result<String, String>> {
    outcomes.into_iter().map(|(_, outcome)| outcome.map(|svid| svid.id.to_string())).collect()
}

#[test]
fn each_entry_gets_the_result_at_its_place() {
    let (keys, params) = batch();
    let results = vec![signed(&params[0], "a"), signed(&params[1], "b")];
    assert_eq!(
        ids_or_reasons(outcomes(keys, results)),
        [Ok("spiffe://td/a".into()), Ok("spiffe://td/b".into())]
    );
}

#[test]
fn what_is_refused_is_refused_alone() {
    let (keys, params) = batch();
    let refused = Status { code: 5, message: "entry not found".into() };
    let results = vec![SignedResult { status: Some(refused), svid: None }, signed(&params[1], "b")];
    assert_eq!(
        ids_or_reasons(outcomes(keys, results)),
        [Err("entry not found".into()), Ok("spiffe://td/b".into())]
    );
}

#[test]
fn an_entry_without_a_key_takes_no_result() {
    let (mut keys, params) = batch();
    keys[0].1 = Err("no key".into());
    assert_eq!(
        ids_or_reasons(outcomes(keys, vec![signed(&params[1], "b")])),
        [Err("no key".into()), Ok("spiffe://td/b".into())]
    );
}

#[test]
fn an_answer_that_is_too_short_fails_what_it_lacks() {
    let (keys, params) = batch();
    let outcomes = ids_or_reasons(outcomes(keys, vec![signed(&params[0], "a")]));
    assert_eq!(outcomes[1], Err("the server's answer is too short".into()));
}

#[test]
fn an_identity_that_was_not_asked_for_is_refused() {
    let (keys, params) = batch();
    let outcomes = ids_or_reasons(outcomes(keys, vec![signed(&params[0], "root"), signed(&params[1], "b")]));
    assert_eq!(outcomes[0], Err("the server signed for spiffe://td/root instead of spiffe://td/a".into()));
}

#[test]
fn a_certificate_of_another_key_is_refused() {
    let (keys, params) = batch();
    let outcomes = ids_or_reasons(outcomes(keys, vec![signed(&params[1], "a"), signed(&params[1], "b")]));
    let words = "server's answer cannot be used: the certificate is of another key than was asked for";
    assert_eq!(outcomes, [Err(words.into()), Ok("spiffe://td/b".into())]);
}

#[test]
fn keys_are_made_on_the_spot_only_where_that_is_quick() {
    assert!(is_quick(KeyType::EcP256, QUICK) && !is_quick(KeyType::EcP256, QUICK + 1));
    assert!(!is_quick(KeyType::Rsa2048, 1));
}
