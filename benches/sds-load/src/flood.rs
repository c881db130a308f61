//! A hostile neighbour: connections that do what no client needs, as fast as the agent allows.
//!
//! * [`Kind`]: the kinds of floods, with their text in `--help`. `scripts`: the bytes that each kind sends.
//! * `hostile`: one hostile connection. It sends the bytes of its script and keeps flow control, so that the agent must
//!   process them and cannot just end the connection for a broken rule.
//! * `heard`: the agent's frames, parsed no further than the scripts need. `frames`: frames as bytes.
//! * [`Outcome`]: counts of the connections and how they ended.

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

/// The part of one process in a flood.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Flood {
    pub(crate) kind: Kind,
    /// Concurrent connections of this process.
    pub(crate) connections: usize,
    /// The frames that each connection sends before it only waits; `None` to send without end, and to connect again
    /// when the agent ends it.
    pub(crate) frames: Option<u64>,
    /// The user that the process becomes first, if any.
    pub(crate) uid: Option<u32>,
}

impl Flood {
    /// Drops root and its groups, so that an agent which limits each user can distinguish the flood from its victims.
    pub(crate) fn become_user(&self) -> io::Result<()> {
        let Some(uid) = self.uid.filter(|uid| *uid != geteuid().as_raw()) else { return Ok(()) };
        setgroups(&[])?;
        setgid(Gid::from_raw(uid))?;
        Ok(setuid(Uid::from_raw(uid))?)
    }

    /// Starts the flood. It runs until its tasks are dropped.
    pub(crate) fn begin(&self, fleet: &Rc<Fleet>) {
        for number in 0..self.connections {
            let (kind, frames) = (self.kind, self.frames);
            spawn_local(hostile::live(Rc::clone(fleet), kind, number, frames));
        }
    }
}
