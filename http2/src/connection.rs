//! Serves one accepted connection: reads and writes its socket, and polls its calls.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use budget::{Account, Charge, Notice, Refused};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::frame::Reason;
use crate::machine::{Event, Machine, Progress};
use crate::out::Out;
use crate::scratch::Scratch;
use crate::wake::Woken;
use crate::{Error, Limits, RequestBody, costs};

/// Serves the client at the other end of `io`; `call` makes a future for each request. The connection is ready when
/// the client has closed it, or when it was sent away with GOAWAY. Everything that is kept in memory for the client
/// is charged to `account`. Dropping the connection closes it and drops all its calls.
///
/// # Errors
/// `account` has no room for one more connection.
pub fn serve<T, C, F, B>(
    io: T,
    limits: Limits,
    account: Account,
    call: C,
) -> Result<Connection<T, C, F, B>, Refused>
where
    C: FnMut(Request<RequestBody>) -> F,
{
    let charge = account.charge(size_of::<Connection<T, C, F, B>>() + OVERHEAD)?;
    let woken = Arc::<Woken>::default();
    let mut out = Out::default();
    let asked = u32::try_from(size_of::<F>() + costs::REQUEST).unwrap_or(u32::MAX);
    let machine = Machine::new(limits, account.clone(), asked, Arc::clone(&woken), &mut out);
    let aside = out.set_aside().map(Box::new);
    let partial = Bytes::new();
    Ok(Connection {
        io,
        call,
        calls: Vec::new(),
        machine,
        woken,
        partial,
        frames_left: false,
        is_over: false,
        aside,
        account,
        charge,
    })
}

/// The future that serves one client. [`serve`] makes it.
#[derive(Debug)]
pub struct Connection<T, C, F, B> {
    io: T,
    call: C,
    /// By stream identifier, ascending.
    calls: Vec<(u32, Call<F, B>)>,
    machine: Machine,
    woken: Arc<Woken>,
    /// Bytes that were read and not acted on: an incomplete frame, or frames that this connection had no turn for.
    partial: Bytes,
    /// `partial` may hold complete frames, which wait for a turn.
    frames_left: bool,
    /// Output that the socket did not take yet.
    aside: Option<Box<Out>>,
    account: Account,
    /// All calls were polled once since it was this connection's turn to end.
    is_over: bool,
    /// Memory of the connection itself. Each stream has a charge of its own.
    charge: Charge,
}

/// One call. Future and body are boxed apart, because a response body is much smaller than the future that makes it.
#[derive(Debug)]
enum Call<F, B> {
    Asked(Pin<Box<F>>),
    Answering(Pin<Box<B>>),
}

impl<T, C, F, B> Future for Connection<T, C, F, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    C: FnMut(Request<RequestBody>) -> F + Unpin,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = &mut *self;
        let mut scratch = Scratch::take();
        scratch.read.extend_from_slice(&std::mem::take(&mut this.partial));
        if let Some(aside) = this.aside.take() {
            scratch.out.resume(*aside);
        }
        this.woken.task.register(cx.waker());
        let mut served = this.turns(cx, &mut scratch);
        if served.is_pending()
            && let Err(reason) = this.put_aside(&mut scratch)
        {
            served = Poll::Ready(Err(reason));
        }
        if let Poll::Ready(Err(Error::Protocol { reason, .. })) = &served {
            this.calls.clear();
            if let Some(aside) = this.aside.take() {
                scratch.out.resume(*aside);
            }
            this.machine.leave(*reason, &mut scratch.out);
            // Only as far as the socket takes it now: nobody waits for a client that breaks rules.
            if let Poll::Ready(Ok(())) = scratch.out.poll_write(Pin::new(&mut this.io), cx) {
                let _ = Pin::new(&mut this.io).poll_shutdown(cx);
            }
        }
        scratch.give_back();
        served
    }
}

