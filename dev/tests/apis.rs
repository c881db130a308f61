//! Each API of the server, called by a plain client.

use std::collections::BTreeMap;
use std::time::Duration;

use dev::{Entry, Options, Server};
use libtest_mimic::Trial;
use proto::agent::{AgentX509svidParams, PostStatusRequest, RenewAgentRequest};
use proto::bundle::{GetBundleRequest, GetFederatedBundleRequest};
use proto::entry::{
    GetAuthorizedEntriesRequest, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use proto::svid::{BatchNewX509svidRequest, NewX509svidParams};
use proto::types::EntryMask;
use rcgen::KeyPair;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::client::{Client, Identity, certificates, chain, csr, join, reason, serial, spiffe_id, verify};
use crate::{Outcome, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_join_token_attests_once", a_join_token_attests_once),
        trial("a_service_account_token_attests_again_and_again", a_service_account_token_attests),
        trial("malformed_attestations_are_refused", malformed_attestations_are_refused),
        trial("a_renewed_svid_takes_over_with_its_first_use", a_renewed_svid_takes_over),
        trial("a_reattestable_agent_must_not_renew", a_reattestable_agent_must_not_renew),
        trial("refusals_carry_their_reason", refusals_carry_their_reason),
        trial("an_agent_sees_what_is_below_it_and_its_aliases", an_agent_sees_what_is_below_it),
        trial("few_entries_come_whole_and_masked", few_entries_come_whole_and_masked),
        trial("many_entries_come_by_revision_and_page", many_entries_come_by_revision),
        trial("an_answer_can_exceed_four_mebibytes", an_answer_can_exceed_four_mebibytes),
        trial("entries_keep_revision_and_creation", entries_keep_revision_and_creation),
        trial("svids_are_signed_each_with_a_status", svids_are_signed_each_with_a_status),
        trial("chains_carry_the_intermediate", chains_carry_the_intermediate),
        trial("the_ca_rotates_in_two_steps", the_ca_rotates_in_two_steps),
        trial("federated_bundles_are_found_or_not", federated_bundles_are_found_or_not),
        trial("tls_1_2_will_do", tls_1_2_will_do),
    ]
}

async fn a_join_token_attests_once() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let mut client = Client::anonymous(&server).await?;
    assert_eq!(client.server_id, "spiffe://example.org/spire/server");

    let token = server.create_join_token();
    let identity = client.attest("join_token", &token).await?;
    assert!(!identity.reattestable);
    assert_eq!(spiffe_id(&identity.chain[0]), server.join_token_agent_id(&token));
    verify(&identity.chain, &server.bundle_pem())?;
    let agent = &server.agents()[0];
    assert_eq!(agent.serial, serial(&identity.chain[0]));

    let again = refused(client.attest("join_token", &token).await);
    assert_eq!(again.code(), Code::InvalidArgument);
    assert_eq!(again.message(), "failed to attest: join token does not exist or has already been used");
    let late = server.create_join_token();
    server.expire_token(&late);
    assert_eq!(refused(client.attest("join_token", &late).await).message(), "join token expired");
    assert_eq!(server.counters().attested, 1);

    let mut agent = Client::of(&server, &identity).await?;
    agent.agent.post_status(status("1.15.3")).await?;
    assert_eq!(server.agents()[0].agent_version, "1.15.3");
    Ok(())
}

