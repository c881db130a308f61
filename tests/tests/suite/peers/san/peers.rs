//! Certificates of two trust domains, and a TLS client that presents them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The peers by name.
pub(super) struct Peers {
    all: BTreeMap<&'static str, Shown>,
    certificates: BTreeMap<&'static str, Shown>,
}

struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

struct Authority {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    key: Vec<u8>,
}

impl Peers {
    pub(super) fn new() -> Self {
        let root = Authority::new("example.org", DAY, None);
        let other = Authority::new("other.org", DAY, None);
        let expired = Authority::new("example.org", -HOUR, None);
        let intermediate = Authority::new("example.org", DAY, Some(&root));
        let (b, a, dns) = ("spiffe://example.org/b", "spiffe://example.org/a", "b.local");
        let mut all = BTreeMap::new();
        let mut leaf = |name, by: &Authority, names: &[&str], life| {
            all.insert(name, by.sign(names, life, ExtendedKeyUsagePurpose::ClientAuth));
        };
        leaf("b", &root, &[b], DAY);
        leaf("a", &root, &[a], DAY);
        leaf("other", &other, &["spiffe://other.org/b"], DAY);
        leaf("other by our CA", &root, &["spiffe://other.org/b"], DAY);
        leaf("b by other CA", &other, &[b], DAY);
        leaf("b with b.local", &root, &[b, dns], DAY);
        leaf("b.local only", &root, &[dns], DAY);
        leaf("b and a", &root, &[b, a], DAY);
        leaf("a and b", &root, &[a, b], DAY);
        leaf("expired b", &root, &[b], -HOUR);
        leaf("expired b by other CA", &other, &[b], -HOUR);
        leaf("B in capitals", &root, &["spiffe://example.org/B", "B.LOCAL"], DAY);
        leaf("wildcard", &root, &[b, "*.local"], DAY);
        leaf("partial wildcard", &root, &[b, "*.b.local", "b*.local"], DAY);
        leaf("trust domain only", &root, &["spiffe://example.org"], DAY);
        leaf("no SPIFFE ID", &root, &["https://example.org/b"], DAY);
        leaf("web and b", &root, &["https://example.org/b", b], DAY);
        leaf("mail and address", &root, &[b, "ops@b.local", "10.0.0.1"], DAY);
        leaf("no names", &root, &[], DAY);
        leaf("by expired root", &expired, &[b], DAY);
        leaf("b without its intermediate", &intermediate, &[b], DAY);
        let mut complete = intermediate.sign(&[b], DAY, ExtendedKeyUsagePurpose::ClientAuth);
        complete.chain.push(intermediate.der.clone());
        all.insert("b by intermediate", complete);
        for (name, oid, content) in EXTENSIONS {
            let subordinate = Authority::extended(name, &root, oid, content);
            let mut shown = subordinate.sign(&[b], DAY, ExtendedKeyUsagePurpose::ClientAuth);
            shown.chain.push(subordinate.der);
            all.insert(name, shown);
        }
        all.insert(
            "a subordinate itself",
            Shown { chain: vec![intermediate.der.clone()], key: intermediate.key.clone() },
        );
        all.insert("b for servers", root.sign(&[b], DAY, ExtendedKeyUsagePurpose::ServerAuth));
        all.insert("none", Shown { chain: Vec::new(), key: Vec::new() });
        let mut certificates = BTreeMap::new();
        certificates.insert("server", root.sign(&[dns], DAY, ExtendedKeyUsagePurpose::ServerAuth));
        let authorities = [
            ("root", root),
            ("other root", other),
            ("expired root", expired),
            ("intermediate", intermediate),
        ];
        for (name, authority) in authorities {
            certificates.insert(name, Shown { chain: vec![authority.der], key: authority.key });
        }
        Self { all, certificates }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.all.keys().copied()
    }

    pub(super) fn chain(&self, name: &str) -> &[CertificateDer<'static>] {
        &self.find(name).chain
    }

    pub(super) fn pem(&self, name: &str) -> String {
        pem("CERTIFICATE", &self.find(name).chain[0])
    }

