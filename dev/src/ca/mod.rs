//! The certificate authority of the server, in memory.
//!
//! A new authority is first *prepared* (its root joins the bundle) and later *activated* (it signs). Both happen by
//! themselves as in the real server, at a half and at five sixths of the active one's life, whenever somebody looks;
//! and by order. Old roots leave the bundle when they expire, or by order. With an upstream root the authorities are
//! intermediates of it: the bundle is the root alone and never changes.

mod authority;
mod csr;

use std::sync::Arc;

use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;

pub(crate) use authority::{Authority, Issued, Leaf};
pub(crate) use csr::{CsrError, public_key};

use crate::ids;

/// Who signs now, who signs next, and whom the clients trust.
pub(crate) struct Ca {
    trust_domain: String,
    ttl: i64,
    upstream: Option<Arc<Authority>>,
    active: Arc<Authority>,
    prepared: Option<Arc<Authority>>,
    /// Oldest first.
    roots: Vec<Arc<Authority>>,
    /// Those of the roots that are declared compromised.
    tainted: Vec<Arc<Authority>>,
    sequence: u64,
}

/// Signs while the lock on the state is not held.
pub(crate) struct Signer {
    authority: Arc<Authority>,
    intermediates: Vec<CertificateDer<'static>>,
}

/// The trust bundle of this moment.
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
        })
    }

    /// Makes the next authority; nothing where there is one already.
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

    /// The prepared authority signs from now on.
    pub(crate) fn activate(&mut self) -> Result<(), rcgen::Error> {
        self.prepare()?;
        self.active = self.prepared.take().expect("prepare() leaves a prepared authority");
        Ok(())
    }

    /// Declares the roots compromised that neither sign nor are prepared to.
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

    /// Takes the roots out of the bundle that neither sign nor are prepared to.
    pub(crate) fn forget_old(&mut self) {
        let keep = self.in_use();
        self.retain(|root| keep.iter().any(|kept| Arc::ptr_eq(kept, root)));
    }

    fn in_use(&self) -> Vec<Arc<Authority>> {
        let all = [self.upstream.as_ref(), Some(&self.active), self.prepared.as_ref()];
        all.into_iter().flatten().map(Arc::clone).collect()
    }

    /// Who signs now.
    pub(crate) fn signer(&mut self) -> Result<Signer, rcgen::Error> {
        self.tick()?;
        let intermediates = self.upstream.iter().map(|_| self.active.certificate.clone()).collect();
        Ok(Signer { authority: Arc::clone(&self.active), intermediates })
    }

    /// Whom to trust now.
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
    /// The signed certificate with what a client needs to get to a root.
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

/// A month: longer than any run.
const UPSTREAM_TTL: i64 = 30 * 24 * 3600;
