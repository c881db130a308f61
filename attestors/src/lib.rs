//! Attestation: [`workload`] attestors find out what a calling process is, and [`node`] attestors prove to the server
//! what this node is.
//!
//! [`container`] finds the container of a process, [`proc`] parses the text of other files in `/proc`, and
//! [`mod@file`] reads files without waiting for a process that writes them.

pub mod container;
pub mod file;
pub mod node;
pub mod proc;
pub mod workload;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex` also after a panic of another thread: every cache and list behind a lock here is valid at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
