//! A TCP connection to the server: one of the addresses that DNS gives, through the proxy where one is set.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::seq::SliceRandom as _;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Where the server is.
#[derive(Debug)]
pub(super) struct Dialer {
    host: String,
    port: u16,
    /// The addresses that DNS gave last, of the server or of the proxy; they are used when it gives none.
    resolved: Mutex<Vec<SocketAddr>>,
}

impl Dialer {
    pub(super) fn new(host: String, port: u16) -> Self {
        Self { host, port, resolved: Mutex::default() }
    }

    /// Connects. All addresses are tried, in random order, so that a fleet spreads over the replicas.
    pub(super) async fn dial(&self) -> io::Result<TcpStream> {
        match proxy_for(&self.host, self.port) {
            Some(proxy) => {
                let stream = self.connect(&proxy.host, proxy.port).await?;
                through(stream, &proxy, &self.host, self.port).await
            }
            None => self.connect(&self.host, self.port).await,
        }
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
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
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

/// An HTTP proxy that tunnels (`CONNECT`, RFC 9110 §9.3.6).
#[derive(Debug, PartialEq, Eq)]
struct Proxy {
    host: String,
    port: u16,
    authorization: Option<String>,
}

/// The proxy of `HTTPS_PROXY`, unless `NO_PROXY` names the host (both also in lower case, as grpc-go reads them).
fn proxy_for(host: &str, port: u16) -> Option<Proxy> {
    let variable = |name: &str| {
        let value = std::env::var(name).or_else(|_| std::env::var(name.to_lowercase()));
        value.ok().filter(|value| !value.is_empty())
    };
    let proxy = variable("HTTPS_PROXY")?;
    let local = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if local || variable("NO_PROXY").is_some_and(|list| exempt(&list, host, port)) {
        return None;
    }
    parse_proxy(&proxy)
}

/// Go's rules: `*`, a domain and all below it, `.domain` for those below alone, an address, a network, any of them with
/// a port.
fn exempt(list: &str, host: &str, port: u16) -> bool {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let (name, only) = match entry.rsplit_once(':') {
            Some((name, digits)) if !name.contains(':') => (name, digits.parse::<u16>().ok()),
            _ => (entry, None),
        };
        let named = match host.parse::<IpAddr>() {
            Ok(address) => name.parse() == Ok(address) || in_network(name, address),
            Err(_) => {
                let below = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
                name.strip_prefix('.').map_or_else(|| host == name || below(name), below)
            }
        };
        name == "*" || (named && only.is_none_or(|only| only == port))
    })
}

fn in_network(text: &str, address: IpAddr) -> bool {
    let Some((network, bits)) = text.split_once('/') else { return false };
    let Ok(bits) = bits.parse::<u32>() else { return false };
    let number = |address: IpAddr| -> (u128, u32) {
        match address {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
            IpAddr::V6(v6) => (u128::from(v6), 128),
        }
    };
    let (ours, width) = number(address);
    let same = |network: IpAddr| {
        let (theirs, their_width) = number(network);
        let drop = width.saturating_sub(bits);
        width == their_width && (ours ^ theirs).checked_shr(drop).unwrap_or(0) == 0
    };
    network.parse().is_ok_and(same)
}

fn parse_proxy(text: &str) -> Option<Proxy> {
    let uri: http::Uri =
        if text.contains("://") { text.parse() } else { format!("http://{text}").parse() }.ok()?;
    let authority = uri.authority()?;
    let authorization =
        authority.as_str().rsplit_once('@').map(|(user, _)| format!("Basic {}", STANDARD.encode(user)));
    Some(Proxy { host: uri.host()?.to_owned(), port: uri.port_u16().unwrap_or(80), authorization })
}

async fn through(mut stream: TcpStream, proxy: &Proxy, host: &str, port: u16) -> io::Result<TcpStream> {
    let authorization = proxy
        .authorization
        .as_ref()
        .map(|value| format!("Proxy-Authorization: {value}\r\n"))
        .unwrap_or_default();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= ANSWER_LIMIT {
            return Err(io::Error::other("proxy's answer is too long"));
        }
        answer.push(stream.read_u8().await?);
    }
    let first = String::from_utf8_lossy(&answer);
    let status = first.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(io::Error::other(format!(
            "proxy {}:{} answers {status} to CONNECT",
            proxy.host, proxy.port
        )));
    }
    Ok(stream)
}

const ANSWER_LIMIT: usize = 8 * 1024;
const DNS_LIMIT: Duration = Duration::from_secs(5);
/// In milliseconds.
const USER_TIMEOUT: u32 = 12_000;
const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies() {
        let plain = Proxy { host: "proxy.local".into(), port: 3128, authorization: None };
        assert_eq!(parse_proxy("http://proxy.local:3128"), Some(plain));
        let with_user = parse_proxy("http://u:p@proxy.local").unwrap();
        assert_eq!((with_user.port, with_user.authorization.as_deref()), (80, Some("Basic dTpw")));
        for (list, host) in [
            ("a.b, .example.org", "spire.example.org"),
            ("example.org", "example.org"),
            ("example.org", "spire.example.org"),
            ("example.org:8081", "example.org"),
            ("*", "x"),
            ("10.0.0.0/8", "10.1.2.3"),
            ("10.1.2.3", "10.1.2.3"),
            ("fd00::/8", "fd12::1"),
        ] {
            assert!(exempt(list, host, 8081), "{list} {host}");
        }
        for (list, host) in [
            ("example.org", "badexample.org"),
            (".example.org", "example.org"),
            ("example.org:443", "example.org"),
            ("10.0.0.0/8", "11.1.2.3"),
            ("10.0.0.0/8", "fd12::1"),
        ] {
            assert!(!exempt(list, host, 8081), "{list} {host}");
        }
    }
}
