//! The listener from outside: binding, inheriting, accepting.

#[path = "main/caller.rs"]
mod caller;
#[path = "main/listener.rs"]
mod listener;
