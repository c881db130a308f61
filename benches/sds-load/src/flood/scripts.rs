//! What each kind of flood says.
//!
//! * `calls`: floods of requests. `messages`: of what is in them. `connections`: of connections, and of answers that wait.

mod calls;
mod connections;
mod messages;

use std::time::Duration;

use super::Kind;
use super::frames;
use super::heard::Heard;

/// One connection's part.
pub(super) trait Script {
    /// What it says before it has heard anything.
    fn greeting(&self) -> Vec<u8> {
        frames::greeting(&[])
    }

    /// Whether it reads what the agent says.
    fn reads(&self) -> bool {
        true
    }

    /// What it says next. Asked again when that is written, or when something was heard.
    fn next(&mut self, heard: &mut Heard) -> Next;
}

/// What comes next.
pub(super) enum Next {
    /// Whole frames.
    Frames(Vec<u8>),
    /// Nothing before the agent says something.
    Wait,
    /// Nothing for a while.
    Pause(Duration),
    /// Nothing, ever.
    Silence,
    /// The connection is to be closed.
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
        Kind::RapidReset => Box::new(calls::Resets::new()),
        Kind::UnreadAnswers => Box::new(connections::Unread::new(number)),
        Kind::SilentConnections => Box::new(connections::Silent),
        Kind::SmallConnections => Box::new(connections::Small::default()),
        Kind::SlowReaders => Box::new(connections::Slow::default()),
    }
}

/// Identifiers for new streams: odd numbers, until there are none left.
#[derive(Debug)]
struct Streams(u32);

impl Default for Streams {
    fn default() -> Self {
        Self(1)
    }
}

impl Streams {
    /// The next; `None` when the connection has had them all.
    fn next(&mut self) -> Option<u32> {
        let Self(next) = self;
        let stream = (*next < 1 << 31).then_some(*next)?;
        *next += 2;
        Some(stream)
    }
}

/// A message of gRPC that says that it has `length` bytes, and has these.
fn framed(length: usize, bytes: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(bytes);
    framed
}

const X509: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";

#[cfg(test)]
mod tests;
