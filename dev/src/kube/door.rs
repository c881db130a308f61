//! A server's port: TCP, TLS and HTTP/1.1. It can be closed, which cuts every connection, and opened again on the same
//! port.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::body::Answer;
use crate::server::Error;

/// A port that answers requests until it is dropped.
pub(super) struct Door {
    address: SocketAddr,
    open: watch::Sender<bool>,
    applied: watch::Receiver<bool>,
    tls: Arc<Mutex<Option<Arc<ServerConfig>>>>,
    task: JoinHandle<()>,
}

/// The code that answers the requests of a port.
pub(super) trait Answers: Send + Sync + 'static {
    /// Answers one request. `client` is the common name of the client's certificate, if it has one.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Option<Arc<str>>,
    ) -> impl Future<Output = Answer> + Send;
}

impl Door {
    /// Opens a free port of 127.0.0.1. Without `tls` it serves plain HTTP.
    pub(super) fn open(tls: Option<ServerConfig>, who: Arc<impl Answers>) -> Result<Self, Error> {
        let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let reserve = || {
            let reserved = socket(any)?;
            Ok((reserved.local_addr()?, reserved))
        };
        let (address, reserved) = reserve().map_err(|source| Error::Bind { address: any, source })?;
        let listener = listen(address).map_err(|source| Error::Bind { address, source })?;
        let (open, orders) = watch::channel(true);
        let (done, applied) = watch::channel(true);
        let tls = Arc::new(Mutex::new(tls.map(Arc::new)));
        let work = Work { reserved, address, orders, done, tls: Arc::clone(&tls) };
        Ok(Self { address, open, applied, tls, task: tokio::spawn(work.run(listener, who)) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens or closes the port. When this returns, it is done.
    pub(super) async fn set_open(&self, open: bool) {
        self.open.send_replace(open);
        let mut applied = self.applied.clone();
        // An error means that the task has ended, and so has everything else.
        let _ = applied.wait_for(|applied| *applied == open).await;
    }

    /// Cuts every connection. New ones use this TLS configuration.
    pub(super) async fn replace_tls(&self, tls: ServerConfig) {
        let was_open = *self.open.borrow();
        self.set_open(false).await;
        *self.tls.lock().expect("nobody panics with it in hand") = Some(Arc::new(tls));
        self.set_open(was_open).await;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Work {
    /// Bound and never listening, so that nobody else takes the port while the door is closed.
    reserved: TcpSocket,
    address: SocketAddr,
    orders: watch::Receiver<bool>,
    done: watch::Sender<bool>,
    tls: Arc<Mutex<Option<Arc<ServerConfig>>>>,
}

impl Work {
    async fn run(mut self, listener: TcpListener, who: Arc<impl Answers>) {
        let _reserved = &self.reserved;
        let mut listener = Some(listener);
        let mut connections = JoinSet::new();
        loop {
            let open = *self.orders.borrow_and_update();
            if !open && listener.take().is_some() {
                connections.shutdown().await;
            }
            if open && listener.is_none() {
                listener = Some(listen(self.address).expect("the port is reserved"));
            }
            self.done.send_replace(open);
            tokio::select! {
                changed = self.orders.changed() => if changed.is_err() { return },
                Some(stream) = accept(listener.as_ref()) => {
                    let tls = self.tls.lock().expect("nobody panics with it in hand").clone();
                    connections.spawn(connection(stream, tls, Arc::clone(&who)));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

fn socket(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    socket(address)?.listen(BACKLOG)
}

/// Waits for the next connection; `None` without a listener, or if accepting failed.
async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    let (stream, _) = listener?.accept().await.ok()?;
    Some(stream)
}

async fn connection(stream: TcpStream, tls: Option<Arc<ServerConfig>>, who: Arc<impl Answers>) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return serve(stream, None, who).await };
    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
    let client = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).and_then(|leaf| name(leaf));
    serve(stream, client, who).await;
}

async fn serve<S>(stream: S, client: Option<Arc<str>>, who: Arc<impl Answers>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request| {
        let answer = Arc::clone(&who).answer(request, client.clone());
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    // The error of a connection concerns only the client.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn name(certificate: &[u8]) -> Option<Arc<str>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(Into::into)
}

const BACKLOG: u32 = 128;
