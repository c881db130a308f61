//! One CA key and the certificates that it signs.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::ids;

/// A CA certificate and its key.
pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) not_after: i64,
    /// The public key as an uncompressed point (0x04, x, y).
    pub(crate) point: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// The content of an X.509-SVID that is to be signed. The TTL is in seconds.
pub(crate) struct Leaf<'a> {
    pub(crate) spiffe_id: &'a str,
    pub(crate) dns_names: &'a [String],
    pub(crate) ttl: i64,
}

/// A signed X.509-SVID.
pub(crate) struct Issued {
    pub(crate) certificate: CertificateDer<'static>,
    /// The serial number in decimal, as in SPIRE's messages and tables.
    pub(crate) serial: String,
    pub(crate) not_after: i64,
}

impl Authority {
    pub(crate) fn self_signed(trust_domain: &str, ttl: i64) -> Result<Self, rcgen::Error> {
        Self::new(trust_domain, ttl, None)
    }

    pub(crate) fn signed_by(parent: &Self, trust_domain: &str, ttl: i64) -> Result<Self, rcgen::Error> {
        Self::new(trust_domain, ttl, Some(parent))
    }

    fn new(trust_domain: &str, ttl: i64, parent: Option<&Self>) -> Result<Self, rcgen::Error> {
        let serial = Serial::random();
        let (mut params, not_after) = template(&serial, ttl, parent.map(|parent| parent.not_after))?;
        params.distinguished_name.push(DnType::from_oid(OID_SERIAL_NUMBER), serial.decimal());
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = match parent {
            Some(parent) => params.signed_by(&key, &parent.issuer)?,
            None => params.self_signed(&key)?,
        };
        Ok(Self {
            certificate: certificate.der().clone(),
            not_after,
            point: key.public_key_raw().to_vec(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Signs an X.509-SVID. It does not outlive the authority.
    pub(crate) fn issue(&self, leaf: &Leaf<'_>, key: &impl PublicKeyData) -> Result<Issued, rcgen::Error> {
        let serial = Serial::random();
        let (mut params, not_after) = template(&serial, leaf.ttl, Some(self.not_after))?;
        params.subject_alt_names = vec![uri(leaf.spiffe_id)?];
        for name in leaf.dns_names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        if let Some(first) = leaf.dns_names.first() {
            params.distinguished_name.push(DnType::CommonName, first.as_str());
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Issued { certificate: certificate.der().clone(), serial: serial.decimal(), not_after })
    }
}

/// A serial number: a one and 126 random bits, so it always has sixteen bytes and is positive.
struct Serial(u128);

impl Serial {
    fn random() -> Self {
        Self(rand::random::<u128>() >> 2 | 1 << 126)
    }

    fn decimal(&self) -> String {
        self.0.to_string()
    }
}

/// The fields that every certificate has, and its expiry in seconds since the epoch. `cap` is the latest expiry.
fn template(serial: &Serial, ttl: i64, cap: Option<i64>) -> Result<(CertificateParams, i64), rcgen::Error> {
    let now = ids::now();
    let not_after = (now + ttl).min(cap.unwrap_or(i64::MAX));
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial.0.to_be_bytes()));
    params.not_before = timestamp(now - NOT_BEFORE_CUSHION)?;
    params.not_after = timestamp(not_after)?;
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "US");
    params.distinguished_name.push(DnType::OrganizationName, "SPIRE");
    Ok((params, not_after))
}

fn timestamp(seconds: i64) -> Result<OffsetDateTime, rcgen::Error> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| rcgen::Error::Time)
}

fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(text.try_into()?))
}

/// Seconds by which a certificate is valid before it is signed, as SPIRE's.
const NOT_BEFORE_CUSHION: i64 = 10;
/// The attribute `serialNumber` of X.520.
const OID_SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];
