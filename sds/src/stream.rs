//! The state machine of one SDS stream. It has no I/O, no clock and no runtime: time comes in, a push comes out.
//!
//! - A request sets which names are wanted; a workload update sets what the caller may have; [`Stream::next`] returns
//!   what must be sent.
//! - **Push only what changed**: a resource is sent when its digest differs from the one that was last sent under its
//!   name, or when the set of names has changed (a client that asks anew is answered anew).
//! - **Coalesce**: while a response has no ACK or NACK, nothing more is sent; changes meanwhile are merged, and the
//!   latest state wins. A client that never answers gets the newest state after [`ACK_PATIENCE`] all the same.
//! - **Latch**: what an Envoy says of itself (its release, its metadata) is taken from the first message that has it.
//! - A name that cannot be served is held or refused ([`UnknownNames`]). The stream waits for an SVID that is granted
//!   but not minted yet. An expired SVID is never sent: a request for which there is nothing else is refused, and a
//!   stream whose SVID expires later stays silent.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::WorkloadUpdate;

use crate::names::NameList;
use crate::node::NodeFacts;
use crate::resolve::Resolve;
use crate::secret::{Digest, Encoded, Secrets};
use crate::wire::{DiscoveryRequest, SECRET_TYPE_URL};
use crate::{Options, Refusal, UnknownNames};

/// One stream. Thousands of them may be idle at a time, so it holds little memory.
#[derive(Debug)]
pub struct Stream {
    options: Arc<Options>,
    secrets: Arc<Secrets>,
    node: NodeFacts,
    wanted: Option<Wanted>,
    update: Option<Arc<WorkloadUpdate>>,
    /// The resources that the client was last sent, by ascending name.
    sent: Vec<Arc<Encoded>>,
    /// When the last response was sent; `None` once it is answered.
    unanswered: Option<Duration>,
    nonces: Nonces,
    /// Something has changed since [`Stream::next`] last looked.
    dirty: bool,
    /// The names that could not be served at the last look, as places among the wanted names.
    unresolved: Box<[u32]>,
}

/// One response. Its resources are shared with all other streams that send them.
#[derive(Debug)]
pub struct Push {
    pub(crate) version: Hex<16>,
    /// The resources that are sent, by ascending name.
    pub resources: Vec<Arc<Encoded>>,
    /// The type URL, as in the request.
    pub type_url: Cow<'static, str>,
    pub(crate) nonce: Hex<8>,
}

impl Push {
    /// A digest of the public content of everything that the client now has; empty with FetchSecrets.
    #[must_use]
    pub fn version_info(&self) -> &str {
        self.version.as_str()
    }

    /// The nonce, which the client's answer must repeat; empty with FetchSecrets.
    #[must_use]
    pub fn nonce(&self) -> &str {
        self.nonce.as_str()
    }
}

/// A number as hexadecimal digits, or nothing. Each push has two; `format!` takes ten times as long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hex<const DIGITS: usize>(Option<[u8; DIGITS]>);

impl<const DIGITS: usize> Hex<DIGITS> {
    /// The lowest `DIGITS` digits of `number`.
    fn of(number: u64) -> Self {
        let digit = |place| b"0123456789abcdef"[(number >> (4 * (DIGITS - 1 - place))) as usize & 0xf];
        Self(Some(std::array::from_fn(digit)))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], <[u8; DIGITS]>::as_slice)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// What the owner of a stream does next.
#[derive(Debug)]
pub enum Next {
    /// It sends this response.
    Push(Push),
    /// It waits for an event, and, if there is a time, at most until then.
    Wait(Option<Duration>),
}

/// What a request is about. The owner only logs it.
#[derive(Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// It is the first request, or has other names than the one before.
    Asked,
    /// The client accepted the last response.
    Ack,
    /// The client rejected the last response, for this reason.
    Nack(String),
    /// It answers an older response than the last, and is ignored.
    Stale {
        /// The nonce of the last response.
        expected: String,
    },
}

#[derive(Debug)]
struct Wanted {
    names: NameList,
    type_url: Cow<'static, str>,
    /// The names are new, so all their resources are sent.
    fresh: bool,
    /// Nothing was sent for these names yet.
    unserved: bool,
}

