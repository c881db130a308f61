//! One accepted stream, served.

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
use crate::machine::{Event, Heard, Machine};
use crate::out::Out;
use crate::scratch::Scratch;
use crate::wake::Woken;
use crate::{Error, Limits, RequestBody, costs};

/// Serves what `io` brings: each request by a future that `call` makes. Ready when the client has closed the connection, or
/// was sent away. What is kept for the client is charged to `account`. Dropping it closes the connection and drops all
/// calls.
///
/// # Errors
/// There is no room for one more connection.
pub fn serve<T, C, F, B>(
    io: T,
    limits: Limits,
    account: Account,
    call: C,
) -> Result<Connection<T, C, F, B>, Refused>
where
    C: FnMut(Request<RequestBody>) -> F,
{
    let charge = account.charge(size_of::<Connection<T, C, F, B>>() + BESIDE)?;
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
        unheard: false,
        aside,
        account,
        charge,
    })
}

/// A future, made by [`serve`].
#[derive(Debug)]
pub struct Connection<T, C, F, B> {
    io: T,
    call: C,
    /// By stream, ascending.
    calls: Vec<(u32, Call<F, B>)>,
    machine: Machine,
    woken: Arc<Woken>,
    /// What was read and not worked off: a frame that is not complete, or what there was no turn for.
    partial: Bytes,
    /// `partial` may hold complete frames.
    unheard: bool,
    /// What the client did not read.
    aside: Option<Box<Out>>,
    account: Account,
    /// All that is kept for the connection itself; streams have their own.
    charge: Charge,
}

/// Boxed each, as a response is not as large as what made it.
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
            // As far as the client reads: nobody waits for one that breaks rules.
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
    /// Writes, reads and polls calls until there is nothing left to do, or it is the turn of others.
    fn turns(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<Result<(), Error>> {
        match self.account.poll_notice(cx) {
            None => {}
            Some(Notice::Evicted) => return Poll::Ready(Err(calm("others need what the connection holds"))),
            Some(Notice::Drain) if self.machine.is_leaving() => {}
            Some(Notice::Drain) => self.machine.leave(Reason::No, &mut scratch.out),
        }
        for _ in 0..TURNS {
            let Scratch { read, out, streams } = scratch;
            if out.poll_write(Pin::new(&mut self.io), cx)?.is_pending() {
                // Of a client that does not read nothing is read either, nor is anything made for it.
                return Poll::Pending;
            }
            if self.machine.is_leaving() && self.calls.is_empty() {
                return Pin::new(&mut self.io).poll_shutdown(cx).map_err(Error::Io);
            }
            ready!(self.account.poll_turn(cx, self.unheard));
            let came = if self.unheard { Poll::Ready(1) } else { self.read(cx, read)? };
            if came == Poll::Ready(0) {
                return Poll::Ready(Ok(()));
            }
            self.hear(read, out)?;
            self.poll_calls(streams, out);
            let stuck = out.poll_write(Pin::new(&mut self.io), cx)?.is_pending();
            if stuck || (came.is_pending() && self.woken.is_empty()) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once. How many bytes came: none at the end.
    fn read(&mut self, cx: &mut Context<'_>, read: &mut BytesMut) -> Result<Poll<usize>, Error> {
        read.reserve(READ);
        let Poll::Ready(came) = pin!(self.io.read_buf(read)).poll(cx)? else { return Ok(Poll::Pending) };
        self.account.touch();
        self.machine.temper.begin_read();
        Ok(Poll::Ready(came))
    }

    /// Hears what was read, as far as the turn goes.
    fn hear(&mut self, read: &mut BytesMut, out: &mut Out) -> Result<(), Error> {
        let heard = self.hear_frames(read, out);
        // That of a client that is sent away, too.
        self.machine.count_work();
        heard
    }

    fn hear_frames(&mut self, read: &mut BytesMut, out: &mut Out) -> Result<(), Error> {
        self.unheard = true;
        let allowance = self.account.allowance();
        while self.machine.spent() < allowance {
            match self.machine.next(read, out)? {
                None => {
                    self.unheard = false;
                    break;
                }
                Some(Heard::Nothing) => {}
                Some(Heard::Event(Event::Call(stream, request))) => {
                    let call = Call::Asked(Box::pin((self.call)(*request)));
                    self.calls.push((stream, call));
                }
                Some(Heard::Event(Event::Gone(stream))) => self.drop_call(stream),
            }
        }
        self.machine.tell_streams()
    }

    /// Polls the calls that were woken, as long as the turn goes and not too much waits to be written.
    fn poll_calls(&mut self, streams: &mut Vec<u32>, out: &mut Out) {
        self.woken.drain(streams);
        for (place, &stream) in streams.iter().enumerate() {
            if out.len() >= WRITE || !self.account.may_work() {
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

    /// Keeps what is not done for the next poll, in memory of its own, and charges it.
    fn put_aside(&mut self, scratch: &mut Scratch) -> Result<(), Error> {
        self.partial = Bytes::copy_from_slice(&scratch.read);
        let aside = scratch.out.set_aside();
        let kept = size_of::<Self>()
            + BESIDE
            + self.partial.len()
            + aside.as_ref().map_or(0, Out::kept)
            + self.calls.capacity() * size_of::<(u32, Call<F, B>)>()
            + self.machine.kept();
        self.aside = aside.map(Box::new);
        if kept != self.charge.amount() {
            let full = |_| calm("the connection needs more than there is room for");
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
        while self.machine.go_on(stream, out) {
            if out.len() >= WRITE {
                waker.wake_by_ref();
                break;
            }
            let over = match call.step(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(step) => step.tell(&mut self.machine, stream, body_size, out),
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
            // As a connection that has never had one.
            self.calls = Vec::new();
        }
    }
}

/// What has become of a call.
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
    /// Whether that was the last. `call_size` is how many bytes a response's body takes.
    fn tell(self, machine: &mut Machine, stream: u32, call_size: u32, out: &mut Out) -> bool {
        match self {
            Self::Head(head, end) => {
                machine.answer(stream, &head, call_size, end, out);
                return end;
            }
            Self::Data(data) => {
                machine.send(stream, data, out);
                return false;
            }
            Self::Trailers(trailers) => machine.end(stream, Some(&trailers), out),
            Self::End => machine.end(stream, None, out),
            // The client cannot be told more than that.
            Self::Failed => _ = machine.reset(stream, Reason::Internal, out),
        }
        true
    }
}

fn calm(what: &'static str) -> Error {
    Error::Protocol { reason: Reason::EnhanceYourCalm, what }
}

/// Bytes that a connection takes beside itself: its task, its waker, its registration with the runtime, its peer.
const BESIDE: usize = 768;
/// How often a connection reads before it is the turn of others.
const TURNS: usize = 2;
/// At once. An Envoy's message with its node has 61 KB, in frames of 16.
const READ: usize = 64 * 1024;
/// With this much to write, calls wait.
const WRITE: usize = 64 * 1024;
