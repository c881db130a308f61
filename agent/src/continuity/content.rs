//! What is kept in sealed memory, and its form: CBOR, written from the values where they lie and read without copies.
//!
//! Fields are numbered, and a reader passes over numbers that it does not know, so that an older and a newer program
//! understand each other. [`VERSION`] changes only when they would not.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cache::JwtKey;
use identity::{
    Authority, Bundle, Entry, JwtAuthority, JwtSvid, PrivateKey, Selector, SpiffeId, TrustDomain, X509Svid,
};
use minicbor::bytes::ByteSlice;
use minicbor::{CborLen, Decode, Encode};
use zeroize::Zeroizing;

use super::{Contents, Minted, Own};

#[derive(Encode, Decode, CborLen)]
struct Content<'a> {
    #[n(0)]
    version: u32,
    #[b(1)]
    keys: Vec<Key<'a>>,
    #[b(2)]
    chain: Vec<&'a ByteSlice>,
    #[n(3)]
    reattestable: bool,
    /// The first is that of the agent's own trust domain.
    #[b(4)]
    bundles: Vec<BundleForm<'a>>,
    #[b(5)]
    entries: Vec<EntryForm<'a>>,
    #[b(6)]
    svids: Vec<SvidForm<'a>>,
    #[b(7)]
    tokens: Vec<TokenForm<'a>>,
}

#[derive(Encode, Decode, CborLen)]
struct Key<'a> {
    #[b(0)]
    slot: &'a str,
    #[b(1)]
    pkcs8: &'a ByteSlice,
}

#[derive(Encode, Decode, CborLen)]
struct BundleForm<'a> {
    #[b(0)]
    trust_domain: &'a str,
    #[b(1)]
    x509: Vec<AuthorityForm<'a>>,
    #[b(2)]
    jwt: Vec<JwtAuthorityForm<'a>>,
    #[n(3)]
    refresh_hint: i64,
    #[n(4)]
    sequence_number: u64,
}

#[derive(Encode, Decode, CborLen)]
struct AuthorityForm<'a> {
    #[b(0)]
    der: &'a ByteSlice,
    #[n(1)]
    tainted: bool,
}

#[derive(Encode, Decode, CborLen)]
struct JwtAuthorityForm<'a> {
    #[b(0)]
    public_key: &'a ByteSlice,
    #[b(1)]
    key_id: &'a str,
    #[n(2)]
    expires_at: i64,
    #[n(3)]
    tainted: bool,
}

#[derive(Encode, Decode, CborLen)]
struct EntryForm<'a> {
    #[b(0)]
    id: &'a str,
    #[b(1)]
    spiffe_id: &'a str,
    #[b(2)]
    selectors: Vec<(&'a str, &'a str)>,
    #[b(3)]
    federates_with: Vec<&'a str>,
    #[n(4)]
    revision: i64,
    #[b(5)]
    hint: &'a str,
    #[n(6)]
    created_at: i64,
    #[n(7)]
    admin: bool,
    #[n(8)]
    downstream: bool,
    #[n(9)]
    store_svid: bool,
    #[n(10)]
    disable_x509_svid_prefetch: bool,
    #[n(11)]
    jwt_svid_include_jti: bool,
}

#[derive(Encode, Decode, CborLen)]
struct SvidForm<'a> {
    /// The place of the entry in the list.
    #[n(0)]
    entry: u32,
    #[n(1)]
    revision: i64,
    #[b(2)]
    chain: Vec<&'a ByteSlice>,
    #[b(3)]
    pkcs8: &'a ByteSlice,
}

#[derive(Encode, Decode, CborLen)]
struct TokenForm<'a> {
    #[b(0)]
    entry_id: &'a str,
    #[b(1)]
    audience: Vec<&'a str>,
    #[b(2)]
    spiffe_id: &'a str,
    /// Seconds since 1970.
    #[n(3)]
    issued_at: u64,
    #[n(4)]
    expires_at: u64,
    #[b(5)]
    token: &'a str,
}

