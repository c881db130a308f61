//! Connections to clients that write bytes by hand, and to the client of the `h2` crate.

mod by_hand;
mod foreign;
mod hostile;
mod rules;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use budget::Account;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinHandle;

use crate::frame::{self, FrameHead};
use crate::{Error, Limits, RequestBody, serve};

type ResponseBody = Pin<Box<dyn Body<Data = Bytes, Error = Infallible> + Send>>;

/// What a test's server has seen.
#[derive(Debug, Default)]
struct Seen {
    calls: AtomicUsize,
    /// Calls whose future or body was dropped before its end.
    dropped: AtomicUsize,
    polls: AtomicUsize,
}

/// Answers by path:
/// - `/`: "hello";
/// - `/echo`: the request's body;
/// - `/count`: the length of the request's body, when all of it has come;
/// - `/hold`: never answers, never reads;
/// - `/listen`: never answers, but reads;
/// - `/refuse`: headers alone, at once;
/// - `/bare`: no body, and empty trailers;
/// - `/panic`: panics;
/// - `/bytes/5`: that many bytes.
async fn call(seen: Arc<Seen>, request: Request<RequestBody>) -> Response<ResponseBody> {
    seen.calls.fetch_add(1, Ordering::Relaxed);
    let guard = Guard(Arc::clone(&seen));
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    let answer: ResponseBody = match &*path {
        "/echo" => Box::pin(body),
        "/panic" => panic!("as it was asked to"),
        "/bare" => Box::pin(StreamBody::new(tokio_stream::iter([Ok(Frame::trailers(HeaderMap::new()))]))),
        "/hold" => return std::future::pending().await,
        "/listen" => {
            while body.frame().await.is_some() {
                seen.polls.fetch_add(1, Ordering::Relaxed);
            }
            return std::future::pending().await;
        }
        "/count" => {
            let heard = body.collect().await.expect("infallible").to_bytes().len();
            let mut trailers = HeaderMap::new();
            trailers.insert("heard", heard.into());
            Box::pin(StreamBody::new(tokio_stream::iter([Ok(Frame::trailers(trailers))])))
        }
        // Nothing wakes it, and it ends when it is polled again.
        "/twice" => {
            let mut polled = false;
            let body = tokio_stream::StreamExt::chain(
                futures_util::stream::poll_fn(move |_| {
                    if std::mem::replace(&mut polled, true) { Poll::Ready(None) } else { Poll::Pending }
                }),
                tokio_stream::iter([Ok(Frame::trailers(HeaderMap::new()))]),
            );
            Box::pin(StreamBody::new(body))
        }
        "/refuse" => {
            let mut refused = Response::new(Box::pin(Full::default()) as ResponseBody);
            *refused.status_mut() = StatusCode::NOT_FOUND;
            refused.headers_mut().insert("why", "no".parse().expect("a value"));
            return refused;
        }
        path => match path.strip_prefix("/bytes/").and_then(|len| len.parse().ok()) {
            Some(len) => Box::pin(Full::from(vec![b'x'; len])),
            None => Box::pin(Full::from("hello")),
        },
    };
    std::mem::forget(guard);
    Response::new(answer)
}

struct Guard(Arc<Seen>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

const LIMITS: Limits = Limits { streams: 10, window: 100_000, headers: 4096, fields: &["late", "x"] };
/// Bytes that a connection in tests may keep.
const ROOM: usize = 1024 * 1024;

/// A client that writes frames by hand, and the server's task.
struct Client {
    io: DuplexStream,
    served: JoinHandle<Result<(), Error>>,
    account: Account,
    seen: Arc<Seen>,
}

/// A frame that the server has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Client {
    /// A client that has sent nothing yet.
    fn mute(buffer: usize) -> Self {
        let seen = Arc::<Seen>::default();
        let of_calls = Arc::clone(&seen);
        Self { seen, ..Self::of(buffer, move |request| call(Arc::clone(&of_calls), request)) }
    }

    /// As [`Self::mute`], with a server that answers by `call`.
    fn of<F>(buffer: usize, call: impl Fn(Request<RequestBody>) -> F + Send + Unpin + 'static) -> Self
    where
        F: Future<Output = Response<ResponseBody>> + Send + 'static,
    {
        Self::charged(buffer, Account::alone(ROOM), call)
    }

    /// A client whose connection is charged to `account`.
    fn with(account: Account) -> Self {
        Self::charged(1024 * 1024, account, |request| call(Arc::default(), request))
    }

    fn charged<F>(
        buffer: usize,
        account: Account,
        call: impl Fn(Request<RequestBody>) -> F + Send + Unpin + 'static,
    ) -> Self
    where
        F: Future<Output = Response<ResponseBody>> + Send + 'static,
    {
        let (io, theirs) = tokio::io::duplex(buffer);
        let served = serve(theirs, LIMITS, account.clone(), call).expect("there is room");
        Self { io, served: tokio::spawn(served), account, seen: Arc::default() }
    }

    /// A client that has exchanged settings with the server.
    async fn greeted() -> Self {
        Self::mute(1024 * 1024).greet().await
    }

    async fn greet(self) -> Self {
        let mut client = self;
        client.say(&greeting()).await;
        let said = client.until_pong().await;
        assert_eq!((said[0].kind, said[0].flags), (frame::SETTINGS, 0));
        client
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.expect("written");
    }

    async fn hear(&mut self) -> Option<Said> {
        let mut head = [0; FrameHead::LEN];
        self.io.read_exact(&mut head).await.ok()?;
        let head = FrameHead::read(&head).expect("complete");
        let mut payload = vec![0; head.len];
        self.io.read_exact(&mut payload).await.expect("its payload");
        Some(Said { kind: head.kind, flags: head.flags, stream: head.stream, payload })
    }

    /// All frames that the server sends in response to what was sent so far.
    async fn until_pong(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        // Twice, because a call's frames come after the pong that was asked for with its request.
        for _ in 0..2 {
            self.say(&frame(frame::PING, 0, 0, b"pingpong")).await;
            loop {
                let frame = self.hear().await.expect("the connection is open");
                if frame.kind == frame::PING {
                    break;
                }
                said.push(frame);
            }
        }
        said
    }

    /// The frames of `stream` until it ends, and the bytes of its DATA frames.
    async fn answer(&mut self, stream: u32) -> (Vec<Said>, Vec<u8>) {
        let (mut said, mut data) = (Vec::new(), Vec::new());
        loop {
            let frame = self.hear().await.expect("the connection is open");
            if frame.stream != stream {
                continue;
            }
            let over = frame.kind == frame::RST_STREAM
                || (frame.flags & frame::END_STREAM != 0 && frame.kind != frame::WINDOW_UPDATE);
            match frame.kind {
                frame::DATA => data.extend_from_slice(&frame.payload),
                _ => said.push(frame),
            }
            if over {
                return (said, data);
            }
        }
    }
}

fn greeting() -> Vec<u8> {
    [frame::PREFACE, &frame(frame::SETTINGS, 0, 0, &[])].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(frame::HEADERS, flags | frame::END_HEADERS, stream, block)
}

/// A request's header block that adds nothing to the dynamic table.
fn get(path: &str) -> Vec<u8> {
    let len = u8::try_from(path.len()).expect("short");
    [&[0x82, 0x86, 0x04, len], path.as_bytes()].concat()
}

fn field(name: &str, value: &str) -> Vec<u8> {
    let len = |text: &str| vec![u8::try_from(text.len()).expect("short")];
    [vec![0], len(name), name.into(), len(value), value.into()].concat()
}

fn now<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(std::task::Waker::noop()))
}
