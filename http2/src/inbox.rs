//! What a client has sent on a stream and the call has not read.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::wake::StreamWaker;
use crate::window;

/// The client's side of a stream, shared by the connection and the call.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) stream: Arc<StreamWaker>,
    /// The same, as the stream is polled with it.
    pub(crate) waker: Waker,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is older than `data`, in one piece: of a client that says a byte at a time each would cost forty.
    kept: Vec<u8>,
    /// Slices of the thread's buffer.
    data: VecDeque<Bytes>,
    /// Bytes that were read since the connection last looked.
    consumed: u32,
    /// The connection is polling the call, and looks when that is over.
    polled: bool,
    ended: bool,
    /// The call has dropped its body: whatever comes is read.
    ignored: bool,
    reader: Option<Waker>,
}

impl Inbox {
    pub(crate) fn new(waker: StreamWaker, ended: bool) -> Arc<Self> {
        let state = State { ended, ..State::default() };
        let stream = Arc::new(waker);
        Arc::new(Self { waker: Arc::clone(&stream).into(), stream, state: Mutex::new(state) })
    }

    /// From the connection, which polls the stream next.
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

    /// When it is not the connection itself that reads.
    fn tell_reader(&self, mut state: MutexGuard<'_, State>) {
        let reader = state.reader.take_if(|reader| !reader.will_wake(&self.waker));
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Before the call is polled.
    pub(crate) fn begin_poll(&self) {
        self.stream.begin();
        self.state().polled = true;
    }

    /// After the call was polled: how much it has read since the last time.
    pub(crate) fn end_poll(&self) -> u32 {
        let mut state = self.state();
        state.polled = false;
        std::mem::take(&mut state.consumed)
    }

    /// Moves what the call has not read into memory of its own: a stream that is not read must not hold the buffer. How many
    /// bytes it takes there.
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

    /// The stream is over; how much was never read.
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
            // An idle stream holds nothing.
            self.data = VecDeque::new();
        }
        Some(data)
    }

    /// Drops it, and says how much it was.
    fn take_unread(&mut self) -> u32 {
        std::iter::from_fn(|| self.next()).map(|data| len(&data)).sum()
    }
}

/// What a client sends on a stream. It ends when the client has said its last, or is gone; of one that goes away the call
/// is dropped.
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
            // It is read elsewhere than in a poll of the stream: the window is to be given back.
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

/// Half of the smallest window: with the other half, which the connection may owe, it would be all.
const OWED_AT_MOST: u32 = window::INITIAL / 2;
