//! GET requests over HTTP/1.1 to this machine, each on its own connection.

use std::error::Error;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Sends a GET to a port, and returns the status and the body.
///
/// # Errors
/// If there is no answer.
pub async fn get(port: u16, path: &str) -> Result<(u16, String), String> {
    get_bytes(port, path).await.map(text)
}

/// As [`get`], for a body that is no text.
///
/// # Errors
/// If there is no answer.
pub async fn get_bytes(port: u16, path: &str) -> Result<(u16, Bytes), String> {
    within(async { exchange(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?, path).await }).await
}

fn text((status, body): (u16, Bytes)) -> (u16, String) {
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Sends a GET to a Unix socket, and returns the status and the body.
///
/// # Errors
/// If there is no answer.
pub async fn get_at(socket: &Path, path: &str) -> Result<(u16, String), String> {
    within(async { exchange(UnixStream::connect(socket).await?, path).await }).await.map(text)
}

async fn within(exchange: impl Future<Output = Answer>) -> Result<(u16, Bytes), String> {
    let answered = tokio::time::timeout(LIMIT, exchange).await;
    answered.map_err(|_| "no answer in time".to_owned())?.map_err(|reason| reason.to_string())
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, path: &str) -> Answer {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::get(path).header("host", "localhost").header("connection", "close");
    let request = request.body(Empty::<Bytes>::new())?;
    let answer = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>((status, body))
    };
    // The connection must be polled too. It ends by an error, or with the answer.
    let (_, answer) = tokio::join!(connection, answer);
    Ok(answer?)
}

type Answer = Result<(u16, Bytes), Box<dyn Error + Send + Sync>>;

const LIMIT: Duration = Duration::from_secs(10);
