//! Reads policies in the form that people write for Envoy: protobuf's JSON form, whatever the original text was.
//!
//! Each field of a validation context is either understood, known not to change the verdict, or an error: a checker
//! that skips fields it does not know would say "accept" about the wrong policy.

mod fields;

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Peer;
use super::context::{Context, Source, StringMatcher, Test, TrustDomain};
use super::names::Kind;
use fields::Fields;

/// A function that reads the file with this name.
pub type Files<'a> = &'a dyn Fn(&str) -> io::Result<Vec<u8>>;

/// A policy, and the part of it that comes from SDS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// The context in the file.
    pub context: Context,
    /// The name of the secret that SDS must deliver; `None` if the file has the whole policy.
    pub secret: Option<String>,
    /// The side whose certificates the policy is for; `None` if the file has only a validation context, which does
    /// not say.
    pub peer: Option<Peer>,
}

/// Why a policy cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A value has another type than its field.
    #[error("{at}: expected {expected}")]
    Type {
        /// The path of the value.
        at: String,
        /// The type that Envoy expects.
        expected: &'static str,
    },
    /// A field is not known here.
    #[error(
        "{at}: not a field of {message} that is known here; correct its name, or take it out to check the rest"
    )]
    Unknown {
        /// The path of the field.
        at: String,
        /// The message that has the field.
        message: &'static str,
    },
    /// A field occurs twice, in both spellings.
    #[error("{at}: there twice")]
    Twice {
        /// The path of the field.
        at: String,
    },
    /// A field refers to something that is not in the file, or is not supported here.
    #[error("{at}: {hint}")]
    Elsewhere {
        /// The path of the field.
        at: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A file that the policy names cannot be read.
    #[error("{at}: cannot read {file:?}: {reason}")]
    File {
        /// The path of the field.
        at: String,
        /// The name of the file.
        file: String,
        /// The system's reason.
        #[source]
        reason: io::Error,
    },
    /// The file has no validation context.
    #[error("there is no validation context in it: Envoy would not ask for a certificate")]
    Nothing,
    /// None of several secrets has the name that was asked for.
    #[error("none of the {found} resources is the validation context {wanted:?}")]
    Resource {
        /// The number of secrets.
        found: usize,
        /// The name that was asked for.
        wanted: String,
    },
}

/// Reads a policy: a validation context, or a TLS context that has one.
///
/// # Errors
/// The first problem that is found.
pub fn policy(value: &Value, files: Files<'_>) -> Result<Reading, ReadError> {
    let kind = value.get("@type").and_then(Value::as_str).and_then(|kind| kind.rsplit(['.', '/']).next());
    let has = |names: &[&str]| names.iter().any(|name| fields::find(value, name).is_some());
    match kind {
        Some("DownstreamTlsContext") => holder(value, Some(Peer::Client), files),
        Some("UpstreamTlsContext") => holder(value, Some(Peer::Server), files),
        Some("CommonTlsContext") => common(value, "", None, files),
        Some("CertificateValidationContext") => bare(value, files),
        Some("Secret") => Ok(Reading { context: secret(value, "", files)?, ..Reading::default() }),
        Some(_) => {
            Err(ReadError::Type { at: "@type".to_owned(), expected: "a TLS context or a validation context" })
        }
        None if has(&["transport_socket"]) => inner(value, "transport_socket", files),
        None if has(&["typed_config"]) => inner(value, "typed_config", files),
        None if has(&["common_tls_context"]) => {
            let downstream = has(&["require_client_certificate"]).then_some(Peer::Client);
            holder(value, downstream, files)
        }
        None if has(COMMON) => common(value, "", None, files),
        None => bare(value, files),
    }
}

/// Reads what SDS would deliver: a Secret, a file in the format of SDS, or a validation context.
///
/// # Errors
/// The first problem that is found.
pub fn delivered(value: &Value, wanted: Option<&str>, files: Files<'_>) -> Result<Context, ReadError> {
    if let Some(resources) = value.get("resources").and_then(Value::as_array) {
        let named = |one: &&Value| wanted.is_some() && one.get("name").and_then(Value::as_str) == wanted;
        let chosen = resources.iter().find(named).or(match &**resources {
            [only] => Some(only),
            _ => None,
        });
        let missing =
            || ReadError::Resource { found: resources.len(), wanted: wanted.unwrap_or_default().to_owned() };
        return secret(chosen.ok_or_else(missing)?, "resources", files);
    }
    if fields::find(value, "validation_context").is_some() {
        return secret(value, "", files);
    }
    context(value, "", files)
}

