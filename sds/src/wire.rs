//! The messages of SDS v3, with only the fields that are read or written.
//!
//! Other fields are skipped; most are dropped earlier, by `sift`. A round-trip test compares the messages with
//! Envoy's own definitions. No message that could hold a private key derives `Debug`.

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::framing::RequestError;

/// How a client asks, and is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// State of the world: a request names everything that the client wants.
    #[default]
    Sotw,
    /// Requests and responses are differences.
    Delta,
}

/// `envoy.service.discovery.v3.DiscoveryRequest`, borrowed from the message: every ACK of every stream is one, and
/// copying its texts would cost more than everything else that is done with them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DiscoveryRequest<'a> {
    /// The last version that the client accepted.
    pub version_info: &'a str,
    /// What the client says of itself.
    pub node: Option<Node>,
    /// The names that the client wants; none means everything.
    pub resource_names: Vec<&'a str>,
    /// The type URL. It is echoed, whatever it is, as by spire-agent; longer ones than any client has are refused.
    pub type_url: &'a str,
    /// The nonce of the response that this request answers; empty in the first request.
    pub response_nonce: &'a str,
    /// Why the client rejected that response, if it did.
    pub error_detail: Option<Rejection>,
}

impl<'a> DiscoveryRequest<'a> {
    /// Decodes a message.
    ///
    /// # Errors
    /// [`RequestError::Malformed`].
    pub fn decode(mut message: &'a [u8]) -> Result<Self, RequestError> {
        let mut request = Self::default();
        while !message.is_empty() {
            let (field, wire_type) = decode_key(&mut message)?;
            match field {
                _ if wire_type != WireType::LengthDelimited => {
                    skip_field(wire_type, field, &mut message, DecodeContext::default())?;
                }
                1 => request.version_info = text(&mut message)?,
                2 => request.node.get_or_insert_default().merge_length_delimited(&mut message)?,
                3 => request.resource_names.push(text(&mut message)?),
                4 => request.type_url = text(&mut message)?,
                5 => request.response_nonce = text(&mut message)?,
                6 => request.error_detail.get_or_insert_default().merge_length_delimited(&mut message)?,
                _ => skip_field(wire_type, field, &mut message, DecodeContext::default())?,
            }
        }
        Ok(request)
    }
}

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`, borrowed from the message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeltaDiscoveryRequest<'a> {
    /// What the client says of itself.
    pub node: Option<Node>,
    /// The type URL, as in [`DiscoveryRequest`].
    pub type_url: &'a str,
    /// The names that the client wants from now on (`resource_names_subscribe`).
    pub subscribe: Vec<&'a str>,
    /// The names that it wants no longer (`resource_names_unsubscribe`).
    pub unsubscribe: Vec<&'a str>,
    /// The resources that the client has from an earlier stream, with their versions. It counts in the first request.
    pub initial_resource_versions: Vec<(&'a str, &'a str)>,
    /// The nonce of the response that this request answers, if it answers one.
    pub response_nonce: &'a str,
    /// Why the client rejected that response, if it did.
    pub error_detail: Option<Rejection>,
}

impl<'a> DeltaDiscoveryRequest<'a> {
    /// Decodes a message.
    ///
    /// # Errors
    /// [`RequestError::Malformed`].
    pub fn decode(mut message: &'a [u8]) -> Result<Self, RequestError> {
        let mut request = Self::default();
        while !message.is_empty() {
            let (field, wire_type) = decode_key(&mut message)?;
            match field {
                _ if wire_type != WireType::LengthDelimited => {
                    skip_field(wire_type, field, &mut message, DecodeContext::default())?;
                }
                1 => request.node.get_or_insert_default().merge_length_delimited(&mut message)?,
                2 => request.type_url = text(&mut message)?,
                3 => request.subscribe.push(text(&mut message)?),
                4 => request.unsubscribe.push(text(&mut message)?),
                5 => request.initial_resource_versions.push(map_entry(&mut message)?),
                6 => request.response_nonce = text(&mut message)?,
                7 => request.error_detail.get_or_insert_default().merge_length_delimited(&mut message)?,
                _ => skip_field(wire_type, field, &mut message, DecodeContext::default())?,
            }
        }
        Ok(request)
    }
}

/// Reads an entry of a `map<string, string>` at the beginning of `message`.
fn map_entry<'a>(message: &mut &'a [u8]) -> Result<(&'a str, &'a str), RequestError> {
    let mut entry = bytes(message)?;
    let (mut key, mut value) = ("", "");
    while !entry.is_empty() {
        match decode_key(&mut entry)? {
            (1, WireType::LengthDelimited) => key = text(&mut entry)?,
            (2, WireType::LengthDelimited) => value = text(&mut entry)?,
            (field, wire_type) => skip_field(wire_type, field, &mut entry, DecodeContext::default())?,
        }
    }
    Ok((key, value))
}

/// Reads a length-prefixed text at the beginning of `message`.
fn text<'a>(message: &mut &'a [u8]) -> Result<&'a str, RequestError> {
    std::str::from_utf8(bytes(message)?).map_err(|_| malformed("a text is not UTF-8"))
}

/// Reads a length-prefixed field at the beginning of `message`.
fn bytes<'a>(message: &mut &'a [u8]) -> Result<&'a [u8], RequestError> {
    let len = usize::try_from(decode_varint(message)?).unwrap_or(usize::MAX);
    let (bytes, rest) = message.split_at_checked(len).ok_or_else(|| malformed("a field is cut short"))?;
    *message = rest;
    Ok(bytes)
}

fn malformed(what: &str) -> RequestError {
    RequestError::Malformed(format!("malformed discovery request: {what}"))
}

/// `envoy.config.core.v3.Node`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// Metadata that Envoy's operator has set.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<Metadata>,
    /// The build of Envoy.
    #[prost(message, optional, tag = "8")]
    pub user_agent_build_version: Option<BuildVersion>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    /// The entries of a map: of several with the same key, the last one counts.
    #[prost(message, repeated, tag = "1")]
    pub fields: Vec<MetadataEntry>,
}

/// One entry of [`Metadata`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetadataEntry {
    /// The entry's key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The entry's value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<Value>,
}

/// `google.protobuf.Value`, with the kinds that can mean yes or no.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// The value; `None` if it is of another kind.
    #[prost(oneof = "Kind", tags = "3, 4")]
    pub kind: Option<Kind>,
}

/// The kind of a [`Value`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// `string_value`.
    #[prost(string, tag = "3")]
    Text(String),
    /// `bool_value`.
    #[prost(bool, tag = "4")]
    Bool(bool),
}

/// `envoy.config.core.v3.BuildVersion`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildVersion {
    /// Envoy's release.
    #[prost(message, optional, tag = "1")]
    pub version: Option<SemanticVersion>,
}

/// `envoy.type.v3.SemanticVersion`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SemanticVersion {
    /// The major version.
    #[prost(uint32, tag = "1")]
    pub major_number: u32,
    /// The minor version.
    #[prost(uint32, tag = "2")]
    pub minor_number: u32,
}

/// `google.rpc.Status`, as a NACK carries it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rejection {
    /// The gRPC code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Envoy's reason, in words.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `envoy.extensions.transport_sockets.tls.v3.Secret`.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Secret {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) tls_certificate: Option<TlsCertificate>,
    #[prost(message, optional, tag = "4")]
    pub(crate) validation_context: Option<ValidationContext>,
    #[prost(message, optional, tag = "5")]
    pub(crate) generic_secret: Option<GenericSecret>,
}

/// `GenericSecret` of the same package.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct GenericSecret {
    #[prost(message, optional, tag = "1")]
    pub(crate) secret: Option<DataSource>,
}

/// `TlsCertificate` of the same package.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct TlsCertificate {
    #[prost(message, optional, tag = "1")]
    pub(crate) certificate_chain: Option<DataSource>,
    #[prost(message, optional, tag = "2")]
    pub(crate) private_key: Option<DataSource>,
}

/// `CertificateValidationContext` of the same package, with exactly one of the two fields. Any other field would
/// change the policy that the control plane has set: Envoy appends SAN lists and overrides scalars.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ValidationContext {
    #[prost(message, optional, tag = "1")]
    pub(crate) trusted_ca: Option<DataSource>,
    #[prost(message, optional, tag = "12")]
    pub(crate) custom_validator_config: Option<ExtensionConfig>,
}

/// `envoy.config.core.v3.TypedExtensionConfig`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ExtensionConfig {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) typed_config: Option<Any>,
}

/// `SPIFFECertValidatorConfig` of the same package.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SpiffeValidator {
    #[prost(message, repeated, tag = "1")]
    pub(crate) trust_domains: Vec<ValidatorDomain>,
}

/// `SPIFFECertValidatorConfig.TrustDomain`. The trust domain is a bare name, without `spiffe://`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ValidatorDomain {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) trust_bundle: Option<DataSource>,
}

/// `envoy.config.core.v3.DataSource` with `inline_bytes`.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct DataSource {
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) inline_bytes: Bytes,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Any {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

macro_rules! opaque {
    ($($message:ty),+) => {$(
        impl std::fmt::Debug for $message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($message), "(…)"))
            }
        }
    )+};
}

opaque!(Secret, TlsCertificate, GenericSecret, DataSource, Any);

/// The type URL of every resource of this service.
pub const SECRET_TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
pub(crate) const VALIDATOR_TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
pub(crate) const VALIDATOR_NAME: &str = "envoy.tls.cert_validator.spiffe";
