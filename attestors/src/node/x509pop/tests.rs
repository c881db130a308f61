use aws_lc_rs::signature::{UnparsedPublicKey, VerificationAlgorithm};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};

use super::*;

fn pair(algorithm: &'static rcgen::SignatureAlgorithm) -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    (key, certificate.der().to_vec())
}

fn challenge(kind: &str) -> Vec<u8> {
    let other = if kind == "rsa_signature" { "ecdsa_signature" } else { "rsa_signature" };
    let nonce = base64(&[7; NONCE]);
    serde_json::to_vec(&serde_json::json!({ kind: { "nonce": nonce }, other: null })).unwrap()
}

/// Answers a challenge. Returns both nonces, and the response.
fn answered(key: &SigningKey, kind: &str) -> (Vec<u8>, serde_json::Value) {
    let response: serde_json::Value = serde_json::from_slice(&key.answer(&challenge(kind)).unwrap()).unwrap();
    let answer = response[kind].clone();
    let nonce = decode(answer["nonce"].as_str().unwrap()).unwrap();
    assert_eq!(nonce.len(), NONCE);
    ([vec![7; NONCE], nonce].concat(), answer)
}

fn verify(algorithm: &'static dyn VerificationAlgorithm, public: &[u8], message: &[u8], signature: &[u8]) {
    UnparsedPublicKey::new(algorithm, public).verify(message, signature).unwrap();
}

#[test]
fn ecdsa_signs_the_hash_of_both_nonces() {
    for (algorithm, verifier) in [
        (&PKCS_ECDSA_P256_SHA256, &signature::ECDSA_P256_SHA256_ASN1),
        (&PKCS_ECDSA_P384_SHA384, &signature::ECDSA_P384_SHA256_ASN1),
    ] {
        let (key, der) = pair(algorithm);
        let credential = Credential::new(vec![der], &key.serialize_der()).unwrap();
        let (message, answer) = answered(&credential.key, "ecdsa_signature");
        let part = |name: &str| decode(answer[name].as_str().unwrap()).unwrap();
        let signed = asn1(&part("r"), &part("s"));
        verify(verifier, credential.key.public(), &message, &signed);
    }
}

/// The `ECDSA-Sig-Value` of two numbers (RFC 3279 §2.2.3).
fn asn1(r: &[u8], s: &[u8]) -> Vec<u8> {
    let integer = |number: &[u8]| {
        let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len() - 1);
        let sign = if number[first] & 0x80 == 0 { &[][..] } else { &[0] };
        let value = [sign, &number[first..]].concat();
        [&[2, u8::try_from(value.len()).unwrap()], &value[..]].concat()
    };
    let both = [integer(r), integer(s)].concat();
    [&[0x30, u8::try_from(both.len()).unwrap()], &both[..]].concat()
}

#[test]
fn rsa_signs_with_pss() {
    let (key, der) = pair(&PKCS_RSA_SHA256);
    let credential = Credential::new(vec![der], &key.serialize_der()).unwrap();
    let (message, answer) = answered(&credential.key, "rsa_signature");
    let signed = decode(answer["signature"].as_str().unwrap()).unwrap();
    verify(&signature::RSA_PSS_2048_8192_SHA256, credential.key.public(), &message, &signed);
    let wrong = credential.key.answer(&challenge("ecdsa_signature")).unwrap_err();
    assert_eq!(wrong.to_string(), "nodeattestor(x509pop): expecting RSA challenge");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ((key, _), (_, other)) = (pair(&PKCS_ECDSA_P256_SHA256), pair(&PKCS_ECDSA_P256_SHA256));
    let refused = Credential::new(vec![other], &key.serialize_der()).unwrap_err();
    assert_eq!(refused, CredentialError::Mismatch);
    assert_eq!(Credential::new(vec![], &[]).unwrap_err(), CredentialError::NoCertificate);
    let (_, der) = pair(&PKCS_ECDSA_P256_SHA256);
    assert_eq!(Credential::new(vec![der], b"rubbish").unwrap_err(), CredentialError::Key);
}

#[test]
fn a_challenge_that_is_none_is_refused() {
    let (key, der) = pair(&PKCS_ECDSA_P256_SHA256);
    let key = Credential::new(vec![der], &key.serialize_der()).unwrap().key;
    let short = serde_json::json!({ "ecdsa_signature": { "nonce": base64(&[7; 31]) } }).to_string();
    for (challenge, reason) in [
        ("{", "unable to unmarshal challenge"),
        ("{}", "expecting ECDSA challenge"),
        (&*short, "invalid challenge nonce"),
    ] {
        let refused = key.answer(challenge.as_bytes()).unwrap_err();
        assert_eq!(refused.to_string(), format!("nodeattestor(x509pop): {reason}"));
    }
}

#[tokio::test]
async fn files_are_read_anew_at_each_attestation() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let pop = X509Pop::files(path("key"), path("certificate"), Some(path("intermediates")));
    assert!(matches!(pop.begin().await, Err(NodeError::File { .. })));
    let (key, der) = pair(&PKCS_ECDSA_P256_SHA256);
    let (_, intermediate) = pair(&PKCS_ECDSA_P256_SHA256);
    let block = |der: &[u8]| pem("CERTIFICATE", der);
    // The file is not clean text: it has Latin-1, CRLF, and text between the blocks.
    let noisy = [&b"# caf\xe9\r\n"[..], block(&der).replace('\n', "\r\n").as_bytes()].concat();
    std::fs::write(path("certificate"), noisy).unwrap();
    std::fs::write(path("intermediates"), block(&intermediate)).unwrap();
    std::fs::write(path("key"), key.serialize_pem()).unwrap();
    let (payload, _) = pop.begin().await.unwrap();
    let payload: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(payload, serde_json::json!({ "certificates": [base64(&der), base64(&intermediate)] }));
    std::fs::write(path("key"), "").unwrap();
    let refused = pop.begin().await.unwrap_err().to_string();
    assert!(refused.contains("failed to find any private key PEM data"), "{refused}");
}

fn pem(tag: &str, der: &[u8]) -> String {
    let text = base64(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {tag}-----\n{}\n-----END {tag}-----\n", lines.join("\n"))
}
