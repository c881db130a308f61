//! What a client's frames do to a connection, and what its streams may send: no I/O and no futures.

mod answer;
mod calls;

use std::sync::Arc;

use budget::Account;
use bytes::{Buf, Bytes, BytesMut};
use http::Request;

use crate::frame::{self, FrameHead, Reason};
use crate::hpack::Decoder;
use crate::out::Out;
use crate::stream::{Stream, StreamState, Streams};
use crate::temper::{Provocation, Temper};
use crate::wake::Woken;
use crate::window::{self, ReceiveWindow, SendWindow};
use crate::{Error, Limits, RequestBody, costs};

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    limits: Limits,
    woken: Arc<Woken>,
    account: Account,
    /// Work that was done and is not counted yet: once for all that was read costs less than once for each frame.
    spent: u64,
    /// Bytes that a call takes before it is answered.
    call_size: u32,
    stage: Stage,
    decoder: Decoder,
    /// A header block that is not complete.
    block: Option<Box<OpenBlock>>,
    streams: Streams,
    send: SendWindow,
    receive: ReceiveWindow,
    /// What SETTINGS_INITIAL_WINDOW_SIZE of the client says.
    first_window: u32,
    /// The client has spoken of its table: that we use none is to be said in the next header block (RFC 7541 §4.2).
    tell_table: bool,
    pub(crate) temper: Temper,
    /// No more calls are taken: those above this stream were not looked at.
    leaving: bool,
    /// The connection's window, or all streams', may have grown since streams were last told.
    opened: bool,
}

/// What a frame came to.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing that concerns a call.
    Nothing,
    /// Something is to be done.
    Event(Event),
}

/// What is to be done about a call.
#[derive(Debug)]
pub(crate) enum Event {
    Call(u32, Box<Request<RequestBody>>),
    /// The stream is over; its call is to be dropped.
    Gone(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing has come.
    Preface,
    /// The preface has; the first frame must be SETTINGS.
    Settings,
    Open,
}

#[derive(Debug)]
struct OpenBlock {
    stream: u32,
    end_stream: bool,
    malformed: bool,
    bytes: Vec<u8>,
    frames: u32,
}

type Outcome = Result<Option<Event>, Error>;

impl Machine {
    /// A connection's beginning; what the server says first goes out.
    pub(crate) fn new(
        limits: Limits,
        account: Account,
        call_size: u32,
        woken: Arc<Woken>,
        out: &mut Out,
    ) -> Self {
        // Before it hears of less, a client may send that much.
        let limits = Limits { window: limits.window.max(window::INITIAL), ..limits };
        out.frames(|out| {
            frame::settings(
                out,
                &[
                    (frame::MAX_CONCURRENT_STREAMS, limits.streams),
                    (frame::INITIAL_WINDOW_SIZE, limits.window),
                    (frame::MAX_HEADER_LIST_SIZE, limits.headers),
                ],
            );
            if limits.window > window::INITIAL {
                frame::window_update(out, 0, limits.window - window::INITIAL);
            }
        });
        Self {
            limits,
            woken,
            account,
            spent: 0,
            call_size,
            stage: Stage::Preface,
            decoder: Decoder::new(TABLE),
            block: None,
            streams: Streams::default(),
            send: SendWindow::new(window::INITIAL),
            receive: ReceiveWindow::new(limits.window),
            first_window: window::INITIAL,
            tell_table: false,
            temper: Temper::default(),
            leaving: false,
            opened: false,
        }
    }

    /// Takes one frame from `read`; `None` when none is complete.
    pub(crate) fn next(&mut self, read: &mut BytesMut, out: &mut Out) -> Result<Option<Heard>, Error> {
        if self.stage == Stage::Preface && !self.preface(read)? {
            return Ok(None);
        }
        let Some(head) = FrameHead::read(read) else { return Ok(None) };
        if head.len > frame::FRAME_LIMIT {
            return Err(broken(Reason::FrameSize, "a frame is longer than SETTINGS_MAX_FRAME_SIZE"));
        }
        if read.len() < FrameHead::LEN + head.len {
            return Ok(None);
        }
        self.spent += costs::FRAME + (head.len / costs::PAYLOAD_BYTES_PER_NS) as u64;
        read.advance(FrameHead::LEN);
        let payload = read.split_to(head.len).freeze();
        self.frame(head, payload, out).map(|event| Some(event.map_or(Heard::Nothing, Heard::Event)))
    }

