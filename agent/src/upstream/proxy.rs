//! Proxies of the connection to the server. `HTTPS_PROXY` and `NO_PROXY`, also in lower case, are read by the rules of
//! golang.org/x/net/http/httpproxy, which grpc-go follows; neither reads `ALL_PROXY`.
//!
//! grpc-go speaks plain text to a proxy whose URL says `https`, and takes 443 for a missing port; here it is TLS, and 80 for
//! `http`, as everywhere else in Go. A proxy that does not know TLS is spoken to in plain text as before, where no password
//! would be told to the network by that.

use std::io;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::Url;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::web_tls::{self, Duplex, Stream};

/// An HTTP proxy that tunnels (`CONNECT`, RFC 9110 §9.3.6). Not `Debug`: it has a password.
pub(super) struct Proxy {
    /// It is spoken to over TLS.
    is_secure: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
}

impl Proxy {
    /// The proxy for a connection to `host:port`, if there is one.
    pub(super) fn of_environment(host: &str, port: u16) -> Option<Self> {
        Self::of(&|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()), host, port)
    }

    fn of(variable: &dyn Fn(&str) -> Option<String>, host: &str, port: u16) -> Option<Self> {
        let any_case = |name: &str| {
            let value = |name: &str| variable(name).filter(|value| !value.is_empty());
            value(name).or_else(|| value(&name.to_lowercase()))
        };
        let proxy = Self::parse(&any_case("HTTPS_PROXY")?)?;
        let exempt = any_case("NO_PROXY").unwrap_or_default();
        (!is_local(host) && !Exemptions::parse(&exempt).contain(host, port)).then_some(proxy)
    }

    /// A URL, or `host[:port]`. `None` for what is neither: Go uses no proxy then.
    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text);
        let is_whole = url.as_ref().is_some_and(|url| !url.scheme.is_empty() && !url.host.is_empty());
        let url = if is_whole { url } else { Url::parse(&format!("http://{text}")).or(url) }?;
        let is_secure = url.scheme == "https";
        let (host, port) = url.host_and_port();
        let port = match port {
            "" if is_secure => 443,
            "" => 80,
            // One that is no port leads nowhere, and not past the proxy.
            port => port.parse().unwrap_or(0),
        };
        let authorization = url.user.as_ref().map(|user| {
            let both = [&user.name[..], b":", &user.password].concat();
            format!("Basic {}", STANDARD.encode(both))
        });
        Some(Self { is_secure, host: host.to_owned(), port, authorization })
    }

    /// Whether it may be spoken to in plain text after this error: it is no speaker of TLS, and there is no password.
    pub(super) fn may_be_plain(&self, reason: &io::Error) -> bool {
        let inner = reason.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        self.authorization.is_none() && matches!(inner, Some(rustls::Error::InvalidMessage(_)))
    }

    /// TLS with the proxy itself, by the system's authorities, where its URL says `https`.
    pub(super) async fn secure<S: Duplex + 'static>(&self, stream: S) -> io::Result<Stream> {
        if !self.is_secure {
            return Ok(Box::new(stream));
        }
        web_tls::secure(&self.host, stream, web_tls::system_roots().await?, None).await
    }

    /// Has the proxy connect to `host:port`.
    pub(super) async fn tunnel<S: Duplex + 'static>(
        &self,
        mut stream: S,
        host: &str,
        port: u16,
    ) -> io::Result<Stream> {
        let authorization = match &self.authorization {
            Some(value) => format!("Proxy-Authorization: {value}\r\n"),
            None => String::new(),
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{authorization}\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= ANSWER_LIMIT {
                return Err(io::Error::other("proxy's answer is too long"));
            }
            answer.push(stream.read_u8().await?);
        }
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split_whitespace().nth(1).unwrap_or_default();
        if status == "200" {
            return Ok(Box::new(stream));
        }
        Err(io::Error::other(format!("proxy {}:{} answers {status} to CONNECT", self.host, self.port)))
    }
}

/// This machine is never reached through a proxy.
fn is_local(host: &str) -> bool {
    host == "localhost" || address(host).is_some_and(|address| address.to_canonical().is_loopback())
}

/// An address; a zone is left out.
fn address(text: &str) -> Option<IpAddr> {
    let without_zone =
        text.split_once('%').filter(|(address, zone)| address.contains(':') && !zone.is_empty());
    without_zone.map_or(text, |(address, _)| address).parse().ok()
}

/// What `NO_PROXY` lists.
#[derive(Debug, Default)]
struct Exemptions {
    all: bool,
    networks: Vec<Network>,
    addresses: Vec<(IpAddr, String)>,
    domains: Vec<Domain>,
}

/// Addresses with the same first bits.
#[derive(Debug)]
struct Network {
    address: IpAddr,
    bits: u32,
}

/// A domain and those below it.
#[derive(Debug)]
struct Domain {
    /// Beginning with a dot.
    suffix: String,
    /// The domain itself too.
    itself: bool,
    /// Empty for any.
    port: String,
}

impl Exemptions {
    fn parse(list: &str) -> Self {
        let mut found = Self::default();
        for entry in
            list.split(',').map(|entry| entry.trim().to_lowercase()).filter(|entry| !entry.is_empty())
        {
            if entry == "*" {
                return Self { all: true, ..Self::default() };
            }
            if let Some(network) = Network::parse(&entry) {
                found.networks.push(network);
                continue;
            }
            let (host, port) = split_host_port(&entry).unwrap_or((&entry, ""));
            if let Ok(address) = host.parse::<IpAddr>() {
                found.addresses.push((address.to_canonical(), port.to_owned()));
            } else if !host.is_empty() {
                let below = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
                let itself = !below.starts_with('.');
                let suffix = if itself { format!(".{below}") } else { below.to_owned() };
                found.domains.push(Domain { suffix, itself, port: port.to_owned() });
            }
        }
        found
    }

    fn contain(&self, host: &str, port: u16) -> bool {
        let is_port = |wanted: &str| wanted.is_empty() || wanted == port.to_string();
        if let Some(address) = address(host).map(|address| address.to_canonical()) {
            let is_listed = self.addresses.iter().any(|(listed, port)| *listed == address && is_port(port));
            return self.all || is_listed || self.networks.iter().any(|network| network.contains(address));
        }
        let name = host.trim().to_lowercase();
        let matches =
            |domain: &&Domain| name.ends_with(&domain.suffix) || domain.itself && name == domain.suffix[1..];
        self.all || self.domains.iter().filter(matches).any(|domain| is_port(&domain.port))
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let is_number = bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits: u32 = bits.parse().ok().filter(|bits| is_number && *bits <= width(address))?;
        // An IPv4 network, written as an IPv6 one.
        let mapped = bits.checked_sub(96).filter(|_| address.is_ipv6() && address.to_canonical().is_ipv4());
        Some(mapped.map_or(Self { address, bits }, |bits| Self { address: address.to_canonical(), bits }))
    }

    fn contains(&self, address: IpAddr) -> bool {
        let number = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6),
        };
        let width = width(self.address);
        let different = number(self.address) ^ number(address);
        width == self::width(address) && different.checked_shr(width - self.bits).unwrap_or(0) == 0
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// As Go's `net.SplitHostPort`: the port, which may be empty, must be there, and an IPv6 address in brackets.
fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match literal {
        Some(literal) => literal,
        None if host.contains(':') => return None,
        None => host,
    };
    let has_brackets = [host, port].iter().any(|part| part.contains(['[', ']']));
    (!has_brackets).then_some((host, port))
}

const ANSWER_LIMIT: usize = 8 * 1024;

#[cfg(test)]
mod tests;
