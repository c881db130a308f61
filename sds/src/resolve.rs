//! Names → encoded secrets, for one caller at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use identity::{Bundle, Identity, SpiffeId, WorkloadUpdate};

use crate::names::Meaning;
use crate::node::NodeFacts;
use crate::secret::{Encoded, Secrets, Validation};
use crate::{Options, Refusal};

/// What there is to be looked up in.
pub(crate) struct Resolve<'a> {
    pub(crate) options: &'a Options,
    pub(crate) secrets: &'a Secrets,
    pub(crate) node: NodeFacts,
    pub(crate) update: &'a WorkloadUpdate,
    pub(crate) wall: SystemTime,
}

impl Resolve<'_> {
    pub(crate) fn names(&self, names: &BTreeSet<String>) -> Result<Resolved, Refusal> {
        let mut resolved =
            Resolved { found: BTreeMap::new(), missing: BTreeSet::new(), expired: None, pending: None };
        if names.is_empty() {
            self.everything(&mut resolved);
        }
        for name in names {
            self.one(name, &mut resolved)?;
        }
        Ok(resolved)
    }

    fn everything(&self, resolved: &mut Resolved) {
        for bundle in std::iter::once(&self.update.bundle).chain(self.update.federated.values()) {
            self.bundle(&bundle.trust_domain.id(), bundle, resolved);
        }
        for identity in &self.update.identities {
            let name = identity.entry.spiffe_id.as_str();
            if !resolved.found.contains_key(name) {
                self.svid(name, identity, resolved);
            }
        }
    }

    fn one(&self, name: &str, resolved: &mut Resolved) -> Result<(), Refusal> {
        let update = self.update;
        match Meaning::of(name, self.options) {
            Meaning::DefaultBundle => self.bundle(name, &update.bundle, resolved),
            Meaning::Bundle(domain) if domain == update.bundle.trust_domain => {
                self.bundle(name, &update.bundle, resolved);
            }
            Meaning::Bundle(domain) => match update.federated.get(&domain) {
                Some(bundle) => self.bundle(name, bundle, resolved),
                None => drop(resolved.missing.insert(name.into())),
            },
            Meaning::AllBundles => self.all_bundles(name, resolved)?,
            Meaning::DefaultSvid => match update.identities.first() {
                Some(identity) => self.svid(name, identity, resolved),
                None => drop(resolved.missing.insert(name.into())),
            },
            // Several entries may grant one ID: the lowest whose SVID can be used.
            Meaning::Svid(id) => match self.granting(&id) {
                Some(identity) => self.svid(name, identity, resolved),
                None => drop(resolved.missing.insert(name.into())),
            },
            Meaning::Nothing => drop(resolved.missing.insert(name.into())),
        }
        Ok(())
    }

    fn granting(&self, id: &SpiffeId) -> Option<&Identity> {
        let mut all = self.update.identities.iter().filter(|identity| identity.entry.spiffe_id == *id);
        all.clone().find(|identity| identity.live(self.wall).is_some()).or_else(|| all.next())
    }

    fn svid(&self, name: &str, identity: &Identity, resolved: &mut Resolved) {
        let spiffe_id = || Some(identity.entry.spiffe_id.to_string());
        match (identity.live(self.wall), &identity.svid) {
            (Some(svid), _) => drop(resolved.found.insert(name.into(), self.secrets.certificate(name, svid))),
            (None, Some(_)) => resolved.expired = spiffe_id(),
            (None, None) => resolved.pending = spiffe_id(),
        }
    }

    fn bundle(&self, name: &str, bundle: &Arc<Bundle>, resolved: &mut Resolved) {
        let encoded = self.secrets.validation(name, std::slice::from_ref(bundle), self.validation());
        resolved.found.insert(name.into(), encoded);
    }

    fn all_bundles(&self, name: &str, resolved: &mut Resolved) -> Result<(), Refusal> {
        if self.validation() == Validation::TrustedCa {
            return Err(Refusal::NeedsValidator);
        }
        let mut bundles: Vec<Arc<Bundle>> = vec![Arc::clone(&self.update.bundle)];
        // One empty bundle would make Envoy reject the whole resource.
        let usable = self.update.federated.values().filter(|bundle| !bundle.x509_authorities.is_empty());
        bundles.extend(usable.cloned());
        bundles.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
        let encoded = self.secrets.validation(name, &bundles, Validation::SpiffeValidator);
        resolved.found.insert(name.into(), encoded);
        Ok(())
    }

    fn validation(&self) -> Validation {
        let disabled = self.node.disable_validation.unwrap_or(self.options.disable_spiffe_cert_validation);
        if disabled || self.node.too_old { Validation::TrustedCa } else { Validation::SpiffeValidator }
    }
}

/// What was found, and what was not.
pub(crate) struct Resolved {
    pub(crate) found: BTreeMap<String, Arc<Encoded>>,
    pub(crate) missing: BTreeSet<String>,
    pub(crate) expired: Option<String>,
    pub(crate) pending: Option<String>,
}
