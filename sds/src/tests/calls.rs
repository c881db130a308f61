//! Whole calls: tests what tonic would do, and is done by hand here (gRPC over HTTP/2).

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use budget::Budget;
use bytes::{BufMut, Bytes};
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures_util::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use identity::{JwtSvid, SpiffeId, WorkloadUpdate};
use latest::Publisher;
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::{Code, Status};
use transport::{Listener, Options as Callers, Peer};

use super::{WEB, identity, svid, update};
use crate::machine::Push;
use crate::wire::Protocol;
use crate::{Admission, Admit, Called, Following, Options, ResponseBody, Service, SystemRoots, Told};

/// An [`Admit`] that waits until the test opens or shuts it.
struct Door {
    updates: Arc<Publisher<WorkloadUpdate>>,
    open: watch::Receiver<Option<Code>>,
    news: Arc<Mutex<watch::Sender<u64>>>,
    admitted: Arc<AtomicUsize>,
    token: Arc<Publisher<Option<Arc<JwtSvid>>>>,
    roots: Publisher<Option<Arc<Vec<Bytes>>>>,
}

impl Admit for Door {
    async fn admit(&self, _: Arc<Peer>, _: Called) -> Result<Admission, Status> {
        self.admitted.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.clone();
        let code = open.wait_for(Option::is_some).await.unwrap().unwrap_or(Code::Ok);
        match code {
            Code::Ok => Ok(Admission { updates: self.updates.subscribe(), is_complete: true }),
            refused => Err(Status::new(refused, "no")),
        }
    }

    fn sought<'a>(&self, _: &Peer, _: Protocol, _: impl Iterator<Item = &'a str> + Clone) {}

    async fn follow(&self, _: &WorkloadUpdate, _: &str, audience: &[String]) -> Result<Following, Status> {
        if audience == ["refused"] {
            Err(Status::failed_precondition("no"))
        } else {
            Ok(self.token.subscribe())
        }
    }

    fn system_roots(&self) -> SystemRoots {
        self.roots.subscribe()
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.news.lock().unwrap().subscribe()
    }

    fn pushed(&self, _: &Peer, _: Protocol, _: &Push, _: Option<&Arc<WorkloadUpdate>>) {}

    fn tell(&self, _: Protocol, _: Told) {}

    fn random(&self) -> u32 {
        7
    }
}

struct Bench {
    service: Service<Door>,
    updates: Arc<Publisher<WorkloadUpdate>>,
    token: Arc<Publisher<Option<Arc<JwtSvid>>>>,
    open: watch::Sender<Option<Code>>,
    news: Arc<Mutex<watch::Sender<u64>>>,
    admitted: Arc<AtomicUsize>,
    peer: Arc<Peer>,
    _caller: UnixStream,
}

async fn bench(open: Option<Code>) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let slots = budget::Limits { whole: 1, spare: 0, group: 1, account: 1, work: u64::MAX };
    let bytes = Budget::new(budget::Limits {
        whole: 1 << 20,
        spare: 0,
        group: 1 << 20,
        account: 1 << 20,
        work: u64::MAX,
    });
    let callers = Callers { slots, bytes, proc: "/proc".into(), mode: 0o777 };
    let mut listener = Listener::bind(&folder.path().join("s"), callers).unwrap();
    let caller = UnixStream::connect(listener.path()).await.unwrap();
    let peer = listener.accept().await.peer();
    let (open, opened) = watch::channel(open);
    let updates = update(vec![identity(1, WEB, svid(WEB, 3, u64::from(u32::MAX)))], 1);
    let (updates, token) = (Arc::new(Publisher::new(updates)), Arc::new(Publisher::new(Arc::new(None))));
    let (news, admitted) = <(Arc<Mutex<_>>, Arc<_>)>::default();
    let door = Door {
        updates: Arc::clone(&updates),
        open: opened,
        news: Arc::clone(&news),
        admitted: Arc::clone(&admitted),
        token: Arc::clone(&token),
        roots: Publisher::new(Arc::new(Some(Arc::new(vec![Bytes::from_static(b"root")])))),
    };
    let service = Service::new(door, Options::default());
    Bench { service, updates, token, open, news, admitted, peer, _caller: caller }
}