/// Makes nonces. They are never empty and do not repeat on one stream; streams have different ones (`salt` is
/// random).
#[derive(Debug)]
struct Nonces {
    salt: u32,
    count: u32,
}

impl Stream {
    /// A stream before its first request. `salt` is random.
    #[must_use]
    pub fn new(options: Arc<Options>, secrets: Arc<Secrets>, salt: u32) -> Self {
        Self {
            options,
            secrets,
            node: NodeFacts::default(),
            wanted: None,
            update: None,
            sent: Vec::new(),
            unanswered: None,
            nonces: Nonces { salt, count: 0 },
            dirty: false,
            unresolved: Box::default(),
        }
    }

    /// Takes a request from the client.
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
        let names = names(request.resource_names)?;
        self.unanswered = None;
        let same =
            |wanted: &&mut Wanted| wanted.names.iter().map(|(_, name, _)| name).eq(names.iter().copied());
        let asked = match self.wanted.as_mut().filter(same) {
            Some(wanted) => {
                wanted.type_url = type_url(request.type_url);
                false
            }
            None => {
                let names = NameList::new(&names, &self.options);
                // The places refer to the old names.
                self.unresolved = Box::default();
                let type_url = type_url(request.type_url);
                self.wanted = Some(Wanted { names, type_url, fresh: true, unserved: true });
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

    /// The version of the last response, for the log.
    pub(crate) fn last_version(&self) -> Hex<16> {
        version(&self.sent)
    }

    /// Whether the client has sent its node. Later nodes need not be read.
    #[must_use]
    pub fn knows_node(&self) -> bool {
        self.node.seen
    }

    /// Sets what the client said of itself before the stream was made.
    pub(crate) fn set_node(&mut self, node: NodeFacts) {
        self.node = node;
    }

    /// Takes the identities and bundles that the caller may have now.
    pub fn update(&mut self, update: Arc<WorkloadUpdate>) {
        self.update = Some(update);
        self.dirty = true;
    }

    /// Whether [`Self::next`] has nothing to send before the next event, whatever the time is.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.dirty
    }

    /// Returns what to do next. `now` is monotonic, `wall` is compared with the expiry of SVIDs.
    ///
    /// # Errors
    /// [`Refusal`]: the stream must end.
    pub fn next(&mut self, now: Duration, wall: SystemTime) -> Result<Next, Refusal> {
        if let Some(sent) = self.unanswered {
            let patience = sent + ACK_PATIENCE;
            if patience > now {
                return Ok(Next::Wait(self.dirty.then_some(patience)));
            }
        }
        let (Some(wanted), Some(update)) = (&mut self.wanted, &self.update) else {
            return Ok(Next::Wait(None));
        };
        if !std::mem::take(&mut self.dirty) {
            return Ok(Next::Wait(None));
        }
        let resolve =
            Resolve { options: &self.options, secrets: &self.secrets, node: self.node, update, wall };
        let resolved = resolve.names(&wanted.names)?;
        // An expired SVID does not keep the others from being sent.
        if let Some(spiffe_id) = resolved.expired.filter(|_| wanted.unserved && resolved.found.is_empty()) {
            return Err(Refusal::Expired { spiffe_id });
        }
        if self.options.unknown_names == UnknownNames::Reject && !resolved.missing.is_empty() {
            return Err(not_authorized(&wanted.names, &resolved.missing));
        }
        self.unresolved = resolved.missing.into();
        let fresh = wanted.fresh;
        let is_news =
            |encoded: &&Arc<Encoded>| fresh || digest_of(&self.sent, encoded) != Some(&encoded.digest);
        let mut resources = resolved.found;
        resources.retain(|encoded| is_news(&encoded));
        if resources.is_empty() {
            return Ok(Next::Wait(None));
        }
        (wanted.fresh, wanted.unserved) = (false, false);
        let type_url = wanted.type_url.clone();
        self.remember(&resources);
        self.unanswered = Some(now);
        Ok(Next::Push(Push { version: version(&self.sent), resources, type_url, nonce: self.nonces.next() }))
    }

    /// Records what was sent. A resource that was sent before and is gone now is still with the client, so it stays
    /// part of the version.
    fn remember(&mut self, news: &[Arc<Encoded>]) {
        let names = self.wanted.as_ref().map(|wanted| &wanted.names).filter(|names| !names.is_empty());
        self.sent.retain(|old| names.is_none_or(|names| names.contains(&old.name)));
        for encoded in news {
            match self.sent.binary_search_by(|old| old.name.cmp(&encoded.name)) {
                Ok(place) => self.sent[place] = Arc::clone(encoded),
                Err(place) => self.sent.insert(place, Arc::clone(encoded)),
            }
        }
        self.sent.shrink_to_fit();
    }

    /// The names that the stream waits for, because its caller may not have them (yet).
    #[must_use]
    pub fn unresolved(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        let names = self.wanted.as_ref().map(|wanted| &wanted.names);
        self.unresolved.iter().map(move |place| names.map_or("", |names| names.get(*place)))
    }

    /// Bytes of memory that the stream takes beside its own type, with what the allocator adds.
    #[must_use]
    pub fn kept(&self) -> usize {
        let names = self.wanted.as_ref().map_or(0, |wanted| wanted.names.allocated());
        let names = names + size_of_val(&*self.unresolved);
        // The allocator's size classes are a quarter apart at most.
        names + names / 4 + self.sent.capacity() * size_of::<Arc<Encoded>>()
    }

    /// Whether the last response was answered.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.unanswered.is_none()
    }
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
    let mut node = NodeFacts::default();
    node.latch(request.node.as_ref());
    let names = NameList::new(&names(request.resource_names)?, options);
    let resolved = Resolve { options, secrets, node, update, wall }.names(&names)?;
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
    let type_url = type_url(request.type_url);
    Ok(Push { version: Hex::default(), resources: resolved.found, type_url, nonce: Hex::default() })
}

