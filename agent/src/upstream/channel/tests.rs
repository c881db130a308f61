//! The server is the h2 crate's, in memory, and time is paused.

use bytes::Bytes;
use proto::bundle::GetBundleRequest;
use proto::bundle::bundle_client::BundleClient;
use tokio::io::DuplexStream;
use tokio::time::{Instant, sleep};

use super::*;

type Served = h2::server::Connection<DuplexStream, Bytes>;

async fn pair() -> (Channel, Served) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (channel, served) = tokio::join!(Channel::open(ours), h2::server::handshake(theirs));
    (channel.unwrap(), served.unwrap())
}

async fn get_bundle(channel: &Channel) -> Status {
    let call = BundleClient::new(channel.clone()).get_bundle(GetBundleRequest::default()).await;
    call.expect_err("no server here answers")
}

/// Lets the connection run until nothing more happens.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_goaway_is_noticed_when_it_comes() {
    let (channel, mut served) = pair().await;
    assert!(!channel.is_closed());
    served.graceful_shutdown();
    while let Some(Ok(_)) = served.accept().await {}
    drop(served);
    settle().await;
    assert!(channel.is_closed());
    let status = get_bundle(&channel).await;
    assert!(is_transport(&status) && is_unseen(&status), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_server_refuses_was_not_seen() {
    let (channel, mut served) = pair().await;
    tokio::spawn(async move {
        while let Some(Ok((_, mut respond))) = served.accept().await {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    });
    let status = get_bundle(&channel).await;
    assert!(is_transport(&status) && is_unseen(&status), "{status:?}");
    assert!(!channel.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_server_has_taken_may_have_been_seen() {
    let (channel, mut served) = pair().await;
    tokio::spawn(async move {
        let taken = served.accept().await;
        drop(served);
        drop(taken);
    });
    let status = get_bundle(&channel).await;
    assert!(is_transport(&status) && !is_unseen(&status), "{status:?}");
    assert!(matches!(channel.end(), Some(End::Closed | End::Broken(_))), "{:?}", channel.end());
}

#[tokio::test(start_paused = true)]
async fn what_the_server_itself_says_is_no_failure_of_the_connection() {
    let (channel, mut served) = pair().await;
    tokio::spawn(async move {
        while let Some(Ok((_, mut respond))) = served.accept().await {
            let answer =
                Response::builder().header("grpc-status", "7").header("content-type", "application/grpc");
            respond.send_response(answer.body(()).unwrap(), true).unwrap();
        }
    });
    let status = get_bundle(&channel).await;
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert!(!is_transport(&status) && !is_unseen(&status));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_mute_fails_its_call_and_pings_only_while_there_is_one() {
    let (channel, served) = pair().await;
    // The server exists but does nothing, as behind a proxy that has lost the other side.
    let _mute = served;
    sleep(Duration::from_secs(3600)).await;
    assert!(!channel.is_closed(), "no PING is sent, so none is missed");
    let begun = Instant::now();
    let status = get_bundle(&channel).await;
    assert!(is_transport(&status), "{status:?}");
    // The PING went out with the call, since nothing had come for longer than `PING_AFTER`.
    assert_eq!(begun.elapsed().as_secs(), PONG_LIMIT.as_secs());
    settle().await;
    assert!(channel.is_closed());
}

#[test]
fn an_alert_is_the_servers_word_about_our_certificate() {
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
    let end = End::of(&io::Error::new(io::ErrorKind::InvalidData, alert));
    assert_eq!(end, End::Refused("CertificateExpired".into()));
    let reset = io::Error::from(io::ErrorKind::ConnectionReset);
    assert_eq!(End::of(&reset), End::Broken("connection reset".into()));
}
