//! Protocol state of a connection: what a client's frames do to it, and what its streams may send. It has no I/O and
//! no futures.

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
use crate::window::{self, ReceiveWindow, SendWindow, TooLarge};
use crate::{Error, Limits, RequestBody, costs};

/// The protocol state of one connection.
#[derive(Debug)]
pub(crate) struct Machine {
    limits: Limits,
    woken: Arc<Woken>,
    account: Account,
    /// Work in nanoseconds that the account does not know yet. It is counted once for each read, which costs less
    /// than once for each frame.
    spent: u64,
    /// Bytes that a call takes before it is answered: its future, the request's path and its headers.
    call_size: u32,
    stage: Stage,
    decoder: Decoder,
    /// A header block whose END_HEADERS has not come yet.
    block: Option<Box<OpenBlock>>,
    streams: Streams,
    send: SendWindow,
    receive: ReceiveWindow,
    /// The client's SETTINGS_INITIAL_WINDOW_SIZE.
    initial_window: u32,
    /// The client has set SETTINGS_HEADER_TABLE_SIZE. The next header block must begin with a size update (RFC 7541
    /// §4.2), which sets the table's size to 0, as the server uses none.
    announce_no_table: bool,
    pub(crate) temper: Temper,
    /// GOAWAY was sent: calls on later streams are refused.
    leaving: bool,
    /// The connection's send window, or that of all streams, may have grown since blocked streams were last woken.
    windows_grew: bool,
}

/// What [`Machine::next`] has done.
#[derive(Debug)]
pub(crate) enum Progress {
    /// `read` holds no complete frame.
    Incomplete,
    /// A frame came that changes nothing about calls.
    NoEvent,
    /// A frame came, and the connection must act on a call.
    Event(Event),
}

/// Something that the connection must do about a call.
#[derive(Debug)]
pub(crate) enum Event {
    /// The stream begins a call.
    Call(u32, Box<Request<RequestBody>>),
    /// The stream is over, and its call must be dropped.
    Gone(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The client's preface (RFC 9113 §3.4) has not come yet.
    Preface,
    /// The preface has come; the first frame must be SETTINGS.
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
    /// Begins a connection, and puts the server's preface into `out`: SETTINGS and a WINDOW_UPDATE.
    pub(crate) fn new(
        limits: Limits,
        account: Account,
        call_size: u32,
        woken: Arc<Woken>,
        out: &mut Out,
    ) -> Self {
        // A client may send that much before it reads our SETTINGS.
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
            initial_window: window::INITIAL,
            announce_no_table: false,
            temper: Temper::default(),
            leaving: false,
            windows_grew: false,
        }
    }

    /// Takes one frame from the front of `read` and acts on it.
    pub(crate) fn next(&mut self, read: &mut BytesMut, out: &mut Out) -> Result<Progress, Error> {
        if self.stage == Stage::Preface && !self.preface(read)? {
            return Ok(Progress::Incomplete);
        }
        let Some(head) = FrameHead::read(read) else { return Ok(Progress::Incomplete) };
        if head.len > frame::FRAME_LIMIT {
            return Err(broken(Reason::FrameSize, "a frame is longer than SETTINGS_MAX_FRAME_SIZE"));
        }
        if read.len() < FrameHead::LEN + head.len {
            return Ok(Progress::Incomplete);
        }
        self.spent += costs::FRAME + (head.len / costs::PAYLOAD_BYTES_PER_NS) as u64;
        read.advance(FrameHead::LEN);
        let payload = read.split_to(head.len).freeze();
        self.frame(head, payload, out).map(|event| event.map_or(Progress::NoEvent, Progress::Event))
    }

    /// Work in nanoseconds since [`Self::count_work`] was last called.
    pub(crate) fn spent(&self) -> u64 {
        self.spent
    }

    /// Charges [`Self::spent`] to the account.
    pub(crate) fn count_work(&mut self) {
        self.account.work(std::mem::take(&mut self.spent));
    }

    /// Bytes of memory that are kept between two polls, without those of the streams, which have charges of their
    /// own.
    pub(crate) fn kept(&self) -> usize {
        let block = self.block.as_ref().map_or(0, |block| size_of::<OpenBlock>() + block.bytes.capacity());
        block + self.decoder.kept() + self.streams.kept()
    }

    /// Takes the client's preface. False when more bytes must come first.
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
        self.count_idle(head)?;
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

    /// Counts frames that only make work, by [`Temper`].
    fn count_idle(&mut self, head: FrameHead) -> Result<(), Error> {
        match head.kind {
            // Their handlers count them, because it depends on the payload or the stream.
            frame::DATA | frame::RST_STREAM => Ok(()),
            frame::HEADERS => {
                self.temper.useful();
                Ok(())
            }
            frame::CONTINUATION if head.len > 0 => Ok(()),
            _ => self.temper.provoked(Provocation::Idle),
        }
    }

    // Handlers of the client's frames, one for each type.

