//! A real HTTP/2 server behind the listener, and clients that write their bytes by hand.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use transport::{Limits, Listener, Peer};

type Peers = tokio::sync::mpsc::UnboundedReceiver<Arc<Peer>>;
type Authorities = tokio::sync::mpsc::UnboundedReceiver<String>;

struct Server {
    path: PathBuf,
    peers: Peers,
    authorities: Authorities,
    _folder: TempDir,
}

/// Answers 200 to everything.
fn serve() -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.sock");
    let listener = Listener::bind(&path, Limits::default()).expect("a listener");
    let (peer, peers) = tokio::sync::mpsc::unbounded_channel();
    let (authority, authorities) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let connection = listener.accept().await;
            peer.send(connection.peer()).ok();
            let authority = authority.clone();
            let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
                authority.send(request.uri().authority().map(ToString::to_string).unwrap_or_default()).ok();
                async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
            });
            let served = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(served.serve_connection(TokioIo::new(connection), answer));
        }
    });
    Server { path, peers, authorities, _folder: folder }
}

fn headers(stream: u8, block: &[u8]) -> Vec<u8> {
    let length = u8::try_from(block.len()).expect("a short block");
    // END_STREAM and END_HEADERS.
    [&[0, 0, length, 1, 0x5, 0, 0, 0, stream], block].concat()
}

/// What the server answers on `stream`: kind of frame and payload.
async fn answer(client: &mut UnixStream, stream: u8) -> (u8, Vec<u8>) {
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).await.expect("a frame");
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).await.expect("its payload");
        assert_ne!(head[3], GOAWAY, "{payload:x?}");
        if head[5..] == [0, 0, 0, stream] {
            return (head[3], payload);
        }
    }
}

async fn greet(server: &Server) -> UnixStream {
    let mut client = UnixStream::connect(&server.path).await.expect("a connection");
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("written");
    client
}

const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const STATUS_200: u8 = 0x88;
/// `:method: POST`, `:scheme: http`, `:path: /`.
const REQUEST: &[u8] = &[0x83, 0x86, 0x84];

#[tokio::test]
async fn a_request_as_grpcio_sends_it_is_answered() {
    let mut server = serve();
    let mut client = greet(&server).await;
    let authority = [REQUEST, b"\x40\x0a:authority\x0ctmp%2Fx.sock"].concat();
    client.write_all(&headers(1, &authority)).await.expect("written");
    let (kind, payload) = answer(&mut client, 1).await;
    assert_eq!((kind, payload[0]), (HEADERS, STATUS_200));
    assert_eq!(server.authorities.recv().await.as_deref(), Some("tmp-2Fx.sock"));

    // The second request takes it from the table, the third takes the name from there.
    client.write_all(&headers(3, &[REQUEST, &[0x80 | 62]].concat())).await.expect("written");
    assert_eq!(answer(&mut client, 3).await.1[0], STATUS_200);
    assert_eq!(server.authorities.recv().await.as_deref(), Some("tmp-2Fx.sock"));
    client.write_all(&headers(5, &[REQUEST, b"\x7e\x06/x.s/k"].concat())).await.expect("written");
    assert_eq!(answer(&mut client, 5).await.1[0], STATUS_200);
    assert_eq!(server.authorities.recv().await.as_deref(), Some("-x.s-k"));
}

#[tokio::test]
async fn a_coded_authority_that_comes_byte_by_byte_is_answered() {
    let mut server = serve();
    let mut client = greet(&server).await;
    let mut coded = Vec::new();
    httlib_huffman::encode(b"/run/a%2Fb/agent.sock", &mut coded).expect("coded");
    let length = 0x80 | u8::try_from(coded.len()).expect("a short value");
    for byte in headers(1, &[REQUEST, &[0x41, length], &coded].concat()) {
        client.write_all(&[byte]).await.expect("written");
        tokio::task::yield_now().await;
    }
    let (kind, payload) = answer(&mut client, 1).await;
    assert_eq!((kind, payload[0]), (HEADERS, STATUS_200));
    assert_eq!(server.authorities.recv().await.as_deref(), Some("-run-a-2Fb-agent.sock"));
}

#[tokio::test]
async fn hanging_up_closes_the_connection() {
    let mut server = serve();
    let mut client = greet(&server).await;
    let peer = server.peers.recv().await.expect("a peer");
    client.write_all(&headers(1, &[REQUEST, b"\x41\x01x"].concat())).await.expect("written");
    assert_eq!(answer(&mut client, 1).await.0, HEADERS);
    peer.hang_up();
    let mut rest = Vec::new();
    // Closed with or without what was on its way.
    client.read_to_end(&mut rest).await.ok();
    assert!(client.write_all(&[0; 9]).await.is_err());
}
