//! One HTTP/2 connection to the server, and the reason for its end.
//!
//! It uses hyper's connection and not tonic's channel. Tonic's channel reconnects by itself, and reports a GOAWAY of
//! the server only when the next call fails.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::Status;
use tonic::body::Body;

/// A connection, shared by its clones. It is closed when the last one is dropped and no call is under way.
#[derive(Debug, Clone)]
pub struct Channel {
    sender: SendRequest<Body>,
    end: Arc<OnceLock<End>>,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The server has rejected our certificate. The text is its TLS alert, which comes after the handshake in TLS 1.3.
    Refused(String),
    /// The connection failed with this error.
    Broken(String),
    /// The server closed it.
    Closed,
}

impl Channel {
    /// Starts HTTP/2 on `stream` and spawns the task that drives the connection.
    ///
    /// # Errors
    /// When the connection breaks at once.
    pub(super) async fn open<S>(stream: S) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let end = Arc::<OnceLock<End>>::default();
        let watched = Watched { inner: stream, end: Arc::clone(&end) };
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PONG_LIMIT)
            .keep_alive_while_idle(false)
            .handshake(TokioIo::new(watched))
            .await
            .map_err(|reason| reason.to_string())?;
        // The error is not lost: `end` holds it, and each call returns it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, end })
    }

    /// Whether the connection takes no more calls: the server has sent GOAWAY or closed it, or it failed.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Why the connection ended; `None` while it is open.
    pub(super) fn end(&self) -> Option<&End> {
        self.end.get()
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    /// Always ready. A call on a closed connection fails with an error that `is_unseen` recognizes.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(Authority::from_static(AUTHORITY));
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are there");
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        Box::pin(self.sender.send_request(request))
    }
}

/// Whether a status comes from the connection and not from the server.
pub(super) fn is_transport(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<hyper::Error>() || cause.is::<h2::Error>())
}

/// Whether the server cannot have acted on a call. Either the call was not sent, or the server has rejected it with a
/// GOAWAY whose last stream precedes it or with REFUSED_STREAM (RFC 9113 §6.8 and §8.7).
pub(super) fn is_unseen(status: &Status) -> bool {
    causes(status).any(|cause| {
        let unsent = cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        unsent || cause.downcast_ref::<h2::Error>().is_some_and(is_refusal)
    })
}

fn is_refusal(reason: &h2::Error) -> bool {
    let reason_is = |expected| reason.is_remote() && reason.reason() == Some(expected);
    (reason.is_go_away() && reason_is(h2::Reason::NO_ERROR))
        || (reason.is_reset() && reason_is(h2::Reason::REFUSED_STREAM))
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(status.source(), |cause: &&(dyn std::error::Error + 'static)| (*cause).source())
}

/// A stream that records its end as an [`End`]. HTTP/2 above it keeps only the text of an error, not its type.
struct Watched<S> {
    inner: S,
    end: Arc<OnceLock<End>>,
}

impl<S> Watched<S> {
    fn note<T>(&self, outcome: &Poll<io::Result<T>>) {
        if let Poll::Ready(Err(reason)) = outcome {
            // The first error is the cause of all later ones.
            let _ = self.end.set(End::of(reason));
        }
    }
}

impl End {
    fn of(reason: &io::Error) -> Self {
        let tls = reason.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::AlertReceived(alert)) => Self::Refused(format!("{alert:?}")),
            Some(other) => Self::Broken(other.to_string()),
            None => Self::Broken(reason.to_string()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.note(&outcome);
        if matches!(outcome, Poll::Ready(Ok(()))) && buffer.filled().len() == before {
            let _ = self.end.set(End::Closed);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(&outcome);
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        self.note(&outcome);
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Flow-control window of a stream in bytes; the connection's is twice that. A page of 500 entries takes about 100 KB,
/// and no page should wait for a window update.
const WINDOW: u32 = 1024 * 1024;
/// How long a connection with a call under way may be silent before a PING tests it. grpc-go's server tolerates three
/// PINGs between two answers (its `maxPingStrikes`), and a call lasts 30 s at most. It tolerates none without a call,
/// so none is sent then.
const PING_AFTER: Duration = Duration::from_secs(8);
/// How long the server may take to acknowledge a PING.
const PONG_LIMIT: Duration = Duration::from_secs(4);
/// The `:authority` of requests. A SPIRE server ignores it: TLS identifies the server by its SPIFFE ID.
const AUTHORITY: &str = "spire-server";
const USER_AGENT: &str = concat!("finial/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests;
