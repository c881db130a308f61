//! A GET request by HTTP/1.1, to a web server or over a Unix socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use identity::Url;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::BUNDLE_BYTES;
use crate::upstream::dial::Dialer;
use crate::upstream::web_tls::{self, Stream};
use crate::upstream::whole;

/// A way to the servers of URLs.
pub(super) trait Way: Sync {
    /// The scheme of these URLs.
    const SCHEME: &'static str;

    /// Connects to the server of this URL.
    fn connect(&self, url: &Url) -> impl Future<Output = io::Result<Stream>> + Send;
}

/// TLS, verified by the system's authorities, through the proxy where one is set.
pub(super) struct Web;

/// A Unix socket, which is the server of every URL.
pub(super) struct Socket<'a>(pub(super) &'a Path);

impl Way for Web {
    const SCHEME: &'static str = "https";

    async fn connect(&self, url: &Url) -> io::Result<Stream> {
        let (host, port) = url.host_and_port();
        let port = if port.is_empty() { Ok(443) } else { port.parse().map_err(io::Error::other) };
        let roots = web_tls::system_roots().await?;
        if roots.is_empty() {
            let reason = "this system has no authorities of the web: set SSL_CERT_FILE or SSL_CERT_DIR";
            return Err(io::Error::other(reason));
        }
        let stream = Dialer::new(host.to_owned(), port?).dial().await?;
        web_tls::secure(host, stream, roots, None).await
    }
}

impl Way for Socket<'_> {
    const SCHEME: &'static str = "http";

    async fn connect(&self, _: &Url) -> io::Result<Stream> {
        Ok(Box::new(UnixStream::connect(self.0).await?))
    }
}

/// Fetches what a URL stands for. Redirections are followed, but not to another scheme: what Go follows to plain HTTP
/// could be replaced on the way.
///
/// # Errors
/// A text that says why. No URL is in it, because a query may be a secret.
pub(super) async fn get<W: Way>(way: &W, url: Url) -> Result<Bytes, String> {
    let fetched = timeout(LIMIT, follow(way, url)).await;
    fetched.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
}

async fn follow<W: Way>(way: &W, mut url: Url) -> Result<Bytes, String> {
    for _ in 0..=REDIRECTIONS {
        let stream = way.connect(&url).await.map_err(|reason| reason.to_string())?;
        match exchange(stream, &url).await? {
            Answer::Content(bytes) => return Ok(bytes),
            Answer::Elsewhere(location) => url = resolved(&url, &location).ok_or("redirected to no URL")?,
        }
        if url.scheme != W::SCHEME || url.host.is_empty() {
            return Err(format!("redirected to a URL that does not start with {}://", W::SCHEME));
        }
    }
    Err(format!("stopped after {REDIRECTIONS} redirects"))
}

enum Answer {
    Content(Bytes),
    /// The `Location` of a redirection.
    Elsewhere(String),
}

async fn exchange(stream: Stream, url: &Url) -> Result<Answer, String> {
    let request = request(url).map_err(|reason| whole(&reason))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|reason| whole(&reason))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|reason| whole(&reason))?;
        let status = response.status();
        if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            return location
                .map(|location| Answer::Elsewhere(location.to_owned()))
                .ok_or_else(|| format!("{} response missing Location header", status.as_u16()));
        }
        if status != StatusCode::OK {
            return Err(format!("error downloading trust bundle: {status}"));
        }
        let body = Limited::new(response.into_body(), BUNDLE_BYTES).collect().await;
        Ok(Answer::Content(body.map_err(|reason| whole(&*reason))?.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection has ended, with the rest of the answer or the reason in the hands of its reader.
        _ = connection => answer.await,
    }
}

fn request(url: &Url) -> Result<Request<Empty<Bytes>>, http::Error> {
    let path = if url.path.is_empty() { "/" } else { &url.path };
    let query = if url.query.is_empty() { String::new() } else { format!("?{}", escaped(&url.query)) };
    let mut request = Request::get(format!("{}{query}", escaped(path)))
        .header(header::HOST, url.host.trim_end_matches(':'))
        .header(header::USER_AGENT, USER_AGENT);
    if let Some(user) = &url.user {
        let text = STANDARD.encode([&user.name[..], b":", &user.password].concat());
        let mut value = HeaderValue::try_from(format!("Basic {text}"))?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    request.body(Empty::new())
}

/// Escapes what no request line can have.
fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte);
    let one = |byte| if is_plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

/// The URL that a `Location` names (RFC 3986 §5.2, without the dots in paths, which a server may resolve as well).
fn resolved(base: &Url, location: &str) -> Option<Url> {
    let relative = Url::parse(location)?;
    if !relative.scheme.is_empty() {
        return Some(relative);
    }
    if !relative.host.is_empty() {
        return Some(Url { scheme: base.scheme.clone(), ..relative });
    }
    let folder = &base.path[..base.path.rfind('/').map_or(0, |slash| slash + 1)];
    let path = match &*relative.path {
        "" => base.path.clone(),
        path if path.starts_with('/') => path.to_owned(),
        path if folder.is_empty() => format!("/{path}"),
        path => format!("{folder}{path}"),
    };
    Some(Url { path, query: relative.query, ..base.clone() })
}

/// How long the whole may take. spire-agent has no limit.
const LIMIT: Duration = Duration::from_secs(30);
/// How many redirections are followed, as by Go.
const REDIRECTIONS: usize = 10;
/// The longest head of an answer in bytes.
const HEAD_BYTES: usize = 64 * 1024;
const USER_AGENT: &str = concat!("finial/", env!("CARGO_PKG_VERSION"));