    /// Work that was done since it was last counted.
    pub(crate) fn spent(&self) -> u64 {
        self.spent
    }

    /// Counts it.
    pub(crate) fn count_work(&mut self) {
        self.account.work(std::mem::take(&mut self.spent));
    }

    /// Bytes that are kept between two polls, those of streams left out.
    pub(crate) fn kept(&self) -> usize {
        let block = self.block.as_ref().map_or(0, |block| size_of::<OpenBlock>() + block.bytes.capacity());
        block + self.decoder.kept() + self.streams.kept()
    }

    fn preface(&mut self, read: &mut BytesMut) -> Result<bool, Error> {
        let here = read.len().min(frame::PREFACE.len());
        if read[..here] != frame::PREFACE[..here] {
            return Err(broken(Reason::Protocol, "the client does not speak HTTP/2"));
        }
        if here < frame::PREFACE.len() {
            return Ok(false);
        }
        read.advance(here);
        self.stage = Stage::Settings;
        Ok(true)
    }

    fn frame(&mut self, head: FrameHead, payload: Bytes, out: &mut Out) -> Outcome {
        if self.stage == Stage::Settings {
            if head.kind != frame::SETTINGS || head.has(frame::ACK) {
                return Err(broken(Reason::Protocol, "the first frame is not SETTINGS"));
            }
            self.stage = Stage::Open;
        }
        if self.block.is_some() != (head.kind == frame::CONTINUATION) {
            return Err(broken(Reason::Protocol, "CONTINUATION is missing, or continues nothing"));
        }
        self.judge(head)?;
        match head.kind {
            frame::DATA => self.data(head, payload, out),
            frame::HEADERS => self.headers(head, &payload, out),
            frame::CONTINUATION => self.continuation(head, &payload, out),
            frame::PRIORITY => self.priority(head, &payload, out),
            frame::RST_STREAM => self.reset_by_client(head, &payload, out),
            frame::SETTINGS => self.settings(head, &payload, out).map(|()| None),
            frame::PUSH_PROMISE => Err(broken(Reason::Protocol, "a client pushes")),
            frame::PING => Self::ping(head, &payload, out).map(|()| None),
            frame::GO_AWAY => Self::go_away(head, &payload).map(|()| None),
            frame::WINDOW_UPDATE => self.window_update(head, &payload, out),
            _ => Ok(None),
        }
    }

    /// Counts frames that ask for nothing.
    fn judge(&mut self, head: FrameHead) -> Result<(), Error> {
        match head.kind {
            // Of which more must be known.
            frame::DATA | frame::RST_STREAM => Ok(()),
            frame::HEADERS => {
                self.temper.useful();
                Ok(())
            }
            frame::CONTINUATION if head.len > 0 => Ok(()),
            _ => self.temper.provoked(Provocation::Idle),
        }
    }

    // What the client says.

    fn data(&mut self, head: FrameHead, payload: Bytes, out: &mut Out) -> Outcome {
        let state = self.of_a_stream(head)?;
        let inner = frame::padding(&head, &payload)
            .ok_or_else(|| broken(Reason::Protocol, "more padding than frame"))?;
        let len = u32::try_from(payload.len()).expect("not more than a frame");
        self.receive
            .receive(len)
            .ok_or_else(|| broken(Reason::FlowControl, "more than the connection's window"))?;
        let Some(stream) = self.streams.get(head.stream) else {
            self.give_back(len, out);
            return if state == StreamState::Closed {
                self.refuse(head.stream, Reason::StreamClosed, out)
            } else {
                Ok(None)
            };
        };
        let data = payload.slice(inner);
        let ended = head.has(frame::END_STREAM);
        if data.is_empty() && !ended {
            self.temper.provoked(Provocation::Idle)?;
        } else {
            self.temper.useful();
        }
        let refused = if stream.client_done {
            Some(Reason::StreamClosed)
        } else if stream.receive.receive(len).is_none() {
            Some(Reason::FlowControl)
        } else {
            announced(stream, data.len(), ended).is_none().then_some(Reason::Protocol)
        };
        if let Some(reason) = refused {
            self.give_back(len, out);
            return self.refuse(head.stream, reason, out);
        }
        stream.client_done = ended;
        let padding = len - u32::try_from(data.len()).expect("not more than a frame");
        stream.inbox.put(data, ended);
        if padding > 0 {
            self.consumed(head.stream, padding, out);
        }
        Ok(None)
    }

