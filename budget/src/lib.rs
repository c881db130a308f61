//! What callers may make the agent keep and do.
