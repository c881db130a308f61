//! The methods of the public socket, call by call: finial and the real agent answer alike, with the entries of one
//! server. Each row has the answer that the real agent's documentation and sources promise.

use std::path::PathBuf;

use bytes::{Buf as _, BufMut as _};
use dev::Entry;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use harness::channel;
use libtest_mimic::Trial;
use prost::Message;
use proto::workload::{
    JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
    X509BundlesResponse, X509svidResponse,
};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use super::agents::{Agents, entry, real_programs};
use super::mesh::this_program;
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial_with("public_methods_answer_alike", real_programs(), alike)]
}

/// A call and its answer.
struct Row {
    what: &'static str,
    method: &'static str,
    /// The values of `workload.spiffe.io`.
    header: &'static [&'static str],
    message: Vec<u8>,
    is: Is,
}

enum Is {
    /// An error: its code and text.
    Refused(&'static str),
    /// A message, of which this is read.
    Answer(fn(&[u8]) -> String, &'static str),
    /// A message that is the same from both, of which this is read.
    Alike(fn(&[u8]) -> String),
}

async fn alike(programs: (PathBuf, PathBuf)) {
    call_everything(&mut Agents::both(programs).await).await;
}

/// Makes the calls of all rows at all agents, and checks the answers.
pub(super) async fn call_everything(agents: &mut Agents) {
    agents.create(&[entry("somebody-else", ["unix:uid:12345"])]).await;
    check(agents, &without_an_identity()).await;
    agents.federate("other.example").await;
    let this = this_program();
    let mine = |name: &str, hint: &str| Entry {
        hint: hint.into(),
        federates_with: vec!["other.example".into()],
        ..entry(name, [&*this])
    };
    agents.create(&[mine("b", "h"), mine("a", "h"), mine("c", "")]).await;
    agents.logged("msg=\"SVID updated\" entry=c ").await;
    check(agents, &of_arguments()).await;
    check(agents, &with_identities(&token(agents).await)).await;
}

async fn check(agents: &Agents, rows: &[Row]) {
    let mut wrong = Vec::new();
    for row in rows {
        let mut answers = Vec::new();
        for running in &agents.all {
            let answer = call(&channel(&running.agent.socket()).await, row).await;
            let answer = match (&row.is, answer) {
                (Is::Answer(read, _) | Is::Alike(read), Ok(message)) => read(&message),
                (Is::Refused(_), Ok(message)) => format!("a message of {} bytes", message.len()),
                (_, Err(status)) => format!("{:?}: {}", status.code(), status.message()),
            };
            if let Is::Refused(expected) | Is::Answer(_, expected) = row.is
                && answer != expected
            {
                wrong.push(format!("{}: {}: {answer:?} instead of {expected:?}", row.what, running.whose));
            }
            answers.push(answer);
        }
        if answers[0] != answers[1] {
            wrong.push(format!("{}: {answers:#?}", row.what));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    eprintln!("{} calls, answered alike", rows.len());
}

/// Makes a call and returns its first message.
async fn call(channel: &Channel, row: &Row) -> Result<Vec<u8>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|reason| Status::internal(reason.to_string()))?;
    let mut request = tonic::Request::new(row.message.clone());
    for value in row.header {
        request.metadata_mut().append("workload.spiffe.io", value.parse().expect("ASCII"));
    }
    let path = PathAndQuery::try_from(row.method).expect("a path");
    let mut answers = client.server_streaming(request, path, AsIs).await?.into_inner();
    answers.message().await?.ok_or_else(|| Status::ok("no message"))
}

async fn token(agents: &Agents) -> String {
    let row = workload("a token", "FetchJWTSVID", jwt(&["a"], "spiffe://example.org/c"), Is::Refused(""));
    let answer = call(&channel(&agents.all[0].agent.socket()).await, &row).await.expect("a token");
    JwtsvidResponse::decode(&*answer).expect("decoded").svids.remove(0).svid
}

fn workload(what: &'static str, method: &'static str, message: Vec<u8>, is: Is) -> Row {
    let method = match method {
        "FetchX509SVID" => "/SpiffeWorkloadAPI/FetchX509SVID",
        "FetchX509Bundles" => "/SpiffeWorkloadAPI/FetchX509Bundles",
        "FetchJWTSVID" => "/SpiffeWorkloadAPI/FetchJWTSVID",
        "FetchJWTBundles" => "/SpiffeWorkloadAPI/FetchJWTBundles",
        "ValidateJWTSVID" => "/SpiffeWorkloadAPI/ValidateJWTSVID",
        "FetchWITSVID" => "/SpiffeWorkloadAPI/FetchWITSVID",
        _ => "/SpiffeWorkloadAPI/FetchWITBundles",
    };
    Row { what, method, header: &["true"], message, is }
}

fn sds(what: &'static str, names: &[&str], is: Is) -> Row {
    Row { what, method: FETCH_SECRETS, header: &[], message: harness::sds_request(names).encode_to_vec(), is }
}

fn jwt(audience: &[&str], spiffe_id: &str) -> Vec<u8> {
    let audience = audience.iter().map(ToString::to_string).collect();
    JwtsvidRequest { audience, spiffe_id: spiffe_id.into() }.encode_to_vec()
}

fn validate(audience: &str, svid: &str) -> Vec<u8> {
    ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() }.encode_to_vec()
}

/// §7.2, §7.3 for a caller that matches no entry.
fn without_an_identity() -> Vec<Row> {
    let no_identity = || Is::Refused("PermissionDenied: no identity issued");
    vec![
        workload("stranger: X.509-SVIDs", "FetchX509SVID", vec![], no_identity()),
        workload("stranger: X.509 bundles", "FetchX509Bundles", vec![], no_identity()),
        workload("stranger: a JWT-SVID", "FetchJWTSVID", jwt(&["a"], ""), no_identity()),
        workload("stranger: JWT bundles", "FetchJWTBundles", vec![], no_identity()),
        sds("stranger: the own bundle", &["spiffe://example.org"], Is::Alike(secrets)),
        sds("stranger: everything", &[], Is::Answer(secrets, "version \"\": spiffe://example.org validator")),
        sds(
            "stranger: an identity",
            &["spiffe://example.org/c"],
            Is::Refused(
                "InvalidArgument: workload is not authorized for the requested identities \
                 [\"spiffe://example.org/c\"]",
            ),
        ),
    ]
}

/// §7.1, §7.2, §7.4: headers and arguments.
fn of_arguments() -> Vec<Row> {
    let no_header = || Is::Refused("InvalidArgument: security header missing from request");
    let with = |what, header, is| Row { header, ..workload(what, "FetchX509SVID", vec![], is) };
    let no_audience = || Is::Refused("InvalidArgument: audience must be specified");
    let health =
        |what, method, message: &[u8], is| Row { what, method, header: &[], message: message.to_vec(), is };
    vec![
        with("no header", &[], no_header()),
        with("another value", &["TRUE"], no_header()),
        with("the header twice", &["true", "true"], no_header()),
        workload("no audience", "FetchJWTSVID", jwt(&[], ""), no_audience()),
        workload(
            "no SPIFFE ID",
            "FetchJWTSVID",
            jwt(&["a"], "web"),
            Is::Refused("InvalidArgument: invalid requested SPIFFE ID: scheme is missing or invalid"),
        ),
        workload(
            "another's SPIFFE ID",
            "FetchJWTSVID",
            jwt(&["a"], "spiffe://example.org/somebody-else"),
            Is::Refused("PermissionDenied: no identity issued"),
        ),
        workload("validate: no audience", "ValidateJWTSVID", validate("", "x"), no_audience()),
        workload(
            "validate: no token",
            "ValidateJWTSVID",
            validate("a", ""),
            Is::Refused("InvalidArgument: svid must be specified"),
        ),
        workload("validate: rubbish", "ValidateJWTSVID", validate("a", "x"), Is::Alike(whole)),
        workload(
            "WIT-SVIDs",
            "FetchWITSVID",
            vec![],
            Is::Refused("Unimplemented: fetching WIT-SVIDs is not implemented"),
        ),
        workload(
            "WIT bundles",
            "FetchWITBundles",
            vec![],
            Is::Refused("Unimplemented: fetching WIT bundles is not implemented"),
        ),
        health("health", "/grpc.health.v1.Health/Check", &[], Is::Alike(whole)),
        health(
            "health of a service",
            "/grpc.health.v1.Health/Check",
            b"\x0a\x01x",
            Is::Refused("InvalidArgument: per-service health is not supported"),
        ),
        health(
            "watched health",
            "/grpc.health.v1.Health/Watch",
            &[],
            Is::Refused("Unimplemented: method Watch not implemented"),
        ),
        health(
            "listed health",
            "/grpc.health.v1.Health/List",
            &[],
            Is::Refused("Unimplemented: method List not implemented"),
        ),
    ]
}

/// §7.2, §7.3 for a caller with three identities, of which two have one hint.
fn with_identities(token: &str) -> Vec<Row> {
    vec![
        workload(
            "X.509-SVIDs in order, without the later of one hint",
            "FetchX509SVID",
            vec![],
            Is::Alike(x509),
        ),
        workload("X.509 bundles", "FetchX509Bundles", vec![], Is::Alike(x509_bundles)),
        workload("JWT-SVIDs of all", "FetchJWTSVID", jwt(&["a", "b"], ""), Is::Alike(jwts)),
        workload(
            "JWT-SVID of one",
            "FetchJWTSVID",
            jwt(&["a"], "spiffe://example.org/c"),
            Is::Answer(jwts, "spiffe://example.org/c \"\""),
        ),
        workload("JWT bundles, to the byte", "FetchJWTBundles", vec![], Is::Alike(jwt_bundles)),
        workload("a token", "ValidateJWTSVID", validate("a", token), Is::Alike(validated)),
        workload("a token for another", "ValidateJWTSVID", validate("b", token), Is::Alike(whole)),
        sds("everything", &[""], Is::Alike(secrets)),
        sds("an identity", &["spiffe://example.org/c"], Is::Alike(secrets)),
        sds("the first identity", &["default"], Is::Answer(secrets, "version \"\": default certificate")),
        sds("the own bundle by its alias", &["ROOTCA"], Is::Alike(secrets)),
        sds("a federated bundle", &["spiffe://other.example"], Is::Alike(secrets)),
        sds("all bundles", &["ALL"], Is::Answer(secrets, "version \"\": ALL validator")),
        sds(
            "unknown names, quoted and in order",
            &["z\"", "spiffe://example.org/none"],
            Is::Refused(
                "InvalidArgument: workload is not authorized for the requested identities \
                 [\"spiffe://example.org/none\" \"z\\\"\"]",
            ),
        ),
    ]
}

fn whole(message: &[u8]) -> String {
    format!("{message:?}")
}

fn x509(message: &[u8]) -> String {
    let answer = X509svidResponse::decode(message).expect("decoded");
    let one = |svid: &proto::workload::X509svid| {
        let full = !svid.x509_svid.is_empty() && !svid.x509_svid_key.is_empty() && !svid.bundle.is_empty();
        format!("{} {:?} {full}", svid.spiffe_id, svid.hint)
    };
    let mut federated: Vec<_> = answer.federated_bundles.keys().collect();
    federated.sort();
    format!("{:?} {federated:?} {}", answer.svids.iter().map(one).collect::<Vec<_>>(), answer.crl.len())
}

fn x509_bundles(message: &[u8]) -> String {
    let answer = X509BundlesResponse::decode(message).expect("decoded");
    format!("{:?}", std::collections::BTreeMap::from_iter(answer.bundles))
}

fn jwt_bundles(message: &[u8]) -> String {
    let answer = JwtBundlesResponse::decode(message).expect("decoded");
    let text = |(domain, keys): (String, _)| (domain, String::from_utf8(Vec::from(keys)).expect("JSON"));
    format!("{:?}", answer.bundles.into_iter().map(text).collect::<std::collections::BTreeMap<_, _>>())
}

fn jwts(message: &[u8]) -> String {
    let answer = JwtsvidResponse::decode(message).expect("decoded");
    let one = |svid: &proto::workload::Jwtsvid| format!("{} {:?}", svid.spiffe_id, svid.hint);
    answer.svids.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn validated(message: &[u8]) -> String {
    let answer = ValidateJwtsvidResponse::decode(message).expect("decoded");
    let claims = answer.claims.expect("claims").fields;
    format!("{} {:?}", answer.spiffe_id, std::collections::BTreeMap::from_iter(claims))
}

/// The version of a response, and each secret's name and kind.
fn secrets(message: &[u8]) -> String {
    let answer = DiscoveryResponse::decode(message).expect("decoded");
    assert_eq!(answer.nonce, "");
    let mut all: Vec<_> =
        answer.resources.iter().map(|any| Secret::decode(&*any.value).expect("a secret")).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let kind = |secret: &Secret| match &secret.r#type {
        Some(secret::Type::TlsCertificate(_)) => "certificate",
        Some(secret::Type::ValidationContext(context)) if context.custom_validator_config.is_some() => {
            "validator"
        }
        _ => "something else",
    };
    let all: Vec<_> = all.iter().map(|secret| format!("{} {}", secret.name, kind(secret))).collect();
    format!("version {:?}: {}", answer.version_info, all.join(", "))
}

/// Messages as they are.
struct AsIs;

impl Codec for AsIs {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsIs {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for AsIs {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; message.remaining()];
        message.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

const FETCH_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets";
