//! Encoded secrets: made once for each version of an SVID or bundle, and shared by every stream that wants them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use identity::{Bundle, JwtSvid, X509Svid, certificates_pem};
use prost::Message as _;
use zeroize::Zeroizing;

use crate::wire::{
    Any, DataSource, ExtensionConfig, GenericSecret, SECRET_TYPE_URL, Secret, SpiffeValidator,
    TlsCertificate, VALIDATOR_NAME, VALIDATOR_TYPE_URL, ValidationContext, ValidatorDomain,
};

/// A digest of the *public* content of a secret. Envoy publishes the version that is made of it, so no private key and
/// no token goes into it. A new key always comes with a new certificate, and of two tokens that are signed by the same
/// key in the same second one is as good as the other.
pub type Digest = [u8; 32];

/// One resource as it is sent: an encoded `Any` that holds the `Secret`. Every stream that has sent it holds it, so
/// all streams share one.
pub struct Encoded {
    /// The resource's name.
    pub name: Box<str>,
    /// The encoded `Any`. Its memory is zeroized when the last stream drops it.
    pub resource: Bytes,
    /// The digest of the public content. It is equal for equal content, also across restarts.
    pub digest: Digest,
    /// Keeps the SVID or bundles alive, so that the addresses in the cache's key are not used again.
    source: Source,
}

impl Encoded {
    /// The X.509-SVID that the resource holds; `None` if it holds something else.
    #[must_use]
    pub fn svid(&self) -> Option<&Arc<X509Svid>> {
        match &self.source {
            Source::Svid(svid) => Some(svid),
            Source::Roots(_) | Source::Token(_) | Source::Bundles(_) => None,
        }
    }

    /// The JWT-SVID that the resource holds; `None` if it holds something else.
    #[must_use]
    pub fn token(&self) -> Option<&Arc<JwtSvid>> {
        match &self.source {
            Source::Token(svid) => Some(svid),
            Source::Roots(_) | Source::Svid(_) | Source::Bundles(_) => None,
        }
    }
}

impl std::fmt::Debug for Encoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoded")
            .field("name", &self.name)
            .field("len", &self.resource.len())
            .finish_non_exhaustive()
    }
}

/// How a validation context tells Envoy what to trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Validation {
    /// A configuration of Envoy's SPIFFE validator, with roots for each trust domain.
    SpiffeValidator,
    /// Plain roots (`trusted_ca`).
    TrustedCa,
}

/// The encoded secrets in use. References are weak: a secret that no stream holds is dropped.
#[derive(Default)]
pub struct Secrets {
    /// The hash is fast and not collision-resistant, because callers cannot choose addresses.
    held: Mutex<HashMap<Key, Weak<Encoded>, foldhash::fast::RandomState>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// Which of its two names a resource has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Naming {
    /// The SPIFFE ID of the SVID, or of the bundle's trust domain.
    SpiffeId,
    /// An alias from the configuration, such as "default".
    Alias,
}

/// Identifies an encoded secret by the address of its source. SVIDs and bundles are shared by `Arc`, and a new
/// version has a new address. Looking up one SVID or one bundle allocates nothing.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    naming: Naming,
    validation: Option<Validation>,
    source: usize,
    more: More,
}

/// The rest of a [`Key`], where the source's address is not enough.
#[derive(PartialEq, Eq, Hash)]
enum More {
    Nothing,
    /// The addresses of all bundles, if the resource holds all of them.
    Bundles(Box<[usize]>),
    /// The name of a token, which can be written in many ways.
    Name(Box<str>),
}