async fn a_service_account_token_attests() -> Outcome {
    let allowed = vec!["spire:spire-agent-front".to_owned()];
    let psat_clusters = BTreeMap::from([("front".to_owned(), allowed)]);
    let server = Server::start(Options { psat_clusters, ..Options::default() }).await?;
    let mut client = Client::anonymous(&server).await?;
    let payload = |cluster: &str, token: &str| format!(r#"{{"cluster":"{cluster}","token":"{token}"}}"#);

    let token = server.psat_token("front", "spire", "spire-agent-front", "node-1");
    for _ in 0..2 {
        let identity = client.attest("k8s_psat", &payload("front", &token)).await?;
        assert!(identity.reattestable);
        assert_eq!(spiffe_id(&identity.chain[0]), server.psat_agent_id("front", "node-1"));
    }
    assert_eq!(server.agents().len(), 1);
    let selectors = &server.agents()[0].selectors;
    assert!(selectors.contains(&dev::Selector::parse("k8s_psat:agent_node_name:node-1")));

    let denied = refused(client.attest("k8s_psat", &payload("front", "forged")).await);
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert_eq!(
        denied.message(),
        "nodeattestor(k8s_psat): token not authenticated according to TokenReview API for cluster \"front\""
    );
    server.expire_token(&token);
    let expired = refused(client.attest("k8s_psat", &payload("front", &token)).await);
    assert_eq!(expired.code(), Code::PermissionDenied);
    let stranger = server.psat_token("front", "default", "default", "node-1");
    let stranger = refused(client.attest("k8s_psat", &payload("front", &stranger)).await);
    assert!(stranger.message().contains("\"default:default\" is not an allowed service account"));
    let unknown = refused(client.attest("k8s_psat", &payload("back", &token)).await);
    assert_eq!(unknown.code(), Code::InvalidArgument);
    Ok(())
}

async fn malformed_attestations_are_refused() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let mut client = Client::anonymous(&server).await?;
    for (kind, payload, code) in [
        ("x509pop", "{}", Code::FailedPrecondition),
        ("", "token", Code::InvalidArgument),
        ("join_token", "", Code::InvalidArgument),
        ("k8s_psat", "not JSON", Code::InvalidArgument),
        ("k8s_psat", r#"{"cluster":"front"}"#, Code::InvalidArgument),
    ] {
        assert_eq!(refused(client.attest(kind, payload).await).code(), code, "{kind} {payload}");
    }
    assert_eq!(server.agents(), []);
    Ok(())
}

async fn a_renewed_svid_takes_over() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let token = server.create_join_token();
    let old = Client::anonymous(&server).await?.attest("join_token", &token).await?;
    let mut before = Client::of(&server, &old).await?;
    let (new, mut after) = renew(&server, &mut before).await?;

    before.agent.post_status(status("old")).await?;
    after.agent.post_status(status("new")).await?;
    assert_eq!(server.agents()[0].serial, serial(&new.chain[0]));
    let denied = refused(before.agent.post_status(status("old")).await);
    assert_eq!(reason(&denied).as_deref(), Some("AGENT_NOT_ACTIVE"));
    assert_eq!(server.counters().renewed, 1);
    Ok(())
}

async fn renew(server: &Server, client: &mut Client) -> Result<(Identity, Client), Status> {
    let key = KeyPair::generate().expect("a key");
    let renewed = client.agent.renew_agent(renewal(&key)).await?.into_inner();
    let identity = Identity { chain: chain(&renewed.svid.expect("an SVID")), key, reattestable: false };
    let client = Client::of(server, &identity).await.expect("the new SVID is good");
    Ok((identity, client))
}

async fn a_reattestable_agent_must_not_renew() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let token = server.psat_token("front", "spire", "agent", "node-1");
    let payload = format!(r#"{{"cluster":"front","token":"{token}"}}"#);
    let identity = Client::anonymous(&server).await?.attest("k8s_psat", &payload).await?;
    let mut client = Client::of(&server, &identity).await?;
    let denied = refused(client.agent.renew_agent(renewal(&identity.key)).await);
    assert_eq!(reason(&denied).as_deref(), Some("AGENT_MUST_REATTEST"));
    assert_eq!(denied.message(), "agent must reattest instead of renew");
    Ok(())
}

