//! Who is it? [`workload`] attestors say what a calling process is; [`node`] attestors prove to the server what this
//! node is. [`proc`] holds the pure parsers of `/proc` text.

pub mod container;
pub mod node;
pub mod proc;
pub mod workload;
