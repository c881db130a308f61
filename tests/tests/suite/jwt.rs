//! JWT-SVIDs and their keys over the Workload API, and over the admin socket for a delegate.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dev::{Entry, Fault, Options, Server};
use harness::{Agent, Conf, channel, jwt_bundles, jwt_svid_on, trial, validate_jwt_on};
use libtest_mimic::Trial;
use proto::delegated::delegated_identity_client::DelegatedIdentityClient;
use proto::delegated::{FetchJwtsviDsRequest, SubscribeToJwtBundlesRequest};
use proto::types::Selector;
use proto::workload::JwtsvidResponse;
use serde_json::Value;
use tonic::{Code, Status};

use super::{register, server_with};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("jwt_svids_are_for_an_audience_and_an_identity", for_an_audience),
        trial("jwt_svids_outlive_an_outage_of_the_server", outage),
        trial("jwt_svids_of_a_tainted_key_are_replaced", tainted),
        trial("jwt_bundles_follow_the_server", bundles),
        trial("jwt_svids_for_a_delegate", delegate),
        trial("jwt_arguments_are_checked_before_the_caller_is_attested", arguments),
    ]
}

struct World {
    server: Server,
    parent: String,
    agent: Agent,
}

impl World {
    async fn new(options: Options) -> Self {
        let server = server_with(options).await;
        let conf =
            Conf { agent: "experimental { sync_interval = \"200ms\" }".into(), ..Conf::join_token(&server) };
        let token = conf.join_token.clone().unwrap_or_default();
        register(&server, &token, "web");
        let agent = Agent::start(&conf);
        agent.wait_for_socket().await;
        Self { parent: server.join_token_agent_id(&token), server, agent }
    }

    async fn fetch(&self, audience: &[&str], spiffe_id: &str) -> Result<JwtsvidResponse, Status> {
        jwt_svid_on(&channel(&self.agent.socket()).await, audience, spiffe_id).await
    }

    /// The only token for this audience.
    async fn token(&self, audience: &[&str]) -> String {
        let mut response = self.fetch(audience, "").await.expect("a token");
        assert_eq!(response.svids.len(), 1);
        response.svids.remove(0).svid
    }
}

/// A part of a token, the header (0) or the claims (1).
pub(super) fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

async fn for_an_audience() {
    let world = World::new(Options::default()).await;
    let token = world.token(&["b", "a"]).await;
    let claims = part(&token, 1);
    assert_eq!(claims["sub"], "spiffe://example.org/web");
    assert_eq!(claims["aud"], serde_json::json!(["a", "b"]));
    assert_eq!(world.token(&["a", "b"]).await, token, "the order does not matter");
    assert_ne!(world.token(&["a"]).await, token);
    assert_eq!(world.server.counters().jwt_calls, 2);

    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let hinted =
        Entry { hint: "second".into(), ..Entry::new("spiffe://example.org/second", &*world.parent, [&*uid]) };
    world.server.create_entry(hinted);
    let both = loop {
        let response = world.fetch(&["a"], "").await.expect("tokens");
        if response.svids.len() == 2 {
            break response;
        }
        tokio::task::yield_now().await;
    };
    assert!(both.svids.iter().any(|svid| svid.hint == "second" && svid.spiffe_id.ends_with("/second")));
    let one = world.fetch(&["a"], "spiffe://example.org/second").await.expect("a token");
    assert_eq!(one.svids.len(), 1);

    let code = |result: Result<JwtsvidResponse, Status>| {
        result.map_err(|status| (status.code(), status.message().to_owned()))
    };
    assert_eq!(
        code(world.fetch(&[], "").await).expect_err("refused"),
        (Code::InvalidArgument, "audience must be specified".into())
    );
    let (kind, words) = code(world.fetch(&["a"], "http://x").await).expect_err("refused");
    assert!(kind == Code::InvalidArgument && words.starts_with("invalid requested SPIFFE ID: "), "{words}");
    let strange = code(world.fetch(&["a"], "spiffe://example.org/other").await).expect_err("refused");
    assert_eq!(strange, (Code::PermissionDenied, "no identity issued".into()));
    assert!(!world.agent.log().contains(&token), "no token is logged");
}

