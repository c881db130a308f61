//! The keys of JWT-SVIDs as a JWK set (RFC 7517), in the form of spire-agent: SPIFFE's own members are left out.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::Bundle;
use crate::chain::{Curve, Jwk};

impl Bundle {
    /// The JWT authorities as a JWK set, indented by four spaces as Go's `json.MarshalIndent` does it. Keys are ordered by
    /// their ID, so that equal bundles are equal texts. A key that cannot be read is left out.
    #[must_use]
    pub fn jwks(&self) -> String {
        let mut keys: Vec<(&str, Jwk)> = self
            .jwt_authorities
            .iter()
            .filter_map(|authority| Some((&*authority.key_id, Jwk::of_spki(&authority.public_key)?)))
            .collect();
        keys.sort_by_key(|(id, _)| *id);
        let mut text = String::from("{\n    \"keys\": [");
        for (place, (id, key)) in keys.iter().enumerate() {
            text.push_str(if place == 0 { "\n" } else { ",\n" });
            text.push_str("        {\n");
            let members = members(id, key);
            for (place, (name, value)) in members.iter().enumerate() {
                let comma = if place + 1 == members.len() { "" } else { "," };
                let _ = writeln!(text, "            \"{name}\": {}{comma}", as_go_writes(value));
            }
            text.push_str("        }");
        }
        text.push_str(if keys.is_empty() { "]\n}" } else { "\n    ]\n}" });
        text
    }
}

/// The members of a key, in the order of go-jose.
fn members(id: &str, key: &Jwk) -> Vec<(&'static str, String)> {
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (kind, parameters) = match key {
        Jwk::Rsa { modulus, exponent } => ("RSA", vec![("n", number(modulus)), ("e", number(exponent))]),
        Jwk::Ec { curve, x, y } => {
            let curve = match curve {
                Curve::P224 => "P-224",
                Curve::P256 => "P-256",
                Curve::P384 => "P-384",
                Curve::P521 => "P-521",
            };
            ("EC", vec![("crv", curve.to_owned()), ("x", number(x)), ("y", number(y))])
        }
        Jwk::Ed25519(x) => ("OKP", vec![("crv", "Ed25519".to_owned()), ("x", number(x))]),
    };
    [("kty", kind.to_owned()), ("kid", id.to_owned())].into_iter().chain(parameters).collect()
}

/// A JSON string with the escapes of Go's encoder, which also escapes what means something in HTML.
fn as_go_writes(text: &str) -> String {
    let escaped = serde_json::Value::from(text).to_string();
    let html = [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ];
    html.iter().fold(escaped, |text, (character, escape)| text.replace(*character, escape))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;

    use super::*;
    use crate::{JwtAuthority, TrustDomain};

    fn bundle(keys: &[(&str, &str)]) -> Bundle {
        let mut bundle = Bundle::of_x509(TrustDomain::parse("td").unwrap(), []);
        bundle.jwt_authorities = keys
            .iter()
            .map(|(id, spki)| JwtAuthority {
                public_key: Bytes::from(STANDARD.decode(spki).unwrap()),
                key_id: (*id).to_owned(),
                expires_at: 0,
                tainted: false,
            })
            .collect();
        bundle
    }

    /// What spire-agent's `bundleutil.Marshal` prints for the same keys.
    #[test]
    fn a_set_is_written_as_spire_agent_writes_it() {
        let expected = "{\n    \"keys\": [\n        {\n            \"kty\": \"EC\",\n            \"kid\": \"a\\u003cb\",\n            \"crv\": \"P-256\",\n            \"x\": \"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\",\n            \"y\": \"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\"\n        },\n        {\n            \"kty\": \"OKP\",\n            \"kid\": \"z\",\n            \"crv\": \"Ed25519\",\n            \"x\": \"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"\n        }\n    ]\n}";
        assert_eq!(bundle(&[("z", ED25519), ("rubbish", "AAAA"), ("a<b", P256)]).jwks(), expected);
        assert_eq!(bundle(&[]).jwks(), "{\n    \"keys\": []\n}");
    }

    #[test]
    fn an_rsa_key_has_no_leading_zeros() {
        let set: serde_json::Value = serde_json::from_str(&bundle(&[("r", RSA)]).jwks()).unwrap();
        assert_eq!(
            (set["keys"][0]["kty"].as_str(), set["keys"][0]["e"].as_str()),
            (Some("RSA"), Some("AQAB"))
        );
        let modulus = URL_SAFE_NO_PAD.decode(set["keys"][0]["n"].as_str().unwrap()).unwrap();
        assert!(modulus.len() == 128 && modulus[0] >= 0x80);
    }

    /// The keys of RFC 7517 A.1 and RFC 8037 A.2 as SubjectPublicKeyInfo, and one of 1024 bits.
    const P256: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D7gS2XpJFbZiItSs3m9+9Ue6GnvHw/GW2ZZaVtszggXIw==";
    const ED25519: &str = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    const RSA: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDzpPP2inff3nzadTk1zrsMHvJhQqznMctordpm1/HRm4U4ogYQsV4L9sWXHazrug2/19JhJdsd1k38t6TVOQ9tllYzSseD0lRvNpRMKrma+UAcwcpZJdm4oAKSZiqpoX4Nvp3Kf2g1KQyzXzupetZMBOMe34evVyzhJU2riTgkCQIDAQAB";
}
