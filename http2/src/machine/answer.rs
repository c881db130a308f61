//! What the server says.

use std::task::Waker;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};

use super::Machine;
use crate::costs;
use crate::frame::{self, Reason};
use crate::head;
use crate::out::Out;

impl Machine {
    /// What a call is to be polled with; `None` when its stream is over.
    pub(crate) fn begin_poll(&mut self, id: u32) -> Option<Waker> {
        let stream = self.streams.get(id)?;
        stream.inbox.begin_poll();
        Some(stream.inbox.waker.clone())
    }

    /// After a call was polled: what it has read is given back. False when the stream is over, for want of room.
    pub(crate) fn end_poll(&mut self, id: u32, out: &mut Out) -> bool {
        let Some(stream) = self.streams.get(id) else { return true };
        let consumed = stream.inbox.end_poll();
        if consumed > 0 {
            self.consumed(id, consumed, out);
        }
        self.settle(id, out)
    }

    /// What a call has not read moves out of the thread's buffer, and what is kept for the stream is charged. False when the
    /// stream is over, for want of room.
    pub(crate) fn settle(&mut self, id: u32, out: &mut Out) -> bool {
        let Some(stream) = self.streams.get(id) else { return true };
        let kept = stream.inbox.settle() + stream.pending.len();
        let fits = stream.charge.set(costs::INBOX + stream.call_size as usize + kept).is_ok();
        if !fits {
            self.reset(id, Reason::EnhanceYourCalm, out);
        }
        fits
    }

    /// The head of an answer; with `end` it is all there is. The call takes `call_size` bytes from now on.
    pub(crate) fn answer(
        &mut self,
        id: u32,
        response: &Response<()>,
        call_size: u32,
        end: bool,
        out: &mut Out,
    ) {
        let Some(stream) = self.streams.get(id) else { return };
        stream.answered = true;
        stream.call_size = call_size;
        self.temper.answered();
        self.write_head(id, response, end, out);
        if end {
            self.finish(id, out);
        }
    }

    /// Bytes of an answer's body. What no window has room for is kept, and no more may be given until it is gone.
    pub(crate) fn send(&mut self, id: u32, data: Bytes, out: &mut Out) {
        if let Some(stream) = self.streams.get(id) {
            debug_assert!(stream.pending.is_empty(), "not to be given more");
            stream.pending = data;
        }
        self.go_on(id, out);
    }

    /// Sends what waited for a window, as far as that goes; whether nothing waits now.
    pub(crate) fn go_on(&mut self, id: u32, out: &mut Out) -> bool {
        let Some(stream) = self.streams.get(id) else { return false };
        while !stream.pending.is_empty() {
            let fits = stream.send.beside(self.first_window).fits(stream.pending.len());
            let fits = self.send.fits(fits).min(frame::FRAME_LIMIT);
            if fits == 0 {
                return false;
            }
            self.send.take(fits);
            stream.send.take(fits);
            self.temper.useful();
            let part = stream.pending.split_to(fits);
            out.frames(|out| frame::head(out, part.len(), frame::DATA, 0, id));
            out.shared(part);
        }
        // An idle stream holds nothing.
        stream.pending = Bytes::new();
        true
    }

    /// The end of an answer, with trailers or without.
    pub(crate) fn end(&mut self, id: u32, trailers: Option<&HeaderMap>, out: &mut Out) {
        if self.streams.get(id).is_none() {
            return;
        }
        // An empty header block would be no frame.
        match trailers.filter(|trailers| !trailers.is_empty()) {
            Some(trailers) => {
                let mut block = self.begin_block();
                head::write_fields(&mut block, trailers);
                out.frames(|out| frame::headers(out, id, &block, true));
            }
            None => out.frames(|out| frame::head(out, 0, frame::DATA, frame::END_STREAM, id)),
        }
        self.finish(id, out);
    }

    /// Ends a stream at once. Whether it was open.
    pub(crate) fn reset(&mut self, id: u32, reason: Reason, out: &mut Out) -> bool {
        out.frames(|out| frame::reset(out, id, reason));
        self.streams.remember(id);
        let Some(stream) = self.streams.remove(id) else { return false };
        self.give_back(stream.inbox.close(), out);
        true
    }

    /// The last word about calls: which was the last that was looked at. Those that the client begins later are refused.
    pub(crate) fn leave(&mut self, reason: Reason, out: &mut Out) {
        let last = self.streams.last();
        self.leaving = true;
        out.frames(|out| frame::go_away(out, last, reason));
    }

    /// Whether it has been said that no more calls are taken.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving
    }

    pub(super) fn write_head(&mut self, id: u32, response: &Response<()>, end: bool, out: &mut Out) {
        let mut block = self.begin_block();
        head::write_response(&mut block, response.status(), response.headers());
        out.frames(|out| frame::headers(out, id, &block, end));
    }

    pub(super) fn consumed(&mut self, id: u32, bytes: u32, out: &mut Out) {
        self.give_back(bytes, out);
        let Some(stream) = self.streams.get(id) else { return };
        if let Some(more) = stream.receive.consume(bytes).filter(|_| !stream.client_done) {
            out.frames(|out| frame::window_update(out, id, more));
        }
    }

    /// To the connection's window.
    pub(super) fn give_back(&mut self, bytes: u32, out: &mut Out) {
        if let Some(more) = self.receive.consume(bytes) {
            out.frames(|out| frame::window_update(out, 0, more));
        }
    }

    /// After END_STREAM of ours.
    fn finish(&mut self, id: u32, out: &mut Out) {
        let Some(stream) = self.streams.remove(id) else { return };
        self.give_back(stream.inbox.close(), out);
        if !stream.client_done {
            // The client need not send the rest (RFC 9113 §8.1).
            out.frames(|out| frame::reset(out, id, Reason::No));
            self.streams.remember(id);
        }
    }

    fn begin_block(&mut self) -> BytesMut {
        let mut block = BytesMut::with_capacity(BLOCK);
        if std::mem::take(&mut self.tell_table) {
            block.extend_from_slice(&[NO_TABLE]);
        }
        block
    }
}

/// Most header blocks of ours are shorter.
const BLOCK: usize = 128;
/// A dynamic table size update to 0 (RFC 7541 §6.3).
const NO_TABLE: u8 = 0x20;