fn bare(value: &Value, files: Files<'_>) -> Result<Reading, ReadError> {
    Ok(Reading { context: context(value, "", files)?, ..Reading::default() })
}

fn inner(value: &Value, name: &str, files: Files<'_>) -> Result<Reading, ReadError> {
    match fields::find(value, name) {
        // This may recurse once: a transport socket has a typed_config.
        Some(inner @ Value::Object(_)) => policy(inner, files),
        _ => Err(ReadError::Type { at: name.to_owned(), expected: "an object" }),
    }
}

/// Reads a `DownstreamTlsContext` or an `UpstreamTlsContext`. Its other fields do not affect the verdict.
fn holder(value: &Value, peer: Option<Peer>, files: Files<'_>) -> Result<Reading, ReadError> {
    let common_context = fields::find(value, "common_tls_context").ok_or(ReadError::Nothing)?;
    common(common_context, "common_tls_context", peer, files)
}

/// Reads a `CommonTlsContext`.
fn common(value: &Value, at: &str, peer: Option<Peer>, files: Files<'_>) -> Result<Reading, ReadError> {
    let here = |name: &str| fields::join(at, name);
    if let Some(found) = fields::find(value, "combined_validation_context") {
        let mut fields =
            Fields::of(found, here("combined_validation_context"), "CombinedCertificateValidationContext")?;
        let default = fields.take("default_validation_context")?;
        let default = default.map(|(value, at)| context(value, &at, files)).transpose()?.unwrap_or_default();
        let secret = fields.take("validation_context_sds_secret_config")?;
        let secret = secret.map(|(value, at)| reference(value, &at)).transpose()?;
        fields.finish()?;
        return Ok(Reading { context: default, secret, peer });
    }
    if let Some(found) = fields::find(value, "validation_context_sds_secret_config") {
        let secret = Some(reference(found, &here("validation_context_sds_secret_config"))?);
        return Ok(Reading { context: Context::default(), secret, peer });
    }
    let found = fields::find(value, "validation_context").ok_or(ReadError::Nothing)?;
    Ok(Reading { context: context(found, &here("validation_context"), files)?, secret: None, peer })
}

/// Reads the name in an `SdsSecretConfig`.
fn reference(value: &Value, at: &str) -> Result<String, ReadError> {
    let name = value.get("name").and_then(Value::as_str).map(ToOwned::to_owned);
    name.ok_or_else(|| ReadError::Type { at: at.to_owned(), expected: "an SdsSecretConfig with a name" })
}

fn secret(value: &Value, at: &str, files: Files<'_>) -> Result<Context, ReadError> {
    let mut fields = Fields::of(value, at.to_owned(), "Secret")?;
    fields.take("name")?;
    let found = fields.take("validation_context")?;
    fields.finish()?;
    let (value, at) = found.ok_or(ReadError::Nothing)?;
    context(value, &at, files)
}

fn context(value: &Value, at: &str, files: Files<'_>) -> Result<Context, ReadError> {
    let mut fields = Fields::of(value, at.to_owned(), "CertificateValidationContext")?;
    // These fields do not change the verdict.
    for name in ["watched_directory", "suppress_client_ca_list", "only_verify_leaf_cert_crl"] {
        fields.take(name)?;
    }
    for (name, hint) in ELSEWHERE {
        if let Some((_, at)) = fields.take(name)? {
            return Err(ReadError::Elsewhere { at, hint });
        }
    }
    let trusted_ca = fields.take("trusted_ca")?;
    let trusted_ca = trusted_ca.map(|(value, at)| source(value, &at, files)).transpose()?;
    let spiffe = fields.take("custom_validator_config")?;
    let spiffe = spiffe.map(|(value, at)| validator(value, &at, files)).transpose()?;
    let typed = fields.list("match_typed_subject_alt_names", typed_matcher)?;
    let untyped = fields.list("match_subject_alt_names", string_matcher)?;
    let hashes = fields.list("verify_certificate_hash", fields::text)?;
    let spkis = fields.list("verify_certificate_spki", fields::text)?;
    let allow_expired = fields.bool("allow_expired_certificate")?;
    let accept_untrusted = match fields.take("trust_chain_verification")? {
        None => false,
        Some((value, at)) => match (value.as_str(), value.as_u64()) {
            (Some("VERIFY_TRUST_CHAIN"), _) | (_, Some(0)) => false,
            (Some("ACCEPT_UNTRUSTED"), _) | (_, Some(1)) => true,
            _ => return Err(ReadError::Type { at, expected: "VERIFY_TRUST_CHAIN or ACCEPT_UNTRUSTED" }),
        },
    };
    let max_verify_depth = match fields.take("max_verify_depth")? {
        None => None,
        Some((value, at)) => {
            let depth = value.as_u64().and_then(|depth| u32::try_from(depth).ok());
            Some(depth.ok_or(ReadError::Type { at, expected: "a number" })?)
        }
    };
    let crl = fields.take("crl")?.is_some();
    fields.finish()?;
    Ok(Context {
        trusted_ca,
        spiffe,
        typed,
        untyped,
        hashes,
        spkis,
        allow_expired,
        accept_untrusted,
        max_verify_depth,
        crl,
    })
}

