//! What `cargo verify` shares with the demo: programs that are not built here, fetched on first use.

pub mod tools;
