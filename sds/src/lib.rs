//! Secret Discovery Service v3: certificates and validation contexts for Envoy.
//!
//! - [`names`]: what a resource name means;
//! - [`secret`]: an SVID or a bundle as an encoded resource, made once and shared;
//! - [`stream`]: the state machine of one stream, without I/O, clock or runtime;
//! - [`framing`], `sift`: requests out of DATA frames, but for what nobody reads of them; `reply`: responses into them;
//! - `session`: one open stream, as the body of its response;
//! - [`service`]: the gRPC service around it, by hand where tonic costs memory.
//!
//! The agent hands in one thing, an implementation of [`Admit`]: who may listen, and to what.

pub mod framing;
pub mod names;
mod node;
mod reply;
mod resolve;
pub mod secret;
pub mod service;
mod session;
mod sift;
pub mod stream;
pub mod wire;

#[cfg(test)]
mod tests;

pub use reply::Frames;
pub use service::{Admission, Admit, Answer, Called, Service};

/// The agent's settings for SDS.
#[derive(Debug, Clone)]
pub struct Options {
    /// Resource name of the default X.509-SVID (`sds.default_svid_name`).
    pub default_svid_name: String,
    /// Resource name of the own trust domain's bundle (`sds.default_bundle_name`).
    pub default_bundle_name: String,
    /// Resource name of all bundles together (`sds.default_all_bundles_name`).
    pub default_all_bundles_name: String,
    /// Send plain roots instead of Envoy's SPIFFE validator (`sds.disable_spiffe_cert_validation`).
    pub disable_spiffe_cert_validation: bool,
    /// What happens to a stream that asks for a name that its caller may not have.
    pub unknown_names: UnknownNames,
}

/// `sds.unknown_names`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownNames {
    /// The stream stays; the secret follows when it is registered.
    #[default]
    Hold,
    /// The stream ends with InvalidArgument, as spire-agent does.
    Reject,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            default_svid_name: "default".into(),
            default_bundle_name: "ROOTCA".into(),
            default_all_bundles_name: "ALL".into(),
            disable_spiffe_cert_validation: false,
            unknown_names: UnknownNames::default(),
        }
    }
}

/// Why a request is refused for good. The gRPC code is chosen in [`service`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Names that the caller may not have (`unknown_names = "reject"`, and always for FetchSecrets).
    NotAuthorized(Vec<Box<str>>),
    /// All bundles together need Envoy's SPIFFE validator, which is off or too new for this Envoy.
    NeedsValidator,
    /// More names than anybody needs.
    TooManyNames {
        /// How many bytes the names may have together.
        limit: usize,
    },
    /// The X.509-SVID has expired and the server has not signed another: never sent anew.
    Expired {
        /// Whose.
        spiffe_id: String,
    },
    /// The X.509-SVID is not minted yet (FetchSecrets only; a stream waits).
    NotMinted {
        /// Whose.
        spiffe_id: String,
    },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAuthorized(names) => {
                f.write_str("workload is not authorized for the requested identities [")?;
                for (place, name) in names.iter().enumerate() {
                    write!(f, "{}{name:?}", if place > 0 { " " } else { "" })?;
                }
                f.write_str("]")
            }
            Self::NeedsValidator => f.write_str("unable to use \"SPIFFE validator\" on Envoy below 1.17"),
            Self::TooManyNames { limit } => write!(f, "resource names exceed {limit} bytes"),
            Self::Expired { spiffe_id } => {
                write!(f, "X.509-SVID of {spiffe_id} has expired and the server has not renewed it yet")
            }
            Self::NotMinted { spiffe_id } => write!(f, "X.509-SVID of {spiffe_id} is not available yet"),
        }
    }
}

impl std::error::Error for Refusal {}
