//! TLS with the kubelet. Its certificate is judged as Go judges it: [`identity::chain`].

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::chain::{self, Purpose, Tls, verify_handshake, verify_host};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::KubeletOptions;
use super::inputs::Inputs;

pub(super) fn config(options: &KubeletOptions, inputs: &Inputs) -> io::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let trust = match inputs.authorities() {
        None => Trust::Anyone,
        Some(pem) => Trust::Chain { authorities: certificates(pem)?, host: options.node_name.clone() },
    };
    let verifier = Verifier { trust, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some((chain, key)) = inputs.certificate() else { return Ok(builder.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|reason| invalid("private key", reason))?;
    builder.with_client_auth_cert(certificates(chain)?, key).map_err(io::Error::other)
}

/// The certificates of a file. A damaged block is skipped, as Go does.
fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = identity::pem_certificates(pem).into_iter().map(CertificateDer::from).collect();
    if found.is_empty() { Err(invalid("certificates", "there are none")) } else { Ok(found) }
}

fn invalid(what: &str, reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unable to parse {what}: {reason}"))
}

/// Which certificates of the kubelet are accepted.
#[derive(Debug)]
enum Trust {
    /// Any certificate (`skip_kubelet_verification`).
    Anyone,
    /// A certificate that chains to one of these authorities. With a host it must be for this name; otherwise it may be
    /// for any (SPIRE, `kubeletclient.go`).
    Chain { authorities: Vec<CertificateDer<'static>>, host: Option<String> },
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Trust::Chain { authorities, host } = &self.trust {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
            let intermediates = intermediates.iter().map(|der| &**der);
            let authorities = authorities.iter().map(|der| &**der);
            chain::verify(leaf, intermediates, authorities, Purpose::Server, now).map_err(refusal)?;
            if let Some(host) = host {
                verify_host(leaf, host).map_err(refusal)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(Tls::V12, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(Tls::V13, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Verifier {
    fn signed(
        &self,
        tls: Tls,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Whoever may show any certificate may also show one of his own, so the signature would prove nothing.
        if let Trust::Chain { .. } = self.trust {
            let scheme = u16::from(signature.scheme);
            verify_handshake(certificate, tls, scheme, message, signature.signature()).map_err(refusal)?;
        }
        Ok(HandshakeSignatureValid::assertion())
    }
}

fn refusal(reason: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    CertificateError::Other(rustls::OtherError(Arc::new(reason))).into()
}

/// The reason of a failed handshake, in Go's words where the certificate was refused.
pub(super) fn reason(source: io::Error) -> io::Error {
    match source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(refusal))) => {
            io::Error::new(source.kind(), format!("tls: failed to verify certificate: {}", refusal.0))
        }
        _ => source,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair};

    use super::*;

    /// An enterprise's subordinate authority: its `certificatePolicies` is critical and has `anyPolicy`.
    fn subordinate() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut policies = CustomExtension::from_oid_content(&[2, 5, 29, 32], ANY_POLICY.to_vec());
        policies.set_criticality(true);
        params.custom_extensions = vec![policies];
        params
    }

    fn verify(trust: Trust, chain: &[CertificateDer<'_>]) -> Result<ServerCertVerified, rustls::Error> {
        let verifier = Verifier { trust, provider: Arc::new(aws_lc_rs::default_provider()) };
        let name = ServerName::try_from("node").unwrap();
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now())
    }

    #[test]
    fn critical_policies_are_understood_and_a_name_is_asked_for_where_there_is_one() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (root_key, key, leaf_key) =
            (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root = params.self_signed(&root_key).unwrap();
        let mut middle = subordinate();
        middle.distinguished_name.push(rcgen::DnType::CommonName, "subordinate");
        let signed = middle.signed_by(&key, &Issuer::new(params, root_key)).unwrap();
        let leaf = CertificateParams::new(["node.example".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &Issuer::new(middle, key)).unwrap();
        let chain = [leaf.der().clone(), signed.der().clone()];

        let broken = "-----BEGIN CERTIFICATE-----\nno base64!\n-----END CERTIFICATE-----\n";
        let authorities = certificates(format!("{broken}{}", root.pem()).as_bytes()).unwrap();
        let by = |host: Option<&str>| Trust::Chain {
            authorities: authorities.clone(),
            host: host.map(str::to_owned),
        };
        verify(by(None), &chain).unwrap();
        verify(by(Some("NODE.example")), &chain).unwrap();
        let refused = reason(io::Error::other(verify(by(Some("another")), &chain).unwrap_err())).to_string();
        assert_eq!(
            refused,
            "tls: failed to verify certificate: x509: certificate is valid for node.example, not another"
        );
        verify(by(None), &chain[..1]).unwrap_err();
        verify(Trust::Anyone, &[CertificateDer::from(b"of a weak key".to_vec())]).unwrap();
        certificates(broken.as_bytes()).unwrap_err();
    }

    const ANY_POLICY: &[u8] = &[0x30, 8, 0x30, 6, 6, 4, 0x55, 0x1d, 0x20, 0];
}
