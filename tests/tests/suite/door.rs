//! The services of the public socket, and their rate limits.

use dev::Server;
use harness::{Agent, Conf, Sds, health, sds_request, trial, x509_bundles, x509_svid};
use libtest_mimic::Trial;
use proto::reflection::server_reflection_client::ServerReflectionClient;
use proto::reflection::server_reflection_request::MessageRequest;
use proto::reflection::server_reflection_response::MessageResponse;
use proto::reflection::{ServerReflectionRequest, ServerReflectionResponse};
use tonic::{Code, Status};

use super::{register, server};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("rate_limits_hold_for_each_method_alone", rate_limits),
        trial("reflection_lists_and_describes_the_services", reflection),
        trial("reflection_leaves_out_what_is_disabled", reflection_of_what_is_on),
    ]
}

/// An agent with one workload, `spiffe://example.org/web`, and these lines in agent.conf.
async fn agent(keys: &str) -> (Server, Agent) {
    let server = server().await;
    let conf = Conf { agent: keys.to_owned(), ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    (server, agent)
}

/// Repeats a call until it is refused, and returns that status. The limit is one call a second, so this ends on any
/// machine that needs less than a second for a call.
macro_rules! first_refused {
    ($call:expr) => {
        loop {
            if let Err(status) = $call.await {
                break status;
            }
        }
    };
}

async fn rate_limits() {
    let keys = "experimental { ratelimit { fetch_x509_svid = 1 stream_secrets = 1 } }";
    let (_server, agent) = agent(keys).await;
    let socket = agent.socket();
    let refused: Status = first_refused!(x509_svid(&socket));
    let words = "rate limit exceeded for /SpiffeWorkloadAPI/FetchX509SVID";
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, words));
    let request = || sds_request(&["spiffe://example.org/web"]);
    let refused: Status = first_refused!(Sds::open(&socket, request()));
    let words = "rate limit exceeded for /envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, words));
    for _ in 0..10 {
        x509_bundles(&socket).await.expect("has no limit");
        assert!(health(&socket).await);
    }
}

/// The answers to these reflection requests on one stream.
async fn reflected(agent: &Agent, asked: Vec<MessageRequest>) -> Vec<ServerReflectionResponse> {
    let mut client = ServerReflectionClient::new(harness::channel(&agent.socket()).await);
    let requests = asked
        .into_iter()
        .map(|asked| ServerReflectionRequest { host: "here".to_owned(), message_request: Some(asked) });
    let requests: Vec<_> = requests.collect();
    let stream = client.server_reflection_info(tokio_stream::iter(requests)).await.expect("served");
    let mut stream = stream.into_inner();
    let mut answers = Vec::new();
    while let Some(answer) = stream.message().await.expect("answered") {
        assert_eq!(answer.valid_host, "here");
        answers.push(answer);
    }
    answers
}

async fn listed(agent: &Agent) -> Vec<String> {
    let answers = reflected(agent, vec![MessageRequest::ListServices("*".to_owned())]).await;
    let [
        ServerReflectionResponse {
            message_response: Some(MessageResponse::ListServicesResponse(list)), ..
        },
    ] = &answers[..]
    else {
        panic!("{answers:?}")
    };
    list.service.iter().map(|service| service.name.clone()).collect()
}

async fn reflection() {
    let (_server, agent) = agent("").await;
    let services = listed(&agent).await;
    assert!(services.contains(&"SpiffeWorkloadAPI".to_owned()), "{services:?}");
    assert!(services.contains(&"grpc.reflection.v1alpha.ServerReflection".to_owned()), "{services:?}");
    let symbol = |name: &str| MessageRequest::FileContainingSymbol(name.to_owned());
    let asked = vec![symbol("SpiffeWorkloadAPI"), symbol("X509SVID.spiffe_id"), symbol("no.Such")];
    let answers = reflected(&agent, asked).await;
    let files = |answer: &ServerReflectionResponse| match &answer.message_response {
        Some(MessageResponse::FileDescriptorResponse(files)) => files.file_descriptor_proto.len(),
        other => panic!("{other:?}"),
    };
    // The first answer includes the imported file, the second does not.
    assert_eq!((files(&answers[0]), files(&answers[1])), (2, 1));
    let Some(MessageResponse::ErrorResponse(unknown)) = &answers[2].message_response else {
        panic!("{answers:?}")
    };
    assert_eq!((unknown.error_code, &*unknown.error_message), (5, "not found: no.Such"));
}

async fn reflection_of_what_is_on() {
    let (_server, agent) = agent("disable_sds_api = true").await;
    let services = listed(&agent).await;
    assert!(!services.iter().any(|service| service.contains("SecretDiscovery")), "{services:?}");
    assert!(services.contains(&"SpiffeWorkloadAPI".to_owned()), "{services:?}");
}
