//! A plain client of the server's API, with TLS by SPIFFE ID and attestation.

use std::sync::{Arc, Mutex};

use dev::Server;
use hyper_util::rt::TokioIo;
use proto::agent::agent_client::AgentClient;
use proto::agent::{AgentX509svidParams, AttestAgentRequest, attest_agent_request, attest_agent_response};
use proto::bundle::bundle_client::BundleClient;
use proto::entry::entry_client::EntryClient;
use proto::svid::svid_client::SvidClient;
use proto::types::{AttestationData, PermissionDeniedDetails};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// A key with its certificate chain.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
    pub(crate) reattestable: bool,
}

/// One connection, with a client for each service.
pub(crate) struct Client {
    pub(crate) agent: AgentClient<Channel>,
    pub(crate) entry: EntryClient<Channel>,
    pub(crate) bundle: BundleClient<Channel>,
    pub(crate) svid: SvidClient<Channel>,
    /// The SPIFFE ID in the server's certificate.
    pub(crate) server_id: String,
}

impl Client {
    /// Connects without a client certificate.
    pub(crate) async fn anonymous(server: &Server) -> Result<Self, tonic::transport::Error> {
        Self::connect(server, None, &rustls::version::TLS13).await
    }

    /// Connects as this agent.
    pub(crate) async fn of(server: &Server, identity: &Identity) -> Result<Self, tonic::transport::Error> {
        Self::connect(server, Some(identity), &rustls::version::TLS13).await
    }

    pub(crate) async fn connect(
        server: &Server,
        identity: Option<&Identity>,
        version: &'static SupportedProtocolVersion,
    ) -> Result<Self, tonic::transport::Error> {
        let verifier = Arc::new(Verifier::new(&server.bundle_pem()));
        let seen = Arc::clone(&verifier);
        let config = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
            .with_protocol_versions(&[version])
            .expect("the provider has both versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => config
                .with_client_auth_cert(identity.chain.clone(), private_key(&identity.key))
                .expect("the key fits the certificate"),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let address = server.address();
        let dial = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from("spire-server").expect("a DNS name");
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        let channel = Endpoint::from_static("http://spire-server").connect_with_connector(dial).await?;
        let server_id = seen.seen.lock().expect("not poisoned").clone();
        Ok(Self {
            agent: AgentClient::new(channel.clone()),
            entry: EntryClient::new(channel.clone()),
            bundle: BundleClient::new(channel.clone()),
            svid: SvidClient::new(channel),
            server_id,
        })
    }

    /// Attests with a new key.
    pub(crate) async fn attest(&mut self, kind: &str, payload: &str) -> Result<Identity, Status> {
        let key = KeyPair::generate().expect("a key");
        let params = attest_agent_request::Params {
            data: Some(AttestationData { r#type: kind.to_owned(), payload: payload.to_owned().into() }),
            params: Some(AgentX509svidParams { csr: csr(&key).into() }),
        };
        let request = AttestAgentRequest { step: Some(attest_agent_request::Step::Params(params)) };
        let mut answers = self.agent.attest_agent(tokio_stream::once(request)).await?.into_inner();
        match answers.message().await?.and_then(|answer| answer.step) {
            Some(attest_agent_response::Step::Result(result)) => Ok(Identity {
                chain: chain(&result.svid.expect("a result has an SVID")),
                key,
                reattestable: result.reattestable,
            }),
            _ => Err(Status::internal("neither a result nor an error")),
        }
    }
}

/// Attests with a new join token and connects as the new agent. Also returns its SPIFFE ID.
pub(crate) async fn join(server: &Server) -> Result<(Client, String), Box<dyn std::error::Error>> {
    let token = server.create_join_token();
    let identity = Client::anonymous(server).await?.attest("join_token", &token).await?;
    Ok((Client::of(server, &identity).await?, server.join_token_agent_id(&token)))
}

/// A CSR without names.
pub(crate) fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).expect("a CSR").der().to_vec()
}

pub(crate) fn chain(svid: &proto::types::X509svid) -> Vec<CertificateDer<'static>> {
    svid.cert_chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect()
}

/// The SPIFFE ID of a leaf certificate.
pub(crate) fn spiffe_id(leaf: &[u8]) -> String {
    let (_, leaf) = X509Certificate::from_der(leaf).expect("a certificate");
    let names = leaf.subject_alternative_name().expect("readable").expect("a SAN").value;
    let uri = names.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    uri.expect("a URI")
}

/// The serial number of a leaf certificate in decimal.
pub(crate) fn serial(leaf: &[u8]) -> String {
    X509Certificate::from_der(leaf).expect("a certificate").1.tbs_certificate.serial.to_string()
}

/// The reason in the details of a refusal; `None` without details.
pub(crate) fn reason(status: &Status) -> Option<String> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct RpcStatus {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(message, repeated, tag = "3")]
        details: Vec<prost_types::Any>,
    }
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let packed: RpcStatus = prost::Message::decode(status.details()).expect("a google.rpc.Status");
    let any = packed.details.first()?;
    assert_eq!(any.type_url, "type.googleapis.com/spire.api.types.PermissionDeniedDetails");
    assert_eq!((packed.code, packed.message.as_str()), (7, status.message()));
    let details: PermissionDeniedDetails = prost::Message::decode(any.value.as_slice()).expect("details");
    Some(details.reason().as_str_name().to_owned())
}

/// Verifies that the chain leads to one of the roots, both as a server's and as a client's certificate.
pub(crate) fn verify(chain: &[CertificateDer<'_>], roots: &str) -> Result<(), webpki::Error> {
    let roots = certificates(roots);
    let anchors: Vec<_> =
        roots.iter().map(|root| webpki::anchor_from_trusted_cert(root)).collect::<Result<_, _>>()?;
    let (leaf, intermediates) = chain.split_first().expect("a chain");
    let leaf = webpki::EndEntityCert::try_from(leaf)?;
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let now = UnixTime::now();
        leaf.verify_for_usage(algorithms, &anchors, intermediates, now, usage, None, None)?;
    }
    Ok(())
}

pub(crate) fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    let blocks = pem::parse_many(pem).expect("PEM");
    blocks.into_iter().map(|block| CertificateDer::from(block.into_contents())).collect()
}

fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

/// Verifies the server's chain, and keeps its SPIFFE ID for the test.
#[derive(Debug)]
struct Verifier {
    roots: String,
    seen: Mutex<String>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(roots: &str) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        Self { roots: roots.to_owned(), seen: Mutex::default(), provider }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        verify(&chain, &self.roots).map_err(|error| rustls::Error::General(error.to_string()))?;
        *self.seen.lock().expect("not poisoned") = spiffe_id(leaf);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
