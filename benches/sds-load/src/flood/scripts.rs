//! The bytes that each kind of flood sends.
//!
//! * `calls`: floods of requests. `messages`: floods of message content. `connections`: floods of connections and of
//!   unread answers.

mod calls;
mod connections;
mod messages;

use std::time::Duration;

use super::Kind;
use super::frames;
use super::heard::Heard;

/// The behaviour of one connection.
pub(super) trait Script {
    /// The first bytes of the connection.
    fn greeting(&self) -> Vec<u8> {
        frames::greeting(&[])
    }

    /// Whether the connection reads the agent's bytes.
    fn reads(&self) -> bool {
        true
    }

    /// The next action. Called again when its bytes are written, or when something was received.
    fn next(&mut self, heard: &mut Heard) -> Next;
}

/// The next action of a script.
pub(super) enum Next {
    /// Sends these complete frames.
    Frames(Vec<u8>),
    /// Waits until the agent sends something.
    Wait,
    /// Waits for this time.
    Pause(Duration),
    /// Sends nothing more.
    Silence,
    /// Closes the connection.
    Over,
}

/// The script of a kind for the connection of this number.
pub(super) fn script(kind: Kind, number: usize) -> Box<dyn Script> {
    match kind {
        Kind::All => unreachable!("stands for the others"),
        Kind::UnfinishedMessages => Box::new(messages::Unfinished::new()),
        Kind::HpackChurn => Box::new(calls::Blocks::churning()),
        Kind::HeadersTooLong => Box::new(calls::Blocks::too_long()),
        Kind::NackWords => Box::new(messages::Nacks::new()),
        Kind::HeldNames => Box::new(messages::Names::new()),
        Kind::DeltaChanges => Box::new(messages::Changes::new()),
        Kind::RapidReset => Box::new(calls::Resets::new()),
        Kind::UnreadAnswers => Box::new(connections::Unread::new(number)),
        Kind::SilentConnections => Box::new(connections::Silent),
        Kind::SmallConnections => Box::new(connections::Small::default()),
        Kind::SlowReaders => Box::new(connections::Slow::default()),
    }
}

/// The identifiers of new streams: odd numbers, until all are used.
#[derive(Debug)]
struct Streams(u32);

impl Default for Streams {
    fn default() -> Self {
        Self(1)
    }
}

impl Streams {
    /// The next identifier; `None` if the connection has used all.
    fn next(&mut self) -> Option<u32> {
        let Self(next) = self;
        let stream = (*next < 1 << 31).then_some(*next)?;
        *next += 2;
        Some(stream)
    }
}

/// A gRPC message whose prefix announces `length` bytes, followed by these bytes.
fn framed(length: usize, bytes: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(bytes);
    framed
}

const X509: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const DELTA: &str = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets";
const SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";

#[cfg(test)]
mod tests;
