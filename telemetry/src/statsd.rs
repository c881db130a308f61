//! statsd and DogStatsD: a line for each event, sent in datagrams.
//!
//! An event becomes a line in a queue, and a task sends the lines. A full queue drops lines, as go-metrics does: metrics
//! never hold up what they measure.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{UdpSocket, UnixDatagram};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::warn;

use crate::Value;
use crate::series::Member;

/// The form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The values of labels are further words of the name.
    Statsd,
    /// Labels are tags.
    DogStatsd,
}

/// Where lines are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`, by UDP.
    Udp(String),
    /// A Unix datagram socket.
    Unix(PathBuf),
}

/// The sender's end.
#[derive(Debug)]
pub struct Statsd {
    dialect: Dialect,
    queue: mpsc::Sender<String>,
}

impl Statsd {
    /// Spawns the task that sends. It ends when this value is dropped.
    #[must_use]
    pub fn start(dialect: Dialect, address: Address) -> Self {
        let (queue, lines) = mpsc::channel(QUEUE);
        tokio::spawn(send_all(address, lines));
        Self { dialect, queue }
    }

    pub(crate) fn send(&self, member: &Member, value: Value) {
        if let Ok(place) = self.queue.try_reserve() {
            place.send(line(self.dialect, member, value));
        }
    }
}

/// The line of an event, in go-metrics's or datadog-go's form.
pub(crate) fn line(dialect: Dialect, member: &Member, value: Value) -> String {
    let mut line = plain(&member.name);
    match dialect {
        Dialect::Statsd => {
            for (_, value) in &member.labels {
                line.push('.');
                line.push_str(&plain(value));
            }
            let (number, kind) = number(value);
            let _ = write!(line, ":{number:.6}|{kind}");
        }
        Dialect::DogStatsd => {
            let (number, kind) = number(value);
            let _ = match value {
                // datadog-go gives times six digits, other numbers as few as are needed.
                Value::Observe(_) => write!(line, ":{number:.6}|{kind}"),
                Value::Add(_) | Value::Set(_) | Value::Change(_) => write!(line, ":{number}|{kind}"),
            };
            for (place, (name, value)) in member.labels.iter().enumerate() {
                let _ = write!(line, "{}{name}", if place == 0 { "|#" } else { "," });
                if !value.is_empty() {
                    let _ = write!(line, ":{}", plain(value));
                }
            }
        }
    }
    line.push('\n');
    line
}

fn number(value: Value) -> (f64, &'static str) {
    match value {
        Value::Add(number) => (number, "c"),
        Value::Set(number) | Value::Change(number) => (number, "g"),
        Value::Observe(number) => (number, "ms"),
    }
}

/// What would end a name or a tag becomes an underscore.
fn plain(text: &str) -> String {
    text.replace([':', ' ', '|', ',', '\n'], "_")
}

/// Sends lines until the queue is closed. A destination that cannot be reached is tried again after [`RETRY`]; lines of
/// the meantime wait in the queue, and are dropped when it is full.
async fn send_all(address: Address, mut lines: mpsc::Receiver<String>) {
    let mut complained = false;
    loop {
        let outcome = match Socket::connect(&address).await {
            Ok(socket) => send_by(&socket, &mut lines).await,
            Err(reason) => Err(reason),
        };
        match outcome {
            Ok(()) => return,
            Err(reason) => {
                if !std::mem::replace(&mut complained, true) {
                    warn!(address = ?address, error = %reason, "Cannot send metrics; trying again without further words");
                }
                sleep(RETRY).await;
            }
        }
    }
}

async fn send_by(socket: &Socket, lines: &mut mpsc::Receiver<String>) -> io::Result<()> {
    let mut packet = String::new();
    while let Some(first) = lines.recv().await {
        packet.push_str(&first);
        // What comes within a moment goes into the same packets.
        sleep(FLUSH).await;
        while let Ok(line) = lines.try_recv() {
            if packet.len() + line.len() > PACKET {
                socket.send(packet.as_bytes()).await?;
                packet.clear();
            }
            packet.push_str(&line);
        }
        socket.send(packet.as_bytes()).await?;
        packet.clear();
    }
    Ok(())
}

enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Socket {
    async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Udp(address) => {
                let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
                for target in tokio::net::lookup_host(address).await? {
                    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).await?;
                    match socket.connect(target).await {
                        Ok(()) => return Ok(Self::Udp(socket)),
                        Err(reason) => last = reason,
                    }
                }
                Err(last)
            }
            Address::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Ok(Self::Unix(socket))
            }
        }
    }

    async fn send(&self, packet: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(packet).await,
            Self::Unix(socket) => socket.send(packet).await,
        }
        .map(drop)
    }
}

/// The most lines that wait. go-metrics has as many.
const QUEUE: usize = 4096;
/// The most bytes of a packet (go-metrics, `statsdMaxLen`).
const PACKET: usize = 1400;
/// How long the first line of a packet waits for others (go-metrics, `flushInterval`).
const FLUSH: Duration = Duration::from_millis(100);
/// The wait after an error (go-metrics waits as long).
const RETRY: Duration = Duration::from_secs(5);
