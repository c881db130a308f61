//! The ports of the demo.

use std::net::{Ipv4Addr, TcpListener};

use super::failure::Failure;
use super::plan::{Cluster, WORKLOAD_COUNT};

/// Ports of this machine that were free a moment ago.
pub(crate) struct Ports {
    pub(crate) health: [u16; Cluster::ALL.len()],
    pub(crate) admin: [u16; WORKLOAD_COUNT],
    pub(crate) listener: [u16; WORKLOAD_COUNT],
}

impl Ports {
    /// Finds free ports.
    ///
    /// # Errors
    /// If there are not enough.
    pub(crate) fn free() -> Result<Self, Failure> {
        // All are held at the same time, so that they differ.
        let mut held = Vec::new();
        let mut free = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok::<u16, std::io::Error>(port)
        };
        let mut all = Vec::new();
        for _ in 0..Cluster::ALL.len() + 2 * WORKLOAD_COUNT {
            all.push(free().map_err(|reason| Failure::new(format!("there is no free port: {reason}")))?);
        }
        let mut ports = all.into_iter();
        let mut next = || ports.next().unwrap_or_default();
        Ok(Self {
            health: std::array::from_fn(|_| next()),
            admin: std::array::from_fn(|_| next()),
            listener: std::array::from_fn(|_| next()),
        })
    }
}
