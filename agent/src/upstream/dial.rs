//! A TCP connection to a server: one of the addresses that DNS gives, through the proxy where one is set.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use config::{ServerOrder, Settings};
use rand::seq::SliceRandom as _;
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::proxy::Proxy;
use super::web_tls::Stream;

/// The hosts of `server_address`. Each may have several addresses.
#[derive(Debug)]
pub(crate) struct Servers {
    hosts: Vec<Dialer>,
    order: ServerOrder,
    /// The place of the host that answered last, which is tried first.
    kept: Mutex<Option<(usize, Instant)>>,
}

/// Which server is tried first.
#[derive(Debug)]
pub(crate) struct Trusted {
    host: Option<(usize, Instant)>,
    addresses: Vec<Option<Kept>>,
}

impl Servers {
    /// The servers of a configuration.
    pub(crate) fn of(settings: &Settings) -> Self {
        let (port, order) = (settings.server_port, settings.experimental.server_order);
        let hosts = settings.server_hosts().map(|host| Dialer::in_order(host.to_owned(), port, order));
        let mut hosts: Vec<Dialer> = hosts.collect();
        let is_alone = hosts.len() == 1;
        hosts.iter_mut().for_each(|host| host.is_alone = is_alone);
        Self { hosts, order, kept: Mutex::default() }
    }

    /// One server.
    pub(crate) fn one(host: String, port: u16) -> Self {
        Self { hosts: vec![Dialer::new(host, port)], order: ServerOrder::default(), kept: Mutex::default() }
    }

    /// Forgets which server is tried first, because the last one does not work, or until it is known to. What is returned
    /// is for [`Self::trust`].
    pub(crate) fn doubt(&self) -> Trusted {
        let take = |host: &Dialer| host.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let host = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        Trusted { host, addresses: self.hosts.iter().map(take).collect() }
    }

    /// Takes [`Self::doubt`] back.
    pub(crate) fn trust(&self, trusted: Trusted) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = trusted.host;
        for (host, kept) in self.hosts.iter().zip(trusted.addresses) {
            *host.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        }
    }

    /// Connects to the first host that can be connected to.
    pub(crate) async fn dial(&self) -> io::Result<Stream> {
        let mut places: Vec<usize> = (0..self.hosts.len()).collect();
        if self.order == ServerOrder::Random {
            places.shuffle(&mut rand::rng());
        }
        let now = Instant::now();
        let kept = *self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kept, _)) = kept.filter(|(_, until)| *until > now)
            && let Some(at) = places.iter().position(|place| *place == kept)
        {
            places[..=at].rotate_right(1);
        }
        let mut last = io::Error::new(io::ErrorKind::NotFound, "server_address names no server");
        for place in places {
            // A host whose addresses all swallow packets must not use up the time of the others.
            let each = HOSTS_LIMIT / u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
            let dialled = timeout(each, self.hosts[place].dial()).await;
            match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.is_none_or(|(kept, until)| kept != place || until <= now) {
                        *kept = Some((place, now + pace::sticky(&mut rand::rng())));
                    }
                    return Ok(stream);
                }
                Err(reason) => last = reason,
            }
        }
        Err(last)
    }
}

/// Where a server is.
#[derive(Debug)]
pub(crate) struct Dialer {
    host: String,
    port: u16,
    order: ServerOrder,
    /// No other host can be tried instead.
    is_alone: bool,
    /// The addresses that DNS gave last, of the server or of the proxy; they are used when it gives none.
    resolved: Mutex<Vec<SocketAddr>>,
    /// The address that answered last. A server closes each connection after some minutes, and another one may have an older
    /// view of the database, so it is tried first.
    kept: Mutex<Option<Kept>>,
}

/// The address that is tried first until another is picked.
#[derive(Debug, Clone, Copy)]
struct Kept {
    address: SocketAddr,
    until: Instant,
}

impl Dialer {
    pub(crate) fn new(host: String, port: u16) -> Self {
        Self::in_order(host, port, ServerOrder::default())
    }

    /// A dialer that tries the addresses in this order.
    pub(crate) fn in_order(host: String, port: u16, order: ServerOrder) -> Self {
        Self { host, port, order, is_alone: true, resolved: Mutex::default(), kept: Mutex::default() }
    }

    /// Connects. All addresses are tried: first the one that answered last, then the others, in random order unless one is
    /// configured, so that a fleet spreads over the replicas.
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
        if self.order == ServerOrder::Random {
            addresses.shuffle(&mut rand::rng());
        }
        self.put_kept_first(&mut addresses);
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        // One replica that swallows packets must not use up the time of the others.
        let each = if addresses.len() > 1 || !self.is_alone { SHORT } else { LONG };
        for address in addresses {
            let connected = timeout(each, TcpStream::connect(address)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    // Sent and not acknowledged for so long: the other end, or the way to it, is gone.
                    sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT)?;
                    self.keep(address);
                    return Ok(stream);
                }
                Err(reason) => last = io::Error::new(reason.kind(), format!("{address}: {reason}")),
            }
        }
        Err(last)
    }

    fn put_kept_first(&self, addresses: &mut [SocketAddr]) {
        let kept = *self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.filter(|kept| kept.until > Instant::now());
        if let Some(place) = kept.and_then(|kept| addresses.iter().position(|one| *one == kept.address)) {
            addresses[..=place].rotate_right(1);
        }
    }

    fn keep(&self, address: SocketAddr) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if kept.is_none_or(|kept| kept.address != address || kept.until <= now) {
            *kept = Some(Kept { address, until: now + pace::sticky(&mut rand::rng()) });
        }
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

/// How long all hosts together may take: less than a link waits for a connection.
const HOSTS_LIMIT: Duration = Duration::from_secs(9);
const DNS_LIMIT: Duration = Duration::from_secs(5);
/// In milliseconds.
const USER_TIMEOUT: u32 = 12_000;
const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Two addresses of one host, and who listens there.
    async fn replicas() -> (Dialer, [TcpListener; 2], Vec<SocketAddr>) {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let addresses = vec![first.local_addr().unwrap(), second.local_addr().unwrap()];
        (Dialer::in_order("unused".into(), port, ServerOrder::AsListed), [first, second], addresses)
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_that_answered_last_is_tried_first() {
        let (dialer, _listeners, addresses) = replicas().await;
        let first = |dialer: &Dialer| {
            let mut tried = addresses.clone();
            dialer.put_kept_first(&mut tried);
            tried[0]
        };
        assert_eq!(first(&dialer), addresses[0]);
        dialer.keep(addresses[1]);
        assert_eq!(first(&dialer), addresses[1]);
        tokio::time::advance(Duration::from_hours(2)).await;
        assert_eq!(first(&dialer), addresses[0], "its time is over");
        dialer.keep(addresses[1]);
        let servers = Servers { hosts: vec![dialer], order: ServerOrder::AsListed, kept: Mutex::default() };
        drop(servers.doubt());
        let dialer = servers.hosts.into_iter().next().unwrap();
        assert_eq!(first(&dialer), addresses[0], "it did not work");
        dialer.keep("127.0.0.3:1".parse().unwrap());
        assert_eq!(first(&dialer), addresses[0], "it is none of the server's any more");
    }
}