async fn refusals_carry_their_reason() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let mut anonymous = Client::anonymous(&server).await?;
    anonymous.bundle.get_bundle(GetBundleRequest::default()).await?;
    let denied = refused(anonymous.agent.post_status(status("1")).await);
    assert_eq!(reason(&denied), None);
    assert_eq!(
        denied.message(),
        "authorization denied for method /spire.api.server.agent.v1.Agent/PostStatus"
    );

    let token = server.psat_token("front", "spire", "agent", "node-1");
    let payload = format!(r#"{{"cluster":"front","token":"{token}"}}"#);
    let identity = anonymous.attest("k8s_psat", &payload).await?;
    let mut client = Client::of(&server, &identity).await?;
    let id = server.psat_agent_id("front", "node-1");
    assert!(server.expire_agent(&id));
    let denied = refused(client.agent.post_status(status("1")).await);
    assert_eq!(reason(&denied).as_deref(), Some("AGENT_EXPIRED"));
    anonymous.attest("k8s_psat", &payload).await?;
    let denied = refused(client.agent.post_status(status("1")).await);
    assert_eq!(reason(&denied).as_deref(), Some("AGENT_NOT_ACTIVE"));

    assert!(server.ban(&id));
    let denied = refused(client.agent.post_status(status("1")).await);
    assert_eq!(reason(&denied).as_deref(), Some("AGENT_BANNED"));
    let banned = refused(anonymous.attest("k8s_psat", &payload).await);
    assert_eq!(
        (banned.code(), banned.message()),
        (Code::PermissionDenied, "failed to attest: agent is banned")
    );
    assert!(server.evict(&id));
    let denied = refused(client.agent.post_status(status("1")).await);
    assert_eq!(reason(&denied).as_deref(), Some("AGENT_NOT_ATTESTED"));
    anonymous.attest("k8s_psat", &payload).await?;
    assert_eq!(server.counters().denied, 5);
    Ok(())
}

async fn an_agent_sees_what_is_below_it() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let entry = |id: &str, parent: &str, selectors: &[&str]| {
        let spiffe_id = format!("spiffe://example.org/{id}");
        let parent = format!("spiffe://example.org{parent}");
        server.create_entry(Entry::new(spiffe_id, parent, selectors.iter().copied()).with_id(id));
    };
    entry("alias", "/spire/server", &["k8s_psat:cluster:front", "k8s_psat:agent_ns:spire"]);
    entry("other", "/spire/server", &["k8s_psat:cluster:back", "k8s_psat:agent_ns:spire"]);
    entry("below-alias", "/alias", &["unix:uid:1"]);
    entry("below-that", "/below-alias", &["unix:uid:2"]);
    entry("not-ours", "/other", &["unix:uid:3"]);
    let token = server.psat_token("front", "spire", "agent", "node-1");
    let payload = format!(r#"{{"cluster":"front","token":"{token}"}}"#);
    let identity = Client::anonymous(&server).await?.attest("k8s_psat", &payload).await?;
    let mut client = Client::of(&server, &identity).await?;
    let id = server.psat_agent_id("front", "node-1");
    server.create_entry(Entry::new("spiffe://example.org/own", id, ["unix:uid:4"]).with_id("own"));
    let whole = client.entry.get_authorized_entries(GetAuthorizedEntriesRequest::default());
    let entries = whole.await?.into_inner().entries;
    let ids: Vec<_> = entries.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids, ["below-alias", "below-that", "own"]);

    // The node alias of a join token.
    let token = server.create_join_token_for("spiffe://example.org/alias");
    let identity = Client::anonymous(&server).await?.attest("join_token", &token).await?;
    let mut client = Client::of(&server, &identity).await?;
    let whole = client.entry.get_authorized_entries(GetAuthorizedEntriesRequest::default());
    let entries = whole.await?.into_inner().entries;
    assert_eq!(entries.len(), 3, "the alias itself, and two below it");
    Ok(())
}

async fn few_entries_come_whole_and_masked() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let (mut client, id) = join(&server).await?;
    let mut entry = Entry::new("spiffe://example.org/a", id, ["unix:uid:1"]).with_id("a");
    entry.federates_with = vec!["spiffe://other.org".to_owned()];
    entry.dns_names = vec!["a.example.org".to_owned()];
    server.create_entry(entry);

    let answers = sync(&mut client, Some(mask()), vec![]).await?;
    assert_eq!(answers.len(), 1);
    let entry = &answers[0].entries[0];
    assert_eq!((entry.id.as_str(), entry.parent_id.as_ref()), ("a", None));
    assert_eq!(entry.dns_names, Vec::<String>::new());
    assert_eq!(entry.federates_with, ["other.org"]);
    assert!(answers[0].entry_revisions.is_empty() && !answers[0].more);
    let everything = sync(&mut client, None, vec![]).await?;
    assert_eq!(everything[0].entries[0].dns_names, ["a.example.org"]);

    let blind = EntryMask { revision_number: false, ..mask() };
    let denied = refused(sync(&mut client, Some(blind), vec![]).await);
    assert_eq!(
        (denied.code(), denied.message()),
        (Code::InvalidArgument, "revision number cannot be masked")
    );
    Ok(())
}