impl Nonces {
    fn next(&mut self) -> Hex<8> {
        self.count = self.count.wrapping_add(1);
        self.present()
    }

    /// The nonce of the last response, if there was one.
    fn last(&self) -> Option<Hex<8>> {
        (self.count > 0).then(|| self.present())
    }

    fn present(&self) -> Hex<8> {
        Hex::of(u64::from(self.salt.wrapping_add(self.count)))
    }
}

/// Sorts the names and removes duplicates and empty ones.
fn names(mut list: Vec<&str>) -> Result<Vec<&str>, Refusal> {
    if list.iter().map(|name| name.len() + NAME_OVERHEAD).sum::<usize>() > NAMES_LIMIT {
        return Err(Refusal::TooManyNames { limit: NAMES_LIMIT });
    }
    list.retain(|name| !name.is_empty());
    list.sort_unstable();
    list.dedup();
    Ok(list)
}

fn not_authorized(names: &NameList, missing: &[u32]) -> Refusal {
    Refusal::NotAuthorized(missing.iter().map(|place| names.get(*place).into()).collect())
}

fn type_url(asked: &str) -> Cow<'static, str> {
    let usual = asked.is_empty() || asked == SECRET_TYPE_URL;
    if usual { SECRET_TYPE_URL.into() } else { asked.to_owned().into() }
}

fn digest_of<'a>(sent: &'a [Arc<Encoded>], encoded: &Encoded) -> Option<&'a Digest> {
    let place = sent.binary_search_by(|old| old.name.cmp(&encoded.name)).ok()?;
    Some(&sent[place].digest)
}

fn version(sent: &[Arc<Encoded>]) -> Hex<16> {
    let digest = match sent {
        [one] => one.digest,
        many => {
            let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
            many.iter().for_each(|encoded| context.update(&encoded.digest));
            context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
        }
    };
    let [a, b, c, d, e, f, g, h, ..] = digest;
    Hex::of(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

/// How long a response may stay unanswered before a newer state is sent all the same.
pub const ACK_PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes that the names of one request may take: dozens of the longest SPIFFE IDs, and bounded memory per
/// stream.
const NAMES_LIMIT: usize = 64 * 1024;
const NAME_OVERHEAD: usize = 24;
