//! Asks a daemon about a container, over a connection for each look: Docker may be restarted, and Podman's service ends
//! when it is idle.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use nix::sys::socket::UnixAddr;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::owner::Owner;
use super::parse::{self, Container, ParseError};
use crate::workload::socket;

/// Where a daemon is, and how it is asked.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) socket: PathBuf,
    pub(super) owner: Owner,
    /// The version of the API; `None` to negotiate it.
    pub(super) version: Option<(u32, u32)>,
    /// The longest answer in bytes.
    pub(super) most: usize,
}

/// Why a daemon gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// No connection could be opened.
    #[error("failed to connect to the docker API at unix://{}; check if the path is correct and if the daemon is running: {source}", path.display())]
    Connect {
        /// The daemon's Unix socket, as configured.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection broke.
    #[error("error during connect: {0}")]
    Request(#[from] hyper::Error),
    /// The daemon refused the request, or failed.
    #[error("Error response from daemon: {0}")]
    Refused(String),
    /// The answer is longer than is read.
    #[error("the daemon's answer is longer than {0} bytes")]
    TooLong(usize),
    /// The answer cannot be used.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The look took longer than five seconds.
    #[error("the daemon did not answer within {}s", LOOK.as_secs())]
    Slow,
    /// The task that reads the answer was cancelled or has panicked.
    #[error("reading the answer was interrupted")]
    Interrupted,
}

impl Endpoint {
    /// Looks once at the container `id` and its image. `turn` is kept until the look is over.
    pub(super) async fn look(&self, id: &str, turn: OwnedSemaphorePermit) -> Result<Container, DaemonError> {
        timeout(LOOK, self.connected(id, turn)).await.unwrap_or(Err(DaemonError::Slow))
    }

    async fn connected(&self, id: &str, turn: OwnedSemaphorePermit) -> Result<Container, DaemonError> {
        let failed = |source| DaemonError::Connect { path: self.socket.clone(), source };
        let address = UnixAddr::new(&self.socket).map_err(|reason| failed(reason.into()))?;
        let (path, owner) = (self.socket.clone(), self.owner);
        let connecting = socket::connect(address, turn, move |stream| owner.check(stream, &path));
        let (stream, _turn) = connecting.await.map_err(failed)?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let mut asking = pin!(self.ask(id, Asker { sender, version: (0, 0), most: self.most }));
        tokio::select! {
            outcome = &mut asking => outcome,
            // The end of the answer may have come with it.
            _ = connection => asking.await,
        }
    }

    async fn ask(&self, id: &str, mut asker: Asker) -> Result<Container, DaemonError> {
        asker.version = match self.version {
            Some(version) => version,
            None => asker.negotiated().await?,
        };
        let answer = asker.get(&format!("containers/{id}")).await?;
        let asked = id.to_owned();
        let parsed = spawn_blocking(move || parse::container(&answer, &asked)).await;
        let mut found = parsed.map_err(|_| DaemonError::Interrupted)??;
        if let Some(image) = found.image.as_deref().and_then(image_path) {
            match asker.get(&format!("images/{image}")).await {
                Ok(answer) => {
                    let parsed = spawn_blocking(move || parse::image_id(&answer)).await;
                    if let Some(digest) = parsed.map_err(|_| DaemonError::Interrupted)?.unwrap_or_default() {
                        found.add_image("image_config_digest", &digest);
                    }
                }
                // An image that was deleted or that the daemon does not know.
                Err(DaemonError::Refused(_) | DaemonError::TooLong(_)) => {}
                Err(broken) => return Err(broken),
            }
        }
        Ok(found)
    }
}

/// One side of a connection to a daemon.
struct Asker {
    sender: SendRequest<Empty<Bytes>>,
    version: (u32, u32),
    most: usize,
}

impl Asker {
    /// The version that both sides speak, as Docker's own client negotiates it. A daemon that says none, or one that is
    /// too old, is asked by the newest, and will refuse it with a reason.
    async fn negotiated(&mut self) -> Result<(u32, u32), DaemonError> {
        let response = self.send(Method::HEAD, "/_ping").await?;
        let version = response.headers().get("Api-Version").and_then(|value| value.to_str().ok());
        let version = version.and_then(parse_version).filter(|version| *version >= OLDEST);
        Ok(version.map_or(NEWEST, |version| version.min(NEWEST)))
    }

    /// The body of the answer to a request for this object.
    async fn get(&mut self, object: &str) -> Result<Vec<u8>, DaemonError> {
        let (major, minor) = self.version;
        let response = self.send(Method::GET, &format!("/v{major}.{minor}/{object}/json")).await?;
        match response.status() {
            StatusCode::OK => self.read(response.into_body(), self.most).await,
            status => {
                let body = self.read(response.into_body(), REFUSAL).await.unwrap_or_default();
                Err(DaemonError::Refused(refusal(status, &body)))
            }
        }
    }

    async fn send(&mut self, method: Method, path: &str) -> Result<Response<Incoming>, DaemonError> {
        let request = Request::builder().method(method).uri(path).header(header::HOST, HOST);
        let request = request.body(Empty::new()).expect("the path has only characters that a path may have");
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    async fn read(&self, mut body: Incoming, most: usize) -> Result<Vec<u8>, DaemonError> {
        let announced = body.size_hint().lower();
        let length = usize::try_from(announced).ok().filter(|length| *length <= most);
        let mut text = Vec::with_capacity(length.ok_or(DaemonError::TooLong(most))?);
        while let Some(frame) = body.frame().await {
            let Ok(chunk) = frame?.into_data() else { continue };
            if text.len() + chunk.len() > most {
                return Err(DaemonError::TooLong(most));
            }
            text.extend_from_slice(&chunk);
        }
        Ok(text)
    }
}

/// The beginning of what a daemon says with a refusal.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Message {
        message: String,
    }

    let message = match serde_json::from_slice(body) {
        Ok(Message { message }) => message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let message = message.trim();
    if message.is_empty() {
        return format!("API returned a {} but provided no error-message", status.as_u16());
    }
    message.chars().take(SHOWN).collect()
}

/// A version such as `1.41`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once('.')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    Some((number(major)?, number(minor)?))
}

