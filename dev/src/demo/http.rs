//! GET requests over HTTP/1.1 to this machine, each on its own connection.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The status and body of a response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Sends a GET to a port of this machine.
///
/// # Errors
/// If there is no connection, no answer within five seconds, or the answer is cut off.
pub(crate) async fn get(port: u16, path: &str) -> Result<Answer, Box<dyn Error + Send + Sync>> {
    tokio::time::timeout(LIMIT, exchange(port, path)).await?
}

async fn exchange(port: u16, path: &str) -> Result<Answer, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    };
    tokio::pin!(answer);
    tokio::select! {
        // This future drives the connection. It ends only by an error or after the answer.
        ended = connection => { ended?; Ok(answer.await?) }
        answer = &mut answer => Ok(answer?),
    }
}

const LIMIT: Duration = Duration::from_secs(5);
