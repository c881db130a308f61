//! The state machine of one stream. It has no I/O, no clock and no runtime: time comes in, a push comes out.
//!
//! - A request sets which names are wanted: all at once ([`sotw`]), or as changes ([`delta`]). A workload update sets
//!   what the caller may have. [`Machine::next`] returns what must be sent.
//! - **Push only what changed**: a resource is sent when its digest differs from the one that was last sent under its
//!   name, or when the client has asked for it anew.
//! - **Coalesce**: while a response has no ACK or NACK, nothing more is sent; changes meanwhile are merged, and the
//!   latest state wins. A client that never answers gets the newest state after [`ACK_PATIENCE`] all the same.
//! - **Latch**: what an Envoy says of itself (its release, its metadata) is taken from the first message that has it.
//! - A name that cannot be served is held or refused ([`UnknownNames`]). The stream waits for an SVID that is granted
//!   but not minted yet. An expired SVID is never sent: a request for which there is nothing else is refused, and a
//!   stream whose SVID expires later stays silent.
//! - Only a delta stream tells its client that a resource is gone. A state-of-the-world response that leaves a
//!   secret out does not take it away from Envoy.

pub mod delta;
mod push;
pub mod sotw;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use identity::{JwtSvid, WorkloadUpdate};

use self::delta::Claims;
pub(crate) use self::push::Hex;
pub use self::push::Push;
pub use self::sotw::fetch;
pub(crate) use self::sotw::{check, fetch_with};
use crate::feeds::Fed;
use crate::names::{Meaning, NameList};
use crate::node::NodeFacts;
use crate::resolve::{Resolve, Resolved};
use crate::secret::{Digest, Encoded, Secrets};
use crate::wire::{Protocol, SECRET_TYPE_URL};
use crate::{Options, Refusal, UnknownNames};

/// One stream. Thousands of them may be idle at a time, so it holds little memory.
#[derive(Debug)]
pub struct Machine {
    protocol: Protocol,
    options: Arc<Options>,
    secrets: Arc<Secrets>,
    node: NodeFacts,
    wanted: Option<Wanted>,
    update: Option<Arc<WorkloadUpdate>>,
    /// The resources that the client has, by ascending name, without those that it has asked for anew.
    sent: Vec<Arc<Encoded>>,
    /// What the client of a delta stream has, but must be compared anew.
    claims: Option<Box<Claims>>,
    /// What the names mean that does not come with updates, as of the last look.
    fed: Option<Box<Fed>>,
    /// When the last response was sent; `None` once it is answered.
    unanswered: Option<Duration>,
    nonces: Nonces,
    /// Something has changed since [`Machine::next`] last looked.
    dirty: bool,
    /// What is missing is gone. It is not said to be where the caller is not attested in full.
    removes: bool,
    /// The names that could not be served at the last look, as places among the wanted names.
    unresolved: Box<[u32]>,
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
    /// It is the first request, or asks for something else than the one before.
    Asked,
    /// The client accepted the last response.
    Ack,
    /// The client rejected a response, for this reason.
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
    /// The client wants everything that it may have, beside the names.
    everything: bool,
    type_url: Cow<'static, str>,
}

/// Makes nonces. They are never empty and do not repeat on one stream; streams have different ones (`salt` is
/// random).
#[derive(Debug)]
struct Nonces {
    salt: u32,
    count: u32,
}

impl Machine {
    /// A stream before its first request. `salt` is random.
    #[must_use]
    pub fn new(protocol: Protocol, options: Arc<Options>, secrets: Arc<Secrets>, salt: u32) -> Self {
        Self {
            protocol,
            options,
            secrets,
            node: NodeFacts::default(),
            wanted: None,
            update: None,
            sent: Vec::new(),
            claims: None,
            fed: None,
            unanswered: None,
            nonces: Nonces { salt, count: 0 },
            dirty: false,
            removes: true,
            unresolved: Box::default(),
        }
    }

