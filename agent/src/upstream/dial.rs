//! A TCP connection to a server: one of the addresses that DNS gives, through the proxy where one is set.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::seq::SliceRandom as _;
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::proxy::Proxy;
use super::web_tls::Stream;

/// Where a server is.
#[derive(Debug)]
pub(crate) struct Dialer {
    host: String,
    port: u16,
    /// The addresses that DNS gave last, of the server or of the proxy; they are used when it gives none.
    resolved: Mutex<Vec<SocketAddr>>,
}

impl Dialer {
    pub(crate) fn new(host: String, port: u16) -> Self {
        Self { host, port, resolved: Mutex::default() }
    }

    /// Connects. All addresses are tried, in random order, so that a fleet spreads over the replicas.
    pub(crate) async fn dial(&self) -> io::Result<Stream> {
        match Proxy::of_environment(&self.host, self.port) {
            Some(proxy) => self.dial_through(&proxy).await,
            None => Ok(Box::new(self.connect(&self.host, self.port).await?)),
        }
    }

    async fn dial_through(&self, proxy: &Proxy) -> io::Result<Stream> {
        let stream = self.connect(&proxy.host, proxy.port).await?;
        let stream: Stream = match proxy.secure(stream).await {
            Err(reason) if proxy.may_be_plain(&reason) => {
                Box::new(self.connect(&proxy.host, proxy.port).await?)
            }
            stream => stream?,
        };
        proxy.tunnel(stream, &self.host, self.port).await
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut addresses = self.resolve(host, port).await?;
        addresses.shuffle(&mut rand::rng());
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        // One replica that swallows packets must not use up the time of the others.
        let each = if addresses.len() > 1 { SHORT } else { LONG };
        for address in addresses {
            let connected = timeout(each, TcpStream::connect(address)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    // Sent and not acknowledged for so long: the other end, or the way to it, is gone.
                    sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT)?;
                    return Ok(stream);
                }
                Err(reason) => last = io::Error::new(reason.kind(), format!("{address}: {reason}")),
            }
        }
        Err(last)
    }

    /// The addresses that DNS gives; the last good ones when it gives none, or does not answer.
    pub(super) async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        // The system's resolver, on a thread of its own.
        let answered = timeout(DNS_LIMIT, tokio::net::lookup_host((host, port))).await;
        let found = answered.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {DNS_LIMIT:?}")))
        });
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = match found.map(Iterator::collect::<Vec<_>>) {
            Ok(addresses) if !addresses.is_empty() => {
                resolved.clone_from(&addresses);
                return Ok(addresses);
            }
            Ok(_) => io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")),
            Err(reason) => io::Error::new(reason.kind(), format!("lookup {host}: {reason}")),
        };
        if resolved.is_empty() { Err(reason) } else { Ok(resolved.clone()) }
    }
}

const DNS_LIMIT: Duration = Duration::from_secs(5);
/// In milliseconds.
const USER_TIMEOUT: u32 = 12_000;
const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(10);
