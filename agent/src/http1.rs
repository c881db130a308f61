//! HTTP/1.1 as the listeners speak it that are not for workloads: health checks, Prometheus, the status page and profiles.
//!
//! Whoever reaches such a listener is not known. So a connection has a limited life, because a client that never reads
//! its answers would keep one of a few slots for ever, and answers that cost something wait for their [`Turn`].

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

/// Waits until one of a listener's few places is free, and for the next connection. `failed` hears of those that cannot be
/// accepted. The connection has its place until the permit is dropped.
pub(crate) async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    failed: impl Fn(&io::Error),
) -> (TcpStream, OwnedSemaphorePermit) {
    // Nobody closes the semaphore.
    let place = Arc::clone(places).acquire_owned().await.expect("the places are there");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(reason) => {
                failed(&reason);
                sleep(AGAIN).await;
            }
        }
    }
}

/// Answers the requests of one connection, until it ends or has lived for [`LIFE`]. `head` is how long a client may take
/// to send the head of a request, also of one that follows another.
///
/// # Errors
/// Why the connection ended, if the client did not close it.
pub(crate) async fn converse<F: Future<Output = Response<Full<Bytes>>>>(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    head: Duration,
    answer: impl Fn(Request<Incoming>) -> F,
) -> io::Result<()> {
    converse_for(LIFE, stream, head, answer).await
}

/// As [`converse`], with another life, for answers that take long.
///
/// # Errors
/// As [`converse`].
pub(crate) async fn converse_for<F: Future<Output = Response<Full<Bytes>>>>(
    life: Duration,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    head: Duration,
    answer: impl Fn(Request<Incoming>) -> F,
) -> io::Result<()> {
    let service = service_fn(|request| {
        let response = answer(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(BUFFER);
    let ended = timeout(life, server.serve_connection(TokioIo::new(stream), service)).await;
    ended.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map_err(io::Error::other)
}

/// Lets requests have their answers one after another, with pauses, so that all together take at most a tenth of the
/// thread that serves workloads. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn(Arc<Mutex<()>>);

impl Turn {
    /// Waits for the turn and makes an answer. The next one waits for nine times as long as this one took.
    pub(crate) async fn take<T>(&self, answer: impl Future<Output = T>) -> T {
        let turn = Arc::clone(&self.0).lock_owned().await;
        let began = Instant::now();
        let answer = answer.await;
        let pause = (began.elapsed() * PAUSE).min(LONGEST_PAUSE);
        tokio::spawn(async move {
            sleep(pause).await;
            drop(turn);
        });
        answer
    }
}

/// Whether a `Host` header names this host: by an IP address, as `localhost`, or as the configuration does. A name that an
/// attacker's DNS server gives our address is none of these.
pub(crate) fn is_this_host(named: &str, configured: &str) -> bool {
    let name = match named.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => named.split(':').next().unwrap_or_default(),
    };
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.eq_ignore_ascii_case(configured.trim_matches(['[', ']']))
}

/// The longest life of a connection. A browser or Prometheus opens another one without a word.
const LIFE: Duration = Duration::from_secs(60);
/// The read buffer of a connection, in bytes.
const BUFFER: usize = 16 * 1024;
/// How many times longer than its answer a turn takes.
const PAUSE: u32 = 9;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The wait after a connection could not be accepted.
const AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const HEAD: Duration = Duration::from_secs(5);

    async fn page(_: Request<Incoming>) -> Response<Full<Bytes>> {
        Response::new(Full::new(Bytes::from_static(&[b'x'; 4096])))
    }

    #[test]
    fn another_name_for_our_address_is_refused() {
        for named in ["127.0.0.1:9990", "localhost", "LOCALHOST:1", "[::1]:9990", "10.1.2.3", "node-1:9990"] {
            assert!(is_this_host(named, "node-1"), "{named}");
        }
        for named in ["", "evil.example:9990", "127.0.0.1.evil.example", "[evil]:1", "node-2"] {
            assert!(!is_this_host(named, "node-1"), "{named}");
        }
        assert!(is_this_host("[fe80::1]:1", "[fe80::1]"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_is_sent_away() {
        let (mut client, server) = duplex(8192);
        let began = Instant::now();
        let serving = tokio::spawn(converse(server, HEAD, page));
        // More answers than the pipe holds. The end of writing shows that the server is gone.
        while client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok() {}
        assert_eq!(serving.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= LIFE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_more_is_sent_away() {
        let (mut client, server) = duplex(8192);
        let began = Instant::now();
        let serving = tokio::spawn(converse(server, HEAD, page));
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert!(all.len() > 4096);
        drop(serving.await.unwrap());
        assert_eq!(began.elapsed().as_secs(), HEAD.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_took_long_is_followed_by_a_pause() {
        let (turn, began) = (Turn::default(), Instant::now());
        turn.take(sleep(Duration::from_millis(10))).await;
        assert_eq!(began.elapsed().as_millis(), 10);
        turn.take(async {}).await;
        assert_eq!(began.elapsed().as_millis(), 100);
        turn.take(async {}).await;
        assert_eq!(began.elapsed().as_millis(), 100);
    }
}
