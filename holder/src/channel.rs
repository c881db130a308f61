//! Messages between the agent and its holder, with descriptors (`SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg, sendmsg_addr,
    socket_with, socketpair,
};

use crate::Message;

/// One end of a connection that keeps messages apart and ends when either side is gone.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Where the agent sends its messages.
#[derive(Debug)]
pub enum Holder {
    /// `finial keep`.
    Keep(Channel),
    /// systemd: a socket of ours and the address of its.
    Systemd(OwnedFd, SocketAddrUnix),
}

/// A message as it came.
#[derive(Debug)]
pub struct Received {
    /// Lines of `KEY=VALUE`, at most a kilobyte.
    pub text: String,
    /// The descriptors that came with it, eight at most.
    pub descriptors: Vec<OwnedFd>,
}

/// The two ends of a new channel.
///
/// # Errors
/// Those of socketpair(2).
pub fn pair() -> io::Result<(Channel, Channel)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((Channel(a), Channel(b)))
}

impl Channel {
    /// Sends a message. Does not wait: a reader that does not read has [`io::ErrorKind::WouldBlock`] as an answer.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(descriptors, |ancillary| {
            sendmsg(&self.0, &[IoSlice::new(text.as_bytes())], ancillary, SEND)?;
            Ok(())
        })
    }

    /// Takes a message that has come. Does not wait. `None` if the other side is gone.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is none; [`io::ErrorKind::InvalidData`] for one that is too long or not UTF-8,
    /// which is dropped, and otherwise those of recvmsg(2).
    pub fn receive(&self) -> io::Result<Option<Received>> {
        let mut text = [0; TEXT];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let came = recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut ancillary, flags)?;
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if came.bytes == 0 {
            return Ok(None);
        }
        let is_cut =
            came.flags.intersects(rustix::net::ReturnFlags::TRUNC | rustix::net::ReturnFlags::CTRUNC);
        match str::from_utf8(&text[..came.bytes]) {
            Ok(text) if !is_cut => Ok(Some(Received { text: text.to_owned(), descriptors })),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long, or not UTF-8")),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl Holder {
    /// The holder at an address in the form of `NOTIFY_SOCKET`: a path, or a name that begins with `@`.
    ///
    /// # Errors
    /// Those of socket(2), and an address that is none.
    pub(crate) fn systemd(address: &str) -> io::Result<Self> {
        let to = match address.strip_prefix('@') {
            Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
            None => SocketAddrUnix::new(Path::new(address))?,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Self::Systemd(socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?, to))
    }

    /// Tells the holder something. Does not wait.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn tell(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        match self {
            Self::Keep(channel) => channel.send(&message.text(), descriptors),
            Self::Systemd(socket, to) => send(descriptors, |ancillary| {
                sendmsg_addr(socket, to, &[IoSlice::new(message.text().as_bytes())], ancillary, SEND)?;
                Ok(())
            }),
        }
    }
}

fn send(
    descriptors: &[BorrowedFd<'_>],
    send: impl FnOnce(&mut SendAncillaryBuffer<'_, '_, '_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    send(&mut ancillary)
}

const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// The longest text of a message, in bytes.
const TEXT: usize = 1024;
/// The most descriptors of a message.
const DESCRIPTORS: usize = 8;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_message() {
        let (ours, theirs) = pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"held").unwrap();
        let holder = Holder::Keep(ours);
        holder.tell(&Message::Store("public".to_owned()), &[file.as_fd()]).unwrap();
        let Received { text, descriptors } = theirs.receive().unwrap().unwrap();
        assert_eq!(Message::parse(&text), Some(Message::Store("public".to_owned())));
        let [descriptor] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        let (mut file, mut content) = (File::from(descriptor), String::new());
        file.rewind().unwrap();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "held");
    }

    #[test]
    fn the_end_is_noticed_on_both_sides_and_nothing_waits() {
        let (ours, theirs) = pair().unwrap();
        assert_eq!(theirs.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert!(theirs.receive().unwrap().is_none());
        assert_eq!(theirs.send("READY=1", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_message_that_is_too_long_is_dropped_and_the_next_is_read() {
        let (ours, theirs) = pair().unwrap();
        ours.send(&"x".repeat(TEXT + 1), &[]).unwrap();
        ours.send("READY=1", &[]).unwrap();
        assert_eq!(theirs.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(theirs.receive().unwrap().unwrap().text, "READY=1");
    }

    #[test]
    fn systemd_is_told_at_its_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        Holder::systemd(path.to_str().unwrap()).unwrap().tell(&Message::Ready, &[]).unwrap();
        let mut text = [0; 64];
        let length = systemd.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"READY=1");
    }
}
