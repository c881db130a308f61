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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use identity::WorkloadUpdate;

use crate::node::NodeFacts;
use crate::resolve::Resolve;
use crate::secret::{Digest, Encoded, Secrets};
use crate::wire::{DiscoveryRequest, SECRET_TYPE_URL};
use crate::{Options, Refusal, UnknownNames};

/// One stream.
#[derive(Debug)]
pub struct Stream {
    options: Arc<Options>,
    secrets: Arc<Secrets>,
    node: NodeFacts,
    wanted: Option<Wanted>,
    update: Option<Arc<WorkloadUpdate>>,
    /// What the client was last sent, by name.
    sent: BTreeMap<String, Digest>,
    unanswered: Option<Unanswered>,
    nonces: Nonces,
    /// Something has changed since the last look.
    dirty: bool,
    /// The names that could not be served at the last look.
    unresolved: BTreeSet<String>,
}

/// One response. The resources are shared with every other stream that gets them.
#[derive(Debug)]
pub struct Push {
    /// A digest of the public content of all that the client now has.
    pub version_info: String,
    /// Encoded `Any`s.
    pub resources: Vec<Bytes>,
    /// As in the request.
    pub type_url: String,
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
        /// The nonce that would have been right.
        expected: String,
    },
}

#[derive(Debug)]
struct Wanted {
    names: BTreeSet<String>,
    type_url: String,
    /// The names are new, so all of them are answered.
    fresh: bool,
    /// Nothing has been sent for these names yet.
    unserved: bool,
}

#[derive(Debug)]
struct Unanswered {
    nonce: String,
    since: Duration,
}

/// Nonces: unlike on every stream (`salt` is random), never empty, never repeated on one.
#[derive(Debug)]
struct Nonces {
    salt: u32,
    count: u32,
    last: Option<String>,
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
            sent: BTreeMap::new(),
            unanswered: None,
            nonces: Nonces { salt, count: 0, last: None },
            dirty: false,
            unresolved: BTreeSet::new(),
        }
    }

    /// Takes a message of the client's.
    ///
    /// # Errors
    /// [`Refusal::TooManyNames`].
    pub fn request(&mut self, request: DiscoveryRequest) -> Result<Heard, Refusal> {
        self.node.latch(request.node.as_ref());
        if let Some(expected) = self.nonces.last.as_ref().filter(|last| **last != request.response_nonce) {
            return Ok(Heard::Stale { expected: expected.clone() });
        }
        let names = names(request.resource_names)?;
        self.unanswered = None;
        self.dirty = true;
        let asked = self.wanted.as_ref().is_none_or(|wanted| wanted.names != names);
        let type_url = if request.type_url.is_empty() { SECRET_TYPE_URL.into() } else { request.type_url };
        match &mut self.wanted {
            Some(wanted) if !asked => wanted.type_url = type_url,
            wanted => *wanted = Some(Wanted { names, type_url, fresh: true, unserved: true }),
        }
        Ok(match request.error_detail {
            Some(rejection) => Heard::Nack(rejection.message),
            None if asked => Heard::Asked,
            None => Heard::Ack,
        })
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
        if let Some(unanswered) = &self.unanswered {
            let patience = unanswered.since + ACK_PATIENCE;
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
        let news: Vec<(&String, &Arc<Encoded>)> = resolved
            .found
            .iter()
            .filter(|(name, encoded)| fresh || self.sent.get(*name) != Some(&encoded.digest))
            .collect();
        if news.is_empty() {
            return Ok(Next::Wait(None));
        }
        let resources = news.iter().map(|(_, encoded)| encoded.resource.clone()).collect();
        wanted.fresh = false;
        wanted.unserved = false;
        // What was sent and is gone now is still in the client's hands: it stays part of the version.
        self.sent.retain(|name, _| wanted.names.is_empty() || wanted.names.contains(name));
        self.sent.extend(news.into_iter().map(|(name, encoded)| (name.clone(), encoded.digest)));
        let nonce = self.nonces.next();
        self.unanswered = Some(Unanswered { nonce: nonce.clone(), since: now });
        Ok(Next::Push(Push {
            version_info: version(&self.sent),
            resources,
            type_url: wanted.type_url.clone(),
            nonce,
        }))
    }

    /// Whether the stream waits for names that its caller may not have (yet).
    #[must_use]
    pub fn unresolved(&self) -> &BTreeSet<String> {
        &self.unresolved
    }

    /// Whether the last response has been answered.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.unanswered.is_none()
    }

    /// The nonce of the response that waits for an answer.
    #[must_use]
    pub fn unanswered_nonce(&self) -> Option<&str> {
        self.unanswered.as_ref().map(|unanswered| unanswered.nonce.as_str())
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
    let names = names(request.resource_names)?;
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
    let type_url = if request.type_url.is_empty() { SECRET_TYPE_URL.into() } else { request.type_url };
    let resources = resolved.found.into_values().map(|encoded| encoded.resource.clone()).collect();
    Ok(Push { version_info: String::new(), resources, type_url, nonce: String::new() })
}

impl Nonces {
    fn next(&mut self) -> String {
        self.count = self.count.wrapping_add(1);
        let nonce = format!("{:08x}", self.salt.wrapping_add(self.count));
        self.last = Some(nonce.clone());
        nonce
    }
}

fn names(list: Vec<String>) -> Result<BTreeSet<String>, Refusal> {
    if list.iter().map(|name| name.len() + NAME_OVERHEAD).sum::<usize>() > NAMES_LIMIT {
        return Err(Refusal::TooManyNames { limit: NAMES_LIMIT });
    }
    Ok(list.into_iter().filter(|name| !name.is_empty()).collect())
}

fn version(sent: &BTreeMap<String, Digest>) -> String {
    use std::fmt::Write as _;
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for digest in sent.values() {
        context.update(digest);
    }
    context.finish().as_ref()[..8].iter().fold(String::with_capacity(16), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// How long a response may stay unanswered before a newer state is sent all the same.
pub const ACK_PATIENCE: Duration = Duration::from_secs(5);
/// What the names of one request may weigh: hundreds of the longest SPIFFE IDs, and bounded memory per stream.
const NAMES_LIMIT: usize = 256 * 1024;
const NAME_OVERHEAD: usize = 24;
