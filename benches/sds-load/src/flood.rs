//! A hostile neighbour: connections that do what no client needs, as fast as the agent lets them.
//!
//! * [`Kind`]: what there is, and what `--help` says of it. `scripts` has what each says on the wire.
//! * `hostile`: one such connection. It says what its script gives it and keeps to flow control, so that an agent has to
//!   bear what is said, and cannot just end it for a broken rule.
//! * `heard`: what the agent answers, read no further than the scripts need. `frames`: frames as bytes.
//! * [`Outcome`]: what became of the connections.

mod frames;
mod heard;
mod hostile;
mod kind;
mod outcome;
mod scripts;

use std::io;
use std::rc::Rc;

use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_local;

use crate::envoy::Fleet;

pub(crate) use kind::Kind;
pub(crate) use outcome::Outcome;

/// What one process of a flood does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Flood {
    pub(crate) kind: Kind,
    /// Connections at once, of this process.
    pub(crate) connections: usize,
    /// Frames that each connection says, after which it waits; `None`: without end, and again when it was ended.
    pub(crate) frames: Option<u64>,
    /// The user to become first.
    pub(crate) uid: Option<u32>,
}

impl Flood {
    /// Leaves root behind, with its groups: an agent that shares out by user then tells the flood from its victims.
    pub(crate) fn become_user(&self) -> io::Result<()> {
        let Some(uid) = self.uid.filter(|uid| *uid != geteuid().as_raw()) else { return Ok(()) };
        setgroups(&[])?;
        setgid(Gid::from_raw(uid))?;
        Ok(setuid(Uid::from_raw(uid))?)
    }

    /// Begins, and goes on until its tasks are dropped.
    pub(crate) fn begin(&self, fleet: &Rc<Fleet>) {
        for number in 0..self.connections {
            let (kind, frames) = (self.kind, self.frames);
            spawn_local(hostile::live(Rc::clone(fleet), kind, number, frames));
        }
    }
}