fn source(value: &Value, at: &str, files: Files<'_>) -> Result<Source, ReadError> {
    let mut fields = Fields::of(value, at.to_owned(), "DataSource")?;
    fields.take("watched_directory")?;
    let [file, bytes, string, variable] =
        ["filename", "inline_bytes", "inline_string", "environment_variable"].map(|name| fields.take(name));
    let (file, bytes, string, variable) = (file?, bytes?, string?, variable?);
    fields.finish()?;
    let source = |origin: &str, bytes| Ok(Source { origin: origin.to_owned(), bytes });
    match (file, bytes, string, variable) {
        (Some((value, at)), None, None, None) => {
            let file = fields::text(value, &at)?;
            let bytes = files(&file);
            source(&file, bytes.map_err(|reason| ReadError::File { at, file: file.clone(), reason })?)
        }
        (None, Some((value, at)), None, None) => {
            let bytes = STANDARD.decode(fields::text(value, &at)?).ok();
            source(&at, bytes.ok_or_else(|| ReadError::Type { at: at.clone(), expected: "bytes in base64" })?)
        }
        (None, None, Some((value, at)), None) => source(&at, fields::text(value, &at)?.into_bytes()),
        (None, None, None, Some((_, at))) => {
            Err(ReadError::Elsewhere { at, hint: "not read here; put its content into inline_string" })
        }
        _ => Err(ReadError::Type {
            at: at.to_owned(),
            expected: "one of filename, inline_bytes and inline_string",
        }),
    }
}

/// The SPIFFE validator; no other is known.
fn validator(value: &Value, at: &str, files: Files<'_>) -> Result<Vec<TrustDomain>, ReadError> {
    let mut fields = Fields::of(value, at.to_owned(), "TypedExtensionConfig")?;
    let name = fields.take("name")?;
    let config = fields.take("typed_config")?;
    fields.finish()?;
    let expected = |at| ReadError::Type {
        at,
        expected: "a SPIFFECertValidatorConfig: no other validator is known here",
    };
    // Envoy finds the validator by the type of its configuration; the name is for people.
    drop(name);
    let (config, at) = config.ok_or_else(|| expected(at.to_owned()))?;
    let kind = config.get("@type").and_then(Value::as_str).unwrap_or_default();
    if !kind.ends_with("SPIFFECertValidatorConfig") {
        return Err(expected(fields::join(&at, "@type")));
    }
    let mut fields = Fields::of(config, at, "SPIFFECertValidatorConfig")?;
    if let Some((_, at)) = fields.take("trust_bundles")? {
        let hint = "a SPIFFE bundle map is not read here; give its roots as trust_domains";
        return Err(ReadError::Elsewhere { at, hint });
    }
    let domains = fields.list("trust_domains", |value, at| {
        let mut fields = Fields::of(value, at.to_owned(), "TrustDomain")?;
        let name = fields.take("name")?;
        let bundle = fields.take("trust_bundle")?;
        if let Some((value, at)) = fields.take("workload_trust_domain")?
            && value.as_str() != Some("")
        {
            let hint = "chooses by the connection's filter state, which is not known here; take it out";
            return Err(ReadError::Elsewhere { at, hint });
        }
        fields.finish()?;
        let missing = |expected| ReadError::Type { at: at.to_owned(), expected };
        let (name, name_at) = name.ok_or_else(|| missing("a name"))?;
        let (bundle, bundle_at) = bundle.ok_or_else(|| missing("a trust_bundle"))?;
        Ok(TrustDomain { name: fields::text(name, &name_at)?, bundle: source(bundle, &bundle_at, files)? })
    })?;
    fields.finish()?;
    Ok(domains)
}

