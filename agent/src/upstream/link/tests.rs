//! With servers in memory (h2's), one for each connection, and paused time.

use std::sync::atomic::AtomicUsize;

use http::Response;
use identity::{Bundle, TrustDomain};
use proto::bundle::GetBundleRequest;
use proto::bundle::bundle_client::BundleClient;
use tokio::io::DuplexStream;
use tokio::time::sleep;
use tonic::Code;

use super::*;
use crate::keys::Keys;

/// What a server does with the calls of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It answers each, with PermissionDenied.
    Answers,
    /// It answers one, and says GOAWAY.
    AnswersOneAndGoes,
    /// It answers one, and resets the others: REFUSED_STREAM, so it has not looked at them.
    AnswersOneAndRefuses,
    /// It answers one, takes the next, and closes the connection.
    AnswersOneAndBreaks,
    /// It takes the first, and closes the connection.
    Breaks,
    /// It takes calls and never answers.
    IsMute,
}

impl Manner {
    fn answers(self, place: usize) -> bool {
        match self {
            Self::Answers => true,
            Self::AnswersOneAndGoes | Self::AnswersOneAndRefuses | Self::AnswersOneAndBreaks => place == 0,
            Self::Breaks | Self::IsMute => false,
        }
    }
}

/// Connections in memory: the first to a server of the first manner, and so on; the last manner stays.
#[derive(Debug)]
struct Servers {
    manners: Vec<Manner>,
    connected: AtomicUsize,
    calls: Arc<AtomicUsize>,
}

impl Connect for Servers {
    async fn connect(&self, _: &Credentials) -> Result<Channel, ServerError> {
        let place = self.connected.fetch_add(1, Ordering::Relaxed);
        let manner = self.manners[place.min(self.manners.len() - 1)];
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(serve(manner, theirs, Arc::clone(&self.calls)));
        // As over a network: others come meanwhile.
        sleep(Duration::from_millis(20)).await;
        Channel::open(ours).await.map_err(ServerError::Unreachable)
    }
}

async fn serve(manner: Manner, stream: DuplexStream, calls: Arc<AtomicUsize>) {
    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
    let mut held = Vec::new();
    for place in 0.. {
        let Some(Ok((_, mut respond))) = connection.accept().await else { return };
        calls.fetch_add(1, Ordering::Relaxed);
        if manner.answers(place) {
            let answer =
                Response::builder().header("grpc-status", "7").header("content-type", "application/grpc");
            respond.send_response(answer.body(()).expect("a response"), true).expect("sent");
            if manner == Manner::AnswersOneAndGoes {
                connection.graceful_shutdown();
            }
        } else if manner == Manner::AnswersOneAndRefuses {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        } else if manner == Manner::IsMute {
            held.push(respond);
        } else {
            return;
        }
    }
}

fn link(manners: &[Manner]) -> Link<Servers> {
    let servers =
        Servers { manners: manners.to_vec(), connected: AtomicUsize::new(0), calls: Arc::default() };
    Link::new(servers, Credentials { roots: Roots::Insecure, svid: None })
}

async fn bundle(channel: Channel) -> Result<(), Status> {
    BundleClient::new(channel).get_bundle(GetBundleRequest::default()).await.map(drop)
}

impl Link<Servers> {
    /// A call that reads; the code of the server's answer, or what it failed of.
    async fn reads(&self) -> Result<Code, ServerError> {
        let failed = self.read(LIMIT, bundle).await.expect_err("no server here says yes");
        failed.code().filter(|_| matches!(failed, ServerError::Status(_))).ok_or(failed)
    }

    /// The same of a call that acts.
    async fn acts(&self) -> Result<Code, ServerError> {
        let failed = self.act(LIMIT, bundle).await.expect_err("no server here says yes");
        failed.code().filter(|_| matches!(failed, ServerError::Status(_))).ok_or(failed)
    }

    /// How many connections were opened, and how many calls reached a server.
    fn counts(&self) -> (usize, usize) {
        let servers = &self.connector;
        (servers.connected.load(Ordering::Relaxed), servers.calls.load(Ordering::Relaxed))
    }
}

