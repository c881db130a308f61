use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};

use identity::TrustDomain;

use super::*;

/// An authority of one name, each with a key of its own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

impl Authority {
    fn new(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), der }
    }

    fn svid(&self, id: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }
}

fn judge(trusted: &Authority, leaf: &CertificateDer<'_>) -> Result<(), rustls::Error> {
    let trust_domain = TrustDomain::parse("td").unwrap();
    let server = trust_domain.server_id();
    let bundle = Bundle::of_x509(trust_domain, [trusted.der.clone().into()]);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier { roots: Roots::Bundle(bundle.into()), server, provider };
    let name = ServerName::try_from("spire-server").unwrap();
    verifier.verify_server_cert(leaf, &[], &name, &[], UnixTime::now()).map(drop)
}

fn words(judged: Result<(), rustls::Error>) -> String {
    match judged {
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => other.0.to_string(),
        other => panic!("{other:?}"),
    }
}

const SERVER: &str = "spiffe://td/spire/server";

#[test]
fn the_server_is_whom_the_bundle_vouches_for() {
    let authority = Authority::new(|_| {});
    judge(&authority, &authority.svid(SERVER)).unwrap();
    assert_eq!(
        words(judge(&authority, &authority.svid("spiffe://td/web"))),
        format!("unexpected server ID \"spiffe://td/web\", expected \"{SERVER}\"")
    );
    let elsewhere = words(judge(&authority, &authority.svid("spiffe://other/spire/server")));
    assert!(elsewhere.contains("no X.509 bundle found for trust domain: \"other\""), "{elsewhere}");
}

#[test]
fn another_authority_is_unknown() {
    let judged = judge(&Authority::new(|_| {}), &Authority::new(|_| {}).svid(SERVER));
    assert_eq!(judged, Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)));
}

/// As spire-agent has it: a new bundle is asked for where the authority is unknown, not where it is too old.
#[test]
fn an_expired_authority_is_not_an_unknown_one() {
    let authority = Authority::new(|params| params.not_after = date_time_ymd(2020, 1, 1));
    let words = words(judge(&authority, &authority.svid(SERVER)));
    assert!(words.contains("x509: certificate has expired or is not yet valid: current time "), "{words}");
}