async fn many_entries_come_by_revision() -> Outcome {
    let options = Options { entry_page_size: 3, ..Options::default() };
    let server = Server::start(options).await?;
    let (mut client, id) = join(&server).await?;
    for n in 0..8 {
        let name = format!("e{n}");
        let spiffe_id = format!("spiffe://example.org/{name}");
        server.create_entry(Entry::new(spiffe_id, id.clone(), ["unix:uid:1"]).with_id(name));
    }
    let ids = |wanted: &[&str]| wanted.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    let requests = vec![ids(&["e7", "e1", "gone", "e3", "e5"]), ids(&["e0"])];
    let answers = sync(&mut client, Some(mask()), requests).await?;
    let shape: Vec<_> = answers
        .iter()
        .map(|answer| (answer.entry_revisions.len(), answer.entries.len(), answer.more))
        .collect();
    assert_eq!(
        shape,
        [(3, 0, true), (3, 0, true), (2, 0, false), (0, 3, true), (0, 1, false), (0, 1, false)]
    );
    assert_eq!(answers[5].entries[0].id, "e0");
    let counters = server.counters();
    assert_eq!((counters.syncs, counters.paged_syncs, counters.entries_sent), (1, 1, 5));
    Ok(())
}

async fn an_answer_can_exceed_four_mebibytes() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let (mut client, id) = join(&server).await?;
    let selectors: Vec<_> = (0..1000).map(|n| format!("k8s:pod-label:{n}:{}", "x".repeat(100))).collect();
    for n in 0..40 {
        let selectors = selectors.iter().map(String::as_str);
        server.create_entry(Entry::new(format!("spiffe://example.org/{n}"), id.clone(), selectors));
    }
    let denied = refused(sync(&mut client, None, vec![]).await);
    assert_eq!(denied.code(), Code::OutOfRange);
    client.entry = client.entry.max_decoding_message_size(16 << 20);
    assert_eq!(sync(&mut client, None, vec![]).await?[0].entries.len(), 40);
    Ok(())
}

async fn entries_keep_revision_and_creation() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let mut entry = Entry::new("spiffe://example.org/a", "spiffe://example.org/p", ["unix:uid:1"]);
    entry.created_at = 7;
    let id = server.create_entry(entry.clone());
    entry.hint = "changed".to_owned();
    assert!(server.update_entry(entry.clone().with_id(&id)));
    assert!(!server.update_entry(entry.clone().with_id("unknown")));
    let kept = &server.entries()[0];
    assert_eq!((kept.revision_number, kept.created_at, kept.hint.as_str()), (1, 7, "changed"));

    // An equal entry without an ID, as from a file, keeps the old one. The other entry is new.
    let other = Entry::new("spiffe://example.org/b", "spiffe://example.org/p", ["unix:uid:2"]).with_id("b");
    server.replace_entries(vec![entry.clone(), other]);
    let entries = server.entries();
    let kept = entries.iter().find(|entry| entry.id == id).expect("recognised by its content");
    assert_eq!((entries.len(), kept.revision_number), (2, 1));
    entry.hint = "again".to_owned();
    server.replace_entries(vec![entry]);
    let entries = server.entries();
    assert_eq!((entries.len(), entries[0].revision_number), (1, 2));
    assert!(server.delete_entry(&id) && !server.delete_entry(&id));
    Ok(())
}

