//! Connections to the client of the `h2` crate.

use bytes::BytesMut;
use h2::client::{self, SendRequest};
use proptest::prelude::*;

use super::*;

async fn connected(window: u32, buffer: usize) -> SendRequest<Bytes> {
    let (io, theirs) = tokio::io::duplex(buffer);
    let limits = Limits { streams: 200, ..LIMITS };
    let served = serve(theirs, limits, Account::alone(ROOM), |request| call(Arc::default(), request));
    tokio::spawn(served.expect("there is room"));
    let mut builder = client::Builder::new();
    let (client, connection) = builder.initial_window_size(window).handshake(io).await.expect("a handshake");
    tokio::spawn(connection);
    client.ready().await.expect("ready")
}

/// Sends `parts` to `/echo` and returns the response.
async fn echo(mut client: SendRequest<Bytes>, parts: Vec<Vec<u8>>) -> Vec<u8> {
    let request = Request::post("http://x/echo").body(()).expect("a request");
    let (response, mut body) = client.send_request(request, false).expect("sent");
    tokio::spawn(async move {
        for part in parts {
            body.reserve_capacity(part.len());
            let mut part = Bytes::from(part);
            while !part.is_empty() {
                let Some(Ok(room)) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await else { return };
                body.send_data(part.split_to(room.min(part.len())), false).expect("sent");
            }
        }
        body.send_data(Bytes::new(), true).expect("sent");
    });
    let mut heard = BytesMut::new();
    let mut body = response.await.expect("an answer").into_body();
    while let Some(data) = body.data().await {
        let data = data.expect("data");
        body.flow_control().release_capacity(data.len()).expect("released");
        heard.extend_from_slice(&data);
    }
    heard.to_vec()
}

#[tokio::test]
async fn many_streams_at_once_are_each_answered_with_what_they_said() {
    let client = connected(20_000, 10_000).await;
    let calls = (0..100_u32).map(|n| {
        let parts: Vec<Vec<u8>> =
            (0..5).map(|part| n.to_be_bytes().repeat((n * 40 + part) as usize)).collect();
        let said = parts.concat();
        let heard = tokio::spawn(echo(client.clone(), parts));
        async move { assert!(heard.await.expect("no panic") == said, "stream of call {n}") }
    });
    for call in calls.collect::<Vec<_>>() {
        call.await;
    }
}

#[tokio::test]
async fn trailers_and_headers_alone_are_understood() {
    let mut client = connected(65_535, 4096).await;
    let request = Request::post("http://x/count").body(()).expect("a request");
    let (response, _) = client.send_request(request, true).expect("sent");
    let mut body = response.await.expect("an answer").into_body();
    assert!(body.data().await.is_none());
    let trailers = body.trailers().await.expect("trailers").expect("some");
    assert_eq!(trailers["heard"], "0");
    let request = Request::get("http://x/refuse").body(()).expect("a request");
    let (response, _) = client.send_request(request, true).expect("sent");
    let response = response.await.expect("an answer");
    assert_eq!(
        (response.status(), &response.headers()["why"]),
        (StatusCode::NOT_FOUND, &"no".parse().expect("a value"))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// An echo comes back unchanged for any size of messages, windows and the socket's buffer.
    #[test]
    fn what_is_said_comes_back(
        sizes in proptest::collection::vec(0..40_000_usize, 0..8),
        window in 1..200_000_u32,
        buffer in 64..100_000_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let client = connected(window, buffer).await;
            let parts: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(n, size)| vec![n.to_le_bytes()[0]; *size]).collect();
            let said = parts.concat();
            assert!(echo(client, parts).await == said);
        });
    }
}