    /// How the client asks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// When the last response was sent; `None` once it is answered.
    #[must_use]
    pub(crate) fn unanswered(&self) -> Option<Duration> {
        self.unanswered
    }

    /// Whether the client has asked for anything.
    #[must_use]
    pub fn was_asked(&self) -> bool {
        self.wanted.is_some()
    }

    /// The number of names that a look goes through: those that are wanted, and those that the client says it has.
    #[must_use]
    pub fn names(&self) -> usize {
        let wanted = self.wanted.as_ref().map_or(0, |wanted| wanted.names.len());
        wanted + self.claims.as_ref().map_or(0, |claims| claims.len())
    }

    /// The version of everything that the client has, for the log.
    pub(crate) fn last_version(&self) -> Hex<16> {
        version(&self.sent)
    }

    /// Whether the client has sent its node. Later nodes need not be read.
    #[must_use]
    pub fn knows_node(&self) -> bool {
        self.node.seen
    }

    /// Sets whether what is missing is gone.
    pub(crate) fn may_remove(&mut self, removes: bool) {
        self.removes = removes;
    }

    /// Whether what is missing is gone.
    pub(crate) fn removes(&self) -> bool {
        self.removes
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
        let (Some(wanted), Some(update)) = (&self.wanted, &self.update) else {
            return Ok(Next::Wait(None));
        };
        if !std::mem::take(&mut self.dirty) {
            return Ok(Next::Wait(None));
        }
        let (options, secrets, fed) = (&self.options, &self.secrets, self.fed.as_deref());
        let resolve = Resolve { options, secrets, node: self.node, update, fed, wall };
        let mut resolved = resolve.names(&wanted.names, wanted.everything)?;
        // An expired SVID does not keep the others from being sent.
        let is_unserved = self.sent.is_empty() && resolved.found.is_empty();
        if let Some(spiffe_id) = resolved.expired.take().filter(|_| is_unserved) {
            return Err(Refusal::Expired { spiffe_id });
        }
        if self.options.unknown_names == UnknownNames::Reject && !resolved.missing.is_empty() {
            return Err(not_authorized(&wanted.names, &resolved.missing));
        }
        let removed = match self.protocol {
            Protocol::Sotw => Vec::new(),
            Protocol::Delta => {
                // A wildcard covers SPIFFE IDs and no alias.
                let is_covered = |name: &str| {
                    wanted.names.contains(name)
                        || matches!(Meaning::of(name, &self.options), Meaning::Svid | Meaning::Bundle)
                };
                let is_gone = |name: &str| (resolve.is_gone(name) && self.removes) || !is_covered(name);
                delta::settle(&mut self.claims, &mut self.sent, &resolved, is_gone)
            }
        };
        let Resolved { found: mut resources, missing, fed, .. } = resolved;
        self.unresolved = missing.into();
        self.fed = (!fed.is_empty()).then(|| Box::new(fed));
        resources.retain(|encoded| digest_of(&self.sent, encoded) != Some(&encoded.digest));
        if resources.is_empty() && removed.is_empty() {
            return Ok(Next::Wait(None));
        }
        let type_url = wanted.type_url.clone();
        self.remember(&resources);
        self.unanswered = Some(now);
        let (protocol, version, nonce) = (self.protocol, version(&self.sent), self.nonces.next());
        Ok(Next::Push(Push { protocol, version, resources, removed, type_url, nonce }))
    }

    /// Records what was sent. A resource that was sent before and is not found now is still with the client, so it stays
    /// part of the version.
    fn remember(&mut self, news: &[Arc<Encoded>]) {
        for encoded in news {
            match self.sent.binary_search_by(|old| old.name.cmp(&encoded.name)) {
                Ok(place) => self.sent[place] = Arc::clone(encoded),
                Err(place) => self.sent.insert(place, Arc::clone(encoded)),
            }
        }
        self.sent.shrink_to_fit();
    }

