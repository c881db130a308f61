//! JWT-SVIDs (JWT-SVID §2, §3): as the server signs them, and (`validate`) as anybody brings them.

mod error;
mod json;
mod validate;

use std::fmt;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

pub use self::error::{JwtError, ParseError};
pub use self::validate::{Validated, validate};
use crate::SpiffeId;

/// A JWT-SVID and what is known of it. The token is a secret: whoever has it is the workload.
pub struct JwtSvid {
    /// The workload's SPIFFE ID (the claim `sub`, JWT-SVID §3.1).
    pub id: SpiffeId,
    /// The `kid` in its header; empty if it has none.
    pub key_id: String,
    /// When the server signed it.
    pub issued_at: SystemTime,
    /// When it expires.
    pub expires_at: SystemTime,
    token: Zeroizing<String>,
}

impl JwtSvid {
    /// A token from the server, which is trusted with what it says of it.
    #[must_use]
    pub fn new(id: SpiffeId, token: String, issued_at: SystemTime, expires_at: SystemTime) -> Self {
        let key_id = key_id(&token).unwrap_or_default();
        Self { id, key_id, issued_at, expires_at, token: token.into() }
    }

    /// The token, for the one who may have it.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether it has expired.
    #[must_use]
    pub fn expired(&self, now: SystemTime) -> bool {
        now >= self.expires_at
    }
}

/// Without the token.
impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid").field("id", &self.id).field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

fn key_id(token: &str) -> Option<String> {
    let (header, _) = token.split_once('.')?;
    let header: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    Some(header.get("kid")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_key_is_named_in_the_header_and_the_token_is_not_printed() {
        let id = SpiffeId::parse("spiffe://td/web").unwrap();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let token = format!("{}.e30.c2ln", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k1"}"#));
        let svid = JwtSvid::new(id.clone(), token.clone(), at(0), at(60));
        assert_eq!((&*svid.key_id, svid.token()), ("k1", &*token));
        assert!(!svid.expired(at(59)) && svid.expired(at(60)));
        assert!(!format!("{svid:?}").contains(&token));
        assert_eq!(JwtSvid::new(id, "rubbish".into(), at(0), at(0)).key_id, "");
    }
}