    fn priority(&mut self, head: FrameHead, payload: &[u8], out: &mut Out) -> Outcome {
        if head.stream == 0 {
            return Err(broken(Reason::Protocol, "PRIORITY on stream 0"));
        }
        let reason = match payload.len() {
            PRIORITY_LEN if depends_on(payload) != head.stream => return Ok(None),
            PRIORITY_LEN => Reason::Protocol,
            _ => Reason::FrameSize,
        };
        // Of a stream that is idle no RST_STREAM may be sent (RFC 9113 §6.4).
        match self.streams.state(head.stream) {
            StreamState::Idle => Err(broken(reason, "a malformed PRIORITY of a stream that is idle")),
            _ => self.refuse(head.stream, reason, out),
        }
    }

    fn reset_by_client(&mut self, head: FrameHead, payload: &[u8], out: &mut Out) -> Outcome {
        self.of_a_stream(head)?;
        if payload.len() != 4 {
            return Err(broken(Reason::FrameSize, "RST_STREAM has not 4 bytes"));
        }
        self.count_reset(head.stream)?;
        let Some(stream) = self.streams.remove(head.stream) else { return Ok(None) };
        self.give_back(stream.inbox.close(), out);
        Ok(Some(Event::Gone(head.stream)))
    }

    fn settings(&mut self, head: FrameHead, payload: &[u8], out: &mut Out) -> Result<(), Error> {
        if head.stream != 0 {
            return Err(broken(Reason::Protocol, "SETTINGS on a stream"));
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() || (head.has(frame::ACK) && !payload.is_empty()) {
            return Err(broken(Reason::FrameSize, "SETTINGS of a length that it cannot have"));
        }
        if head.has(frame::ACK) {
            return Ok(());
        }
        for &[n1, n2, value @ ..] in settings {
            let (name, value) = (u16::from_be_bytes([n1, n2]), u32::from_be_bytes(value));
            match name {
                frame::HEADER_TABLE_SIZE => self.tell_table = true,
                frame::ENABLE_PUSH if value > 1 => {
                    return Err(broken(Reason::Protocol, "SETTINGS_ENABLE_PUSH is neither 0 nor 1"));
                }
                frame::MAX_FRAME_SIZE if !FRAME_SIZES.contains(&value) => {
                    return Err(broken(Reason::Protocol, "SETTINGS_MAX_FRAME_SIZE is out of bounds"));
                }
                frame::INITIAL_WINDOW_SIZE => self.first_window(value)?,
                _ => {}
            }
        }
        out.frames(frame::settings_ack);
        Ok(())
    }

    fn first_window(&mut self, size: u32) -> Result<(), Error> {
        SendWindow::new(0).grow(0, size).ok_or_else(too_large)?;
        self.first_window = size;
        self.opened = true;
        Ok(())
    }

    /// Once for all that was read: the streams that waited for a window are to be polled.
    pub(crate) fn tell_streams(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.opened) {
            self.spent += costs::VISIT * self.streams.len() as u64;
            for stream in self.streams.iter_mut() {
                stream.send.grow(0, self.first_window).ok_or_else(too_large)?;
                stream.may_go_on();
            }
        }
        Ok(())
    }