    /// What the stream wants besides updates, and the update that grants it.
    pub(crate) fn fed(&self) -> (Option<&Fed>, Option<&Arc<WorkloadUpdate>>) {
        (self.fed.as_deref(), self.update.as_ref())
    }

    /// Takes the system's roots.
    pub(crate) fn roots(&mut self, roots: Arc<Vec<Bytes>>) {
        if let Some(fed) = &mut self.fed {
            fed.roots = Some(roots);
            self.dirty = true;
        }
    }

    /// Takes a JWT-SVID under the name that asks for it.
    pub(crate) fn token(&mut self, name: &str, svid: Arc<JwtSvid>) {
        if let Some(token) =
            self.fed.iter_mut().flat_map(|fed| &mut fed.tokens).find(|token| *token.name == *name)
        {
            token.svid = Some(svid);
            self.dirty = true;
        }
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
        let claims = self.claims.as_ref().map_or(0, |claims| claims.allocated());
        let type_url = self.wanted.as_ref().map_or(0, |wanted| match &wanted.type_url {
            Cow::Borrowed(_) => 0,
            Cow::Owned(text) => text.capacity(),
        });
        let texts = names + claims + type_url + size_of_val(&*self.unresolved);
        // The allocator's size classes are a quarter apart at most.
        texts
            + texts / 4
            + self.sent.capacity() * size_of::<Arc<Encoded>>()
            + self.fed.as_ref().map_or(0, |fed| size_of::<Fed>() + fed.tokens.len() * TOKEN_BYTES)
    }

    /// Whether the last response was answered.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.unanswered.is_none()
    }
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
fn in_order(mut list: Vec<&str>) -> Result<Vec<&str>, Refusal> {
    within_limit(list.iter().map(|name| name.len()))?;
    list.retain(|name| !name.is_empty());
    list.sort_unstable();
    list.dedup();
    Ok(list)
}

/// Whether texts of these lengths may be kept for a stream.
fn within_limit(lengths: impl Iterator<Item = usize>) -> Result<(), Refusal> {
    let total = lengths.map(|len| len + NAME_OVERHEAD).sum::<usize>();
    if total > NAMES_LIMIT { Err(Refusal::TooManyNames { limit: NAMES_LIMIT }) } else { Ok(()) }
}

fn not_authorized(names: &NameList, missing: &[u32]) -> Refusal {
    Refusal::NotAuthorized(missing.iter().map(|place| names.get(*place).into()).collect())
}

/// The type URL of the responses: that of the request.
fn type_url(asked: &str) -> Result<Cow<'static, str>, Refusal> {
    match asked {
        "" | SECRET_TYPE_URL => Ok(SECRET_TYPE_URL.into()),
        _ if asked.len() > TYPE_URL_LIMIT => Err(Refusal::LongTypeUrl { limit: TYPE_URL_LIMIT }),
        _ => Ok(asked.to_owned().into()),
    }
}

fn digest_of<'a>(sent: &'a [Arc<Encoded>], encoded: &Encoded) -> Option<&'a Digest> {
    let place = sent.binary_search_by(|old| old.name.cmp(&encoded.name)).ok()?;
    Some(&sent[place].digest)
}

fn version(sent: &[Arc<Encoded>]) -> Hex<16> {
    match sent {
        [one] => Hex::of_digest(&one.digest),
        many => {
            let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
            many.iter().for_each(|encoded| context.update(&encoded.digest));
            Hex::of_digest(&context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
        }
    }
}

/// How long a response may stay unanswered before a newer state is sent all the same.
pub const ACK_PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes that the names of one stream may take: dozens of the longest SPIFFE IDs, and bounded memory per
/// stream.
const NAMES_LIMIT: usize = 64 * 1024;
const NAME_OVERHEAD: usize = 24;
/// The longest type URL that is echoed, in bytes.
const TYPE_URL_LIMIT: usize = 256;
/// Bytes that a JWT-SVID takes at most: it, its secret, and its name and audiences where it is known by them.
pub(crate) const TOKEN_BYTES: usize = 16 * 1024;