fn typed_matcher(value: &Value, at: &str) -> Result<(Kind, StringMatcher), ReadError> {
    let mut fields = Fields::of(value, at.to_owned(), "SubjectAltNameMatcher")?;
    let kind = fields.take("san_type")?;
    let matcher = fields.take("matcher")?;
    let oid = fields.take("oid")?;
    fields.finish()?;
    if let Some((_, at)) = oid {
        return Err(ReadError::Elsewhere {
            at,
            hint: "other names are not checked here; take the matcher out",
        });
    }
    let (kind, kind_at) = kind.unwrap_or_else(|| (&Value::Null, fields::join(at, "san_type")));
    let kind = match (kind.as_str(), kind.as_u64()) {
        (Some("EMAIL"), _) | (_, Some(1)) => Kind::Email,
        (Some("DNS"), _) | (_, Some(2)) => Kind::Dns,
        (Some("URI"), _) | (_, Some(3)) => Kind::Uri,
        (Some("IP_ADDRESS"), _) | (_, Some(4)) => Kind::Ip,
        _ => return Err(ReadError::Type { at: kind_at, expected: "EMAIL, DNS, URI or IP_ADDRESS" }),
    };
    let missing = || ReadError::Type { at: at.to_owned(), expected: "a matcher" };
    let (matcher, matcher_at) = matcher.ok_or_else(missing)?;
    Ok((kind, string_matcher(matcher, &matcher_at)?))
}

fn string_matcher(value: &Value, at: &str) -> Result<StringMatcher, ReadError> {
    const EXPECTED: &str = "one of exact, prefix, suffix, contains (not empty) and safe_regex";
    let mut fields = Fields::of(value, at.to_owned(), "StringMatcher")?;
    let mut tests = Vec::new();
    for (name, make) in TESTS {
        let Some((value, at)) = fields.take(name)? else { continue };
        let text = fields::text(value, &at)?;
        // The rules of protoc-gen-validate refuse it.
        if text.is_empty() && *name != "exact" {
            return Err(ReadError::Type { at, expected: EXPECTED });
        }
        tests.push(make(text));
    }
    if let Some((value, at)) = fields.take("safe_regex")? {
        let mut fields = Fields::of(value, at, "RegexMatcher")?;
        fields.take("google_re2")?;
        let regex = fields.take("regex")?;
        fields.finish()?;
        let (value, at) = regex.unwrap_or_else(|| (&Value::Null, "regex".to_owned()));
        let pattern = fields::text(value, &at)?;
        if pattern.is_empty() {
            return Err(ReadError::Type { at, expected: "a regular expression" });
        }
        tests.push(Test::SafeRegex(pattern));
    }
    if let Some((_, at)) = fields.take("custom")? {
        return Err(ReadError::Elsewhere {
            at,
            hint: "custom matchers are not known here; take the matcher out",
        });
    }
    let ignore_case = fields.bool("ignore_case")?;
    fields.finish()?;
    match (tests.pop(), tests.is_empty()) {
        (Some(test), true) => Ok(StringMatcher { test, ignore_case }),
        _ => Err(ReadError::Type { at: at.to_owned(), expected: EXPECTED }),
    }
}

type MakeTest = fn(String) -> Test;

const TESTS: &[(&str, MakeTest)] = &[
    ("exact", Test::Exact),
    ("prefix", Test::Prefix),
    ("suffix", Test::Suffix),
    ("contains", Test::Contains),
];

/// Fields by which a `CommonTlsContext` is recognized.
const COMMON: &[&str] =
    &["validation_context", "combined_validation_context", "validation_context_sds_secret_config"];

const ELSEWHERE: &[(&str, &str)] = &[
    ("ca_certificate_provider_instance", "not known here; give the roots as trusted_ca"),
    ("system_root_certs", "not known here; give the roots as trusted_ca"),
    ("require_signed_certificate_timestamp", "Envoy does not implement it; take it out"),
    ("verify_subject_alt_name", "not in v3 any more; write match_typed_subject_alt_names"),
];
