//! NewJWTSVID: the server signs one token for an entry and an audience.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::{JwtSvid, SpiffeId};
use proto::svid::svid_client::SvidClient;
use proto::svid::{NewJwtsvidRequest, NewJwtsvidResponse};
use proto::types;

use super::link::Link;
use super::{CALL_LIMIT, ServerError};

/// Has the server sign a JWT-SVID. It keeps nothing of what it signs, so the call may be made again on a new connection.
///
/// # Errors
/// [`ServerError`].
pub async fn sign(link: &Link, entry_id: &str, audience: &[String]) -> Result<JwtSvid, ServerError> {
    let call = |channel| {
        let request = NewJwtsvidRequest { entry_id: entry_id.to_owned(), audience: audience.to_vec() };
        async move { SvidClient::new(channel).new_jwtsvid(request).await }
    };
    svid(link.read(CALL_LIMIT, call).await?.into_inner())
}

fn svid(answer: NewJwtsvidResponse) -> Result<JwtSvid, ServerError> {
    let wire = answer.svid.ok_or(ServerError::Protocol("there is no JWT-SVID in it"))?;
    let types::Jwtsvid { token, id, expires_at, issued_at, .. } = wire;
    let id = id.ok_or(ServerError::Protocol("the JWT-SVID has no SPIFFE ID"))?;
    let id = SpiffeId::parse(&format!("spiffe://{}{}", id.trust_domain, id.path));
    let id = id.map_err(|reason| ServerError::Malformed(format!("JWT-SVID: {reason}")))?;
    if token.is_empty() {
        return Err(ServerError::Protocol("the JWT-SVID has no token"));
    }
    Ok(JwtSvid::new(id, token, time(issued_at), time(expires_at)))
}

fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(path: &str, token: &str) -> NewJwtsvidResponse {
        let id = types::Spiffeid { trust_domain: "td".into(), path: path.into() };
        let svid = types::Jwtsvid {
            token: token.into(),
            id: Some(id),
            expires_at: 60,
            issued_at: -1,
            hint: String::new(),
        };
        NewJwtsvidResponse { svid: Some(svid) }
    }

    #[test]
    fn what_the_server_says_of_a_token_is_kept() {
        let svid = svid(answer("/web", "t")).unwrap();
        assert_eq!((svid.id.to_string().as_str(), svid.token()), ("spiffe://td/web", "t"));
        assert_eq!((svid.issued_at, svid.expires_at), (UNIX_EPOCH, time(60)));
    }

    #[test]
    fn an_answer_without_a_token_is_none() {
        assert!(matches!(svid(NewJwtsvidResponse { svid: None }), Err(ServerError::Protocol(_))));
        assert!(matches!(svid(answer("/web", "")), Err(ServerError::Protocol(_))));
        assert!(matches!(svid(answer("//", "t")), Err(ServerError::Malformed(_))));
    }
}
