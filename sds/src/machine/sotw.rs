//! State of the world: each request names all that the client wants (`StreamSecrets`, `FetchSecrets`).

use std::time::SystemTime;

use identity::WorkloadUpdate;

use super::push::{Hex, Push};
use super::{Machine, RequestKind, Wanted, in_order, not_authorized, type_url};
use crate::feeds::Fed;
use crate::names::NameList;
use crate::node::NodeFacts;
use crate::resolve::Resolve;
use crate::secret::Secrets;
use crate::wire::{DiscoveryRequest, Protocol};
use crate::{Options, Refusal};

impl Machine {
    /// Takes a request of a state-of-the-world stream.
    ///
    /// # Errors
    /// [`Refusal::TooManyNames`].
    pub fn request(&mut self, request: DiscoveryRequest<'_>) -> Result<RequestKind, Refusal> {
        // The node decides how bundles are encoded.
        self.dirty |= self.node.latch(request.node.as_ref());
        if let Some(expected) =
            self.nonces.last().filter(|last| last.as_bytes() != request.response_nonce.as_bytes())
        {
            return Ok(RequestKind::Stale { expected: expected.as_str().to_owned() });
        }
        let names = in_order(request.resource_names)?;
        let type_url = type_url(request.type_url)?;
        self.unanswered = None;
        let same =
            |wanted: &&mut Wanted| wanted.names.iter().map(|(_, name, _)| name).eq(names.iter().copied());
        let asked = match self.wanted.as_mut().filter(same) {
            Some(wanted) => {
                wanted.type_url = type_url;
                false
            }
            None => {
                let everything = names.is_empty();
                let names = NameList::new(&names, &self.options);
                self.wanted = Some(Wanted { names, everything, type_url });
                // A client that asks for other names is answered in full. The places refer to the old names.
                (self.sent, self.unresolved) = Default::default();
                self.dirty = true;
                true
            }
        };
        Ok(match request.error_detail {
            Some(rejection) => RequestKind::Nack(rejection.message),
            None if asked => RequestKind::Asked,
            None => RequestKind::Ack,
        })
    }
}

/// Whether a request keeps the limits, which is known before its caller is.
///
/// # Errors
/// [`Refusal`].
pub(crate) fn check(request: DiscoveryRequest<'_>) -> Result<(), Refusal> {
    in_order(request.resource_names)?;
    type_url(request.type_url)?;
    Ok(())
}

/// Answers a FetchSecrets call: with everything that was asked for, without version and nonce.
///
/// # Errors
/// [`Refusal`], if a name cannot be served.
pub fn fetch(
    options: &Options,
    secrets: &Secrets,
    request: DiscoveryRequest<'_>,
    update: &WorkloadUpdate,
    wall: SystemTime,
) -> Result<Push, Refusal> {
    fetch_with(options, secrets, request, update, &mut Fed::default(), wall)
}

/// The same with what does not come with updates. `fed` has what is there, and afterwards what is asked for.
pub(crate) fn fetch_with(
    options: &Options,
    secrets: &Secrets,
    request: DiscoveryRequest<'_>,
    update: &WorkloadUpdate,
    fed: &mut Fed,
    wall: SystemTime,
) -> Result<Push, Refusal> {
    let mut node = NodeFacts::default();
    node.latch(request.node.as_ref());
    let names = NameList::new(&in_order(request.resource_names)?, options);
    let resolve = Resolve { options, secrets, node, update, fed: Some(fed), wall };
    let resolved = resolve.names(&names, names.is_empty())?;
    *fed = resolved.fed;
    if !resolved.missing.is_empty() {
        return Err(not_authorized(&names, &resolved.missing));
    }
    // A name that was asked for must be there. A request without names gets what there is.
    if !names.is_empty() {
        if let Some(spiffe_id) = resolved.expired {
            return Err(Refusal::Expired { spiffe_id });
        }
        if let Some(spiffe_id) = resolved.pending {
            return Err(Refusal::NotMinted { spiffe_id });
        }
    }
    Ok(Push {
        protocol: Protocol::Sotw,
        version: Hex::default(),
        resources: resolved.found,
        removed: Vec::new(),
        type_url: type_url(request.type_url)?,
        nonce: Hex::default(),
    })
}
