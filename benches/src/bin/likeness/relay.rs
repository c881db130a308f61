//! A relay between clients and the agent. It records when each push went to its client, and when the answer began.
//!
//! It reads only the headers of HTTP/2 frames: length, type, stream. A push ends with the last DATA frame before the
//! client answers. Its time is taken just before these bytes are written to the client, because afterwards the client
//! may already have answered. An answer begins with the first DATA frame from the client, when the relay has read it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use benches::running::Outcome;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// A socket of the relay and the times on it.
pub(crate) struct Relay {
    socket: PathBuf,
    times: Times,
}

/// The milliseconds from pushes to their answers.
type Times = Arc<Mutex<Vec<f64>>>;

impl Relay {
    /// Starts a relay from `socket` to the agent.
    pub(crate) fn start(runtime: &Runtime, socket: PathBuf, agent: PathBuf) -> Outcome<Self> {
        let _in_runtime = runtime.enter();
        let listener = UnixListener::bind(&socket)?;
        let times = Times::default();
        runtime.spawn(accept(listener, agent, Arc::clone(&times)));
        Ok(Self { socket, times })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The number of answers since the last [`Relay::take`].
    pub(crate) fn answers(&self) -> usize {
        lock(&self.times).len()
    }

    /// The times of all answers since the last call of this function.
    pub(crate) fn take(&self) -> Vec<f64> {
        std::mem::take(&mut *lock(&self.times))
    }
}

async fn accept(listener: UnixListener, agent: PathBuf, times: Times) {
    while let Ok((client, _)) = listener.accept().await {
        let (agent, times) = (agent.clone(), Arc::clone(&times));
        // The client reports a broken connection.
        tokio::spawn(async move { carry(client, &agent, &times).await.ok() });
    }
}

async fn carry(client: UnixStream, agent: &Path, times: &Times) -> io::Result<()> {
    let (from_agent, to_agent) = UnixStream::connect(agent).await?.into_split();
    let (from_client, to_client) = client.into_split();
    let pushed: Mutex<HashMap<u32, Instant>> = Mutex::default();
    let push = |edge, stream, now| {
        if edge == Edge::End {
            lock(&pushed).insert(stream, now);
        }
    };
    let answer = |edge, stream, now: Instant| {
        let push = if edge == Edge::Begin { lock(&pushed).remove(&stream) } else { None };
        if let Some(push) = push {
            lock(times).push((now - push).as_secs_f64() * 1e3);
        }
    };
    let pushes = copy(from_agent, to_client, Frames::default(), push);
    let answers = copy(from_client, to_agent, Frames::after(PREFACE), answer);
    tokio::try_join!(pushes, answers).map(drop)
}

/// Copies one direction until its end, and closes the other side then.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut frames: Frames,
    mut data: impl FnMut(Edge, u32, Instant),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        let now = Instant::now();
        frames.read(&buffer[..length], |edge, stream| data(edge, stream, now));
        to.write_all(&buffer[..length]).await?;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first or the last byte of a DATA frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    Begin,
    End,
}

/// The position in the frames of one direction.
#[derive(Debug, Default)]
struct Frames {
    head: Vec<u8>,
    /// Bytes of the present frame that have not come yet.
    left: usize,
    /// The stream of the present frame, if it is DATA.
    stream: Option<u32>,
}

impl Frames {
    /// Starts after this many bytes that are not frames.
    fn after(left: usize) -> Self {
        Self { left, ..Self::default() }
    }

    fn read(&mut self, mut bytes: &[u8], mut data: impl FnMut(Edge, u32)) {
        while !bytes.is_empty() {
            let wanted = if self.left > 0 { self.left } else { HEAD - self.head.len() };
            let (these, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.left > 0 {
                self.left -= these.len();
                if self.left == 0 {
                    self.stream.take().into_iter().for_each(|stream| data(Edge::End, stream));
                }
            } else {
                self.head.extend(these);
                self.begin(&mut data);
            }
        }
    }

    /// Begins a frame if its header is complete. An empty DATA frame only ends a stream and is not reported.
    fn begin(&mut self, mut data: impl FnMut(Edge, u32)) {
        let [a, b, c, kind, _, stream @ ..] = &self.head[..] else { return };
        let Ok(stream) = <[u8; 4]>::try_from(stream) else { return };
        self.left = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        self.stream = (*kind == DATA && self.left > 0).then_some(stream);
        self.head.clear();
        self.stream.into_iter().for_each(|stream| data(Edge::Begin, stream));
    }
}

const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEAD: usize = 9;
const DATA: u8 = 0;
const BUFFER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// SETTINGS, then DATA of three bytes on stream 5, then empty DATA on it, then DATA on stream 7.
    const BYTES: &[u8] =
        b"\0\0\x02\x04\0\0\0\0\0xx\0\0\x03\0\0\0\0\0\x05abc\0\0\0\0\x01\0\0\0\x05\0\0\x01\0\0\0\0\0\x07y";

    fn edges(chunk: usize) -> Vec<(Edge, u32)> {
        let (mut frames, mut edges) = (Frames::after(PREFACE), Vec::new());
        let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BYTES].concat();
        bytes.chunks(chunk).for_each(|chunk| frames.read(chunk, |edge, stream| edges.push((edge, stream))));
        edges
    }

    #[test]
    fn data_is_found_however_the_bytes_are_cut() {
        let data = [(Edge::Begin, 5), (Edge::End, 5), (Edge::Begin, 7), (Edge::End, 7)];
        assert!((1..100).all(|chunk| edges(chunk) == data));
    }
}