    pub(super) fn key(&self, name: &str) -> String {
        pem("PRIVATE KEY", &self.find(name).key)
    }

    fn find(&self, name: &str) -> &Shown {
        self.all.get(name).or_else(|| self.certificates.get(name)).expect("a known name")
    }

    /// Whether the listener at this port answers this peer.
    pub(super) async fn ask(&self, name: &str, port: u16) -> bool {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
        let shown = self.find(name);
        let config = if shown.chain.is_empty() {
            builder.with_no_client_auth()
        } else {
            let key = PrivateKeyDer::Pkcs8(shown.key.clone().into());
            builder.with_client_auth_cert(shown.chain.clone(), key).expect("a chain with its key")
        };
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("it listens");
        let server = ServerName::try_from("b.local").expect("a name");
        let Ok(mut stream) = TlsConnector::from(Arc::new(config)).connect(server, stream).await else {
            return false;
        };
        // With TLS 1.3 a refusal comes after the client's handshake.
        let mut answer = [0; ANSWER.len()];
        let answered = async {
            stream.write_all(REQUEST).await?;
            stream.read_exact(&mut answer).await
        };
        answered.await.is_ok() && answer == ANSWER
    }
}

impl Authority {
    fn new(trust_domain: &str, life: Duration, parent: Option<&Self>) -> Self {
        let params = params(&[&format!("spiffe://{trust_domain}")], life);
        Self::made(&format!("{trust_domain} {life} {}", parent.is_some()), params, parent)
    }

    /// A subordinate with a critical extension.
    fn extended(name: &str, parent: &Self, oid: &[u64], content: &[u8]) -> Self {
        let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
        extension.set_criticality(true);
        let mut params = params(&["spiffe://example.org"], DAY);
        params.custom_extensions = vec![extension];
        // A name of its own: BoringSSL follows one issuer of a name and does not come back.
        Self::made(name, params, Some(parent))
    }

    fn made(name: &str, mut params: CertificateParams, parent: Option<&Self>) -> Self {
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = match parent {
            Some(parent) => params.signed_by(&key, &parent.issuer),
            None => params.self_signed(&key),
        };
        let der = certificate.expect("signed").der().clone();
        Self { der, key: key.serialize_der(), issuer: Issuer::new(params, key) }
    }

    fn sign(&self, names: &[&str], life: Duration, usage: ExtendedKeyUsagePurpose) -> Shown {
        let mut params = params(names, life);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Shown { chain: vec![certificate.der().clone()], key: key.serialize_der() }
    }
}

fn params(names: &[&str], life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let name = |name: &&str| {
        let text = || (*name).try_into().expect("ASCII");
        match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if name.contains(':') => SanType::URI(text()),
            Err(_) if name.contains('@') => SanType::Rfc822Name(text()),
            Err(_) => SanType::DnsName(text()),
        }
    };
    params.subject_alt_names = names.iter().map(name).collect();
    let now = OffsetDateTime::now_utc();
    params.not_before = now - DAY;
    params.not_after = now + life;
    params
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Accepts any server certificate, because Envoy's own one is not under test.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Peers by a subordinate, and its critical extension: `certificatePolicies` with `anyPolicy`, as enterprises issue them, and
/// `nameConstraints` that permit URIs of one host alone.
const EXTENSIONS: [(&str, &[u64], &[u8]); 3] = [
    ("b by critical policies", &[2, 5, 29, 32], &[0x30, 8, 0x30, 6, 6, 4, 0x55, 0x1d, 0x20, 0]),
    ("b by its host alone", &[2, 5, 29, 30], b"\x30\x11\xa0\x0f\x30\x0d\x86\x0bexample.org"),
    ("b by another host alone", &[2, 5, 29, 30], b"\x30\x0f\xa0\x0d\x30\x0b\x86\x09other.org"),
];
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: b.local\r\n\r\n";
const ANSWER: [u8; 12] = *b"HTTP/1.1 200";
const DAY: Duration = Duration::DAY;
const HOUR: Duration = Duration::HOUR;
