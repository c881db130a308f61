use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyIdMethod, KeyPair, SanType};

use super::*;
use crate::{Authority, PrivateKey, TrustDomain};

/// An authority that can sign others.
struct Ca {
    der: Bytes,
    issuer: Issuer<'static, KeyPair>,
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_identifier_method = KeyIdMethod::Sha256;
    params
}

fn root() -> Ca {
    let key = KeyPair::generate().unwrap();
    let der = ca_params().self_signed(&key).unwrap().der().to_vec().into();
    Ca { der, issuer: Issuer::new(ca_params(), key) }
}

fn intermediate(of: &Ca) -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = ca_params();
    params.use_authority_key_identifier_extension = true;
    let der = params.signed_by(&key, &of.issuer).unwrap().der().to_vec().into();
    Ca { der, issuer: Issuer::new(params, key) }
}

fn svid(signer: &Ca, intermediates: &[&Ca]) -> X509Svid {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = vec![SanType::URI("spiffe://td/web".try_into().unwrap())];
    let leaf: Bytes = params.signed_by(&key, &signer.issuer).unwrap().der().to_vec().into();
    let chain = std::iter::once(leaf).chain(intermediates.iter().map(|ca| ca.der.clone())).collect();
    X509Svid::new(chain, PrivateKey::from_pkcs8(key.serialize_der())).unwrap()
}

fn bundle(authorities: &[(&Ca, bool)]) -> Bundle {
    let authority = |(ca, tainted): &(&Ca, bool)| Authority { der: ca.der.clone(), tainted: *tainted };
    let x509_authorities = authorities.iter().map(authority).collect();
    Bundle { x509_authorities, ..Bundle::of_x509(TrustDomain::parse("td").unwrap(), []) }
}

#[test]
fn what_a_tainted_authority_has_signed_is_found() {
    let (old, new) = (root(), root());
    let tainted = Distrusted::tainted(&bundle(&[(&old, true), (&new, false)]));
    assert!(tainted.has_signed(&svid(&old, &[])));
    assert!(!tainted.has_signed(&svid(&new, &[])));
    assert!(!Distrusted::default().has_signed(&svid(&old, &[])));
}

#[test]
fn a_tainted_root_taints_what_its_intermediates_have_signed() {
    let (old, new) = (root(), root());
    let (below_old, below_new) = (intermediate(&old), intermediate(&new));
    let tainted = Distrusted::tainted(&bundle(&[(&old, true), (&new, false)]));
    assert!(tainted.has_signed(&svid(&below_old, &[&below_old])));
    assert!(!tainted.has_signed(&svid(&below_new, &[&below_new])));
}

#[test]
fn a_removed_authority_is_found_and_a_new_one_is_none() {
    let (old, new) = (root(), root());
    let removed = Distrusted::removed(&bundle(&[(&old, true), (&new, false)]), &bundle(&[(&new, false)]));
    assert!(removed.has_signed(&svid(&old, &[])) && !removed.has_signed(&svid(&new, &[])));
    assert!(
        Distrusted::removed(&bundle(&[(&old, false)]), &bundle(&[(&old, false), (&new, false)])).is_empty()
    );
}

#[test]
fn each_is_named_once_in_hexadecimal() {
    let (old, new) = (root(), root());
    let both = Distrusted::tainted(&bundle(&[(&old, true), (&new, true)]));
    let one = Distrusted::tainted(&bundle(&[(&old, true)]));
    assert!(both.without(&both).is_empty() && one.without(&both).is_empty());
    assert_eq!(both.without(&one).with(&one), both);
    let text = both.to_string();
    let (first, second) = text.split_once(',').unwrap();
    assert!(first.len() == second.len() && first.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
}