async fn svids_are_signed_each_with_a_status() -> Outcome {
    let options = Options { ca_ttl: Duration::from_secs(600), ..Options::default() };
    let server = Server::start(options).await?;
    let (mut client, id) = join(&server).await?;
    let mut entry = Entry::new("spiffe://example.org/a", id, ["unix:uid:1"]).with_id("a");
    entry.dns_names = vec!["a.example.org".to_owned()];
    entry.x509_svid_ttl = 100_000;
    server.create_entry(entry);
    server.create_entry(Entry::new("spiffe://example.org/b", "spiffe://example.org/x", []).with_id("b"));
    let key = KeyPair::generate()?;
    let mut forged = csr(&key);
    *forged.last_mut().expect("not empty") ^= 1;
    let params = [
        ("a", csr(&key)),
        ("b", csr(&key)),
        ("", csr(&key)),
        ("a", vec![]),
        ("a", b"not DER".to_vec()),
        ("a", forged),
    ];
    let params = params.map(|(id, csr)| NewX509svidParams { entry_id: id.to_owned(), csr: csr.into() });
    let request = BatchNewX509svidRequest { params: params.to_vec() };
    let results = client.svid.batch_new_x509svid(request).await?.into_inner().results;
    let statuses: Vec<_> = results.iter().map(|result| result.status.clone().expect("a status")).collect();
    let codes: Vec<_> = statuses.iter().map(|status| status.code).collect();
    assert_eq!(codes, [0, 5, 3, 3, 3, 3], "{statuses:?}");
    assert_eq!(statuses[1].message, "entry not found or not authorized");
    assert!(statuses[5].message.starts_with("invalid CSR signature"));

    let svid = results[0].svid.as_ref().expect("the first is signed");
    assert_eq!(svid.cert_chain.len(), 1);
    verify(&chain(svid), &server.bundle_pem())?;
    assert_eq!(spiffe_id(&svid.cert_chain[0]), "spiffe://example.org/a");
    let (_, leaf) = x509_parser::parse_x509_certificate(&svid.cert_chain[0])?;
    assert_eq!(leaf.public_key().subject_public_key.as_ref(), key.public_key_raw());
    assert_eq!(leaf.validity().not_after.timestamp(), svid.expires_at);
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert!(life <= 612, "the CA ends first: {life}");
    let usage = leaf.key_usage()?.expect("a key usage");
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
    assert_eq!(leaf.subject().to_string(), "C=US, O=SPIRE, CN=a.example.org");

    let none = refused(client.svid.batch_new_x509svid(BatchNewX509svidRequest::default()).await);
    assert_eq!(none.code(), Code::InvalidArgument);
    let params = vec![NewX509svidParams::default(); 501];
    let many = refused(client.svid.batch_new_x509svid(BatchNewX509svidRequest { params }).await);
    assert_eq!(many.code(), Code::ResourceExhausted);
    assert_eq!(server.counters().signed, 1);
    Ok(())
}

async fn chains_carry_the_intermediate() -> Outcome {
    let server = Server::start(Options { intermediate: true, ..Options::default() }).await?;
    let bundle = server.bundle_pem();
    assert_eq!(certificates(&bundle).len(), 1);
    let identity = {
        let token = server.create_join_token();
        Client::anonymous(&server).await?.attest("join_token", &token).await?
    };
    assert_eq!(identity.chain.len(), 2);
    verify(&identity.chain, &bundle)?;
    assert!(verify(&identity.chain[..1], &bundle).is_err());
    server.rotate_ca();
    assert_eq!(server.bundle_pem(), bundle);
    Client::of(&server, &identity).await?.agent.post_status(status("1")).await?;
    Ok(())
}

async fn the_ca_rotates_in_two_steps() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let first = server.bundle_pem();
    let identity = {
        let token = server.create_join_token();
        Client::anonymous(&server).await?.attest("join_token", &token).await?
    };
    server.prepare_ca();
    let both = server.bundle_pem();
    assert_eq!(certificates(&both).len(), 2);
    let mut client = Client::of(&server, &identity).await?;
    let (still, _) = renew(&server, &mut client).await?;
    verify(&still.chain, &first)?;

    server.rotate_ca();
    assert_eq!(server.bundle_pem(), both);
    let (new, mut client) = renew(&server, &mut client).await?;
    assert!(verify(&new.chain, &first).is_err());
    verify(&new.chain, &both)?;
    server.forget_old_cas();
    assert_eq!(certificates(&server.bundle_pem()).len(), 1);
    let bundle = client.bundle.get_bundle(GetBundleRequest::default()).await?.into_inner();
    assert_eq!((bundle.x509_authorities.len(), bundle.sequence_number), (1, 3));
    assert!(Client::of(&server, &identity).await?.agent.post_status(status("1")).await.is_err());

    let json: serde_json::Value = serde_json::from_str(&server.bundle_spiffe_json())?;
    assert_eq!(json["spiffe_sequence"], 3);
    assert_eq!(json["keys"][0]["use"], "x509-svid");
    assert_eq!(json["keys"][0]["x"].as_str().map(str::len), Some(43));
    assert_eq!(json["keys"][0]["y"].as_str().map(str::len), Some(43));
    Ok(())
}

