//! The path of a connection: TCP, TLS, HTTP/2, the services; and the faults that occur on it.
//!
//! A connection is one task that owns its socket. The fault *Down* ends all of them together with the listener. In a
//! *black hole* no connection is polled.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::Rng as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service as _;
use tonic::service::Routes;

use crate::api::{self, Call};
use crate::fault::Fault;
use crate::peer::Peer;
use crate::pings::Policed;
use crate::state::Shared;
use crate::tls;

/// Accepts connections for ever, and applies the faults.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener, address: SocketAddr) {
    let routes = api::routes(&shared);
    let mut fault = shared.fault.subscribe();
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        let current = *fault.borrow_and_update();
        if current == Fault::Down {
            listener = None;
            connections.shutdown().await;
        }
        if current != Fault::Down && listener.is_none() {
            listener = Some(bind_again(address).await);
        }
        shared.applied.send_replace(current);
        tokio::select! {
            changed = fault.changed() => if changed.is_err() { return },
            Some(stream) = accept(listener.as_ref()) => {
                let work = connection(Arc::clone(&shared), routes.clone(), stream);
                connections.spawn(unless_black_hole(shared.fault.subscribe(), work));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Waits for the next connection; `None` without a listener, or if accepting failed.
async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    let (stream, _) = listener?.accept().await.ok()?;
    Some(stream)
}

async fn bind_again(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Polls `work`, except while the fault is a black hole.
async fn unless_black_hole(mut fault: watch::Receiver<Fault>, work: impl Future<Output = ()>) {
    let mut work = pin!(work);
    loop {
        let silent = *fault.borrow_and_update() == Fault::BlackHole;
        tokio::select! {
            changed = fault.changed() => if changed.is_err() { return },
            () = &mut work, if !silent => return,
        }
    }
}

async fn connection(shared: Arc<Shared>, routes: Routes, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let config = tls::config(&shared).expect("the authority can always sign for the server");
    let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else { return };
    let age = shared.options.max_connection_age.mul_f64(0.9 + 0.2 * rand::rng().random::<f64>());
    let peer = Peer::of(stream.get_ref().1.peer_certificates());
    shared.count(|counters| counters.connections += 1);

    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let shared = Arc::clone(&shared);
        let mut routes = routes.clone();
        let call = Call { peer: peer.clone(), method: request.uri().path().to_owned() };
        request.extensions_mut().insert(call);
        async move {
            if let Fault::Slow(delay) = shared.fault() {
                tokio::time::sleep(delay).await;
            }
            routes.call(request).await
        }
    });
    let io = TokioIo::new(Policed::new(stream));
    let mut served = pin!(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service));
    // The error of a connection concerns only the client.
    tokio::select! {
        _ = &mut served => return,
        () = tokio::time::sleep(age) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}
