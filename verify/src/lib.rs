//! The part of `cargo verify` that the demo uses too: third-party programs, fetched on first use.

pub mod tools;