type Said = mpsc::UnboundedSender<Frame<Bytes>>;

impl Bench {
    fn request(&self, method: &str) -> (Said, Request<Body>) {
        let (said, hears) = mpsc::unbounded_channel();
        let body = StreamBody::new(UnboundedReceiverStream::new(hears).map(Ok::<_, Infallible>));
        let path = format!("/envoy.service.secret.v3.SecretDiscoveryService/{method}");
        let request = Request::builder().method(Method::POST).uri(path);
        (said, request.header(CONTENT_TYPE, "application/grpc").body(Body::new(body)).unwrap())
    }

    async fn call(&self, request: Request<Body>) -> Response<ResponseBody<Door, Body>> {
        self.service.call(Arc::clone(&self.peer), request).await
    }

    async fn open(&self, method: &str) -> (Said, Response<ResponseBody<Door, Body>>) {
        let (said, request) = self.request(method);
        (said, self.call(request).await)
    }
}

fn names(list: &[&str]) -> DiscoveryRequest {
    let resource_names = list.iter().map(ToString::to_string).collect();
    DiscoveryRequest { resource_names, ..DiscoveryRequest::default() }
}

fn framed(request: &impl prost::Message) -> Vec<u8> {
    let message = request.encode_to_vec();
    let mut bytes = vec![0];
    bytes.put_u32(message.len().try_into().unwrap());
    bytes.extend(message);
    bytes
}

fn say(said: &Said, bytes: &[u8]) {
    said.send(Frame::data(Bytes::copy_from_slice(bytes))).unwrap();
}

fn status(headers: &HeaderMap) -> Code {
    Status::from_header_map(headers).expect("a status").code()
}

/// The next message, put together from its frames, or the trailers.
async fn next(response: &mut Response<ResponseBody<Door, Body>>) -> Result<Vec<u8>, HeaderMap> {
    let mut bytes = Vec::new();
    loop {
        let frame = response.body_mut().frame().await.expect("not over").unwrap();
        match frame.into_data() {
            Ok(data) => bytes.extend(data),
            Err(trailers) => return Err(trailers.into_trailers().unwrap()),
        }
        let len = bytes.get(1..5).map(|len| u32::from_be_bytes(len.try_into().unwrap()) as usize);
        if len.is_some_and(|len| bytes.len() == 5 + len) {
            return Ok(bytes);
        }
    }
}

#[tokio::test]
async fn a_message_over_many_frames_and_many_in_one() {
    let bench = bench(Some(Code::Ok)).await;
    let (said, mut response) = bench.open("StreamSecrets").await;
    for byte in framed(&names(&["ROOTCA"])) {
        say(&said, &[byte]);
    }
    let nonce = "00000008".to_owned();
    next(&mut response).await.unwrap();
    let ack = DiscoveryRequest { response_nonce: nonce.clone(), ..names(&["ROOTCA"]) };
    let other = DiscoveryRequest { response_nonce: nonce, ..names(&[WEB]) };
    say(&said, &[framed(&ack), framed(&other)].concat());
    let message = next(&mut response).await.unwrap();
    assert!(message.windows(WEB.len()).any(|text| text == WEB.as_bytes()));
}

#[tokio::test]
async fn a_client_that_has_said_its_last() {
    let bench = bench(Some(Code::Ok)).await;
    let (said, mut response) = bench.open("StreamSecrets").await;
    drop(said);
    assert_eq!(status(&next(&mut response).await.unwrap_err()), Code::Ok);
    assert!(response.body_mut().frame().await.is_none());
}

/// grpcio ends its side at once with a request that is not a stream.
#[tokio::test]
async fn a_client_that_has_said_its_last_is_answered() {
    let bench = bench(Some(Code::Ok)).await;
    let (said, request) = bench.request("StreamSecrets");
    say(&said, &framed(&names(&[WEB])));
    drop(said);
    let mut response = bench.call(request).await;
    next(&mut response).await.unwrap();
    assert_eq!(status(&next(&mut response).await.unwrap_err()), Code::Ok);
}

