//! The server's side of HTTP/2, judged by h2spec. It runs over TCP, because h2spec supports nothing else.

use std::net::Shutdown;
use std::path::PathBuf;

use budget::Account;
use http_body_util::{BodyExt as _, Full};
use http2::{Limits, RequestBody};
use hyper::body::Bytes;
use hyper::{Request, Response};
use libtest_mimic::Trial;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::clients::{build, go};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial_with("h2spec_finds_nothing", go("h2spec"), finds_nothing)]
}

async fn finds_nothing(go: PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("h2spec");
    build(go, "h2spec", "github.com/summerwind/h2spec/cmd/h2spec", &program).await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    tokio::spawn(accept(listener));

    let mut judge = Command::new(program);
    judge.args(["--strict", "--timeout", "20", "--port", &port]).kill_on_drop(true);
    let printed = judge.output().await.expect("h2spec runs").stdout;
    let printed = String::from_utf8_lossy(&printed);
    if let Some((_, failures)) = printed.split_once("Failures:") {
        panic!("{failures}");
    }
    assert!(printed.contains("146 tests, 146 passed, 0 skipped, 0 failed"), "{printed}");
}

async fn accept(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream));
    }
}

/// Serves a connection, and closes it as a TCP server should if unread bytes may be left: it shuts down its side first,
/// because otherwise the peer loses the last bytes sent. h2spec does not treat a reset as an end.
async fn answer(stream: TcpStream) {
    let stream = stream.into_std().expect("no longer of the runtime");
    let kept = stream.try_clone().expect("a file descriptor");
    serve(TcpStream::from_std(stream).expect("of the runtime")).await;
    kept.shutdown(Shutdown::Write).ok();
    let mut kept = TcpStream::from_std(kept).expect("of the runtime");
    tokio::io::copy(&mut kept, &mut tokio::io::sink()).await.ok();
}

/// The server under test. It answers when it has read the whole request, because an error at the end of a request is a
/// stream error only until then.
async fn serve(stream: TcpStream) {
    let limits = Limits { streams: 100, window: 1024 * 1024, headers: 16 * 1024, fields: &[] };
    let call = async |request: Request<RequestBody>| {
        request.into_body().collect().await.ok();
        Response::new(Full::new(Bytes::from_static(b"an answer")))
    };
    // h2spec judges how a connection ends.
    let served = http2::serve(stream, limits, Account::alone(1 << 20), call);
    served.expect("there is room").await.ok();
}
