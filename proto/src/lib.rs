//! Wire bindings: the SPIRE server's APIs, those of an agent's admin socket, the SPIFFE Workload API, gRPC health and
//! OTLP.
//!
//! The `.proto` files in `protos/` hold only what the agent sends or reads; what is left out stays readable on the
//! wire as unknown fields. The code in `generated/` is checked in, so that building needs no protobuf compiler;
//! `tests/generate.rs` makes it anew and fails where it differs (`FINIAL_BLESS=1` writes it).
//!
//! Messages that can hold a key or a token have no derived `Debug`: theirs prints the name of the type alone.
#![expect(missing_docs, reason = "generated code; the .proto files carry the comments")]
#![expect(unused_qualifications, reason = "generated code")]
#![expect(clippy::allow_attributes_without_reason, reason = "generated code")]
#![expect(clippy::clone_on_ref_ptr, reason = "generated code")]
#![expect(clippy::too_many_lines, reason = "generated code")]

/// The packages as they are nested on the wire: generated code refers to its neighbours by these paths.
#[expect(unreachable_pub, reason = "what is used is exported again below")]
mod spire {
    pub mod agent {
        pub mod debug {
            pub mod v1 {
                include!("generated/spire.agent.debug.v1.rs");
            }
        }
    }
    pub mod api {
        pub mod agent {
            pub mod logger {
                pub mod v1 {
                    include!("generated/spire.api.agent.logger.v1.rs");
                }
            }
            pub mod delegatedidentity {
                pub mod v1 {
                    include!("generated/spire.api.agent.delegatedidentity.v1.rs");
                }
            }
        }
        pub mod types {
            include!("generated/spire.api.types.rs");
        }
        pub mod server {
            pub mod agent {
                pub mod v1 {
                    include!("generated/spire.api.server.agent.v1.rs");
                }
            }
            pub mod entry {
                pub mod v1 {
                    include!("generated/spire.api.server.entry.v1.rs");
                }
            }
            pub mod bundle {
                pub mod v1 {
                    include!("generated/spire.api.server.bundle.v1.rs");
                }
            }
            pub mod svid {
                pub mod v1 {
                    include!("generated/spire.api.server.svid.v1.rs");
                }
            }
        }
    }
}

/// OTLP, nested as generated code refers to it.
#[expect(unreachable_pub, reason = "what is used is exported again below")]
mod opentelemetry {
    pub mod proto {
        pub mod common {
            pub mod v1 {
                include!("generated/opentelemetry.proto.common.v1.rs");
            }
        }
        pub mod resource {
            pub mod v1 {
                include!("generated/opentelemetry.proto.resource.v1.rs");
            }
        }
        pub mod metrics {
            pub mod v1 {
                include!("generated/opentelemetry.proto.metrics.v1.rs");
            }
        }
        pub mod logs {
            pub mod v1 {
                include!("generated/opentelemetry.proto.logs.v1.rs");
            }
        }
        pub mod collector {
            pub mod metrics {
                pub mod v1 {
                    include!("generated/opentelemetry.proto.collector.metrics.v1.rs");
                }
            }
            pub mod logs {
                pub mod v1 {
                    include!("generated/opentelemetry.proto.collector.logs.v1.rs");
                }
            }
        }
    }
}

/// OTLP: the messages and the two services that take them.
pub mod otlp {
    pub use super::opentelemetry::proto::{
        collector::logs::v1 as collector_logs, collector::metrics::v1 as collector_metrics,
        common::v1 as common, logs::v1 as logs, metrics::v1 as metrics, resource::v1 as resource,
    };
}

pub use spire::agent::debug::v1 as debug;
pub use spire::api::agent::{delegatedidentity::v1 as delegated, logger::v1 as logger};
pub use spire::api::server::{
    agent::v1 as agent, bundle::v1 as bundle, entry::v1 as entry, svid::v1 as svid,
};
pub use spire::api::types;

/// What an operator asks a running agent.
pub mod inspect {
    include!("generated/finial.agent.inspect.v1.rs");
}

/// The SPIFFE Workload API.
pub mod workload {
    include!("generated/_.rs");
}

/// gRPC health.
pub mod health {
    include!("generated/grpc.health.v1.rs");
}

/// gRPC server reflection. The messages of v1alpha are the same.
pub mod reflection {
    include!("generated/grpc.reflection.v1.rs");
}

/// The services of the public socket as a `google.protobuf.FileDescriptorSet`, for reflection.
pub const PUBLIC_SERVICES: &[u8] = include_bytes!("generated/public.binpb");

/// Messages without a derived `Debug` (they can hold a key, a token or an attestation payload).
macro_rules! opaque {
    ($($message:ty),+ $(,)?) => {$(
        impl std::fmt::Debug for $message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($message)).finish_non_exhaustive()
            }
        }
    )+};
}

opaque! {
    types::AttestationData,
    types::Jwtsvid,
    agent::AttestAgentRequest,
    agent::attest_agent_request::Params,
    agent::attest_agent_request::Step,
    agent::AttestAgentResponse,
    agent::attest_agent_response::Step,
    workload::X509svid,
    workload::X509svidResponse,
    workload::Jwtsvid,
    workload::JwtsvidResponse,
    workload::ValidateJwtsvidRequest,
    workload::Witsvid,
    workload::WitsvidResponse,
    delegated::X509svidWithKey,
    delegated::SubscribeToX509sviDsResponse,
    delegated::FetchJwtsviDsResponse,
}