/// The agent cannot attest anybody yet, because there is no server.
async fn arguments() {
    let server = server_with(Options::default()).await;
    server.fault(Fault::Down).await;
    let agent = Agent::start(&Conf::join_token(&server));
    let channel = channel(&agent.wait_for_socket().await).await;
    let words = |status: Status| (status.code(), status.message().to_owned());
    let lacks = |name: &str| (Code::InvalidArgument, format!("{name} must be specified"));
    assert_eq!(words(jwt_svid_on(&channel, &[], "").await.expect_err("refused")), lacks("audience"));
    let (code, reason) = words(jwt_svid_on(&channel, &["a"], "http://x").await.expect_err("refused"));
    assert!(code == Code::InvalidArgument && reason.starts_with("invalid requested SPIFFE ID: "), "{reason}");
    assert_eq!(words(validate_jwt_on(&channel, "", "").await.expect_err("refused")), lacks("audience"));
    assert_eq!(words(validate_jwt_on(&channel, "a", "").await.expect_err("refused")), lacks("svid"));
    assert_eq!(validate_jwt_on(&channel, "a", "x").await.expect_err("refused").code(), Code::Unavailable);
}

async fn outage() {
    let world = World::new(Options { jwt_svid_ttl: Duration::from_secs(600), ..Options::default() }).await;
    let token = world.token(&["a"]).await;
    world.server.fault(Fault::Down).await;
    assert_eq!(world.token(&["a"]).await, token);
    let refused = world.fetch(&["b"], "").await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().starts_with("could not fetch JWT-SVID: "), "{refused}");
    world.server.fault(Fault::None).await;
    // The agent waits a moment after a failure.
    while world.fetch(&["b"], "").await.is_err() {
        tokio::task::yield_now().await;
    }
}

async fn tainted() {
    let mut world = World::new(Options::default()).await;
    let token = world.token(&["a"]).await;
    world.server.rotate_jwt_key();
    assert_eq!(world.token(&["a"]).await, token, "the old key is still good");
    world.server.taint_old_jwt_keys();
    world.agent.logged("JWT-SVIDs were removed from the JWT cache").await;
    let next = world.token(&["a"]).await;
    assert_ne!(part(&next, 0)["kid"], part(&token, 0)["kid"]);
}

async fn bundles() {
    let world = World::new(Options::default()).await;
    let token = world.token(&["a"]).await;
    let mut stream = jwt_bundles(&world.agent.socket()).await.expect("bundles");
    let mut keys = async || {
        let response = stream.message().await.expect("bundles").expect("a message");
        let set: Value = serde_json::from_slice(&response.bundles["spiffe://example.org"]).expect("JSON");
        set["keys"].as_array().expect("keys").clone()
    };
    let first = keys().await;
    assert_eq!(first.len(), 1);
    assert_eq!(first[0]["kid"], part(&token, 0)["kid"]);
    assert!(first[0].get("use").is_none(), "a plain set of keys");
    world.server.rotate_jwt_key();
    assert_eq!(keys().await.len(), 2);
    world.server.forget_old_jwt_keys();
    let last = keys().await;
    assert!(last.len() == 1 && last[0]["kid"] != first[0]["kid"]);
}

async fn delegate() {
    let server = server_with(Options::default()).await;
    let private = tempfile::tempdir().expect("a temporary folder");
    let conf = Conf {
        agent: format!(
            "admin_socket_path = \"{}/admin.sock\" authorized_delegates = [\"spiffe://example.org/web\"]",
            private.path().display()
        ),
        ..Conf::join_token(&server)
    };
    let token = conf.join_token.clone().unwrap_or_default();
    register(&server, &token, "web");
    server.create_entry(Entry::new(
        "spiffe://example.org/other",
        server.join_token_agent_id(&token),
        ["k8s:ns:a"],
    ));
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    let mut client = DelegatedIdentityClient::new(channel(&private.path().join("admin.sock")).await);
    let request = |audience: &[&str]| FetchJwtsviDsRequest {
        audience: audience.iter().map(ToString::to_string).collect(),
        selectors: vec![Selector { r#type: "k8s".into(), value: "ns:a".into() }],
        pid: 0,
    };
    let svids = client.fetch_jwtsvi_ds(request(&["a"])).await.expect("tokens").into_inner().svids;
    assert_eq!(part(&svids[0].token, 1)["sub"], "spiffe://example.org/other");
    assert!(svids[0].expires_at > svids[0].issued_at && svids[0].issued_at > 0);
    assert_eq!(
        client.fetch_jwtsvi_ds(request(&[])).await.expect_err("refused").code(),
        Code::InvalidArgument
    );
    let nobody = FetchJwtsviDsRequest {
        selectors: vec![Selector { r#type: "k8s".into(), value: "ns:b".into() }],
        ..request(&["a"])
    };
    assert_eq!(client.fetch_jwtsvi_ds(nobody).await.expect_err("refused").code(), Code::PermissionDenied);
    let stream = client.subscribe_to_jwt_bundles(SubscribeToJwtBundlesRequest {}).await;
    let first = stream.expect("bundles").into_inner().message().await.expect("bundles").expect("a message");
    assert!(first.bundles["spiffe://example.org"].starts_with(b"{\n    \"keys\": ["));
}