#[tokio::test]
async fn what_cannot_be_read_ends_the_call() {
    let long = [0, 0, 64, 0, 1];
    let cases =
        [(&[1, 0, 0, 0, 0][..], Code::Internal), (&[9], Code::Internal), (&long, Code::ResourceExhausted)];
    for (bytes, code) in cases {
        let bench = bench(Some(Code::Ok)).await;
        let (said, mut response) = bench.open("StreamSecrets").await;
        say(&said, bytes);
        assert_eq!(status(&next(&mut response).await.unwrap_err()), code);
        assert!(response.body_mut().frame().await.is_none());
    }
    let bench = bench(Some(Code::Ok)).await;
    let (said, mut response) = bench.open("StreamSecrets").await;
    say(&said, &framed(&names(&[WEB]))[..9]);
    drop(said);
    assert_eq!(status(&next(&mut response).await.unwrap_err()), Code::Internal);
}

#[tokio::test]
async fn refusals_are_trailers_alone() {
    let shut = bench(Some(Code::Unavailable)).await;
    let (_said, response) = shut.open("StreamSecrets").await;
    assert_eq!(status(response.headers()), Code::Unavailable);
    let open = bench(Some(Code::Ok)).await;
    assert_eq!(status(open.open("Nothing").await.1.headers()), Code::Unimplemented);
    let (_said, mut request) = open.request("StreamSecrets");
    request.headers_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    let response = open.call(request).await;
    assert_eq!(status(response.headers()), Code::Unimplemented);
    assert_eq!(response.headers()["grpc-accept-encoding"], "identity");
}

