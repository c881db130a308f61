//! Looks up the encoded secrets that the names of a request mean, for one caller at one moment.

use std::sync::Arc;
use std::time::SystemTime;

use identity::{Bundle, Identity, WorkloadUpdate};

use crate::feeds::{Fed, Token};
use crate::names::{Meaning, NameList, TokenName};
use crate::node::NodeFacts;
use crate::secret::{Encoded, Naming, Secrets, Validation};
use crate::{Options, Refusal};

/// Everything that the lookup depends on.
pub(crate) struct Resolve<'a> {
    pub(crate) options: &'a Options,
    pub(crate) secrets: &'a Secrets,
    pub(crate) node: NodeFacts,
    pub(crate) update: &'a WorkloadUpdate,
    /// What the last lookup asked for besides the update, and what of it has come since.
    pub(crate) fed: Option<&'a Fed>,
    pub(crate) wall: SystemTime,
}

/// The outcome of a lookup.
#[derive(Default)]
pub(crate) struct Resolved {
    /// By ascending name.
    pub(crate) found: Vec<Arc<Encoded>>,
    /// Places of the names for which there is nothing.
    pub(crate) missing: Vec<u32>,
    pub(crate) expired: Option<String>,
    pub(crate) pending: Option<String>,
    /// What the names mean that does not come with the update.
    pub(crate) fed: Fed,
}

