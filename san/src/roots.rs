//! Roots, and whether a chain leads to one of them as BoringSSL sees it.
//!
//! webpki builds the path. Where the two differ, this follows Envoy: with `trusted_ca` every certificate of the
//! bundle may end the path, with the SPIFFE validator only a self-issued one; roots expire, too; and the SPIFFE
//! validator checks neither the extended key usage nor the length of the path.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage};
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

use super::context::Source;
use super::{Peer, PolicyError, Refusal};

/// The certificates of one bundle.
#[derive(Debug, Clone)]
pub(super) struct Roots {
    certificates: Vec<Certificate>,
    /// Whether the bundle has a CRL. This crate does not check revocation.
    pub(super) crl: bool,
}

#[derive(Debug, Clone)]
struct Certificate {
    der: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
    /// Whether issuer and subject are the same.
    self_issued: bool,
}

/// Rules for a valid path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The time at which all certificates must be valid; `None` if time does not matter.
    pub(super) at: Option<SystemTime>,
    /// Whether any certificate of the bundle may end the path (`X509_V_FLAG_PARTIAL_CHAIN`).
    pub(super) partial: bool,
    /// The side whose extended key usage the leaf must have, if it has any; `None` if it may have any usage.
    pub(super) usage: Option<Peer>,
    pub(super) max_depth: Option<u32>,
}

impl Roots {
    pub(super) fn read(source: &Source) -> Result<Self, PolicyError> {
        let bad = |reason: String| PolicyError::Bundle { origin: source.origin.clone(), reason };
        let mut certificates = Vec::new();
        for der in CertificateDer::pem_slice_iter(&source.bytes) {
            let der = der.map_err(|error| bad(error.to_string()))?.into_owned();
            let certificate = Certificate::read(der);
            certificates
                .push(certificate.ok_or_else(|| bad("a certificate in it cannot be read".to_owned()))?);
        }
        if certificates.is_empty() {
            return Err(bad("no PEM certificate in it".to_owned()));
        }
        let crl = CertificateRevocationListDer::pem_slice_iter(&source.bytes).any(|list| list.is_ok());
        Ok(Self { certificates, crl })
    }

    /// Whether no certificate is self-issued, so that none can end a path for the SPIFFE validator.
    pub(super) fn without_self_issued(&self) -> bool {
        !self.certificates.iter().any(|root| root.self_issued)
    }

    /// Checks that this chain, leaf first, leads to one of the roots.
    pub(super) fn check(&self, chain: &[CertificateDer<'_>], rules: &Rules) -> Result<(), Refusal> {
        let Some((leaf, intermediates)) = chain.split_first() else { return Err(Refusal::NoCertificate) };
        if let Some(trusted) = self.certificates.iter().find(|root| root.der == *leaf)
            && (rules.partial || trusted.self_issued)
        {
            return trusted.valid(rules.at);
        }
        let ends = |root: &&Certificate| rules.partial || root.self_issued;
        let alive = |root: &&Certificate| root.valid(rules.at).is_ok();
        let anchors: Vec<TrustAnchor<'_>> = self
            .certificates
            .iter()
            .filter(ends)
            .filter(alive)
            .filter_map(|root| webpki::anchor_from_trusted_cert(&root.der).ok())
            .collect();
        let known = self.certificates.iter().filter(|known| !known.self_issued);
        let known = known.map(|root| CertificateDer::from(&*root.der));
        let between: Vec<CertificateDer<'_>> =
            intermediates.iter().map(|der| CertificateDer::from(&**der)).chain(known).collect();
        let mut refusal = Refusal::NoRoot;
        for time in self.times(chain, rules) {
            match path(leaf, &between, &anchors, time, rules) {
                Ok(()) => return Ok(()),
                Err(reason) => refusal = reason,
            }
        }
        if matches!(refusal, Refusal::Chain(webpki::Error::UnknownIssuer)) && anchors.is_empty() {
            refusal = Refusal::NoRoot;
        }
        Err(refusal)
    }

    /// The times for which the path is tried. If time does not matter, these are the beginnings of all certificates'
    /// lives: if the lives have any time in common, they have one of these in common.
    fn times(&self, chain: &[CertificateDer<'_>], rules: &Rules) -> Vec<SystemTime> {
        if let Some(at) = rules.at {
            return vec![at];
        }
        let presented =
            chain.iter().filter_map(|der| Certificate::read(CertificateDer::from(&**der).into_owned()));
        let presented: Vec<_> = presented.map(|certificate| certificate.not_before).collect();
        let mut times = presented;
        times.extend(self.certificates.iter().map(|root| root.not_before));
        times.sort_unstable();
        times.dedup();
        times.truncate(MOST_TIMES);
        times
    }
}

fn path(
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    time: SystemTime,
    rules: &Rules,
) -> Result<(), Refusal> {
    let time = UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO));
    let leaf = EndEntityCert::try_from(leaf).map_err(Refusal::Chain)?;
    let found = leaf
        .verify_for_usage(ALGORITHMS, anchors, between, time, Usage(rules.usage), None, None)
        .map_err(|reason| match reason {
            webpki::Error::CertExpired { not_after, .. } => Refusal::Expired(system_time(not_after)),
            webpki::Error::CertNotValidYet { not_before, .. } => Refusal::NotYet(system_time(not_before)),
            other => Refusal::Chain(other),
        })?;
    // Envoy counts all certificates but the leaf, and treats a limit of 0 as 1.
    let depth = u32::try_from(found.intermediate_certificates().count() + 1).unwrap_or(u32::MAX);
    match rules.max_depth {
        Some(most) if depth > most.max(1) => Err(Refusal::Depth { depth, most }),
        _ => Ok(()),
    }
}

impl Certificate {
    fn read(der: CertificateDer<'static>) -> Option<Self> {
        webpki::anchor_from_trusted_cert(&der).ok()?;
        let (rest, parsed) = X509Certificate::from_der(&der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let (not_before, not_after) = validity(&parsed);
        let self_issued = parsed.subject().as_raw() == parsed.issuer().as_raw();
        Some(Self { not_before, not_after, self_issued, der })
    }

    fn valid(&self, at: Option<SystemTime>) -> Result<(), Refusal> {
        valid(self.not_before, self.not_after, at)
    }
}

/// The first and the last time at which a certificate is valid.
pub(super) fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let validity = certificate.validity();
    (time(validity.not_before), time(validity.not_after))
}

pub(super) fn valid(
    not_before: SystemTime,
    not_after: SystemTime,
    at: Option<SystemTime>,
) -> Result<(), Refusal> {
    match at {
        Some(at) if at < not_before => Err(Refusal::NotYet(not_before)),
        Some(at) if at > not_after => Err(Refusal::Expired(not_after)),
        _ => Ok(()),
    }
}

/// Converts a certificate's time. Times before 1970 count as 1970.
fn time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn system_time(time: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

/// Checks the extended key usage that the side needs, if the certificate has any. `None` accepts everything.
struct Usage(Option<Peer>);

impl ExtendedKeyUsageValidator for Usage {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        match self.0 {
            None => Ok(()),
            Some(Peer::Client) => KeyUsage::client_auth().validate(usages),
            Some(Peer::Server) => KeyUsage::server_auth().validate(usages),
        }
    }
}

const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = webpki::ALL_VERIFICATION_ALGS;
/// The most times that are tried. A bundle has only a few certificates.
const MOST_TIMES: usize = 64;
