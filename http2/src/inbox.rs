//! Request bytes of one stream that the call has not read yet.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::wake::StreamWaker;
use crate::window;

/// Request bytes of one stream, shared by the connection, which adds them, and the call's [`RequestBody`], which
/// reads them.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) stream: Arc<StreamWaker>,
    /// `stream` as a waker. The stream's call is polled with it.
    pub(crate) waker: Waker,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes older than `data`, in one piece: of a client that sends a byte at a time, each byte would otherwise take
    /// forty.
    kept: Vec<u8>,
    /// Slices of the thread's read buffer.
    data: VecDeque<Bytes>,
    /// Bytes that the call has read since the connection last asked.
    consumed: u32,
    /// The connection is polling the call, and asks for `consumed` afterwards.
    polled: bool,
    ended: bool,
    /// The call has dropped its body, so that all further bytes count as read.
    ignored: bool,
    reader: Option<Waker>,
}

impl Inbox {
    pub(crate) fn new(waker: StreamWaker, ended: bool) -> Arc<Self> {
        let state = State { ended, ..State::default() };
        let stream = Arc::new(waker);
        Arc::new(Self { waker: Arc::clone(&stream).into(), stream, state: Mutex::new(state) })
    }

    /// Adds bytes from the client, and queues the stream: the connection polls it next.
    pub(crate) fn put(&self, data: Bytes, ended: bool) {
        self.stream.queue();
        let mut state = self.state();
        state.ended |= ended;
        if state.ignored {
            state.consumed += len(&data);
        } else if !data.is_empty() {
            state.data.push_back(data);
        }
        self.tell_reader(state);
    }

    /// Wakes the reader, unless it is the connection itself.
    fn tell_reader(&self, mut state: MutexGuard<'_, State>) {
        let reader = state.reader.take_if(|reader| !reader.will_wake(&self.waker));
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The connection calls it before it polls the call.
    pub(crate) fn begin_poll(&self) {
        self.stream.begin();
        self.state().polled = true;
    }

    /// The connection calls it after it has polled the call. Returns how many bytes the call has read since the last
    /// time.
    pub(crate) fn end_poll(&self) -> u32 {
        let mut state = self.state();
        state.polled = false;
        std::mem::take(&mut state.consumed)
    }

    /// Moves unread bytes into memory of this stream, because a stream that is not read must not hold the thread's
    /// buffer. Returns how many bytes of memory that takes.
    pub(crate) fn settle(&self) -> usize {
        let mut state = self.state();
        let State { kept, data, .. } = &mut *state;
        let more = data.iter().map(Bytes::len).sum();
        kept.reserve(more);
        for data in std::mem::take(data) {
            kept.extend_from_slice(&data);
        }
        kept.capacity()
    }

    /// Ends the request body, because the stream is over. Returns how many bytes were never given back to the window.
    pub(crate) fn close(&self) -> u32 {
        let mut state = self.state();
        state.ended = true;
        state.ignored = true;
        let unread = state.take_unread() + std::mem::take(&mut state.consumed);
        self.tell_reader(state);
        unread
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> Option<Bytes> {
        if !self.kept.is_empty() {
            return Some(std::mem::take(&mut self.kept).into());
        }
        let data = self.data.pop_front()?;
        if self.data.is_empty() {
            // Frees the queue: an idle stream holds no memory.
            self.data = VecDeque::new();
        }
        Some(data)
    }

    /// Drops all unread bytes and returns how many they were.
    fn take_unread(&mut self) -> u32 {
        std::iter::from_fn(|| self.next()).map(|data| len(&data)).sum()
    }
}

/// What a client sends on a stream. The body ends when the client has ended its side or the stream is gone. A client
/// that goes away gets its call dropped, too.
#[derive(Debug)]
pub struct RequestBody {
    inbox: Arc<Inbox>,
}

impl RequestBody {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut state = self.inbox.state();
        let Some(data) = state.next() else {
            if state.ended {
                return Poll::Ready(None);
            }
            match &mut state.reader {
                Some(reader) => reader.clone_from(cx.waker()),
                reader @ None => *reader = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        state.consumed += len(&data);
        if !state.polled && state.consumed >= OWED_AT_MOST {
            // A task other than the connection reads the body: the connection must give the window back.
            self.inbox.waker.wake_by_ref();
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.inbox.state();
        state.ended && state.data.is_empty() && state.kept.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let mut state = self.inbox.state();
        state.ignored = true;
        state.reader = None;
        state.consumed += state.take_unread();
    }
}

fn len(data: &Bytes) -> u32 {
    u32::try_from(data.len()).expect("not more than a window")
}

/// Bytes that may be read before the connection is woken to give them back: half of the smallest window. The
/// connection itself may owe nearly the other half; more would leave the client without a window.
const OWED_AT_MOST: u32 = window::INITIAL / 2;
