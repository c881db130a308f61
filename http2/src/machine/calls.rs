//! The client's header blocks, and the calls that they begin.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};

use super::{Event, Machine, OpenBlock, Outcome, PRIORITY_LEN, broken, count_announced, depends_on};
use crate::RequestBody;
use crate::costs;
use crate::frame::{self, FrameHead, Reason};
use crate::head::{self, Block};
use crate::inbox::Inbox;
use crate::out::Out;
use crate::stream::{Stream, StreamState};
use crate::temper::Provocation;
use crate::wake::StreamWaker;
use crate::window::{ReceiveWindow, SendWindow};

impl Machine {
    pub(super) fn headers(&mut self, head: FrameHead, payload: &[u8], out: &mut Out) -> Outcome {
        if head.stream.is_multiple_of(2) {
            return Err(broken(Reason::Protocol, "HEADERS on a stream that is not a client's"));
        }
        if self.streams.state(head.stream) == StreamState::Closed {
            return Err(broken(Reason::StreamClosed, "HEADERS on a stream that is over"));
        }
        let inner = frame::padding(&head, payload)
            .ok_or_else(|| broken(Reason::Protocol, "more padding than frame"))?;
        let mut fragment = &payload[inner];
        let mut malformed = false;
        if head.has(frame::WITH_PRIORITY) {
            let (priority, rest) = fragment
                .split_at_checked(PRIORITY_LEN)
                .ok_or_else(|| broken(Reason::FrameSize, "HEADERS without room for its priority"))?;
            malformed = depends_on(priority) == head.stream;
            fragment = rest;
        }
        let (stream, end_stream) = (head.stream, head.has(frame::END_STREAM));
        if head.has(frame::END_HEADERS) {
            return self.block(stream, end_stream, malformed, fragment, out);
        }
        let bytes = fragment.to_vec();
        self.block = Some(Box::new(OpenBlock { stream, end_stream, malformed, bytes, frames: 0 }));
        Ok(None)
    }

    pub(super) fn continuation(&mut self, head: FrameHead, payload: &[u8], out: &mut Out) -> Outcome {
        let limit = self.limits.headers as usize * 2;
        let block = self.block.as_mut().filter(|block| block.stream == head.stream);
        let block = block.ok_or_else(|| broken(Reason::Protocol, "CONTINUATION of another stream"))?;
        block.bytes.extend_from_slice(payload);
        block.frames += u32::from(!payload.is_empty());
        if block.bytes.len() > limit || block.frames > CONTINUATIONS {
            return Err(broken(Reason::EnhanceYourCalm, "a header block without end"));
        }
        if !head.has(frame::END_HEADERS) {
            return Ok(None);
        }
        let block = self.block.take().expect("it is there");
        self.block(block.stream, block.end_stream, block.malformed, &block.bytes, out)
    }

    fn block(&mut self, id: u32, end: bool, malformed: bool, fragment: &[u8], out: &mut Out) -> Outcome {
        let (block, work) = head::read(&mut self.decoder, fragment, &self.limits)
            .map_err(|_| broken(Reason::Compression, "a header block cannot be decoded"))?;
        self.spent += work;
        if let Block::Excessive = block {
            return Err(broken(Reason::EnhanceYourCalm, "a header list many times longer than allowed"));
        }
        let block = if malformed { Block::Malformed } else { block };
        match (self.streams.state(id), block) {
            (StreamState::Idle, block) => {
                self.streams.mark_used(id);
                self.call(id, end, block, out)
            }
            (StreamState::Open, block) => self.trailers_of_client(id, end, &block, out),
            (StreamState::Ended | StreamState::Closed, _) => Ok(None),
        }
    }

    fn call(&mut self, id: u32, end: bool, block: Block, out: &mut Out) -> Outcome {
        let (request, length) = match block {
            Block::Request(request, length) if !end || length.unwrap_or_default() == 0 => (request, length),
            Block::TooLong => {
                let head = Response::builder().status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE).body(());
                self.write_head(id, &head.expect("a status"), true, out);
                self.temper.provoked(Provocation::TooLong)?;
                return if end { Ok(None) } else { self.refuse(id, Reason::No, out) };
            }
            Block::Request(..) | Block::Trailers | Block::Malformed | Block::Excessive => {
                self.temper.provoked(Provocation::Malformed)?;
                return self.refuse(id, Reason::Protocol, out);
            }
        };
        if self.leaving || self.streams.len() >= self.limits.streams as usize {
            self.temper.provoked(Provocation::Refused)?;
            return self.refuse(id, Reason::RefusedStream, out);
        }
        let Ok(charge) = self.account.charge(costs::INBOX + self.call_size as usize) else {
            self.temper.provoked(Provocation::Refused)?;
            self.write_no_room(id, out);
            return if end { Ok(None) } else { self.refuse(id, Reason::No, out) };
        };
        self.spent += costs::CALL;
        let inbox = Inbox::new(StreamWaker::new(id, &self.woken), end);
        inbox.stream.queue();
        let body = RequestBody::new(Arc::clone(&inbox));
        self.streams.insert(Stream {
            id,
            inbox,
            send: SendWindow::new(0),
            receive: ReceiveWindow::new(self.limits.window),
            announced: length,
            client_done: end,
            answered: false,
            pending: Bytes::new(),
            call_size: self.call_size,
            charge,
        });
        Ok(Some(Event::Call(id, Box::new(request.map(|()| body)))))
    }

    /// Refuses a call with a gRPC status. Clients try again later after RESOURCE_EXHAUSTED, but at once after
    /// REFUSED_STREAM.
    fn write_no_room(&mut self, id: u32, out: &mut Out) {
        let head = Response::builder()
            .header(CONTENT_TYPE, "application/grpc")
            .header("grpc-status", RESOURCE_EXHAUSTED)
            .header("grpc-message", "the agent holds as much for this caller as it may");
        self.write_head(id, &head.body(()).expect("sound headers"), true, out);
    }

    fn trailers_of_client(&mut self, id: u32, end: bool, block: &Block, out: &mut Out) -> Outcome {
        let Some(stream) = self.streams.get(id) else { return Ok(None) };
        let refused = if stream.client_done {
            Some(Reason::StreamClosed)
        } else if !end || !matches!(block, Block::Trailers) || count_announced(stream, 0, true).is_err() {
            Some(Reason::Protocol)
        } else {
            None
        };
        if let Some(reason) = refused {
            return self.refuse(id, reason, out);
        }
        stream.client_done = true;
        stream.inbox.put(Bytes::new(), true);
        Ok(None)
    }
}

/// CONTINUATION frames of one header block. Those without content are counted by [`crate::temper`] alone.
const CONTINUATIONS: u32 = 256;
/// `google.rpc.Code.RESOURCE_EXHAUSTED`.
const RESOURCE_EXHAUSTED: &str = "8";
