//! What is written is read again, and nothing else is.

use std::time::{Duration, UNIX_EPOCH};

use identity::{Authority, JwtAuthority, Selector, SpiffeId, TrustDomain};

use super::*;

fn entry(id: &str) -> Arc<Entry> {
    let selectors = ["uid:1", "gid:2"].map(|value| Selector::new("unix", value).unwrap());
    Arc::new(Entry {
        id: id.into(),
        spiffe_id: SpiffeId::parse(&format!("spiffe://td/{id}")).unwrap(),
        selectors: selectors.into_iter().collect(),
        federates_with: vec![TrustDomain::parse("other").unwrap()],
        admin: true,
        downstream: false,
        revision: 7,
        store_svid: false,
        hint: "internal".to_owned(),
        created_at: 12,
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: false,
    })
}

fn svid(id: &str) -> Arc<X509Svid> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(format!("spiffe://td/{id}").try_into().unwrap())];
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let key = PrivateKey::from_pkcs8(key.serialize_der());
    Arc::new(X509Svid::new(vec![Bytes::copy_from_slice(certificate.der())], key).unwrap())
}

fn bundle(name: &str) -> Arc<Bundle> {
    let key = JwtAuthority {
        public_key: Bytes::from_static(b"public"),
        key_id: "k".to_owned(),
        expires_at: 5,
        tainted: true,
    };
    Arc::new(Bundle {
        trust_domain: TrustDomain::parse(name).unwrap(),
        x509_authorities: vec![Authority { der: Bytes::from_static(b"root"), tainted: true }],
        jwt_authorities: vec![key],
        refresh_hint: 3,
        sequence_number: 9,
    })
}

fn contents() -> Contents {
    let id = SpiffeId::parse("spiffe://td/a").unwrap();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let token = JwtSvid::new(id, "header.payload.signature".to_owned(), at(10), at(1_800_000_000));
    let audience = ["db".to_owned(), "api".to_owned()];
    Contents {
        own: Some(Own {
            keys: vec![("agent-svid-A".to_owned(), PrivateKey::from_pkcs8(vec![1, 2, 3]))],
            chain: vec![Bytes::from_static(b"leaf")],
            reattestable: true,
        }),
        bundles: vec![bundle("td"), bundle("other")],
        entries: vec![entry("a"), entry("b")],
        svids: vec![Minted { entry_id: "b".into(), revision: 6, svid: svid("b") }],
        tokens: vec![(JwtKey::new("a".into(), &audience), Arc::new(token))],
    }
}

fn at(year: i32) -> SystemTime {
    SystemTime::from(rcgen::date_time_ymd(year, 1, 1))
}

#[test]
fn what_is_written_is_read() {
    let written = contents();
    let read = content::decode(&content::encode(&written).unwrap(), at(2026)).unwrap();
    assert_eq!(read.bundles, written.bundles);
    assert_eq!(read.entries, written.entries);
    let (own, before) = (read.own.unwrap(), written.own.unwrap());
    assert_eq!((own.keys[0].1.pkcs8(), own.keys[0].0.as_str()), (before.keys[0].1.pkcs8(), "agent-svid-A"));
    assert_eq!((own.chain, own.reattestable), (before.chain, true));
    let (svid, before) = (&read.svids[0], &written.svids[0]);
    assert_eq!((&*svid.entry_id, svid.revision, &svid.svid.serial), ("b", 6, &before.svid.serial));
    assert_eq!(svid.svid.key.pkcs8(), before.svid.key.pkcs8());
    assert_eq!(svid.svid.chain, before.svid.chain);
    let ((key, token), (key_before, token_before)) = (&read.tokens[0], &written.tokens[0]);
    assert_eq!(key, key_before);
    assert_eq!((token.token(), token.expires_at), (token_before.token(), token_before.expires_at));
}

#[test]
fn what_has_expired_is_left_out() {
    let read = content::decode(&content::encode(&contents()).unwrap(), at(2031)).unwrap();
    assert!(read.svids.is_empty() && read.tokens.is_empty() && read.entries.len() == 2);
}

#[test]
fn an_svid_without_its_entry_is_not_kept() {
    let mut written = contents();
    written.entries.pop();
    assert!(content::decode(&content::encode(&written).unwrap(), at(2026)).unwrap().svids.is_empty());
}

/// The digest finds what was damaged by accident; what cannot be read all the same must be an error and nothing else.
#[test]
fn no_change_of_a_byte_does_more_than_fail() {
    let text = content::encode(&contents()).unwrap();
    for at_byte in 0..text.len() {
        for change in [1, 0x20, 0xff] {
            let mut text = text.to_vec();
            text[at_byte] ^= change;
            let _ = content::decode(&text, at(2026));
        }
        assert!(content::decode(&text[..at_byte], at(2026)).is_err());
    }
}

#[test]
fn an_error_shows_nothing_of_what_was_kept() {
    let text = content::encode(&contents()).unwrap();
    for at_byte in 0..text.len() {
        let mut text = text.to_vec();
        text[at_byte] ^= 0x41;
        if let Err(reason) = content::decode(&text, at(2026)) {
            assert!(!reason.contains("signature") && !reason.contains("payload"), "{reason}");
        }
    }
    assert!(!format!("{:?}", contents()).contains("payload"));
}
