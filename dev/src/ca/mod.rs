//! The server's certificate authority, in memory.
//!
//! A new authority is first *prepared*, so that its root joins the bundle, and later *activated*, so that it signs. As
//! in the real server, both happen by themselves: after half and after five sixths of the active authority's lifetime,
//! at the next use. A test can also order them. Old roots leave the bundle when they expire, or when a test orders it.
//! With an upstream root the authorities are intermediates of that root: the bundle is the root alone and never
//! changes.

mod authority;
mod csr;
mod jwt;

use std::sync::Arc;

use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;

pub(crate) use authority::{Authority, Issued, Leaf};
pub(crate) use csr::{CsrError, public_key};
pub(crate) use jwt::{JwtKey, JwtKeys};

use crate::ids;

/// The authority that signs now, the one that signs next, and the roots that clients trust.
pub(crate) struct Ca {
    trust_domain: String,
    ttl: i64,
    upstream: Option<Arc<Authority>>,
    active: Arc<Authority>,
    prepared: Option<Arc<Authority>>,
    /// The roots of the bundle, the oldest first.
    roots: Vec<Arc<Authority>>,
    /// The roots that are tainted.
    tainted: Vec<Arc<Authority>>,
    sequence: u64,
    jwt: JwtKeys,
}

/// A copy of the active authority, so that signing does not hold the lock on the state.
pub(crate) struct Signer {
    authority: Arc<Authority>,
    intermediates: Vec<CertificateDer<'static>>,
}

/// The present trust bundle.
pub(crate) struct Roots {
    pub(crate) authorities: Vec<Arc<Authority>>,
    pub(crate) tainted: Vec<Arc<Authority>>,
    pub(crate) sequence: u64,
}

impl Ca {
    pub(crate) fn new(trust_domain: &str, ttl: i64, intermediate: bool) -> Result<Self, rcgen::Error> {
        let upstream = match intermediate {
            true => Some(Arc::new(Authority::self_signed(trust_domain, UPSTREAM_TTL)?)),
            false => None,
        };
        let active = authority(trust_domain, ttl, upstream.as_deref())?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            ttl,
            roots: vec![Arc::clone(upstream.as_ref().unwrap_or(&active))],
            upstream,
            active,
            prepared: None,
            tainted: Vec::new(),
            sequence: 1,
            jwt: JwtKeys::new(),
        })
    }

    /// Prepares the next authority, unless there is one already.
    pub(crate) fn prepare(&mut self) -> Result<(), rcgen::Error> {
        if self.prepared.is_some() {
            return Ok(());
        }
        let next = authority(&self.trust_domain, self.ttl, self.upstream.as_deref())?;
        if self.upstream.is_none() {
            self.roots.push(Arc::clone(&next));
            self.sequence += 1;
        }
        self.prepared = Some(next);
        Ok(())
    }

    /// Makes the prepared authority sign from now on.
    pub(crate) fn activate(&mut self) -> Result<(), rcgen::Error> {
        self.prepare()?;
        self.active = self.prepared.take().expect("prepare() leaves a prepared authority");
        Ok(())
    }

    /// Taints all roots except those that sign or are prepared to.
    pub(crate) fn taint_old(&mut self) {
        let keep = self.in_use();
        self.tainted = self
            .roots
            .iter()
            .filter(|root| !keep.iter().any(|kept| Arc::ptr_eq(kept, root)))
            .cloned()
            .collect();
        self.sequence += 1;
    }

    /// Removes all roots from the bundle except those that sign or are prepared to.
    pub(crate) fn forget_old(&mut self) {
        let keep = self.in_use();
        self.retain(|root| keep.iter().any(|kept| Arc::ptr_eq(kept, root)));
    }

    /// The keys of JWT-SVIDs.
    pub(crate) fn jwt(&self) -> &JwtKeys {
        &self.jwt
    }

    /// Changes the keys of JWT-SVIDs.
    pub(crate) fn change_jwt(&mut self, change: impl FnOnce(&mut JwtKeys)) {
        change(&mut self.jwt);
        self.sequence += 1;
    }

    fn in_use(&self) -> Vec<Arc<Authority>> {
        let all = [self.upstream.as_ref(), Some(&self.active), self.prepared.as_ref()];
        all.into_iter().flatten().map(Arc::clone).collect()
    }

    /// The present signer.
    pub(crate) fn signer(&mut self) -> Result<Signer, rcgen::Error> {
        self.tick()?;
        let intermediates = self.upstream.iter().map(|_| self.active.certificate.clone()).collect();
        Ok(Signer { authority: Arc::clone(&self.active), intermediates })
    }

    /// The present trust bundle.
    pub(crate) fn roots(&mut self) -> Result<Roots, rcgen::Error> {
        self.tick()?;
        let (authorities, tainted) = (self.roots.clone(), self.tainted.clone());
        Ok(Roots { authorities, tainted, sequence: self.sequence })
    }

    fn tick(&mut self) -> Result<(), rcgen::Error> {
        let now = ids::now();
        let left = self.active.not_after - now;
        if left <= self.ttl / 2 {
            self.prepare()?;
        }
        if left <= self.ttl / 6 {
            self.activate()?;
        }
        self.retain(|root| root.not_after > now);
        Ok(())
    }

    fn retain(&mut self, keep: impl Fn(&Arc<Authority>) -> bool) {
        let before = self.roots.len();
        self.roots.retain(keep);
        self.sequence += u64::from(self.roots.len() != before);
    }
}

impl Signer {
    /// Signs a certificate. Returns its chain to a root, without the root, and the certificate's data.
    pub(crate) fn issue(
        &self,
        leaf: &Leaf<'_>,
        key: &impl PublicKeyData,
    ) -> Result<(Vec<CertificateDer<'static>>, Issued), rcgen::Error> {
        let issued = self.authority.issue(leaf, key)?;
        let chain = std::iter::once(&issued.certificate).chain(&self.intermediates).cloned().collect();
        Ok((chain, issued))
    }
}

fn authority(
    trust_domain: &str,
    ttl: i64,
    upstream: Option<&Authority>,
) -> Result<Arc<Authority>, rcgen::Error> {
    Ok(Arc::new(match upstream {
        Some(root) => Authority::signed_by(root, trust_domain, ttl)?,
        None => Authority::self_signed(trust_domain, ttl)?,
    }))
}

/// The lifetime of the upstream root in seconds: a month, longer than any run.
const UPSTREAM_TTL: i64 = 30 * 24 * 3600;
