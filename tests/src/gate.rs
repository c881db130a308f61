//! A TCP proxy in front of a server, which a test can shut, turn to another server, or make swallow all bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The proxy. Dropping it ends it.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    way: watch::Sender<Way>,
    task: JoinHandle<()>,
}

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// They lead to this server. The number changes when those that are open must end.
    To(SocketAddr, u64),
    /// They are ended as soon as they come.
    Shut,
}

impl Gate {
    /// A gate that leads to `server`.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn open(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::<AtomicU64>::default();
        let (way, ways) = watch::channel(Way::To(server, 0));
        let counted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(pass(stream, ways.clone()));
            }
        });
        Self { address, connections, way, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections have come, including those that were turned away.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Cuts all connections, and turns new ones away.
    pub fn shut(&self) {
        self.way.send_replace(Way::Shut);
    }

    /// Cuts all connections. New ones lead to this server.
    pub fn lead_to(&self, server: SocketAddr) {
        self.way.send_modify(|way| {
            let number = if let Way::To(_, number) = way { *number } else { 0 };
            *way = Way::To(server, number + 1);
        });
    }

    /// Loses all open connections as a network does: they stay open, but no byte passes any more. New ones work.
    pub fn black_hole(&self) {
        self.way.send_modify(|way| {
            if let Way::To(_, number) = way {
                *number += LOSE;
            }
        });
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes bytes on until the way changes.
async fn pass(mut stream: TcpStream, mut ways: watch::Receiver<Way>) {
    let way = *ways.borrow_and_update();
    let Way::To(server, number) = way else { return };
    let Ok(mut upstream) = TcpStream::connect(server).await else { return };
    let passing = async {
        let (mut from, mut to) = (stream.split(), upstream.split());
        tokio::join!(copy(&mut from.0, &mut to.1), copy(&mut to.0, &mut from.1));
    };
    let changed = tokio::select! {
        () = passing => return,
        changed = ways.wait_for(|now| *now != way) => changed.ok().map(|now| *now),
    };
    if let Some(Way::To(_, now)) = changed
        && now >= number + LOSE
    {
        // Lost: the sockets stay open until the peer gives up.
        let mut swallowed = [0; BUFFER];
        while stream.read(&mut swallowed).await.is_ok_and(|length| length > 0) {}
    }
}

/// Copies until the end of one side, and says it to the other.
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    let mut buffer = [0; BUFFER];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// The step of the number by which open connections are lost instead of cut.
const LOSE: u64 = 1 << 32;
const BUFFER: usize = 4096;
