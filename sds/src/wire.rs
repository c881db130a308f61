//! The messages of SDS v3, trimmed to the fields that are read or written.
//!
//! A field that is not named here is skipped, and most are not even brought here: see `sift`. A round-trip test proves these
//! equal to Envoy's own definitions. None derives `Debug` that could hold a key.

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::framing::RequestError;

/// `envoy.service.discovery.v3.DiscoveryRequest`, as it lies in a message: every ACK of every stream is one, and copying its
/// texts would cost more than all that is done with them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DiscoveryRequest<'a> {
    /// The last version that the client accepted.
    pub version_info: &'a str,
    /// Who the client says it is.
    pub node: Option<Node>,
    /// What it wants; empty means everything.
    pub resource_names: Vec<&'a str>,
    /// Echoed, unchecked, as spire-agent does.
    pub type_url: &'a str,
    /// The response that this one answers.
    pub response_nonce: &'a str,
    /// Set when the client rejected that response.
    pub error_detail: Option<Rejection>,
}

impl<'a> DiscoveryRequest<'a> {
    /// Reads a message.
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

/// The text at the beginning of `message`, after its length.
fn text<'a>(message: &mut &'a [u8]) -> Result<&'a str, RequestError> {
    let len = usize::try_from(decode_varint(message)?).unwrap_or(usize::MAX);
    let (text, rest) = message.split_at_checked(len).ok_or_else(|| malformed("a text is cut short"))?;
    *message = rest;
    std::str::from_utf8(text).map_err(|_| malformed("a text is not UTF-8"))
}

fn malformed(what: &str) -> RequestError {
    RequestError::Malformed(format!("malformed DiscoveryRequest: {what}"))
}

/// `envoy.config.core.v3.Node`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// What the Envoy's operator says of it.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<Metadata>,
    /// Which Envoy it is.
    #[prost(message, optional, tag = "8")]
    pub user_agent_build_version: Option<BuildVersion>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    /// A map: of entries with one key, the last counts.
    #[prost(message, repeated, tag = "1")]
    pub fields: Vec<MetadataEntry>,
}

/// One of its entries.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetadataEntry {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<Value>,
}

/// `google.protobuf.Value`, of the kinds that can mean yes or no.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// The kind that it is; `None` for the others.
    #[prost(oneof = "Kind", tags = "3, 4")]
    pub kind: Option<Kind>,
}

/// The kind of a [`Value`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// A text.
    #[prost(string, tag = "3")]
    Text(String),
    /// Yes or no.
    #[prost(bool, tag = "4")]
    Bool(bool),
}

/// `envoy.config.core.v3.BuildVersion`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildVersion {
    /// The release.
    #[prost(message, optional, tag = "1")]
    pub version: Option<SemanticVersion>,
}

/// `envoy.type.v3.SemanticVersion`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SemanticVersion {
    /// Major.
    #[prost(uint32, tag = "1")]
    pub major_number: u32,
    /// Minor.
    #[prost(uint32, tag = "2")]
    pub minor_number: u32,
}

/// `google.rpc.Status`, as a NACK carries it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rejection {
    /// A gRPC code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Envoy's words.
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

/// `CertificateValidationContext`: one of the two fields and nothing else, for anything more would change the
/// policy that the control plane has set (SAN lists are appended, scalars overridden).
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

/// `SPIFFECertValidatorConfig`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SpiffeValidator {
    #[prost(message, repeated, tag = "1")]
    pub(crate) trust_domains: Vec<ValidatorDomain>,
}

/// One trust domain of it, by bare name.
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

opaque!(Secret, TlsCertificate, DataSource, Any);

/// The type of every resource of this service.
pub const SECRET_TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
pub(crate) const VALIDATOR_TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
pub(crate) const VALIDATOR_NAME: &str = "envoy.tls.cert_validator.spiffe";
