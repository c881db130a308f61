//! Gives a client's requests to the machine of its stream, and logs them.

use std::fmt;

use tonic::Status;
use tracing::{debug, error, warn};
use transport::{Peer, Words};

use crate::framing::Message;
use crate::machine::{Machine, RequestKind};
use crate::service::{status_of, status_of_request};
use crate::wire::Protocol;

/// Takes one request. Returns what it is about.
///
/// # Errors
/// The status that ends the call.
pub(crate) fn take(machine: &mut Machine, peer: &Peer, message: &Message) -> Result<RequestKind, Status> {
    match machine.protocol() {
        Protocol::Sotw => sotw(machine, peer, message),
        Protocol::Delta => delta(machine, peer, message),
    }
}

fn sotw(machine: &mut Machine, peer: &Peer, message: &Message) -> Result<RequestKind, Status> {
    let request = message.request().map_err(|reason| status_of_request(&reason))?;
    let pid = peer.process.pid;
    debug!(pid, resource_names = %Names(request.resource_names.iter().copied()), version_info = %Words(request.version_info),
        nonce = %Words(request.response_nonce), "Received StreamSecrets request");
    let nonce = request.response_nonce;
    let kind = machine.request(request).map_err(|refusal| status_of(&refusal))?;
    match &kind {
        RequestKind::Nack(reason) if peer.complain("nack") => {
            // Read once more, because the machine has taken the request.
            let request = message.request().map_err(|reason| status_of_request(&reason))?;
            error!(pid, resource_names = %Names(request.resource_names.iter().copied()), error = %Words(reason),
                "Envoy reported errors applying secrets");
            let expected = machine.last_version();
            error!(pid, version_info = %Words(request.version_info), expect = expected.as_str(),
                "Client rejected expected version and rolled back");
        }
        // After two pushes in a row the first ACK looks like this, which is harmless.
        RequestKind::Stale { expected } if peer.complain("stale nonce") => {
            warn!(pid, nonce = %Words(nonce), expect = %expected, "Received unexpected nonce; ignoring request");
        }
        RequestKind::Asked | RequestKind::Ack | RequestKind::Nack(_) | RequestKind::Stale { .. } => {}
    }
    Ok(kind)
}

fn delta(machine: &mut Machine, peer: &Peer, message: &Message) -> Result<RequestKind, Status> {
    let request = message.delta_request().map_err(|reason| status_of_request(&reason))?;
    let pid = peer.process.pid;
    debug!(target: DELTA, pid, subscribe = %Names(request.subscribe.iter().copied()), unsubscribe = %Names(request.unsubscribe.iter().copied()),
        nonce = %Words(request.response_nonce), "Received DeltaSecrets request");
    let kind = machine.delta_request(request).map_err(|refusal| status_of(&refusal))?;
    if let RequestKind::Nack(reason) = &kind
        && peer.complain("nack")
    {
        error!(target: DELTA, pid, error = %Words(reason), "Envoy reported errors applying secrets");
    }
    Ok(kind)
}

/// Names that a caller asks for, cut for the log.
pub(crate) struct Names<I>(pub(crate) I);

impl<'a, I: ExactSizeIterator<Item = &'a str> + Clone> fmt::Display for Names<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(names) = self;
        f.write_str("[")?;
        for (place, name) in names.clone().take(NAMES_SHOWN).enumerate() {
            write!(f, "{}\"{}\"", if place > 0 { ", " } else { "" }, Words(name))?;
        }
        match names.len().saturating_sub(NAMES_SHOWN) {
            0 => f.write_str("]"),
            more => write!(f, " and {more} more]"),
        }
    }
}

/// The target of what is logged of delta streams, by which the agent knows the method.
pub(crate) const DELTA: &str = "sds::delta";
const NAMES_SHOWN: usize = 8;
