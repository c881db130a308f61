//! Roots, and whether a chain leads to one of them as BoringSSL sees it.
//!
//! [`identity::chain`] builds the path. Where the two differ, this follows Envoy: with `trusted_ca` every certificate of the
//! bundle may end the path, with the SPIFFE validator only a self-issued one; roots expire, too; and the SPIFFE
//! validator checks neither the extended key usage nor the length of the path.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::chain::{self, ChainError, Purpose};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
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
        let anchors: Vec<&[u8]> =
            self.certificates.iter().filter(ends).filter(alive).map(|root| &*root.der).collect();
        let known = self.certificates.iter().filter(|known| !known.self_issued).map(|root| &*root.der);
        let between: Vec<&[u8]> = intermediates.iter().map(|der| &**der).chain(known).collect();
        let mut refusal = Refusal::NoRoot;
        for time in self.times(chain, rules) {
            match path(leaf, &between, &anchors, time, rules) {
                Ok(()) => return Ok(()),
                Err(reason) => refusal = reason,
            }
        }
        if matches!(refusal, Refusal::Chain(ChainError::UnknownAuthority(_))) && anchors.is_empty() {
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
    leaf: &[u8],
    between: &[&[u8]],
    anchors: &[&[u8]],
    time: SystemTime,
    rules: &Rules,
) -> Result<(), Refusal> {
    let purpose = match rules.usage {
        None => Purpose::Any,
        Some(Peer::Client) => Purpose::Client,
        Some(Peer::Server) => Purpose::Server,
    };
    let lengths = chain::lengths(leaf, between.iter().copied(), anchors.iter().copied(), purpose, time);
    let lengths = lengths.map_err(|reason| match reason {
        ChainError::Expired { not_after, .. } => Refusal::Expired(not_after.into()),
        ChainError::NotYetValid { not_before, .. } => Refusal::NotYet(not_before.into()),
        other => Refusal::Chain(other),
    });
    let shortest = lengths?.into_iter().min().unwrap_or_default();
    // Envoy counts all certificates but the leaf, and treats a limit of 0 as 1.
    let depth = u32::try_from(shortest.saturating_sub(1)).unwrap_or(u32::MAX);
    match rules.max_depth {
        Some(most) if depth > most.max(1) => Err(Refusal::Depth { depth, most }),
        _ => Ok(()),
    }
}

impl Certificate {
    fn read(der: CertificateDer<'static>) -> Option<Self> {
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

/// The most times that are tried. A bundle has only a few certificates.
const MOST_TIMES: usize = 64;