#[tokio::test(start_paused = true)]
async fn calls_share_a_connection() {
    let link = link(&[Manner::Answers]);
    let (one, other) = tokio::join!(link.reads(), link.acts());
    assert_eq!((one.unwrap(), other.unwrap()), (Code::PermissionDenied, Code::PermissionDenied));
    link.reads().await.unwrap();
    assert_eq!(link.counts(), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_away_costs_no_call() {
    let link = link(&[Manner::AnswersOneAndGoes]);
    for _ in 0..10 {
        assert_eq!(link.acts().await.unwrap(), Code::PermissionDenied);
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(link.counts(), (10, 10));
}

#[tokio::test(start_paused = true)]
async fn what_the_server_has_not_looked_at_is_asked_again() {
    let link = link(&[Manner::AnswersOneAndRefuses, Manner::Answers]);
    for _ in 0..2 {
        assert_eq!(link.acts().await.unwrap(), Code::PermissionDenied);
    }
    assert_eq!(link.counts(), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_read_is_made_again_after_a_break_and_an_act_is_not() {
    let reading = link(&[Manner::AnswersOneAndBreaks, Manner::Answers]);
    for _ in 0..2 {
        assert_eq!(reading.reads().await.unwrap(), Code::PermissionDenied);
    }
    assert_eq!(reading.counts(), (2, 3));
    let acting = link(&[Manner::AnswersOneAndBreaks, Manner::Answers]);
    acting.acts().await.unwrap();
    let reason = acting.acts().await.unwrap_err();
    assert!(matches!(reason, ServerError::Disconnected(_)), "{reason}");
    assert_eq!(acting.counts(), (1, 2), "it may have been carried out");
    assert_eq!(acting.acts().await.unwrap(), Code::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn what_fails_on_a_fresh_connection_is_not_made_again() {
    let link = link(&[Manner::Breaks]);
    let reason = link.reads().await.unwrap_err();
    assert!(matches!(reason, ServerError::Disconnected(_)), "{reason}");
    assert_eq!(link.counts(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_mute_server_is_left_at_the_limit_of_the_call() {
    let link = link(&[Manner::IsMute, Manner::Answers]);
    let begun = Instant::now();
    let reason = link.reads().await.unwrap_err();
    assert!(matches!(reason, ServerError::Timeout(LIMIT)), "{reason}");
    assert_eq!(begun.elapsed(), LIMIT);
    assert_eq!(link.reads().await.unwrap(), Code::PermissionDenied);
    assert_eq!(link.counts(), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn another_server_is_picked_within_the_hour() {
    let link = link(&[Manner::Answers]);
    link.reads().await.unwrap();
    sleep(Duration::from_secs(29 * 60)).await;
    link.reads().await.unwrap();
    assert_eq!(link.counts().0, 1);
    sleep(Duration::from_secs(32 * 60)).await;
    link.reads().await.unwrap();
    assert_eq!(link.counts().0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_under_another_svid_is_not_used() {
    let link = link(&[Manner::Answers]);
    link.reads().await.unwrap();
    let key = Keys::memory().renew(None).await.unwrap().key;
    let svid = AgentSvid {
        id: SpiffeId::parse("spiffe://td/spire/agent/x").unwrap(),
        chain: Vec::new(),
        key,
        not_before: std::time::SystemTime::UNIX_EPOCH,
        not_after: std::time::SystemTime::UNIX_EPOCH,
        serial: String::new(),
    };
    let bundle = Arc::new(Bundle::of_x509(TrustDomain::parse("td").unwrap(), []));
    link.set_credentials(Credentials { roots: Roots::Bundle(bundle), svid: Some(Arc::new(svid)) });
    link.reads().await.unwrap();
    link.reads().await.unwrap();
    assert_eq!(link.counts(), (2, 3));
}

/// Shorter than the connection's own test by PING takes.
const LIMIT: Duration = Duration::from_secs(3);
