//! The server and the way there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dev::Fault;
use harness::{Agent, Conf, trial};
use libtest_mimic::Trial;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Found;
use crate::suite::server;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("check_names_a_server_that_is_not_there", no_server),
        trial("check_names_a_server_that_says_nothing", black_hole),
        trial("check_names_a_name_without_an_address", no_address),
        trial("check_names_a_proxy_that_refuses", refusing_proxy),
        trial("check_names_a_bundle_of_another_server", wrong_bundle),
        trial("check_names_a_bundle_that_is_missing_or_expired", bad_bundle),
        trial("check_names_a_bundle_that_is_stale", stale_bundle),
        trial("check_names_a_server_of_another_name", wrong_server),
        trial("check_names_a_clock_that_is_late", late_clock),
        trial("check_warns_of_insecure_bootstrap", insecure),
    ]
}

async fn no_server() {
    let server = server().await;
    let conf = Conf::join_token(&server);
    server.shutdown().await;
    let found = Found::of(&conf).await;
    found.only_fails("server-connect", "Connection refused", "Start the server");
    found.says("clock", "warning", "not compared", "");
}

async fn black_hole() {
    let server = server().await;
    server.fault(Fault::BlackHole).await;
    let found = Found::of(&Conf::join_token(&server)).await;
    found.only_fails("server-tls", "no answer in time", "no SPIRE server that works");
}

async fn no_address() {
    let server = server().await;
    let found = Found::of(&Conf { server: "spire.invalid:8081".into(), ..Conf::join_token(&server) }).await;
    found.only_fails("server-dns", "spire.invalid:8081 has no address", "Correct server_address");
}

/// A proxy that answers 403 to whatever it is asked.
async fn refusing_proxy() {
    let server = server().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let proxy = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let conf = Conf {
        server: "spire.invalid:8081".into(),
        environment: vec![
            ("HTTPS_PROXY", PathBuf::from(format!("http://{proxy}"))),
            ("NO_PROXY", PathBuf::new()),
        ],
        ..Conf::join_token(&server)
    };
    let found = Found::of(&conf).await;
    found.only_fails("server-connect", "answers 403 to CONNECT", "allow CONNECT to spire.invalid:8081");
    found.says("server-proxy", "ok", &proxy.to_string(), "");
}

async fn wrong_bundle() {
    let (server, other) = (server().await, server().await);
    let conf = Conf { bundle: Some(other.bundle_pem()), ..Conf::join_token(&server) };
    let found = Found::of(&conf).await;
    found.only_fails("server-tls", "certificate signed by unknown authority", "spire-server bundle show");
    found.says("clock", "ok", "", "");
    assert_eq!(server.counters().attested, 0);
}

async fn bad_bundle() {
    let server = server().await;
    let found = Found::of(&Conf { bundle: None, ..Conf::join_token(&server) }).await;
    found.only_fails("trust-bundle", "trust_bundle_path", "spire-server bundle show");
    found.says("server-tls", "warning", "no trust bundle to prove it by", "");
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    (params.not_before, params.not_after) =
        ((now - Duration::from_hours(9)).into(), (now - Duration::from_hours(3)).into());
    let expired = params.self_signed(&KeyPair::generate().expect("a key")).expect("signed").pem();
    let found = Found::of(&Conf { bundle: Some(expired), ..Conf::join_token(&server) }).await;
    found.says("trust-bundle", "failure", "the last one 3 hours ago", "Replace it");
}

/// The node has the bundle of today, and its file is of yesterday.
async fn stale_bundle() {
    let server = server().await;
    let conf = Conf { disk_keys: true, ..Conf::join_token(&server) };
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    let folder = agent.folder();
    assert_eq!(agent.stop().await.code, Some(0));
    let stranger = crate::suite::server().await;
    let stale = Conf { bundle: Some(stranger.bundle_pem()), join_token: None, ..conf.clone() };
    let found = Found::within(&stale, &folder).await;
    found.passes().says("trust-bundle", "warning", "is stale", "a new node could not attest");
    // Now the stored one is of yesterday, and the file of today.
    server.fault(Fault::Down).await;
    server.rotate_ca();
    server.forget_old_cas();
    server.fault(Fault::None).await;
    let found = Found::within(&Conf { bundle: Some(server.bundle_pem()), ..conf }, &folder).await;
    found.says("server-tls", "failure", "unknown authority", "");
    found.says("server-tls", "warning", "the stored bundle is too old", "rebootstrap_mode");
}

async fn wrong_server() {
    let server = server().await;
    server.fault(Fault::WrongServerId).await;
    let found = Found::of(&Conf::join_token(&server)).await;
    found.only_fails("server-tls", "unexpected server ID", "Correct trust_domain or server_address");
}

/// A server whose certificate is valid from tomorrow on, which is what a node sees whose clock is a day late.
async fn late_clock() {
    let (mut authority, mut leaf) = (CertificateParams::default(), CertificateParams::default());
    let now = SystemTime::now();
    let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "authority");
    authority.subject_alt_names = vec![uri("spiffe://example.org")];
    leaf.subject_alt_names = vec![uri("spiffe://example.org/spire/server")];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.not_before = (now + Duration::from_hours(24)).into();
    leaf.not_after = (now + Duration::from_hours(48)).into();
    let (authority_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let bundle = authority.self_signed(&authority_key).expect("signed").pem();
    let leaf = leaf.signed_by(&key, &Issuer::new(authority, authority_key)).expect("signed");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("a certificate");
    let mut config = config;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(acceptor.accept(stream).await);
        }
    });
    let other = server().await;
    let conf = Conf { server: address, bundle: Some(bundle), ..Conf::join_token(&other) };
    let found = Found::of(&conf).await;
    found.says("server-tls", "failure", "expired or is not yet valid", "Compare the clocks");
    found.says("clock", "failure", "this node's clock is late", "Set the clocks");
    assert_eq!(found.failures(), ["server-tls", "clock"]);
}

async fn insecure() {
    let server = server().await;
    let agent = "trust_bundle_path = \"\"\n insecure_bootstrap = true".into();
    let found = Found::of(&Conf { agent, bundle: None, ..Conf::join_token(&server) }).await;
    found.passes().says("trust-bundle", "warning", "whoever answers", "Set trust_bundle_path");
    found.says("server-tls", "warning", "lets nothing prove it", "");
}
