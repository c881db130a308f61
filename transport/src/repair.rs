//! Placeholder until the repair is written: passes bytes through.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// Mends the `:authority` of gRPC C-core clients.
#[derive(Debug, Default)]
pub struct Repair {}

impl Repair {
    /// Reads from the client, mending on the way.
    pub(crate) fn poll_read(
        &mut self,
        stream: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        stream.poll_read(cx, buf)
    }
}