/// The image's name as part of a path; `None` if no image has such a name. Who made the container chose the name.
fn image_path(name: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+:@".contains(&byte);
    let is_sound = |part: &str| !["", ".", ".."].contains(&part) && part.bytes().all(is_plain);
    (name.len() <= NAME && name.split('/').all(is_sound)).then(|| name.to_owned())
}

/// The time limit of one look: the connection, the requests and their answers.
const LOOK: Duration = Duration::from_secs(5);
/// The versions that Docker's client speaks with which spire-agent is built.
const OLDEST: (u32, u32) = (1, 40);
const NEWEST: (u32, u32) = (1, 55);
/// The host that Docker's client names on a Unix socket.
const HOST: &str = "api.moby.localhost";
/// The longest head of an answer in bytes.
const HEAD: usize = 64 * 1024;
/// The longest body of a refusal that is read, and how much of its message is shown.
const REFUSAL: usize = 16 * 1024;
const SHOWN: usize = 512;
/// The longest name of an image.
const NAME: usize = 512;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_images_are_paths() {
        for name in ["web", "web:1", "r.example:5000/a/b-c_d:1.2+x", "web@sha256:00ff", "sha256:00ff"] {
            assert_eq!(image_path(name).as_deref(), Some(name));
        }
        let long = "x".repeat(NAME + 1);
        for name in [
            "",
            "/web",
            "web/",
            "a//b",
            "../containers/x",
            "a/./b",
            "a b",
            "a?b",
            "a%2fb",
            "a#b",
            "a\n",
            "ä",
            &long,
        ] {
            assert_eq!(image_path(name), None, "{name}");
        }
    }

    #[test]
    fn versions() {
        assert_eq!(parse_version("1.41"), Some((1, 41)));
        for text in ["", "1", "1.", ".1", "1.4.1", "1.x", "+1.4", "1.99999999999", "1.4/../x"] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }

    #[test]
    fn a_refusal_is_cut() {
        let status = StatusCode::NOT_FOUND;
        assert_eq!(refusal(status, br#"{"message":" No such container: x\n"}"#), "No such container: x");
        assert_eq!(refusal(status, b"page not found\n"), "page not found");
        assert_eq!(refusal(status, b""), "API returned a 404 but provided no error-message");
        assert_eq!(refusal(status, "x".repeat(9999).as_bytes()).len(), SHOWN);
    }

    proptest! {
        #[test]
        fn any_path_is_a_uri(name in "\\PC*") {
            if let Some(path) = image_path(&name) {
                let text = format!("/v1.41/images/{path}/json");
                let uri: http::Uri = text.parse().unwrap();
                prop_assert_eq!(uri.path(), text);
            }
        }
    }
}
