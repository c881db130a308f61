//! The socket door from outside: binding, handing over, accepting.

#[path = "main/caller.rs"]
mod caller;
#[path = "main/listener.rs"]
mod listener;
