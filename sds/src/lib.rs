//! Envoy's Secret Discovery Service v3 (SDS): serves X.509-SVIDs as TLS certificates, bundles as validation contexts,
//! and JWT-SVIDs as generic secrets, by state of the world or by differences.
//!
//! - [`names`]: what a resource name means;
//! - [`secret`]: an SVID or a bundle as an encoded resource, made once and shared by all streams;
//! - [`machine`]: the state machine of one stream, without I/O, clock or runtime;
//! - `resolve`: looks up what the names of a request mean for one caller; `node`: what an Envoy says of itself;
//! - [`framing`], `sift`: cut requests out of DATA frames and drop the parts that are not read; [`wire`]: the
//!   messages; `requests`: gives them to the machine; `reply`: responses as DATA frames;
//! - `feeds`: what a stream asks for besides its caller's identities and bundles;
//! - `session`: one open stream, as the body of its own response;
//! - [`service`]: the gRPC service, written by hand where tonic would cost memory.
//!
//! The agent provides one thing, an implementation of [`Admit`]: who may subscribe, and to what.

mod feeds;
pub mod framing;
pub mod machine;
pub mod names;
mod node;
mod reply;
mod requests;
mod resolve;
pub mod secret;
pub mod service;
mod session;
mod sift;
pub mod wire;

#[cfg(test)]
mod tests;

pub use feeds::{Following, SystemRoots};
pub use reply::Frames;
pub use service::{Admission, Admit, Called, ResponseBody, Service, Told};

/// The agent's settings for SDS.
#[derive(Debug, Clone)]
pub struct Options {
    /// Resource name of the default X.509-SVID (`sds.default_svid_name`).
    pub default_svid_name: String,
    /// Resource name of the agent's own trust domain's bundle (`sds.default_bundle_name`).
    pub default_bundle_name: String,
    /// Resource name of all bundles in one resource (`sds.default_all_bundles_name`).
    pub default_all_bundles_name: String,
    /// Whether to send plain roots instead of a configuration of Envoy's SPIFFE validator
    /// (`sds.disable_spiffe_cert_validation`).
    pub disable_spiffe_cert_validation: bool,
    /// What happens to a stream that asks for a name that its caller may not have.
    pub unknown_names: UnknownNames,
    /// Whether JWT-SVIDs are served as generic secrets (`sds.jwt`).
    pub jwt: bool,
}

/// What a stream does with a name that its caller may not have (`sds.unknown_names`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownNames {
    /// The stream stays open, and sends the secret once it is registered.
    #[default]
    Hold,
    /// The stream ends with InvalidArgument, as with spire-agent.
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
            jwt: true,
        }
    }
}

/// Why a request ends its call. The gRPC code is chosen in [`service`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The caller may not have these names (`unknown_names = "reject"`, and always with FetchSecrets).
    NotAuthorized(Vec<Box<str>>),
    /// The request asks for all bundles in one resource, which only Envoy's SPIFFE validator can use. It is disabled,
    /// or this Envoy is too old for it.
    NeedsValidator,
    /// The name of a JWT-SVID cannot be read.
    BadName {
        /// The resource name, as the client sent it.
        name: Box<str>,
        /// What is wrong with it.
        reason: String,
    },
    /// The request's type URL is longer than any that a client has.
    LongTypeUrl {
        /// The most bytes that it may have.
        limit: usize,
    },
    /// The request has too many names.
    TooManyNames {
        /// The most bytes that the names may have together.
        limit: usize,
    },
    /// The SVID has expired and the server has not signed another. An expired SVID is never sent.
    Expired {
        /// The SPIFFE ID of the SVID.
        spiffe_id: String,
    },
    /// The SVID is not signed yet, or the system's roots are not read (FetchSecrets only; a stream waits).
    NotMinted {
        /// The SPIFFE ID of the SVID, or the name of the roots.
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
            Self::BadName { name, reason } => write!(f, "resource name {name:?}: {reason}"),
            Self::LongTypeUrl { limit } => write!(f, "type URL exceeds {limit} bytes"),
            Self::TooManyNames { limit } => {
                write!(f, "resource names exceed {limit} bytes, of which each takes 24 besides its own")
            }
            Self::Expired { spiffe_id } => {
                write!(f, "X.509-SVID of {spiffe_id} has expired and the server has not renewed it yet")
            }
            Self::NotMinted { spiffe_id } if spiffe_id.starts_with("spiffe:") => {
                write!(f, "SVID of {spiffe_id} is not available yet")
            }
            Self::NotMinted { spiffe_id } => write!(f, "{spiffe_id} is not available yet"),
        }
    }
}

impl std::error::Error for Refusal {}