impl<T, C, F, B> Connection<T, C, F, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    C: FnMut(Request<RequestBody>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes>,
{
    /// Writes, reads and polls calls, until there is nothing left to do or it is the turn of another connection.
    fn turns(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<Result<(), Error>> {
        match self.account.poll_notice(cx) {
            None => {}
            Some(Notice::Evicted) => {
                return Poll::Ready(Err(enhance_your_calm("others need what the connection holds")));
            }
            Some(Notice::Over) if self.is_over => {}
            Some(Notice::Over) => {
                // The calls look at the notice themselves, and end as their protocol ends a call.
                self.is_over = true;
                let calls: Vec<u32> = self.calls.iter().map(|(stream, _)| *stream).collect();
                self.woken.put_back(&calls);
                if !self.machine.is_leaving() {
                    self.machine.leave(Reason::No, &mut scratch.out);
                }
            }
            Some(Notice::Drain) if self.machine.is_leaving() => {}
            Some(Notice::Drain) => self.machine.leave(Reason::No, &mut scratch.out),
        }
        for _ in 0..TURNS {
            let Scratch { read, out, streams } = scratch;
            if out.poll_write(Pin::new(&mut self.io), cx)?.is_pending() {
                // While a client does not read its responses, nothing is read from it and no new response is made for
                // it.
                return Poll::Pending;
            }
            if self.machine.is_leaving() && self.calls.is_empty() {
                return Pin::new(&mut self.io).poll_shutdown(cx).map_err(Error::Io);
            }
            ready!(self.account.poll_turn(cx, self.frames_left));
            let came = if self.frames_left { Poll::Ready(1) } else { self.read(cx, read)? };
            if came == Poll::Ready(0) {
                return Poll::Ready(Ok(()));
            }
            self.take_frames(read, out)?;
            self.poll_calls(streams, out);
            let stuck = out.poll_write(Pin::new(&mut self.io), cx)?.is_pending();
            // When the last call has ended, the client has nothing to say that would wake this task.
            let is_done = self.machine.is_leaving() && self.calls.is_empty();
            if stuck || (came.is_pending() && self.woken.is_empty() && !is_done) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and returns how many bytes came; 0 at the end of the input.
    fn read(&mut self, cx: &mut Context<'_>, read: &mut BytesMut) -> Result<Poll<usize>, Error> {
        read.reserve(READ_SIZE);
        let Poll::Ready(came) = pin!(self.io.read_buf(read)).poll(cx)? else { return Ok(Poll::Pending) };
        self.account.touch();
        self.machine.temper.begin_read();
        Ok(Poll::Ready(came))
    }

    /// Acts on the frames that were read, as long as the turn lasts.
    fn take_frames(&mut self, read: &mut BytesMut, out: &mut Out) -> Result<(), Error> {
        let taken = self.take_frames_of_turn(read, out);
        // Work for a client that is about to be sent away counts, too.
        self.machine.count_work();
        taken
    }

    fn take_frames_of_turn(&mut self, read: &mut BytesMut, out: &mut Out) -> Result<(), Error> {
        self.frames_left = true;
        let allowance = self.account.allowance();
        while self.machine.spent() < allowance {
            match self.machine.next(read, out)? {
                Progress::Incomplete => {
                    self.frames_left = false;
                    break;
                }
                Progress::NoEvent => {}
                Progress::Event(Event::Call(stream, request)) => {
                    let call = Call::Asked(Box::pin((self.call)(*request)));
                    self.calls.push((stream, call));
                }
                Progress::Event(Event::Gone(stream)) => self.drop_call(stream),
            }
        }
        self.machine.wake_blocked_streams()
    }

    /// Polls the woken calls, until the turn is over or more than [`WRITE_LIMIT`] bytes wait to be written.
    fn poll_calls(&mut self, streams: &mut Vec<u32>, out: &mut Out) {
        self.woken.drain(streams);
        for (place, &stream) in streams.iter().enumerate() {
            if out.len() >= WRITE_LIMIT || !self.account.may_work() {
                let later = &streams[place..];
                self.woken.put_back(later);
                for &stream in later {
                    if !self.machine.settle(stream, out) {
                        self.drop_call(stream);
                    }
                }
                break;
            }
            self.poll_call(stream, out);
        }
        streams.clear();
    }

    /// Moves unread input and unwritten output into memory that belongs to this connection, and charges it: the
    /// thread's buffers go to the next connection.
    fn put_aside(&mut self, scratch: &mut Scratch) -> Result<(), Error> {
        self.partial = Bytes::copy_from_slice(&scratch.read);
        let aside = scratch.out.set_aside();
        let kept = size_of::<Self>()
            + OVERHEAD
            + self.partial.len()
            + aside.as_ref().map_or(0, Out::kept)
            + self.calls.capacity() * size_of::<(u32, Call<F, B>)>()
            + self.machine.kept();
        self.aside = aside.map(Box::new);
        if kept != self.charge.amount() {
            let full = |_| enhance_your_calm("the connection needs more than there is room for");
            self.charge.set(kept).map_err(full)?;
        }
        Ok(())
    }

    fn poll_call(&mut self, stream: u32, out: &mut Out) {
        let Ok(place) = self.calls.binary_search_by_key(&stream, |(stream, _)| *stream) else { return };
        let Some(waker) = self.machine.begin_poll(stream) else { return };
        self.account.work(costs::POLL);
        let mut cx = Context::from_waker(&waker);
        let call = &mut self.calls[place].1;
        let body_size = u32::try_from(size_of::<B>()).unwrap_or(u32::MAX);
        while self.machine.send_pending(stream, out) {
            if out.len() >= WRITE_LIMIT {
                waker.wake_by_ref();
                break;
            }
            let over = match call.step(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(step) => step.apply(&mut self.machine, stream, body_size, out),
            };
            if over {
                return self.drop_call(stream);
            }
        }
        if !self.machine.end_poll(stream, out) {
            self.drop_call(stream);
        }
    }

    fn drop_call(&mut self, stream: u32) {
        if let Ok(place) = self.calls.binary_search_by_key(&stream, |(stream, _)| *stream) {
            self.calls.remove(place);
        }
        if self.calls.is_empty() {
            // Frees the list, so that the connection is as small as one that has never had a call.
            self.calls = Vec::new();
        }
    }
}

/// What a call has produced when it was polled.
enum Step {
    Head(Response<()>, bool),
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    Failed,
}

impl<F, B> Call<F, B>
where
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes>,
{
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let body = match self {
            Self::Asked(asked) => {
                let (head, body) = ready!(asked.as_mut().poll(cx)).into_parts();
                let end = body.is_end_stream();
                *self = Self::Answering(Box::pin(body));
                return Poll::Ready(Step::Head(Response::from_parts(head, ()), end));
            }
            Self::Answering(body) => body,
        };
        let frame = match ready!(body.as_mut().poll_frame(cx)) {
            None => return Poll::Ready(Step::End),
            Some(Err(_)) => return Poll::Ready(Step::Failed),
            Some(Ok(frame)) => frame.into_data(),
        };
        Poll::Ready(match frame.map_err(Frame::into_trailers) {
            Ok(data) => Step::Data(data),
            Err(Ok(trailers)) => Step::Trailers(trailers),
            Err(Err(_)) => Step::Data(Bytes::new()),
        })
    }
}

impl Step {
    /// Hands the step to the machine, and returns whether the call is over. `body_size` is the size of the response
    /// body's type in bytes.
    fn apply(self, machine: &mut Machine, stream: u32, body_size: u32, out: &mut Out) -> bool {
        match self {
            Self::Head(head, end) => {
                machine.answer(stream, &head, body_size, end, out);
                return end;
            }
            Self::Data(data) => {
                machine.send(stream, data, out);
                return false;
            }
            Self::Trailers(trailers) => machine.end(stream, Some(&trailers), out),
            Self::End => machine.end(stream, None, out),
            // The response's head is out, so that RST_STREAM is the only way left to report the failure.
            Self::Failed => _ = machine.reset(stream, Reason::Internal, out),
        }
        true
    }
}

fn enhance_your_calm(what: &'static str) -> Error {
    Error::Protocol { reason: Reason::EnhanceYourCalm, what }
}

/// Bytes that a connection takes beside its own type: its task, its waker, its registration with the runtime, its
/// peer.
const OVERHEAD: usize = 768;
/// Reads of one poll, after which other connections have their turn.
const TURNS: usize = 2;
/// Bytes of one read. Envoy's message with its node has 61 KB, in frames of 16 KB.
const READ_SIZE: usize = 64 * 1024;
/// With this many bytes of output waiting, calls are not polled.
const WRITE_LIMIT: usize = 64 * 1024;
