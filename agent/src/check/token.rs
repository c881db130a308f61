//! A projected service account token, read without being verified. Nothing of it is shown but its audience and its times.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::{Line, at, roughly};

/// The claims that matter.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Claims {
    #[serde(default)]
    aud: Audience,
    exp: Option<i64>,
    iat: Option<i64>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Claims {
    /// Reads the middle part of a JWT; `None` if it is none.
    pub(super) fn of(token: &str) -> Option<Self> {
        let mut parts = token.trim().split('.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
        serde_json::from_slice(&claims).ok()
    }

    fn audience(&self) -> &[String] {
        match &self.aud {
            Audience::One(one) => std::slice::from_ref(one),
            Audience::Many(many) => many,
        }
    }

    /// The line of the token, which was read from `path`.
    pub(super) fn line(&self, path: &str, now: SystemTime) -> Line {
        let name = super::attestor::NAME;
        let audience = self.audience().join(", ");
        let Some(end) = self.exp.map(at).filter(|_| !self.audience().is_empty()) else {
            return Line::failure(
                name,
                format!(
                    "the token in {path} has no expiry or no audience: it is a secret of a service account"
                ),
                "Mount a projected token: `serviceAccountToken` with `audience: spire-server`.",
            );
        };
        let life = self.iat.and_then(|begin| end.duration_since(at(begin)).ok());
        let life = life.map_or_else(String::new, |life| format!(" of {}", roughly(life)));
        let Ok(left) = end.duration_since(now) else {
            let since = roughly(now.duration_since(end).unwrap_or_default());
            return Line::failure(
                name,
                format!("the token in {path} expired {since} ago (audience {audience})"),
                "See whether the kubelet renews the projected volume, and whether this node's clock is right.",
            );
        };
        let left_text = roughly(left);
        let summary = format!("the token in {path} has the audience {audience} and {left_text}{life} left");
        if !self.audience().iter().any(|audience| audience == SERVER) {
            Line::warning(
                name,
                summary,
                format!(
                    "Project it with `audience: {SERVER}`, unless the server's NodeAttestor \"k8s_psat\" names another \
                     audience for this cluster."
                ),
            )
        } else if left < SOON {
            Line::warning(name, summary, "See whether the kubelet renews the projected volume.")
        } else {
            Line::ok(name, summary)
        }
    }
}

/// The audience that a server asks for unless it is configured otherwise (SPIRE, `k8spsat.go`).
const SERVER: &str = "spire-server";
/// The kubelet renews a token long before this is left: the shortest lives ten minutes, and is renewed at 80 % of that.
const SOON: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Status;
    use super::*;

    fn token(claims: &serde_json::Value) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}\n", part("{\"alg\":\"none\"}"), part(&claims.to_string()), part("signature"))
    }

    #[test]
    fn a_token_is_judged_by_its_audience_and_its_times() {
        let now = at(1_000_000);
        let line = |claims: serde_json::Value| Claims::of(&token(&claims)).unwrap().line("/t", now);
        let good = line(json!({"aud": ["spire-server"], "exp": 1_003_600, "iat": 996_400}));
        assert_eq!((good.status, &*good.action), (Status::Ok, ""));
        assert!(good.summary.contains("60 minutes of 2 hours left"), "{good:?}");
        assert_eq!(line(json!({"aud": "spire-server", "exp": 1_003_600})).status, Status::Ok);
        assert_eq!(line(json!({"aud": "spire-server", "exp": 1_000_030})).status, Status::Warning);
        let other = line(json!({"aud": "https://kubernetes.default.svc", "exp": 1_003_600}));
        assert!(other.status == Status::Warning && other.action.contains("audience: spire-server"));
        let expired = line(json!({"aud": "spire-server", "exp": 999_000}));
        assert!(expired.status == Status::Failure && expired.summary.contains("expired 16 minutes ago"));
        assert_eq!(line(json!({"iss": "kubernetes/serviceaccount"})).status, Status::Failure);
    }

    #[test]
    fn what_is_no_jwt_has_no_claims() {
        for text in ["", "token", "a.b", "a.b.c.d", "a.!.c", "a.e30"] {
            assert_eq!(Claims::of(text), None, "{text}");
        }
        assert!(Claims::of("a.e30.c").is_some(), "no claims at all");
    }
}
