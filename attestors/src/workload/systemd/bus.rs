//! A connection to the system bus, for one look: authentication by the socket's credentials, then calls one after another.

use std::io;
use std::path::Path;

use nix::sys::socket::UnixAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::message::{Arguments, Call, FIXED, Head, Malformed, Reply, reply};
use crate::workload::socket;

/// An open connection that has a name on the bus.
#[derive(Debug)]
pub(super) struct Bus {
    stream: BufReader<UnixStream>,
    serial: u32,
}

/// Why the bus does not answer.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// There is no connection, or it broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bus sent something that is no message.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The bus does not take the agent's credentials.
    #[error("dbus: authentication failed")]
    Authentication,
    /// The call failed; this is the reason that was given.
    #[error("{0}")]
    Refused(Reply),
}

impl Bus {
    /// Connects to the first of these addresses that works. The error is that of the last one.
    pub(super) async fn connect(addresses: &[UnixAddr]) -> Result<Self, BusError> {
        let mut failed = BusError::Io(io::Error::new(
            io::ErrorKind::Unsupported,
            "the address of the bus is none of a Unix socket",
        ));
        for address in addresses {
            match socket::connect(*address, (), |_| Ok(())).await {
                Ok((stream, ())) => return Self::greeted(stream).await,
                Err(reason) => failed = reason.into(),
            }
        }
        Err(failed)
    }

    /// Authenticates, and asks for a name on the bus, which must be the first call.
    async fn greeted(stream: UnixStream) -> Result<Self, BusError> {
        let mut bus = Self { stream: BufReader::new(stream), serial: 0 };
        // The bus knows the credentials from the socket. None are named, because they have other numbers in a user
        // namespace.
        bus.stream.get_mut().write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n").await?;
        if bus.line().await? != "DATA" || !bus.line().await?.starts_with("OK ") {
            return Err(BusError::Authentication);
        }
        let hello = Call {
            destination: BUS,
            path: BUS_PATH,
            interface: BUS,
            member: "Hello",
            arguments: Arguments::None,
        };
        bus.call(&hello).await?;
        Ok(bus)
    }

    /// A line of the authentication, without its end.
    async fn line(&mut self) -> Result<String, BusError> {
        let mut line = Vec::new();
        loop {
            line.push(self.stream.read_u8().await?);
            if let Some(text) = line.strip_suffix(b"\r\n") {
                return String::from_utf8(text.to_vec()).map_err(|_| BusError::Authentication);
            }
            if line.len() > LINE {
                return Err(BusError::Authentication);
            }
        }
    }

    /// Calls a method, and returns the text of its answer, if that has one.
    pub(super) async fn call(&mut self, call: &Call<'_>) -> Result<Option<String>, BusError> {
        self.serial += 1;
        self.stream.get_mut().write_all(&call.encode(self.serial)).await?;
        // Signals that nobody has asked for may come first. The caller limits the time.
        loop {
            match self.message().await? {
                Some(reply) if reply.serial == self.serial && reply.is_error => {
                    return Err(BusError::Refused(reply));
                }
                Some(reply) if reply.serial == self.serial => return Ok(reply.text),
                _ => {}
            }
        }
    }

    async fn message(&mut self) -> Result<Option<Reply>, BusError> {
        let mut head = [0; FIXED];
        self.stream.read_exact(&mut head).await?;
        let head = Head::parse(head)?;
        let mut rest = vec![0; head.rest()];
        self.stream.read_exact(&mut rest).await?;
        Ok(reply(head, &rest)?)
    }
}

/// The Unix sockets of a list of addresses, such as `unix:path=/run/bus;unix:abstract=bus`. Other kinds of addresses are
/// left out.
pub(super) fn sockets(addresses: &str) -> Vec<UnixAddr> {
    addresses.split(';').filter_map(unix_socket).collect()
}

fn unix_socket(address: &str) -> Option<UnixAddr> {
    let keys = address.strip_prefix("unix:")?;
    keys.split(',').find_map(|pair| match pair.split_once('=')? {
        ("path", path) => UnixAddr::new(Path::new(&unescaped(path)?)).ok(),
        ("abstract", name) => UnixAddr::new_abstract(unescaped(name)?.as_bytes()).ok(),
        _ => None,
    })
}

/// A value of an address without its escapes, `%` and two hexadecimal digits. `None` if one is malformed.
fn unescaped(value: &str) -> Option<String> {
    let mut parts = value.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).ok()
}

const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
/// The longest line of the authentication.
const LINE: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let path = |path: &str| UnixAddr::new(Path::new(path)).unwrap();
        assert_eq!(sockets("unix:path=/run/bus"), [path("/run/bus")]);
        assert_eq!(sockets("unix:guid=1,path=/a%20b;tcp:host=x;unix:path=/c"), [path("/a b"), path("/c")]);
        assert_eq!(sockets("unix:abstract=bus"), [UnixAddr::new_abstract(b"bus").unwrap()]);
        for text in [
            "",
            "/run/bus",
            "unix:",
            "unix:path",
            "unix:path=%",
            "unix:path=%+1",
            "unix:tmpdir=/tmp",
            "autolaunch:",
        ] {
            assert_eq!(sockets(text), [], "{text}");
        }
    }
}
