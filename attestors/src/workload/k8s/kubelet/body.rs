//! Passes the chunks of a response to a parser on another thread. Bytes that are not parsed yet stay in the socket.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::super::parse;
use super::super::pods::Pods;
use super::KubeletError;

/// Parses a pod list while it arrives. Pods of `before` that have not changed are shared.
pub(super) async fn pods(mut body: Incoming, before: &Arc<Pods>) -> Result<Pods, KubeletError> {
    let (chunks, received) = mpsc::channel(CHUNKS_AHEAD);
    let before = Arc::clone(before);
    let parsed = tokio::task::spawn_blocking(move || {
        let chunks = Chunks { received, current: Bytes::new(), taken: 0 };
        parse::pods(BufReader::with_capacity(BUFFER, chunks), &before)
    });
    let mut broken = None;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let Ok(chunk) = frame.into_data() else { continue };
                // The parser has ended early, with an error.
                if chunks.send(Ok(chunk)).await.is_err() {
                    break;
                }
            }
            Err(reason) => {
                let _ = chunks.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
                broken = Some(reason);
                break;
            }
        }
    }
    drop(chunks);
    let parsed = parsed.await.map_err(|_| KubeletError::Interrupted)?;
    match broken {
        Some(reason) => Err(reason.into()),
        None => Ok(parsed?),
    }
}

/// The body as a blocking reader.
struct Chunks {
    received: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    taken: usize,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.received.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.current = chunk?,
            }
            self.taken += self.current.len();
            if self.taken > LIST_LIMIT {
                return Err(io::Error::other(format!("the list is larger than {LIST_LIMIT} bytes")));
            }
        }
        let n = out.len().min(self.current.len());
        out[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

const CHUNKS_AHEAD: usize = 4;
const BUFFER: usize = 16 * 1024;
/// The largest list in bytes: ten times what 500 pods take.
const LIST_LIMIT: usize = 64 << 20;
