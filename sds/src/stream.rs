//! The state machine of one SDS stream. No I/O, no clock, no runtime: time comes in, a push comes out.
//!
//! - A request sets what is wanted; a workload update sets what there is; [`Stream::next`] says what is to be sent.
//! - **Push only what changed**: a resource goes out when its digest differs from what was last sent under its name,
//!   or when the set of names has changed (a client that asks anew is answered anew).
//! - **Coalesce**: while a response is not answered (ACK or NACK), nothing more is sent; what happens meanwhile is
//!   merged, the latest state wins. A client that never answers gets the newest after [`ACK_PATIENCE`] all the same.
//! - **Latch**: what an Envoy says of itself (its release, its metadata) counts from the first message that has it.
//! - A name that cannot be served is held or refused ([`UnknownNames`]); an SVID that is granted but not minted yet
//!   is waited for; an expired one is never sent: refused when the stream asks for it first, silence later.

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

/// One stream. Thousands of them are idle at a time, so what is kept is kept small.
#[derive(Debug)]
pub struct Stream {
    options: Arc<Options>,
    secrets: Arc<Secrets>,
    node: NodeFacts,
    wanted: Option<Wanted>,
    update: Option<Arc<WorkloadUpdate>>,
    /// What the client was last sent, by ascending name.
    sent: Vec<Arc<Encoded>>,
    /// When the last response was sent, until it is answered.
    unanswered: Option<Duration>,
    nonces: Nonces,
    /// Something has changed since the last look.
    dirty: bool,
    /// The names that could not be served at the last look.
    /// Places among the wanted names.
    unresolved: Box<[u32]>,
}

/// One response. The resources are shared with every other stream that gets them.
#[derive(Debug)]
pub struct Push {
    pub(crate) version: Hex<16>,
    /// What is sent.
    pub resources: Vec<Arc<Encoded>>,
    /// As in the request.
    pub type_url: Cow<'static, str>,
    pub(crate) nonce: Hex<8>,
}

impl Push {
    /// A digest of the public content of all that the client now has; empty for FetchSecrets.
    #[must_use]
    pub fn version_info(&self) -> &str {
        self.version.as_str()
    }

    /// To be echoed; empty for FetchSecrets.
    #[must_use]
    pub fn nonce(&self) -> &str {
        self.nonce.as_str()
    }
}

/// So many hexadecimal digits, or none: texts that are written for every push, where `format!` takes ten times as long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hex<const DIGITS: usize>(Option<[u8; DIGITS]>);

impl<const DIGITS: usize> Hex<DIGITS> {
    /// The last digits of a number.
    fn of(number: u64) -> Self {
        let digit = |place| b"0123456789abcdef"[(number >> (4 * (DIGITS - 1 - place))) as usize & 0xf];
        Self(Some(std::array::from_fn(digit)))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], <[u8; DIGITS]>::as_slice)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// What is to be done next.
#[derive(Debug)]
pub enum Next {
    /// Send this.
    Push(Push),
    /// Nothing, until an event, or until this time.
    Wait(Option<Duration>),
}

/// What a request turned out to be; for the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// The first one, or one with other names.
    Asked,
    /// The last response was taken.
    Ack,
    /// The last response was rejected, with the client's words.
    Nack(String),
    /// It answers an older response than the last: ignored.
    Stale {
        /// The nonce that would have been right.
        expected: String,
    },
}

#[derive(Debug)]
struct Wanted {
    names: NameList,
    type_url: Cow<'static, str>,
    /// The names are new, so all of them are answered.
    fresh: bool,
    /// Nothing has been sent for these names yet.
    unserved: bool,
}

/// Nonces: unlike on every stream (`salt` is random), never empty, never repeated on one.
#[derive(Debug)]
struct Nonces {
    salt: u32,
    count: u32,
}

impl Stream {
    /// A stream that has heard nothing yet. `salt` is random.
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

    /// Takes a message of the client's.
    ///
    /// # Errors
    /// [`Refusal::TooManyNames`].
    pub fn request(&mut self, request: DiscoveryRequest<'_>) -> Result<Heard, Refusal> {
        // It decides how bundles look.
        self.dirty |= self.node.latch(request.node.as_ref());
        if let Some(expected) =
            self.nonces.last().filter(|last| last.as_bytes() != request.response_nonce.as_bytes())
        {
            return Ok(Heard::Stale { expected: expected.as_str().to_owned() });
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
                // They are places among the names before.
                self.unresolved = Box::default();
                let type_url = type_url(request.type_url);
                self.wanted = Some(Wanted { names, type_url, fresh: true, unserved: true });
                self.dirty = true;
                true
            }
        };
        Ok(match request.error_detail {
            Some(rejection) => Heard::Nack(rejection.message),
            None if asked => Heard::Asked,
            None => Heard::Ack,
        })
    }

    /// Whether the client has said what it is: it need not be listened to again.
    #[must_use]
    pub fn knows_node(&self) -> bool {
        self.node.seen
    }

    /// Takes what the client said of itself before there was a stream.
    pub(crate) fn set_node(&mut self, node: NodeFacts) {
        self.node = node;
    }

    /// Takes what the caller may have now.
    pub fn update(&mut self, update: Arc<WorkloadUpdate>) {
        self.update = Some(update);
        self.dirty = true;
    }

    /// Whether there is nothing to be said before the next event, whatever the time.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.dirty
    }

    /// Says what is to be done. `now` is monotonic, `wall` is for expiry.
    ///
    /// # Errors
    /// [`Refusal`]: the stream is to be ended.
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
        // One that has expired does not block the others.
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

    /// What was sent before and is gone now is still in the client's hands: it stays part of the version.
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

    /// Whether the stream waits for names that its caller may not have (yet).
    #[must_use]
    pub fn unresolved(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        let names = self.wanted.as_ref().map(|wanted| &wanted.names);
        self.unresolved.iter().map(move |place| names.map_or("", |names| names.get(*place)))
    }

    /// Bytes that are kept for the stream beside itself, with what the allocator adds.
    #[must_use]
    pub fn kept(&self) -> usize {
        let names = self.wanted.as_ref().map_or(0, |wanted| wanted.names.allocated());
        let names = names + size_of_val(&*self.unresolved);
        // The allocator's size classes are a quarter apart at most.
        names + names / 4 + self.sent.capacity() * size_of::<Arc<Encoded>>()
    }

    /// Whether the last response has been answered.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.unanswered.is_none()
    }
}

/// Answers a FetchSecrets: everything that was asked for, or a refusal; no version, no nonce.
///
/// # Errors
/// [`Refusal`].
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
    // What is asked for by name must be there; "everything" is what there is.
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

    /// The last one that was given out.
    fn last(&self) -> Option<Hex<8>> {
        (self.count > 0).then(|| self.present())
    }

    fn present(&self) -> Hex<8> {
        Hex::of(u64::from(self.salt.wrapping_add(self.count)))
    }
}

/// Sorted, each once.
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
/// What the names of one request may weigh: dozens of the longest SPIFFE IDs, and bounded memory per stream.
const NAMES_LIMIT: usize = 64 * 1024;
const NAME_OVERHEAD: usize = 24;