/// Writes the contents. The buffer has its whole size from the start, because a buffer that grows leaves copies behind.
///
/// # Errors
/// A number that does not fit, which is impossible for what the agent can hold.
pub(super) fn encode(contents: &Contents) -> Result<Zeroizing<Vec<u8>>, String> {
    let own = contents.own.as_ref();
    let mut svids = Vec::with_capacity(contents.svids.len());
    for minted in &contents.svids {
        let place = contents.entries.binary_search_by(|entry| entry.id.cmp(&minted.entry_id));
        // An SVID whose entry is gone is not kept.
        let Ok(place) = place else { continue };
        svids.push(SvidForm {
            entry: u32::try_from(place).map_err(|_| "too many entries")?,
            revision: minted.revision,
            chain: slices(&minted.svid.chain),
            pkcs8: minted.svid.key.pkcs8().into(),
        });
    }
    let content = Content {
        version: VERSION,
        keys: own.map_or_else(Vec::new, |own| {
            own.keys.iter().map(|(slot, key)| Key { slot, pkcs8: key.pkcs8().into() }).collect()
        }),
        chain: own.map_or_else(Vec::new, |own| slices(&own.chain)),
        reattestable: own.is_some_and(|own| own.reattestable),
        bundles: contents.bundles.iter().map(|bundle| bundle_form(bundle)).collect(),
        entries: contents.entries.iter().map(|entry| entry_form(entry)).collect(),
        svids,
        tokens: contents.tokens.iter().map(|(key, svid)| token_form(key, svid)).collect(),
    };
    let mut buffer = Zeroizing::new(Vec::with_capacity(minicbor::len(&content)));
    minicbor::encode(&content, &mut *buffer).map_err(|reason| reason.to_string())?;
    Ok(buffer)
}

/// Reads what [`encode`] has written. What has expired is left out.
///
/// # Errors
/// Why it cannot be read, without any of its values.
pub(super) fn decode(text: &[u8], now: SystemTime) -> Result<Contents, String> {
    let content: Content<'_> = minicbor::decode(text).map_err(|reason| reason.to_string())?;
    if content.version != VERSION {
        return Err(format!("its version is {}, not {VERSION}", content.version));
    }
    let bundles: Vec<_> = content.bundles.iter().map(bundle).collect::<Result<_, _>>()?;
    let entries: Vec<_> = content.entries.iter().map(entry).collect::<Result<_, _>>()?;
    if !entries.is_sorted_by(|a, b| a.id < b.id) {
        return Err("its entries are out of order".to_owned());
    }
    let mut svids = Vec::with_capacity(content.svids.len());
    for form in &content.svids {
        let entry = usize::try_from(form.entry).ok().and_then(|place| entries.get(place));
        let entry: &Arc<Entry> = entry.ok_or("an SVID has no entry")?;
        let key = PrivateKey::from_pkcs8(form.pkcs8.to_vec());
        let svid = X509Svid::new(owned(&form.chain), key).map_err(|reason| reason.to_string())?;
        if !svid.expired(now) {
            let entry_id = Arc::clone(&entry.id);
            svids.push(Minted { entry_id, revision: form.revision, svid: Arc::new(svid) });
        }
    }
    let tokens: Vec<_> = content.tokens.iter().map(token).collect::<Result<_, _>>()?;
    let keys = content.keys.iter();
    let own = (!content.chain.is_empty()).then(|| Own {
        keys: keys.map(|key| (key.slot.to_owned(), PrivateKey::from_pkcs8(key.pkcs8.to_vec()))).collect(),
        chain: owned(&content.chain),
        reattestable: content.reattestable,
    });
    let tokens = tokens.into_iter().filter(|(_, svid)| !svid.expired(now)).collect();
    Ok(Contents { own, bundles, entries, svids, tokens })
}

fn bundle_form(bundle: &Bundle) -> BundleForm<'_> {
    let x509 = bundle.x509_authorities.iter();
    let jwt = bundle.jwt_authorities.iter();
    BundleForm {
        trust_domain: bundle.trust_domain.name(),
        x509: x509.map(|one| AuthorityForm { der: (*one.der).into(), tainted: one.tainted }).collect(),
        jwt: jwt
            .map(|one| JwtAuthorityForm {
                public_key: (*one.public_key).into(),
                key_id: &one.key_id,
                expires_at: one.expires_at,
                tainted: one.tainted,
            })
            .collect(),
        refresh_hint: bundle.refresh_hint,
        sequence_number: bundle.sequence_number,
    }
}

