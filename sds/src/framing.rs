//! gRPC's framing over an HTTP/2 body: a flag and a length precede each message (gRPC over HTTP/2,
//! "Length-Prefixed-Message"). A message may be spread over many DATA frames, and a frame may hold many messages.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::Body;

use crate::sift::{Sift, SiftError};
use crate::wire::{DeltaDiscoveryRequest, DiscoveryRequest, Protocol};

/// Cuts a client's bytes into messages. Of an incomplete message it holds only the fields that are read: see `sift`.
#[derive(Debug, Default)]
pub struct Intake {
    protocol: Protocol,
    head: [u8; HEAD],
    /// How many bytes of `head` have come.
    seen: u8,
    /// How many bytes of the message have not come yet.
    left: u32,
    message: Option<Sift>,
}

/// One message, reduced to the fields that are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// Bytes of memory that the message takes.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.0.capacity()
    }

    /// Decodes a request of a state-of-the-world stream.
    ///
    /// # Errors
    /// [`RequestError::Malformed`].
    pub fn request(&self) -> Result<DiscoveryRequest<'_>, RequestError> {
        DiscoveryRequest::decode(&self.0)
    }

    /// Decodes a request of a delta stream.
    ///
    /// # Errors
    /// [`RequestError::Malformed`].
    pub fn delta_request(&self) -> Result<DeltaDiscoveryRequest<'_>, RequestError> {
        DeltaDiscoveryRequest::decode(&self.0)
    }
}

/// Why no more requests can be read. Texts and codes are those of grpc-go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A message is compressed, although the call has no `grpc-encoding` that allows it.
    #[error("grpc: compressed flag set with identity or empty encoding")]
    Compressed,
    /// The flag before a message is neither 0 nor 1.
    #[error("grpc: received unexpected payload format {0}")]
    Flag(u8),
    /// A message is longer than 4 MiB, the default limit of every gRPC server.
    #[error("grpc: received message larger than max ({len} vs. {MESSAGE_LIMIT})")]
    TooLong {
        /// The message's length in bytes, as its prefix says.
        len: u32,
    },
    /// The fields that are read of a message are larger than any client needs.
    #[error("the discovery request has more than {} bytes beside its node", crate::sift::KEPT_LIMIT)]
    TooMuch,
    /// The message is not a valid request.
    #[error("{0}")]
    Malformed(String),
    /// The client has ended its side within a message.
    #[error("unexpected EOF")]
    Truncated,
}

impl Intake {
    /// Reads the requests of this protocol.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self { protocol, ..Self::default() }
    }

    /// Reads from `bytes` up to the end of the next message. With `skip_node` the message's `Node` is dropped,
    /// because the stream's is known already.
    ///
    /// # Errors
    /// [`RequestError`]; nothing more can be read then.
    pub fn feed(&mut self, bytes: &mut Bytes, skip_node: bool) -> Result<Option<Message>, RequestError> {
        let Some(message) = &mut self.message else {
            self.head(bytes, skip_node)?;
            return if self.message.is_some() { self.feed(bytes, skip_node) } else { Ok(None) };
        };
        let here = bytes.len().min(self.left as usize);
        message.feed(&bytes[..here])?;
        bytes.advance(here);
        self.left -= u32::try_from(here).expect("not more than a u32");
        if self.left > 0 {
            return Ok(None);
        }
        self.seen = 0;
        let message = self.message.take().map(Sift::finish).transpose()?;
        Ok(message.map(Message))
    }

    /// Whether no message has begun. An incomplete prefix does not count as a message, as with grpc-go.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.message.is_none()
    }

    /// Bytes of memory that an incomplete message takes.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.message.as_ref().map_or(0, Sift::kept)
    }

    fn head(&mut self, bytes: &mut Bytes, skip_node: bool) -> Result<(), RequestError> {
        let seen = usize::from(self.seen);
        let here = bytes.len().min(HEAD - seen);
        bytes.copy_to_slice(&mut self.head[seen..seen + here]);
        self.seen += u8::try_from(here).expect("at most five");
        let [flag, len @ ..] = self.head;
        match flag {
            _ if self.seen == 0 => return Ok(()),
            0 => {}
            1 => return Err(RequestError::Compressed),
            other => return Err(RequestError::Flag(other)),
        }
        if usize::from(self.seen) == HEAD {
            let len = u32::from_be_bytes(len);
            if len > MESSAGE_LIMIT {
                return Err(RequestError::TooLong { len });
            }
            (self.left, self.message) = (len, Some(Sift::new(len, self.protocol, skip_node)));
        }
        Ok(())
    }
}

impl From<prost::DecodeError> for RequestError {
    fn from(reason: prost::DecodeError) -> Self {
        Self::Malformed(reason.to_string())
    }
}

impl From<SiftError> for RequestError {
    fn from(reason: SiftError) -> Self {
        match reason {
            SiftError::TooMuch => Self::TooMuch,
            SiftError::Malformed(_) => Self::Malformed(reason.to_string()),
        }
    }
}

/// The requests of a call, read from its body.
#[derive(Debug)]
pub(crate) struct Inbound<B> {
    body: B,
    intake: Intake,
    /// The bytes of the last DATA frame that were not read yet.
    rest: Bytes,
}

impl<B: Body<Data = Bytes> + Unpin> Inbound<B> {
    pub(crate) fn new(protocol: Protocol, body: B) -> Self {
        Self { body, intake: Intake::new(protocol), rest: Bytes::new() }
    }

    /// Bytes of memory that an incomplete message takes.
    pub(crate) fn kept(&self) -> usize {
        self.intake.kept()
    }

    /// The next message; `None` when the client has ended its side or has gone away.
    pub(crate) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        skip_node: bool,
    ) -> Poll<Option<Result<Message, RequestError>>> {
        loop {
            if !self.rest.is_empty() {
                let message = self.intake.feed(&mut self.rest, skip_node);
                if self.rest.is_empty() {
                    // The frame is a slice of a larger buffer, which an idle stream must not hold.
                    self.rest = Bytes::new();
                }
                match message {
                    Ok(None) => {}
                    Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                    Err(reason) => return Poll::Ready(Some(Err(reason))),
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                None if !self.intake.is_between() => return Poll::Ready(Some(Err(RequestError::Truncated))),
                None | Some(Err(_)) => return Poll::Ready(None),
            }
        }
    }
}

/// Bytes of a message's prefix: flag and length.
const HEAD: usize = 5;
/// The longest message in bytes: the default of every gRPC server.
const MESSAGE_LIMIT: u32 = 4 * 1024 * 1024;
