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

use bytes::Bytes;
use identity::WorkloadUpdate;

use crate::names::Meaning;
use crate::node::NodeFacts;
use crate::resolve::{Name, Resolve};
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
    unresolved: Vec<Box<str>>,
}

/// One response. The resources are shared with every other stream that gets them.
#[derive(Debug)]
pub struct Push {
    /// A digest of the public content of all that the client now has.
    pub version_info: String,
    /// Encoded `Any`s.
    pub resources: Vec<Bytes>,
    /// As in the request.
    pub type_url: Cow<'static, str>,
    /// To be echoed.
    pub nonce: String,
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
        /// The nonce that it has.
        nonce: String,
        /// The nonce that would have been right.
        expected: String,
    },
}

#[derive(Debug)]
struct Wanted {
    /// Sorted.
    names: Box<[Name]>,
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
            unresolved: Vec::new(),
        }
    }

    /// Takes a message of the client's.
    ///
    /// # Errors
    /// [`Refusal::TooManyNames`].
    pub fn request(&mut self, request: DiscoveryRequest) -> Result<Heard, Refusal> {
        self.node.latch(request.node.as_ref());
        if let Some(expected) = self.nonces.last().filter(|last| last != request.response_nonce.as_bytes()) {
            return Ok(Heard::Stale { nonce: request.response_nonce, expected: text(&expected) });
        }
        let names = names(request.resource_names)?;
        self.unanswered = None;
        self.dirty = true;
        let same = |wanted: &&mut Wanted| wanted.names.iter().map(|name| &*name.text).eq(names.iter());
        let asked = match self.wanted.as_mut().filter(same) {
            Some(wanted) => {
                wanted.type_url = type_url(request.type_url);
                false
            }
            None => {
                let names = read(names, &self.options);
                let type_url = type_url(request.type_url);
                self.wanted = Some(Wanted { names, type_url, fresh: true, unserved: true });
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

    /// Takes what the caller may have now.
    pub fn update(&mut self, update: Arc<WorkloadUpdate>) {
        self.update = Some(update);
        self.dirty = true;
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
            return Err(Refusal::NotAuthorized(resolved.missing));
        }
        self.unresolved = resolved.missing;
        let fresh = wanted.fresh;
        let is_news =
            |encoded: &&Arc<Encoded>| fresh || digest_of(&self.sent, encoded) != Some(&encoded.digest);
        let news: Vec<Arc<Encoded>> = resolved.found.iter().filter(is_news).cloned().collect();
        if news.is_empty() {
            return Ok(Next::Wait(None));
        }
        (wanted.fresh, wanted.unserved) = (false, false);
        let type_url = wanted.type_url.clone();
        let resources = news.iter().map(|encoded| encoded.resource.clone()).collect();
        self.remember(news);
        self.unanswered = Some(now);
        let version_info = version(&self.sent);
        Ok(Next::Push(Push { version_info, resources, type_url, nonce: self.nonces.next() }))
    }

    /// What was sent before and is gone now is still in the client's hands: it stays part of the version.
    fn remember(&mut self, news: Vec<Arc<Encoded>>) {
        let names = self.wanted.as_ref().map(|wanted| &*wanted.names).unwrap_or_default();
        let asked =
            |name: &str| names.is_empty() || names.binary_search_by(|one| (*one.text).cmp(name)).is_ok();
        self.sent.retain(|old| asked(&old.name));
        for encoded in news {
            match self.sent.binary_search_by(|old| old.name.cmp(&encoded.name)) {
                Ok(place) => self.sent[place] = encoded,
                Err(place) => self.sent.insert(place, encoded),
            }
        }
        self.sent.shrink_to_fit();
    }

    /// Whether the stream waits for names that its caller may not have (yet).
    #[must_use]
    pub fn unresolved(&self) -> &[Box<str>] {
        &self.unresolved
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
    request: DiscoveryRequest,
    update: &WorkloadUpdate,
    wall: SystemTime,
) -> Result<Push, Refusal> {
    let mut node = NodeFacts::default();
    node.latch(request.node.as_ref());
    let names = read(names(request.resource_names)?, options);
    let resolved = Resolve { options, secrets, node, update, wall }.names(&names)?;
    if !resolved.missing.is_empty() {
        return Err(Refusal::NotAuthorized(resolved.missing));
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
    let resources = resolved.found.into_iter().map(|encoded| encoded.resource.clone()).collect();
    let type_url = type_url(request.type_url);
    Ok(Push { version_info: String::new(), resources, type_url, nonce: String::new() })
}

impl Nonces {
    fn next(&mut self) -> String {
        self.count = self.count.wrapping_add(1);
        text(&self.hex())
    }

    /// The last one that was given out.
    fn last(&self) -> Option<[u8; 8]> {
        (self.count > 0).then(|| self.hex())
    }

    fn hex(&self) -> [u8; 8] {
        hex(u64::from(self.salt.wrapping_add(self.count)))
    }
}

/// The last digits of a number, for texts that are written for every push: `format!` takes ten times as long.
fn hex<const DIGITS: usize>(number: u64) -> [u8; DIGITS] {
    std::array::from_fn(|place| b"0123456789abcdef"[(number >> (4 * (DIGITS - 1 - place))) as usize & 0xf])
}

fn text(ascii: &[u8]) -> String {
    String::from_utf8_lossy(ascii).into_owned()
}

/// Sorted, each once.
fn names(mut list: Vec<String>) -> Result<Vec<String>, Refusal> {
    if list.iter().map(|name| name.len() + NAME_OVERHEAD).sum::<usize>() > NAMES_LIMIT {
        return Err(Refusal::TooManyNames { limit: NAMES_LIMIT });
    }
    list.retain(|name| !name.is_empty());
    list.sort_unstable();
    list.dedup();
    Ok(list)
}

fn read(names: Vec<String>, options: &Options) -> Box<[Name]> {
    let name = |text: String| Name { meaning: Meaning::of(&text, options), text: text.into() };
    names.into_iter().map(name).collect()
}

fn type_url(asked: String) -> Cow<'static, str> {
    if asked.is_empty() || asked == SECRET_TYPE_URL { SECRET_TYPE_URL.into() } else { asked.into() }
}

fn digest_of<'a>(sent: &'a [Arc<Encoded>], encoded: &Encoded) -> Option<&'a Digest> {
    let place = sent.binary_search_by(|old| old.name.cmp(&encoded.name)).ok()?;
    Some(&sent[place].digest)
}

fn version(sent: &[Arc<Encoded>]) -> String {
    let digest = match sent {
        [one] => one.digest,
        many => {
            let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
            many.iter().for_each(|encoded| context.update(&encoded.digest));
            context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
        }
    };
    let [a, b, c, d, e, f, g, h, ..] = digest;
    text(&hex::<16>(u64::from_be_bytes([a, b, c, d, e, f, g, h])))
}

/// How long a response may stay unanswered before a newer state is sent all the same.
pub const ACK_PATIENCE: Duration = Duration::from_secs(5);
/// What the names of one request may weigh: dozens of the longest SPIFFE IDs, and bounded memory per stream.
const NAMES_LIMIT: usize = 64 * 1024;
const NAME_OVERHEAD: usize = 24;