    fn data(&mut self, head: FrameHead, payload: Bytes, out: &mut Out) -> Outcome {
        let state = self.stream_state(head)?;
        let inner = frame::padding(&head, &payload)
            .ok_or_else(|| broken(Reason::Protocol, "more padding than frame"))?;
        let len = u32::try_from(payload.len()).expect("not more than a frame");
        self.receive
            .receive(len)
            .map_err(|_| broken(Reason::FlowControl, "more than the connection's window"))?;
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
        } else if stream.receive.receive(len).is_err() {
            Some(Reason::FlowControl)
        } else {
            count_announced(stream, data.len(), ended).is_err().then_some(Reason::Protocol)
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
        // No RST_STREAM may be sent for an idle stream (RFC 9113 §6.4).
        match self.streams.state(head.stream) {
            StreamState::Idle => Err(broken(reason, "a malformed PRIORITY of a stream that is idle")),
            _ => self.refuse(head.stream, reason, out),
        }
    }

    fn reset_by_client(&mut self, head: FrameHead, payload: &[u8], out: &mut Out) -> Outcome {
        self.stream_state(head)?;
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
                frame::HEADER_TABLE_SIZE => self.announce_no_table = true,
                frame::ENABLE_PUSH if value > 1 => {
                    return Err(broken(Reason::Protocol, "SETTINGS_ENABLE_PUSH is neither 0 nor 1"));
                }
                frame::MAX_FRAME_SIZE if !FRAME_SIZES.contains(&value) => {
                    return Err(broken(Reason::Protocol, "SETTINGS_MAX_FRAME_SIZE is out of bounds"));
                }
                frame::INITIAL_WINDOW_SIZE => self.initial_window(value)?,
                _ => {}
            }
        }
        out.frames(frame::settings_ack);
        Ok(())
    }

    fn initial_window(&mut self, size: u32) -> Result<(), Error> {
        SendWindow::new(0).grow(0, size).map_err(too_large)?;
        self.initial_window = size;
        self.windows_grew = true;
        Ok(())
    }

    /// Queues the streams that waited for a window, if one has grown. Called once for each read, not for each frame.
    pub(crate) fn wake_blocked_streams(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.windows_grew) {
            self.spent += costs::VISIT * self.streams.len() as u64;
            for stream in self.streams.iter_mut() {
                stream.send.grow(0, self.initial_window).map_err(too_large)?;
                stream.queue_if_blocked();
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

    /// GOAWAY of the client. It opens no more streams; those that are open go on.
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
            self.send.grow(more, 0).map_err(too_large)?;
            self.windows_grew = true;
            return Ok(None);
        }
        self.stream_state(head)?;
        let Some(stream) = self.streams.get(head.stream) else { return Ok(None) };
        if more == 0 {
            return self.refuse(head.stream, Reason::Protocol, out);
        }
        if stream.send.grow(more, self.initial_window).is_err() {
            return self.refuse(head.stream, Reason::FlowControl, out);
        }
        stream.queue_if_blocked();
        Ok(None)
    }

    /// The state of a frame's stream. It is an error if the frame is for stream 0 or a stream that is still idle.
    fn stream_state(&self, head: FrameHead) -> Result<StreamState, Error> {
        match self.streams.state(head.stream) {
            _ if head.stream == 0 => Err(broken(Reason::Protocol, "a frame of a stream on stream 0")),
            StreamState::Idle => Err(broken(Reason::Protocol, "a frame on a stream that is idle")),
            state => Ok(state),
        }
    }

    /// Resets a stream on which the client broke a rule, or that the server does not accept.
    fn refuse(&mut self, id: u32, reason: Reason, out: &mut Out) -> Outcome {
        self.count_reset(id)?;
        Ok(self.reset(id, reason, out).then_some(Event::Gone(id)))
    }

    /// Counts a stream that the client ends before it is answered, by RST_STREAM or by a broken rule. Such a call is
    /// cheap for the client, so a client that does nothing else is sent away.
    fn count_reset(&mut self, id: u32) -> Result<(), Error> {
        if self.streams.get(id).is_some_and(|stream| !stream.answered) {
            self.temper.provoked(Provocation::Reset)?;
        }
        Ok(())
    }
}

impl Stream {
    /// Queues the stream if part of its response waits for a window.
    pub(crate) fn queue_if_blocked(&self) {
        if !self.pending.is_empty() {
            self.inbox.stream.queue();
        }
    }
}

/// Counts `more` bytes of a request's body against its `content-length`, if it has one (RFC 9113 §8.1.1).
fn count_announced(stream: &mut Stream, more: usize, ended: bool) -> Result<(), NotAsAnnounced> {
    let Some(left) = &mut stream.announced else { return Ok(()) };
    *left = left.checked_sub(more as u64).ok_or(NotAsAnnounced)?;
    if !ended || *left == 0 { Ok(()) } else { Err(NotAsAnnounced) }
}

/// A request's body is longer or shorter than its `content-length`.
#[derive(Debug)]
struct NotAsAnnounced;

fn depends_on(priority: &[u8]) -> u32 {
    priority.first_chunk().map_or(0, |id| frame::number(*id))
}

fn too_large(_: TooLarge) -> Error {
    broken(Reason::FlowControl, "a window larger than windows can be")
}

fn broken(reason: Reason, what: &'static str) -> Error {
    Error::Protocol { reason, what }
}

/// Bytes of the decoder's dynamic table. It is the initial SETTINGS_HEADER_TABLE_SIZE, which the server does not
/// change.
const TABLE: usize = 4096;
const PRIORITY_LEN: usize = 5;
const FRAME_SIZES: std::ops::RangeInclusive<u32> = 16_384..=16_777_215;
