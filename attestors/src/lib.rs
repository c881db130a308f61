//! Who is it? [`workload`] attestors say what a calling process is; [`node`] attestors prove to the server what this
//! node is. [`proc`] holds the pure parsers of `/proc` text, [`mod@file`] reads files without
//! waiting for who writes them.

pub mod container;
pub mod file;
pub mod node;
pub mod proc;
pub mod workload;