impl Resolve<'_> {
    /// Looks up the names, and with `everything` all that the caller may have besides.
    pub(crate) fn names(&self, names: &NameList, everything: bool) -> Result<Resolved, Refusal> {
        let mut resolved = Resolved::default();
        for (place, name, meaning) in names.iter() {
            self.one(place, name, meaning, &mut resolved)?;
        }
        if everything {
            self.everything(&mut resolved);
        }
        Ok(resolved)
    }

    /// Whether there is nothing under this name any more, as opposed to an SVID that is not minted or has expired.
    pub(crate) fn is_gone(&self, name: &str) -> bool {
        match Meaning::of(name, self.options) {
            Meaning::DefaultBundle | Meaning::AllBundles | Meaning::SystemRoots => false,
            Meaning::Bundle => self.bundle_of(name).is_none(),
            Meaning::DefaultSvid => self.update.identities.is_empty(),
            Meaning::Svid => self.granting(name).is_none(),
            Meaning::Token => TokenName::parse(name).map_or(true, |token| self.bearer(&token).is_none()),
            Meaning::Nothing => true,
        }
    }

    fn everything(&self, resolved: &mut Resolved) {
        for bundle in std::iter::once(&self.update.bundle).chain(self.update.federated.values()) {
            self.bundle(Naming::SpiffeId, &bundle.trust_domain.id(), bundle, resolved);
        }
        for identity in &self.update.identities {
            self.svid(Naming::SpiffeId, identity.entry.spiffe_id.as_str(), identity, resolved);
        }
        // Several entries may grant the same ID: the first in order whose SVID can be used is sent. The sort is
        // stable.
        resolved.found.sort_by(|a, b| a.name.cmp(&b.name));
        resolved.found.dedup_by(|a, b| a.name == b.name);
    }

    fn one(&self, place: u32, text: &str, meaning: Meaning, resolved: &mut Resolved) -> Result<(), Refusal> {
        let update = self.update;
        match meaning {
            Meaning::DefaultBundle => self.bundle(Naming::Alias, text, &update.bundle, resolved),
            Meaning::AllBundles => self.all_bundles(text, resolved)?,
            Meaning::Bundle => match self.bundle_of(text) {
                Some(bundle) => self.bundle(Naming::SpiffeId, text, bundle, resolved),
                None => resolved.missing.push(place),
            },
            Meaning::DefaultSvid => match update.identities.first() {
                Some(identity) => self.svid(Naming::Alias, text, identity, resolved),
                None => resolved.missing.push(place),
            },
            Meaning::Svid => match self.granting(text) {
                Some(identity) => self.svid(Naming::SpiffeId, text, identity, resolved),
                None => resolved.missing.push(place),
            },
            Meaning::Token => self.token(place, text, resolved)?,
            Meaning::SystemRoots => self.system_roots(text, resolved),
            Meaning::Nothing => resolved.missing.push(place),
        }
        Ok(())
    }

    fn token(&self, place: u32, text: &str, resolved: &mut Resolved) -> Result<(), Refusal> {
        let name = TokenName::parse(text).map_err(|reason| Refusal::BadName { name: text.into(), reason })?;
        let Some(identity) = self.bearer(&name) else {
            resolved.missing.push(place);
            return Ok(());
        };
        if resolved.fed.tokens.len() == TOKENS {
            let reason = format!("a stream may ask for {TOKENS} JWT-SVIDs");
            return Err(Refusal::BadName { name: text.into(), reason });
        }
        let entry = &identity.entry;
        let known = self
            .fed
            .iter()
            .flat_map(|fed| &fed.tokens)
            .find(|token| *token.name == *text && token.entry.id == entry.id);
        let svid = known.and_then(|token| token.svid.as_ref());
        let svid = svid.filter(|svid| svid.id == entry.spiffe_id && !svid.expired(self.wall));
        match svid {
            Some(svid) => resolved.found.push(self.secrets.token(text, svid)),
            None => resolved.pending = Some(entry.spiffe_id.to_string()),
        }
        let (entry, svid) = (Arc::clone(entry), svid.cloned());
        resolved.fed.tokens.push(Token { name: text.into(), entry, audience: name.audience, svid });
        Ok(())
    }

    fn system_roots(&self, name: &str, resolved: &mut Resolved) {
        let roots = self.fed.and_then(|fed| fed.roots.as_ref());
        match roots {
            Some(roots) => resolved.found.push(self.secrets.system_roots(name, roots)),
            None => resolved.pending = Some(name.to_owned()),
        }
        (resolved.fed.wants_roots, resolved.fed.roots) = (true, roots.cloned());
    }

    /// The identity whose JWT-SVID is asked for. Its X.509-SVID does not matter.
    fn bearer(&self, name: &TokenName) -> Option<&Identity> {
        match &name.spiffe_id {
            Some(id) => self.update.granting(id.as_str()).next(),
            None => self.update.identities.first(),
        }
    }

    /// The identity with this SPIFFE ID. If several entries grant it, the first whose SVID is valid is taken, or else
    /// the first of all.
    fn granting(&self, spiffe_id: &str) -> Option<&Identity> {
        let mut all = self.update.granting(spiffe_id);
        all.clone().find(|identity| identity.live(self.wall).is_some()).or_else(|| all.next())
    }

    fn bundle_of(&self, trust_domain_id: &str) -> Option<&Arc<Bundle>> {
        let name = trust_domain_id.strip_prefix("spiffe://")?;
        let own = &self.update.bundle;
        if own.trust_domain.name() == name { Some(own) } else { self.update.federated.get(name) }
    }

    fn svid(&self, naming: Naming, name: &str, identity: &Identity, resolved: &mut Resolved) {
        let spiffe_id = || Some(identity.entry.spiffe_id.to_string());
        match (identity.live(self.wall), &identity.svid) {
            (Some(svid), _) => resolved.found.push(self.secrets.certificate(naming, name, svid)),
            (None, Some(_)) => resolved.expired = spiffe_id(),
            (None, None) => resolved.pending = spiffe_id(),
        }
    }

    fn bundle(&self, naming: Naming, name: &str, bundle: &Arc<Bundle>, resolved: &mut Resolved) {
        resolved.found.push(self.secrets.validation(naming, name, bundle, self.validation()));
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
        resolved.found.push(self.secrets.validation_of_all(name, &bundles));
        Ok(())
    }

    fn validation(&self) -> Validation {
        let disabled = self.node.disable_validation.unwrap_or(self.options.disable_spiffe_cert_validation);
        if disabled || self.node.too_old { Validation::TrustedCa } else { Validation::SpiffeValidator }
    }
}

/// The most JWT-SVIDs of one stream.
const TOKENS: usize = 64;
