//! Header compression (RFC 7541), the receiving side.

/// What one connection's peer has put into its table.
#[derive(Debug)]
pub struct Decoder {}