#[tokio::test]
async fn what_is_not_grpc() {
    let bench = bench(Some(Code::Ok)).await;
    let (_said, mut request) = bench.request("StreamSecrets");
    *request.method_mut() = Method::GET;
    assert_eq!(bench.call(request).await.status(), StatusCode::METHOD_NOT_ALLOWED);
    let (_said, mut request) = bench.request("StreamSecrets");
    request.headers_mut().insert(CONTENT_TYPE, "text/plain".parse().unwrap());
    assert_eq!(bench.call(request).await.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn the_first_request_is_taken_in_while_the_agent_starts() {
    let bench = bench(None).await;
    let (said, request) = bench.request("StreamSecrets");
    say(&said, &framed(&names(&[WEB])));
    let mut opening = Box::pin(bench.call(request));
    assert!(opening.as_mut().now_or_never().is_none());
    // A malformed request is refused at once, before the caller is attested.
    let (said, request) = bench.request("StreamSecrets");
    say(&said, &[2]);
    assert_eq!(status(bench.call(request).await.headers()), Code::Internal);
    bench.open.send(Some(Code::Ok)).unwrap();
    next(&mut opening.await).await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_away_is_forgotten() {
    let bench = bench(Some(Code::Ok)).await;
    let (said, mut response) = bench.open("StreamSecrets").await;
    say(&said, &framed(&names(&[WEB])));
    next(&mut response).await.unwrap();
    assert!(bench.updates.has_listeners());
    drop(response);
    assert!(!bench.updates.has_listeners());
}

#[tokio::test]
async fn a_push_after_an_update() {
    let bench = bench(Some(Code::Ok)).await;
    let (said, mut response) = bench.open("StreamSecrets").await;
    say(&said, &framed(&names(&[WEB])));
    next(&mut response).await.unwrap();
    let ack = DiscoveryRequest { response_nonce: "00000008".into(), ..names(&[WEB]) };
    say(&said, &framed(&ack));
    bench.updates.publish(update(vec![identity(1, WEB, svid(WEB, 4, u64::from(u32::MAX)))], 1));
    next(&mut response).await.unwrap();
}

#[tokio::test]
async fn one_answer_to_fetch_secrets() {
    let bench = bench(Some(Code::Ok)).await;
    let (said, request) = bench.request("FetchSecrets");
    say(&said, &framed(&names(&[WEB])));
    drop(said);
    let mut response = bench.call(request).await;
    next(&mut response).await.unwrap();
    assert_eq!(status(&next(&mut response).await.unwrap_err()), Code::Ok);
}

#[tokio::test]
async fn a_delta_stream() {
    let bench = bench(None).await;
    let (said, request) = bench.request("DeltaSecrets");
    let subscribe = |name: &str| DeltaDiscoveryRequest {
        resource_names_subscribe: vec![name.into()],
        ..DeltaDiscoveryRequest::default()
    };
    // Both are subscribed to before the agent has started.
    say(&said, &framed(&subscribe(WEB)));
    say(&said, &framed(&subscribe("ROOTCA")));
    let mut opening = Box::pin(bench.call(request));
    assert!(opening.as_mut().now_or_never().is_none());
    bench.open.send(Some(Code::Ok)).unwrap();
    let mut response = opening.await;
    let message = next(&mut response).await.unwrap();
    let first = DeltaDiscoveryResponse::decode(&message[5..]).unwrap();
    let names: Vec<_> = first.resources.iter().map(|resource| &*resource.name).collect();
    assert_eq!(names, ["ROOTCA", WEB]);
    let ack = DeltaDiscoveryRequest { response_nonce: first.nonce, ..DeltaDiscoveryRequest::default() };
    say(&said, &framed(&ack));
    bench.updates.publish(update(vec![], 1));
    let message = next(&mut response).await.unwrap();
    let second = DeltaDiscoveryResponse::decode(&message[5..]).unwrap();
    assert_eq!((second.resources.len(), second.removed_resources), (0, vec![WEB.to_owned()]));
}

fn token(second: u64) -> Arc<JwtSvid> {
    let id = SpiffeId::parse(WEB).unwrap();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Arc::new(JwtSvid::new(id, format!("token-{second}"), at(second), at(u64::from(u32::MAX))))
}

/// The secrets of a response, by Envoy's definitions: the name and the token of each.
fn tokens(message: &[u8]) -> Vec<(String, String)> {
    let response = DiscoveryResponse::decode(&message[5..]).unwrap();
    let secrets = response.resources.iter().map(|any| Secret::decode(&*any.value).unwrap());
    let read = secrets.map(|secret| {
        let Some(secret::Type::GenericSecret(generic)) = secret.r#type else {
            panic!("not a generic secret")
        };
        match generic.secret.and_then(|source| source.specifier) {
            Some(Specifier::InlineBytes(token)) => (secret.name, String::from_utf8(token).unwrap()),
            other => panic!("not inline bytes: {other:?}"),
        }
    });
    read.collect()
}

#[tokio::test]
async fn a_token_is_pushed_whenever_a_new_one_comes() {
    let bench = bench(Some(Code::Ok)).await;
    let (said, mut response) = bench.open("StreamSecrets").await;
    let name = "jwt-svid?audience=a&spiffe_id=spiffe://td/web";
    say(&said, &framed(&names(&[name])));
    let mut nonce = String::new();
    for second in 1..4 {
        bench.token.publish(Arc::new(Some(token(second))));
        let message = next(&mut response).await.unwrap();
        assert_eq!(tokens(&message), [(name.to_owned(), format!("token-{second}"))]);
        let response = DiscoveryResponse::decode(&message[5..]).unwrap();
        assert_ne!(std::mem::replace(&mut nonce, response.nonce), nonce);
        assert!(!response.version_info.contains("token"));
        say(&said, &framed(&DiscoveryRequest { response_nonce: nonce.clone(), ..names(&[name]) }));
    }
    // Without the entry nothing more comes, and the token is followed no longer.
    bench.updates.publish(update(vec![], 1));
    bench.token.publish(Arc::new(Some(token(9))));
    assert!(next(&mut response).now_or_never().is_none());
    assert!(!bench.token.has_listeners());
    bench.updates.publish(update(vec![identity(1, WEB, None)], 1));
    let message = next(&mut response).await.unwrap();
    assert_eq!(tokens(&message)[0].1, "token-9", "it does not wait for the X.509-SVID");
    drop(response);
    assert!(!bench.token.has_listeners());
}

#[tokio::test]
async fn a_token_is_fetched_once() {
    let bench = bench(Some(Code::Ok)).await;
    bench.token.publish(Arc::new(Some(token(1))));
    let (said, request) = bench.request("FetchSecrets");
    say(&said, &framed(&names(&["jwt-svid?audience=a", "jwt-svid?audience=b"])));
    drop(said);
    let mut response = bench.call(request).await;
    assert_eq!(tokens(&next(&mut response).await.unwrap()).len(), 2);
    assert!(!bench.token.has_listeners());
}

#[tokio::test]
async fn a_token_that_cannot_be_asked_for_ends_the_call() {
    let many: Vec<String> = (0..65).map(|number| format!("jwt-svid?audience={number}")).collect();
    let bench = bench(Some(Code::Ok)).await;
    let (said, mut response) = bench.open("StreamSecrets").await;
    say(&said, &framed(&names(&many.iter().map(String::as_str).collect::<Vec<_>>())));
    assert_eq!(status(&next(&mut response).await.unwrap_err()), Code::InvalidArgument);
    for (name, code) in [
        ("jwt-svid", Code::InvalidArgument),
        ("jwt-svid?audience=a&spiffe_id=web", Code::InvalidArgument),
        ("jwt-svid?audience=refused", Code::FailedPrecondition),
    ] {
        let (said, mut response) = bench.open("StreamSecrets").await;
        say(&said, &framed(&names(&[name])));
        assert_eq!(status(&next(&mut response).await.unwrap_err()), code);
        let (said, request) = bench.request("FetchSecrets");
        say(&said, &framed(&names(&[name])));
        assert_eq!(status(bench.call(request).await.headers()), code);
    }
}

#[tokio::test]
async fn the_roots_of_the_system_are_plain_roots() {
    let bench = bench(Some(Code::Ok)).await;
    let (said, mut response) = bench.open("StreamSecrets").await;
    say(&said, &framed(&names(&["file-root:system"])));
    let streamed = next(&mut response).await.unwrap();
    let (said, request) = bench.request("FetchSecrets");
    say(&said, &framed(&names(&["file-root:system"])));
    drop(said);
    let fetched = next(&mut bench.call(request).await).await.unwrap();
    for message in [streamed, fetched] {
        let response = DiscoveryResponse::decode(&message[5..]).unwrap();
        let secret = Secret::decode(&*response.resources[0].value).unwrap();
        let Some(secret::Type::ValidationContext(context)) = secret.r#type else { panic!("not a context") };
        assert!(context.custom_validator_config.is_none());
        let Some(Specifier::InlineBytes(pem)) = context.trusted_ca.and_then(|source| source.specifier) else {
            panic!("not inline bytes")
        };
        let root = "-----BEGIN CERTIFICATE-----\ncm9vdA==\n-----END CERTIFICATE-----\n";
        assert_eq!(String::from_utf8(pem).unwrap(), root);
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_waited_for_and_not_fetched_again_and_again() {
    let bench = bench(Some(Code::Ok)).await;
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let expired = JwtSvid::new(SpiffeId::parse(WEB).unwrap(), "t".into(), at(1), at(2));
    bench.token.publish(Arc::new(Some(Arc::new(expired))));
    let (said, request) = bench.request("FetchSecrets");
    say(&said, &framed(&names(&["jwt-svid?audience=a"])));
    drop(said);
    let call = bench.call(request);
    tokio::pin!(call);
    // It does not poll itself.
    assert!(call.as_mut().now_or_never().is_none());
    assert_eq!(status(call.await.headers()), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_held_stream_hears_news_of_an_attestor_that_was_configured_anew() {
    let bench = bench(Some(Code::Ok)).await;
    let (said, request) = bench.request("StreamSecrets");
    say(&said, &framed(&names(&["spiffe://example.org/unknown"])));
    let mut response = bench.call(request).await;
    let mut wait = async |time| assert!(timeout(time, response.body_mut().frame()).await.is_err());
    wait(Duration::from_secs(9)).await;
    let admitted = bench.admitted.load(Ordering::Relaxed);
    // Another attestor may find more.
    *bench.news.lock().unwrap() = watch::Sender::default();
    wait(Duration::from_millis(100)).await;
    assert_eq!(bench.admitted.load(Ordering::Relaxed), admitted + 1);
    // Its news is heard, too.
    bench.news.lock().unwrap().send_replace(1);
    wait(Duration::from_secs(2)).await;
    assert_eq!(bench.admitted.load(Ordering::Relaxed), admitted + 2);
}
