//! The sending half of the machine: responses, window updates, resets and GOAWAY.

use std::task::Waker;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};

use super::Machine;
use crate::costs;
use crate::frame::{self, Reason};
use crate::head;
use crate::out::Out;

impl Machine {
    /// The waker to poll a call with; `None` when its stream is over.
    pub(crate) fn begin_poll(&mut self, id: u32) -> Option<Waker> {
        let stream = self.streams.get(id)?;
        stream.inbox.begin_poll();
        Some(stream.inbox.waker.clone())
    }

    /// Gives back the window for what a call has read. Called after each poll. False when the stream was reset,
    /// because there is no room for what must be kept.
    pub(crate) fn end_poll(&mut self, id: u32, out: &mut Out) -> bool {
        let Some(stream) = self.streams.get(id) else { return true };
        let consumed = stream.inbox.end_poll();
        if consumed > 0 {
            self.consumed(id, consumed, out);
        }
        self.settle(id, out)
    }

    /// Moves unread request bytes out of the thread's buffer, and charges what the stream keeps. False when the
    /// stream was reset, because there is no room.
    pub(crate) fn settle(&mut self, id: u32, out: &mut Out) -> bool {
        let Some(stream) = self.streams.get(id) else { return true };
        let kept = stream.inbox.settle() + stream.pending.len();
        let fits = stream.charge.set(costs::INBOX + stream.call_size as usize + kept).is_ok();
        if !fits {
            self.reset(id, Reason::EnhanceYourCalm, out);
        }
        fits
    }

    /// Sends the head of a response; with `end` there is no body. The call takes `call_size` bytes from now on.
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

    /// Sends bytes of a response's body. What no window has room for becomes pending; the caller gives no more until
    /// [`Self::send_pending`] returns true.
    pub(crate) fn send(&mut self, id: u32, data: Bytes, out: &mut Out) {
        if let Some(stream) = self.streams.get(id) {
            debug_assert!(stream.pending.is_empty(), "not to be given more");
            stream.pending = data;
        }
        self.send_pending(id, out);
    }

    /// Sends pending bytes as far as the windows allow. True when none are left.
    pub(crate) fn send_pending(&mut self, id: u32, out: &mut Out) -> bool {
        let Some(stream) = self.streams.get(id) else { return false };
        while !stream.pending.is_empty() {
            let fits = stream.send.beside(self.initial_window).fits(stream.pending.len());
            let fits = self.send.fits(fits).min(frame::FRAME_LIMIT);
            if fits == 0 {
                return false;
            }
            self.send.take(fits);
            stream.send.take(fits);
            self.temper.useful();
            let part = stream.pending.split_to(fits);
            out.frames(|out| frame::head(out, part.len(), frame::DATA, 0, id));
            out.body(part);
        }
        // Frees the bytes' memory: an idle stream holds none.
        stream.pending = Bytes::new();
        true
    }

    /// Ends a response, with trailers or without.
    pub(crate) fn end(&mut self, id: u32, trailers: Option<&HeaderMap>, out: &mut Out) {
        if self.streams.get(id).is_none() {
            return;
        }
        // An empty header block would produce no frame at all.
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

    /// Ends a stream with RST_STREAM. Returns whether it was open.
    pub(crate) fn reset(&mut self, id: u32, reason: Reason, out: &mut Out) -> bool {
        out.frames(|out| frame::reset(out, id, reason));
        self.streams.remember(id);
        let Some(stream) = self.streams.remove(id) else { return false };
        self.give_back(stream.inbox.close(), out);
        true
    }

    /// Sends GOAWAY with the last stream whose call was begun. Calls that the client begins later are refused.
    pub(crate) fn leave(&mut self, reason: Reason, out: &mut Out) {
        let last = self.streams.last();
        self.leaving = true;
        out.frames(|out| frame::go_away(out, last, reason));
    }

    /// Whether GOAWAY was sent.
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

    /// Gives bytes back to the connection's receive window.
    pub(super) fn give_back(&mut self, bytes: u32, out: &mut Out) {
        if let Some(more) = self.receive.consume(bytes) {
            out.frames(|out| frame::window_update(out, 0, more));
        }
    }

    /// Forgets a stream after END_STREAM was sent on it.
    fn finish(&mut self, id: u32, out: &mut Out) {
        let Some(stream) = self.streams.remove(id) else { return };
        self.give_back(stream.inbox.close(), out);
        if !stream.client_done {
            // The client need not send the rest of its request (RFC 9113 §8.1).
            out.frames(|out| frame::reset(out, id, Reason::No));
            self.streams.remember(id);
        }
    }

    fn begin_block(&mut self) -> BytesMut {
        let mut block = BytesMut::with_capacity(BLOCK);
        if std::mem::take(&mut self.announce_no_table) {
            block.extend_from_slice(&[NO_TABLE]);
        }
        block
    }
}

/// Bytes that most of the server's header blocks fit into.
const BLOCK: usize = 128;
/// A dynamic table size update to 0 (RFC 7541 §6.3).
const NO_TABLE: u8 = 0x20;
