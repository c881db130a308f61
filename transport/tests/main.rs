//! The socket door from outside: binding, handing over, accepting, and real HTTP/2 behind it.

#[path = "main/caller.rs"]
mod caller;
#[path = "main/listener.rs"]
mod listener;
#[path = "main/served.rs"]
mod served;
