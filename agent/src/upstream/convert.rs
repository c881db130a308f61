//! Converts wire values to domain values. A malformed value is an error of that value alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use identity::{
    Authority, Bundle, Entry, EntryError, JwtAuthority, Selector, SpiffeId, TrustDomain, X509Svid,
};
use proto::types;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::ServerError;
use crate::keys::Request;

/// Checks and converts an entry (SPIRE, `pkg/agent/client/util.go`).
///
/// # Errors
/// [`EntryError`]: the caller drops this entry and keeps the others.
pub fn entry(wire: types::Entry) -> Result<Entry, EntryError> {
    if wire.id.is_empty() {
        return Err(EntryError::Id);
    }
    for (what, count) in [("selectors", wire.selectors.len()), ("federates_with", wire.federates_with.len())]
    {
        if count > ELEMENTS_LIMIT {
            return Err(EntryError::TooMany { what, count, limit: ELEMENTS_LIMIT });
        }
    }
    let id = wire.spiffe_id.unwrap_or_default();
    let attributes = wire.additional_attributes.unwrap_or_default();
    let selectors =
        wire.selectors.iter().map(|s| Selector::new(&s.r#type, &s.value)).collect::<Result<_, _>>()?;
    let domains = wire.federates_with.iter().map(|name| TrustDomain::parse(name)).collect::<Result<_, _>>();
    let entry = Entry {
        id: wire.id.into(),
        spiffe_id: SpiffeId::from_parts(&id.trust_domain, &id.path).map_err(EntryError::SpiffeId)?,
        selectors,
        federates_with: domains.map_err(EntryError::FederatesWith)?,
        admin: wire.admin,
        downstream: wire.downstream,
        revision: wire.revision_number,
        store_svid: wire.store_svid,
        hint: wire.hint,
        created_at: wire.created_at,
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    };
    if entry.selectors.is_empty() {
        return Err(EntryError::NoSelectors);
    }
    Ok(entry)
}

/// Checks and converts a bundle. One malformed authority makes the whole bundle an error, as in SPIRE: with a bundle
/// that lacks an authority, callers would reject their peers.
///
/// # Errors
/// [`ServerError::Malformed`].
pub fn bundle(wire: &types::Bundle) -> Result<Bundle, ServerError> {
    let malformed =
        |reason: String| ServerError::Malformed(format!("bundle of {:?}: {reason}", wire.trust_domain));
    let trust_domain =
        TrustDomain::parse(&wire.trust_domain).map_err(|reason| malformed(reason.to_string()))?;
    let mut x509_authorities = Vec::new();
    for certificate in &wire.x509_authorities {
        for der in certificates(&certificate.asn1).map_err(&malformed)? {
            x509_authorities.push(Authority { der, tainted: certificate.tainted });
        }
    }
    Ok(Bundle {
        trust_domain,
        x509_authorities,
        jwt_authorities: jwt_authorities(&wire.jwt_authorities),
        refresh_hint: wire.refresh_hint,
        sequence_number: wire.sequence_number,
    })
}

/// One authority for each key ID. A server below another one lists a key twice once it is tainted above: it keeps what it
/// had, and adds the tainted one. The last key counts, as in spire-agent, and it is tainted if one of them is.
fn jwt_authorities(keys: &[types::JwtKey]) -> Vec<JwtAuthority> {
    let mut by_id: BTreeMap<&str, JwtAuthority> = BTreeMap::new();
    for key in keys.iter().filter(|key| !key.key_id.is_empty()) {
        let was_tainted = by_id.get(&*key.key_id).is_some_and(|before| before.tainted);
        let authority = JwtAuthority {
            public_key: key.public_key.clone(),
            key_id: key.key_id.clone(),
            expires_at: key.expires_at,
            tainted: key.tainted || was_tainted,
        };
        by_id.insert(&key.key_id, authority);
    }
    by_id.into_values().collect()
}

/// Checks the X.509-SVID that the server has signed for `request`, and joins it with the request's key.
///
/// # Errors
/// [`ServerError::Protocol`] without an SVID; [`ServerError::Malformed`] if it cannot be parsed or certifies another
/// key.
pub fn svid<K>(wire: Option<types::X509svid>, request: Request<K>) -> Result<Arc<X509Svid<K>>, ServerError> {
    let wire = wire.ok_or(ServerError::Protocol("there is no SVID in it"))?;
    let Request { key, public_key, .. } = request;
    let svid =
        X509Svid::new(wire.cert_chain, key).map_err(|reason| ServerError::Malformed(reason.to_string()))?;
    let leaf = X509Certificate::from_der(&svid.chain[0]);
    if !leaf.is_ok_and(|(_, leaf)| *leaf.public_key().subject_public_key.data == *public_key) {
        return Err(ServerError::Malformed("the certificate is of another key than was asked for".into()));
    }
    Ok(Arc::new(svid))
}

/// Splits concatenated DER certificates, without copying them.
fn certificates(der: &Bytes) -> Result<Vec<Bytes>, String> {
    let mut rest: &[u8] = der;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (after, _) =
            X509Certificate::from_der(rest).map_err(|reason| format!("malformed authority: {reason}"))?;
        let from = der.len() - rest.len();
        found.push(der.slice(from..der.len() - after.len()));
        rest = after;
    }
    Ok(found)
}

/// The most selectors, and the most trust domains, of an entry: more than any real entry has.
const ELEMENTS_LIMIT: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> types::Entry {
        types::Entry {
            id: "e".into(),
            spiffe_id: Some(types::Spiffeid { trust_domain: "td".into(), path: "/a".into() }),
            selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:0".into() }],
            ..types::Entry::default()
        }
    }

    #[test]
    fn entries_by_rule() {
        assert!(entry(good()).is_ok());
        assert_eq!(entry(types::Entry { id: String::new(), ..good() }), Err(EntryError::Id));
        assert_eq!(entry(types::Entry { selectors: vec![], ..good() }), Err(EntryError::NoSelectors));
        let bad = types::Selector { r#type: "a:b".into(), value: "c".into() };
        assert!(matches!(
            entry(types::Entry { selectors: vec![bad], ..good() }),
            Err(EntryError::Selector(_))
        ));
        assert!(matches!(entry(types::Entry { spiffe_id: None, ..good() }), Err(EntryError::SpiffeId(_))));
        let federates_with = vec!["NOT A DOMAIN".into()];
        assert!(matches!(
            entry(types::Entry { federates_with, ..good() }),
            Err(EntryError::FederatesWith(_))
        ));
        let many = vec![types::Selector { r#type: "a".into(), value: "b".into() }; ELEMENTS_LIMIT + 1];
        assert!(matches!(entry(types::Entry { selectors: many, ..good() }), Err(EntryError::TooMany { .. })));
    }

    #[test]
    fn a_bundle_with_rubbish_is_refused() {
        let authority = types::X509Certificate { asn1: Bytes::from_static(b"rubbish"), tainted: false };
        let wire = types::Bundle {
            trust_domain: "td".into(),
            x509_authorities: vec![authority],
            ..types::Bundle::default()
        };
        assert!(matches!(bundle(&wire), Err(ServerError::Malformed(_))));
    }

    /// As a nested server sent it when its root had tainted the key.
    #[test]
    fn a_key_that_a_nested_server_lists_twice_is_one_tainted_key() {
        let key =
            |id: &str, tainted| types::JwtKey { key_id: id.into(), tainted, ..types::JwtKey::default() };
        for twice in [[false, true], [true, false]] {
            let [first, last] = twice.map(|tainted| key("old", tainted));
            let jwt_authorities = vec![first, key("new", false), last];
            let wire =
                types::Bundle { trust_domain: "td".into(), jwt_authorities, ..types::Bundle::default() };
            let keys = bundle(&wire).unwrap().jwt_authorities;
            let keys: Vec<_> = keys.iter().map(|key| (&*key.key_id, key.tainted)).collect();
            assert_eq!(keys, [("new", false), ("old", true)]);
        }
    }
}
