//! Another agent, played over real sockets.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use proto::workload::X509BundlesResponse;
use rcgen::{CertificateParams, KeyPair};
use tokio::net::{TcpListener, UnixListener};
use tonic::Status;
use tonic::body::Body;

use super::*;

fn authority() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default().self_signed(&key).unwrap().der().to_vec()
}

/// Answers FetchX509Bundles with one message, and whatever lacks the header with an error.
async fn serve<S>(stream: S, bundles: BTreeMap<String, Bytes>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request: http::Request<Incoming>| {
        let header = request.headers().get("workload.spiffe.io").map(HeaderValue::as_bytes);
        let is_known = request.uri().path() == "/SpiffeWorkloadAPI/FetchX509Bundles";
        let response = if header == Some(b"true") && is_known {
            let answer = X509BundlesResponse { bundles: bundles.clone(), ..X509BundlesResponse::default() };
            let message = answer.encode_to_vec();
            let mut frame = vec![0];
            frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
            frame.extend_from_slice(&message);
            // The stream stays open, as that of an agent.
            let first =
                futures_util::stream::once(async { Ok::<_, Infallible>(Frame::data(Bytes::from(frame))) });
            let body = futures_util::StreamExt::chain(first, futures_util::stream::pending());
            let mut response = Response::new(Body::new(StreamBody::new(body)));
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            response
        } else {
            Status::invalid_argument("security header missing from request").into_http()
        };
        async { Ok::<_, Infallible>(response) }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    drop(server.serve_connection(TokioIo::new(stream), service).await);
}

async fn fetched(bundles: &[(&str, &[u8])]) -> Result<Vec<Vec<u8>>, String> {
    let bundles = bundles.iter().map(|(name, der)| ((*name).to_owned(), Bytes::copy_from_slice(der)));
    let bundles: BTreeMap<_, _> = bundles.collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let tcp_address = WorkloadApi::Tcp(tcp.local_addr().unwrap());
    let served = bundles.clone();
    tokio::spawn(async move { serve(unix.accept().await.unwrap().0, served).await });
    tokio::spawn(async move { serve(tcp.accept().await.unwrap().0, bundles).await });
    let trust_domain = TrustDomain::parse("td").unwrap();
    let over_unix = authorities(&WorkloadApi::Unix(path), &trust_domain).await;
    let over_tcp = authorities(&tcp_address, &trust_domain).await;
    assert_eq!(over_unix, over_tcp);
    over_unix
}

#[tokio::test]
async fn the_bundle_of_the_own_trust_domain_is_taken() {
    let (one, two, other) = (authority(), authority(), authority());
    let both = [&one[..], &two].concat();
    for name in ["spiffe://td", "td"] {
        let bundles = [("spiffe://other", &other[..]), (name, &both[..]), ("no trust domain", b"x")];
        assert_eq!(fetched(&bundles).await.unwrap(), [one.clone(), two.clone()]);
    }
}

#[tokio::test]
async fn what_is_no_bundle_is_named() {
    let cut = &authority()[..50];
    for (bundles, expected) in [
        (&[("spiffe://other", &authority()[..])][..], "did not provide a trust bundle for trust domain td"),
        (&[], "did not provide a trust bundle for trust domain td"),
        (&[("spiffe://td", &[][..])], "no certificates found in trust bundle"),
        (&[("spiffe://td", cut)], "its certificate is malformed"),
    ] {
        assert_eq!(fetched(bundles).await.unwrap_err(), expected);
    }
    let absent = WorkloadApi::Unix("/nonexistent/api.sock".into());
    let reason = authorities(&absent, &TrustDomain::parse("td").unwrap()).await.unwrap_err();
    assert!(reason.starts_with("No such file"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_mute_agent_is_waited_for_no_longer_than_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let service = service_fn(|_: http::Request<Incoming>| {
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        let stream = listener.accept().await.unwrap().0;
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(server.serve_connection(TokioIo::new(stream), service).await);
    });
    let domain = TrustDomain::parse("td").unwrap();
    let reason = authorities(&WorkloadApi::Unix(path), &domain).await.unwrap_err();
    assert_eq!(reason, "no answer within 60s");
}