    fn ping(head: FrameHead, payload: &[u8], out: &mut Out) -> Result<(), Error> {
        if head.stream != 0 {
            return Err(broken(Reason::Protocol, "PING on a stream"));
        }
        if payload.len() != 8 {
            return Err(broken(Reason::FrameSize, "PING has not 8 bytes"));
        }
        if !head.has(frame::ACK) {
            out.frames(|out| frame::pong(out, payload));
        }
        Ok(())
    }

    /// The client opens no more streams; those that are open go on.
    fn go_away(head: FrameHead, payload: &[u8]) -> Result<(), Error> {
        if head.stream != 0 {
            return Err(broken(Reason::Protocol, "GOAWAY on a stream"));
        }
        if payload.len() < 8 {
            return Err(broken(Reason::FrameSize, "GOAWAY has less than 8 bytes"));
        }
        Ok(())
    }

    fn window_update(&mut self, head: FrameHead, payload: &[u8], out: &mut Out) -> Outcome {
        let more = <[u8; 4]>::try_from(payload)
            .map_err(|_| broken(Reason::FrameSize, "WINDOW_UPDATE has not 4 bytes"))?;
        let more = i64::from(frame::number(more));
        if head.stream == 0 {
            if more == 0 {
                return Err(broken(Reason::Protocol, "WINDOW_UPDATE of nothing"));
            }
            self.send.grow(more, 0).ok_or_else(too_large)?;
            self.opened = true;
            return Ok(None);
        }
        self.of_a_stream(head)?;
        let Some(stream) = self.streams.get(head.stream) else { return Ok(None) };
        if more == 0 {
            return self.refuse(head.stream, Reason::Protocol, out);
        }
        if stream.send.grow(more, self.first_window).is_none() {
            return self.refuse(head.stream, Reason::FlowControl, out);
        }
        stream.may_go_on();
        Ok(None)
    }

    /// A frame that must be of a stream which the client has begun.
    fn of_a_stream(&self, head: FrameHead) -> Result<StreamState, Error> {
        match self.streams.state(head.stream) {
            _ if head.stream == 0 => Err(broken(Reason::Protocol, "a frame of a stream on stream 0")),
            StreamState::Idle => Err(broken(Reason::Protocol, "a frame on a stream that is idle")),
            state => Ok(state),
        }
    }

    /// Ends a stream for which a rule was broken, or that is not wanted.
    fn refuse(&mut self, id: u32, reason: Reason, out: &mut Out) -> Outcome {
        self.count_reset(id)?;
        Ok(self.reset(id, reason, out).then_some(Event::Gone(id)))
    }

    /// Before a stream ends by what the client says, be it RST_STREAM or a broken rule. Cheap as a call is that is not even
    /// answered: whoever does nothing else is sent away.
    fn count_reset(&mut self, id: u32) -> Result<(), Error> {
        if self.streams.get(id).is_some_and(|stream| !stream.answered) {
            self.temper.provoked(Provocation::Reset)?;
        }
        Ok(())
    }
}

impl Stream {
    /// What waits for a window is tried again.
    pub(crate) fn may_go_on(&self) {
        if !self.pending.is_empty() {
            self.inbox.stream.queue();
        }
    }
}

/// Counts a body whose length was announced; `None` when it is not as announced.
fn announced(stream: &mut Stream, more: usize, ended: bool) -> Option<()> {
    let Some(left) = &mut stream.announced else { return Some(()) };
    *left = left.checked_sub(more as u64)?;
    (!ended || *left == 0).then_some(())
}

fn depends_on(priority: &[u8]) -> u32 {
    priority.first_chunk().map_or(0, |id| frame::number(*id))
}

fn too_large() -> Error {
    broken(Reason::FlowControl, "a window larger than windows can be")
}

fn broken(reason: Reason, what: &'static str) -> Error {
    Error::Protocol { reason, what }
}

/// Of our decoder; SETTINGS_HEADER_TABLE_SIZE is left as it is.
const TABLE: usize = 4096;
const PRIORITY_LEN: usize = 5;
const FRAME_SIZES: std::ops::RangeInclusive<u32> = 16_384..=16_777_215;