fn bundle(form: &BundleForm<'_>) -> Result<Arc<Bundle>, String> {
    let bytes = |bytes: &ByteSlice| Bytes::copy_from_slice(bytes);
    Ok(Arc::new(Bundle {
        trust_domain: TrustDomain::parse(form.trust_domain).map_err(|reason| reason.to_string())?,
        x509_authorities: form
            .x509
            .iter()
            .map(|one| Authority { der: bytes(one.der), tainted: one.tainted })
            .collect(),
        jwt_authorities: form
            .jwt
            .iter()
            .map(|one| JwtAuthority {
                public_key: bytes(one.public_key),
                key_id: one.key_id.to_owned(),
                expires_at: one.expires_at,
                tainted: one.tainted,
            })
            .collect(),
        refresh_hint: form.refresh_hint,
        sequence_number: form.sequence_number,
    }))
}

fn entry_form(entry: &Entry) -> EntryForm<'_> {
    EntryForm {
        id: &entry.id,
        spiffe_id: entry.spiffe_id.as_str(),
        selectors: entry.selectors.iter().map(|one| (&*one.kind, &*one.value)).collect(),
        federates_with: entry.federates_with.iter().map(TrustDomain::name).collect(),
        revision: entry.revision,
        hint: &entry.hint,
        created_at: entry.created_at,
        admin: entry.admin,
        downstream: entry.downstream,
        store_svid: entry.store_svid,
        disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
        jwt_svid_include_jti: entry.jwt_svid_include_jti,
    }
}

fn entry(form: &EntryForm<'_>) -> Result<Arc<Entry>, String> {
    let selectors = form.selectors.iter().map(|(kind, value)| Selector::new(kind, value));
    let domains = form.federates_with.iter().map(|name| TrustDomain::parse(name));
    Ok(Arc::new(Entry {
        id: form.id.into(),
        spiffe_id: SpiffeId::parse(form.spiffe_id).map_err(|reason| reason.to_string())?,
        selectors: selectors.collect::<Result<_, _>>().map_err(|reason| reason.to_string())?,
        federates_with: domains.collect::<Result<_, _>>().map_err(|reason| reason.to_string())?,
        admin: form.admin,
        downstream: form.downstream,
        revision: form.revision,
        store_svid: form.store_svid,
        hint: form.hint.to_owned(),
        created_at: form.created_at,
        disable_x509_svid_prefetch: form.disable_x509_svid_prefetch,
        jwt_svid_include_jti: form.jwt_svid_include_jti,
    }))
}

fn token_form<'a>(key: &'a JwtKey, svid: &'a JwtSvid) -> TokenForm<'a> {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    TokenForm {
        entry_id: key.entry_id(),
        audience: key.audience().iter().map(|audience| &**audience).collect(),
        spiffe_id: svid.id.as_str(),
        issued_at: seconds(svid.issued_at),
        expires_at: seconds(svid.expires_at),
        token: svid.token(),
    }
}

fn token(form: &TokenForm<'_>) -> Result<(JwtKey, Arc<JwtSvid>), String> {
    let audience: Vec<String> = form.audience.iter().map(|audience| (*audience).to_owned()).collect();
    let id = SpiffeId::parse(form.spiffe_id).map_err(|reason| reason.to_string())?;
    let time = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or("a time is too late");
    let svid = JwtSvid::new(id, form.token.to_owned(), time(form.issued_at)?, time(form.expires_at)?);
    Ok((JwtKey::new(form.entry_id.into(), &audience), Arc::new(svid)))
}

fn slices(chain: &[Bytes]) -> Vec<&ByteSlice> {
    chain.iter().map(|certificate| (&**certificate).into()).collect()
}

fn owned(chain: &[&ByteSlice]) -> Vec<Bytes> {
    chain.iter().map(|certificate| Bytes::copy_from_slice(certificate)).collect()
}

/// The version of the form.
const VERSION: u32 = 1;