async fn federated_bundles_are_found_or_not() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let other = Server::start(Options { trust_domain: "other.org".to_owned(), ..Options::default() }).await?;
    let (mut client, _) = join(&server).await?;
    let mut ask = async |trust_domain: &str| {
        let request = GetFederatedBundleRequest { trust_domain: trust_domain.to_owned(), output_mask: None };
        client.bundle.get_federated_bundle(request).await
    };
    let missing = refused(ask("other.org").await);
    assert_eq!((missing.code(), missing.message()), (Code::NotFound, "bundle not found"));
    assert_eq!(refused(ask("example.org").await).code(), Code::InvalidArgument);
    server.set_federated_bundle_pem("other.org", &other.bundle_pem());
    let bundle = ask("other.org").await?.into_inner();
    assert_eq!(bundle.trust_domain, "other.org");
    assert_eq!(bundle.x509_authorities[0].asn1, certificates(&other.bundle_pem())[0].as_ref());
    assert!(server.remove_federated_bundle("other.org"));
    assert_eq!(refused(ask("other.org").await).code(), Code::NotFound);
    let mut anonymous = Client::anonymous(&server).await?;
    let request = GetFederatedBundleRequest { trust_domain: "other.org".to_owned(), output_mask: None };
    let denied = refused(anonymous.bundle.get_federated_bundle(request).await);
    assert_eq!(denied.code(), Code::PermissionDenied);
    Ok(())
}

async fn tls_1_2_will_do() -> Outcome {
    let server = Server::start(Options::default()).await?;
    let token = server.create_join_token();
    let version = &rustls::version::TLS12;
    let identity = Client::connect(&server, None, version).await?.attest("join_token", &token).await?;
    let mut client = Client::connect(&server, Some(&identity), version).await?;
    client.agent.post_status(status("1")).await?;
    Ok(())
}

/// All answers to one stream of requests. The first request has the mask, the others have IDs.
async fn sync(
    client: &mut Client,
    output_mask: Option<EntryMask>,
    ids: Vec<Vec<String>>,
) -> Result<Vec<SyncAuthorizedEntriesResponse>, Status> {
    let (sender, requests) = mpsc::channel(8);
    let first = SyncAuthorizedEntriesRequest { output_mask, ids: vec![] };
    let rest = ids.into_iter().map(|ids| SyncAuthorizedEntriesRequest { output_mask: None, ids });
    for request in std::iter::once(first).chain(rest) {
        sender.send(request).await.expect("there is room for eight");
    }
    drop(sender);
    let answers = client.entry.sync_authorized_entries(ReceiverStream::new(requests)).await?;
    collect(answers.into_inner()).await
}

async fn collect<T>(mut stream: Streaming<T>) -> Result<Vec<T>, Status> {
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        all.push(message);
    }
    Ok(all)
}

/// The mask that spire-agent sends.
fn mask() -> EntryMask {
    EntryMask {
        spiffe_id: true,
        selectors: true,
        federates_with: true,
        admin: true,
        downstream: true,
        revision_number: true,
        store_svid: true,
        hint: true,
        created_at: true,
        ..EntryMask::default()
    }
}

fn status(version: &str) -> PostStatusRequest {
    PostStatusRequest { current_bundle_serial: 0, agent_version: version.to_owned() }
}

fn renewal(key: &KeyPair) -> RenewAgentRequest {
    RenewAgentRequest { params: Some(AgentX509svidParams { csr: csr(key).into() }) }
}

fn refused<T>(result: Result<T, Status>) -> Status {
    result.err().expect("the server must refuse this")
}
