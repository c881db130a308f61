//! One accepted stream, served.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::frame::Reason;
use crate::machine::{Event, Machine};
use crate::out::Out;
use crate::scratch::Scratch;
use crate::wake::Woken;
use crate::{Error, Limits, RequestBody, Room};

/// Serves what `io` brings: each request by a future that `call` makes. Ready when the client has closed the connection, or
/// was sent away. `room` is for what calls do not read. Dropping it closes the connection and drops all calls.
pub fn serve<T, C, F, B>(io: T, limits: Limits, room: &Arc<Room>, call: C) -> Connection<T, C, F, B>
where
    C: FnMut(Request<RequestBody>) -> F,
{
    let woken = Arc::<Woken>::default();
    let mut out = Out::default();
    let machine = Machine::new(limits, Arc::clone(&woken), Arc::clone(room), &mut out);
    let aside = out.set_aside().map(Box::new);
    Connection { io, call, calls: Vec::new(), machine, woken, partial: Bytes::new(), aside }
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
    /// A frame that is not complete.
    partial: Bytes,
    /// What the client did not read.
    aside: Option<Box<Out>>,
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
        let served = this.turns(cx, &mut scratch);
        match &served {
            Poll::Pending => {
                this.partial = Bytes::copy_from_slice(&scratch.read);
                this.aside = scratch.out.set_aside().map(Box::new);
            }
            Poll::Ready(Err(Error::Protocol { reason, .. })) => {
                this.calls.clear();
                this.machine.leave(*reason, &mut scratch.out);
                // As far as the client reads: nobody waits for one that breaks rules.
                if let Poll::Ready(Ok(())) = scratch.out.poll_write(Pin::new(&mut this.io), cx) {
                    let _ = Pin::new(&mut this.io).poll_shutdown(cx);
                }
            }
            Poll::Ready(_) => {}
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
        for _ in 0..TURNS {
            let Scratch { read, out, streams } = scratch;
            if out.poll_write(Pin::new(&mut self.io), cx)?.is_pending() {
                // Of a client that does not read nothing is read either, nor is anything made for it.
                return Poll::Pending;
            }
            let came = self.read(cx, read, out)?;
            if came == Poll::Ready(0) {
                return Poll::Ready(Ok(()));
            }
            self.poll_calls(streams, out);
            let stuck = out.poll_write(Pin::new(&mut self.io), cx)?.is_pending();
            if stuck || (came.is_pending() && self.woken.is_empty()) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once, and hears all of it. How many bytes came: none at the end.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        read: &mut BytesMut,
        out: &mut Out,
    ) -> Result<Poll<usize>, Error> {
        read.reserve(READ);
        let Poll::Ready(came) = pin!(self.io.read_buf(read)).poll(cx)? else { return Ok(Poll::Pending) };
        while let Some(event) = self.machine.next(read, out)? {
            match event {
                Event::Call(stream, request) => {
                    let call = Call::Asked(Box::pin((self.call)(*request)));
                    self.calls.push((stream, call));
                }
                Event::Gone(stream) => self.drop_call(stream),
            }
        }
        self.machine.tell_streams()?;
        Ok(Poll::Ready(came))
    }

    /// Polls the calls that were woken, as long as not too much waits to be written.
    fn poll_calls(&mut self, streams: &mut Vec<u32>, out: &mut Out) {
        self.woken.drain(streams);
        for (place, &stream) in streams.iter().enumerate() {
            if out.len() >= WRITE {
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

    fn poll_call(&mut self, stream: u32, out: &mut Out) {
        let Ok(place) = self.calls.binary_search_by_key(&stream, |(stream, _)| *stream) else { return };
        let Some(waker) = self.machine.begin_poll(stream) else { return };
        let mut cx = Context::from_waker(&waker);
        let call = &mut self.calls[place].1;
        while self.machine.go_on(stream, out) {
            if out.len() >= WRITE {
                waker.wake_by_ref();
                break;
            }
            let over = match call.step(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(step) => step.tell(&mut self.machine, stream, out),
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
    /// Whether that was the last.
    fn tell(self, machine: &mut Machine, stream: u32, out: &mut Out) -> bool {
        match self {
            Self::Head(head, end) => {
                machine.answer(stream, &head, end, out);
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

/// How often a connection reads before it is the turn of others.
const TURNS: usize = 2;
/// At once. An Envoy's message with its node has 61 KB, in frames of 16.
const READ: usize = 64 * 1024;
/// With this much to write, calls wait.
const WRITE: usize = 64 * 1024;