enum Source {
    Roots(#[expect(dead_code, reason = "held for its address")] Arc<Vec<Bytes>>),
    Token(Arc<JwtSvid>),
    Svid(Arc<X509Svid>),
    Bundles(#[expect(dead_code, reason = "held for its address")] Vec<Arc<Bundle>>),
}

impl Secrets {
    /// The TLS certificate of an SVID. `name` is the resource's name, and `naming` tells which of its names that is.
    pub fn certificate(&self, naming: Naming, name: &str, svid: &Arc<X509Svid>) -> Arc<Encoded> {
        let key = Key { naming, validation: None, source: address(svid), more: More::Nothing };
        self.shared(key, || encode_certificate(name, svid))
    }

    /// The generic secret of a JWT-SVID.
    pub fn token(&self, name: &str, svid: &Arc<JwtSvid>) -> Arc<Encoded> {
        let more = More::Name(name.into());
        let key = Key { naming: Naming::Alias, validation: None, source: address(svid), more };
        self.shared(key, || encode_token(name, svid))
    }

    /// The validation context of the system's roots. They are of no trust domain, so they are plain roots.
    pub fn system_roots(&self, name: &str, roots: &Arc<Vec<Bytes>>) -> Arc<Encoded> {
        let (naming, validation) = (Naming::Alias, Some(Validation::TrustedCa));
        let key = Key { naming, validation, source: address(roots), more: More::Nothing };
        self.shared(key, || {
            let pem = certificates_pem(roots.iter());
            let digest = digest([name.as_bytes(), b"roots", pem.as_bytes()]);
            let context = trusted_ca(pem);
            let secret = Secret { name: name.into(), validation_context: Some(context), ..Secret::default() };
            let source = Source::Roots(Arc::clone(roots));
            Encoded { name: name.into(), resource: encode(&secret), digest, source }
        })
    }

    /// The validation context of one bundle.
    pub fn validation(
        &self,
        naming: Naming,
        name: &str,
        bundle: &Arc<Bundle>,
        validation: Validation,
    ) -> Arc<Encoded> {
        let key = Key { naming, validation: Some(validation), source: address(bundle), more: More::Nothing };
        self.shared(key, || encode_validation(name, std::slice::from_ref(bundle), validation))
    }

    /// The validation context of several bundles in this order, for Envoy's SPIFFE validator.
    pub fn validation_of_all(&self, name: &str, bundles: &[Arc<Bundle>]) -> Arc<Encoded> {
        let validation = Validation::SpiffeValidator;
        let key = Key {
            naming: Naming::Alias,
            validation: Some(validation),
            source: usize::MAX,
            more: More::Bundles(bundles.iter().map(address).collect()),
        };
        self.shared(key, || encode_validation(name, bundles, validation))
    }

    fn shared(&self, key: Key, encode: impl FnOnce() -> Encoded) -> Arc<Encoded> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(encoded) = held.get(&key).and_then(Weak::upgrade) {
            return encoded;
        }
        if held.len() == held.capacity() {
            held.retain(|_, encoded| encoded.strong_count() > 0);
        }
        let encoded = Arc::new(encode());
        held.insert(key, Arc::downgrade(&encoded));
        encoded
    }
}

fn address<T>(shared: &Arc<T>) -> usize {
    Arc::as_ptr(shared).addr()
}

fn encode_certificate(name: &str, svid: &Arc<X509Svid>) -> Encoded {
    let chain = svid.chain_pem();
    let digest = digest([name.as_bytes(), b"certificate", chain.as_bytes()]);
    let mut key = svid.key.pem();
    let key = Bytes::from_owner(Zeroizing::new(std::mem::take(&mut *key).into_bytes()));
    let secret = Secret {
        name: name.into(),
        tls_certificate: Some(TlsCertificate {
            certificate_chain: Some(DataSource { inline_bytes: chain.into() }),
            private_key: Some(DataSource { inline_bytes: key }),
        }),
        ..Secret::default()
    };
    Encoded { name: name.into(), resource: encode(&secret), digest, source: Source::Svid(Arc::clone(svid)) }
}

fn trusted_ca(pem: String) -> ValidationContext {
    let trusted_ca = Some(DataSource { inline_bytes: pem.into() });
    ValidationContext { trusted_ca, custom_validator_config: None }
}

fn encode_token(name: &str, svid: &Arc<JwtSvid>) -> Encoded {
    let seconds =
        |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_be_bytes();
    let (issued_at, expires_at) = (seconds(svid.issued_at), seconds(svid.expires_at));
    let parts = [name.as_bytes(), b"token", svid.id.as_str().as_bytes(), svid.key_id.as_bytes()];
    let digest = digest(parts.into_iter().chain([&issued_at[..], &expires_at]));
    let token = Bytes::from_owner(Zeroizing::new(svid.token().as_bytes().to_vec()));
    let secret = Secret {
        name: name.into(),
        generic_secret: Some(GenericSecret { secret: Some(DataSource { inline_bytes: token }) }),
        ..Secret::default()
    };
    Encoded { name: name.into(), resource: encode(&secret), digest, source: Source::Token(Arc::clone(svid)) }
}

fn encode_validation(name: &str, bundles: &[Arc<Bundle>], validation: Validation) -> Encoded {
    let pems: Vec<String> = bundles.iter().map(|bundle| bundle.x509_pem()).collect();
    let domains = bundles.iter().map(|bundle| bundle.trust_domain.name().as_bytes());
    let kind: &[u8] = match validation {
        Validation::SpiffeValidator => b"spiffe",
        Validation::TrustedCa => b"ca",
    };
    let parts = domains.zip(&pems).flat_map(|(domain, pem)| [domain, pem.as_bytes()]);
    let digest = digest([name.as_bytes(), kind].into_iter().chain(parts));
    let context = match validation {
        Validation::TrustedCa => trusted_ca(pems.concat()),
        Validation::SpiffeValidator => {
            let domain = |(bundle, pem): (&Arc<Bundle>, String)| ValidatorDomain {
                name: bundle.trust_domain.name().into(),
                trust_bundle: Some(DataSource { inline_bytes: pem.into() }),
            };
            let config = SpiffeValidator { trust_domains: bundles.iter().zip(pems).map(domain).collect() };
            ValidationContext {
                trusted_ca: None,
                custom_validator_config: Some(ExtensionConfig {
                    name: VALIDATOR_NAME.into(),
                    typed_config: Some(Any {
                        type_url: VALIDATOR_TYPE_URL.into(),
                        value: config.encode_to_vec().into(),
                    }),
                }),
            }
        }
    };
    let secret = Secret { name: name.into(), validation_context: Some(context), ..Secret::default() };
    let source = Source::Bundles(bundles.to_vec());
    Encoded { name: name.into(), resource: encode(&secret), digest, source }
}

/// Encodes into buffers that are zeroized when dropped. Both are reserved in full, because growing would leave copies
/// behind.
fn encode(secret: &Secret) -> Bytes {
    let value = Bytes::from_owner(Zeroizing::new(secret.encode_to_vec()));
    let any = Any { type_url: SECRET_TYPE_URL.into(), value };
    Bytes::from_owner(Zeroizing::new(any.encode_to_vec()))
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        // The length before each part keeps ("ab", "c") and ("a", "bc") apart.
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
