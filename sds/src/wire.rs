//! The messages of SDS v3, trimmed to the fields that are read or written.
//!
//! A field that is not named here is skipped, and most are not even brought here: see `sift`. A round-trip test proves these equal to Envoy's own definitions. None derives `Debug` that
//! could hold a key.

use bytes::Bytes;

/// `envoy.service.discovery.v3.DiscoveryRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryRequest {
    /// The last version that the client accepted.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Who the client says it is.
    #[prost(message, optional, tag = "2")]
    pub node: Option<Node>,
    /// What it wants; empty means everything.
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    /// Echoed, unchecked, as spire-agent does.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// The response that this one answers.
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// Set when the client rejected that response.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<Rejection>,
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
