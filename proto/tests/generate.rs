//! The checked-in bindings are what the `.proto` files say.

use std::fs;
use std::path::Path;

/// Messages that can hold a secret; `lib.rs` gives them a `Debug` that prints nothing of it.
const OPAQUE: [&str; 17] = [
    ".spire.api.types.AttestationData",
    ".spire.api.types.JWTSVID",
    ".spire.api.server.agent.v1.AttestAgentRequest",
    ".spire.api.server.agent.v1.AttestAgentRequest.Params",
    ".spire.api.server.agent.v1.AttestAgentRequest.step",
    ".spire.api.server.agent.v1.AttestAgentResponse",
    ".spire.api.server.agent.v1.AttestAgentResponse.step",
    ".X509SVID",
    ".X509SVIDResponse",
    ".JWTSVID",
    ".JWTSVIDResponse",
    ".ValidateJWTSVIDRequest",
    ".WITSVID",
    ".WITSVIDResponse",
    ".spire.api.agent.delegatedidentity.v1.X509SVIDWithKey",
    ".spire.api.agent.delegatedidentity.v1.SubscribeToX509SVIDsResponse",
    ".spire.api.agent.delegatedidentity.v1.FetchJWTSVIDsResponse",
];

/// The files that describe the services of the public socket, for clients that ask by reflection.
#[test]
fn descriptors_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [
        "spiffe/workload/workload.proto",
        "grpc/health/v1/health.proto",
        "grpc/reflection/v1/reflection.proto",
        "grpc/reflection/v1alpha/reflection.proto",
        "envoy/service/secret/v3/sds.proto",
        "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    ];
    let mut fresh = protox::compile(files, [root.join("protos")]).expect("the protos compile");
    // Positions and comments: nobody asks for them.
    fresh.file.iter_mut().for_each(|file| file.source_code_info = None);
    let fresh = prost::Message::encode_to_vec(&fresh);
    let place = root.join("src/generated/public.binpb");
    if std::env::var_os("FINIAL_BLESS").is_some() {
        fs::write(&place, &fresh).expect("written");
    }
    let held = fs::read(&place).unwrap_or_default();
    assert!(held == fresh, "{} is stale: run with FINIAL_BLESS=1", place.display());
}

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = root.join("protos");
    let files = [
        "spire/api/types/types.proto",
        "spire/api/server/agent.proto",
        "spire/api/server/entry.proto",
        "spire/api/server/bundle.proto",
        "spire/api/server/svid.proto",
        "spire/api/agent/debug.proto",
        "spire/api/agent/logger.proto",
        "spire/api/agent/delegatedidentity.proto",
        "finial/agent/inspect.proto",
        "grpc/health/v1/health.proto",
        "grpc/reflection/v1/reflection.proto",
        "spiffe/workload/workload.proto",
        "opentelemetry/collector_metrics.proto",
        "opentelemetry/collector_logs.proto",
    ];
    let descriptors = protox::compile(files, [&protos]).expect("the protos compile");
    let out = tempfile::tempdir().expect("a temporary folder");
    let mut prost = tonic_prost_build::Config::new();
    prost.skip_debug(OPAQUE).bytes(["."]).btree_map(["."]);
    tonic_prost_build::configure()
        .out_dir(out.path())
        .emit_rerun_if_changed(false)
        .build_transport(true)
        .compile_fds_with_config(descriptors, prost)
        .expect("code is generated");
    let checked_in = root.join("src/generated");
    for entry in fs::read_dir(out.path()).expect("generated files") {
        let entry = entry.expect("a file");
        let fresh = fs::read_to_string(entry.path()).expect("generated code");
        let place = checked_in.join(entry.file_name());
        if std::env::var_os("FINIAL_BLESS").is_some() {
            fs::create_dir_all(&checked_in).expect("a folder");
            fs::write(&place, &fresh).expect("written");
        }
        let held = fs::read_to_string(&place).unwrap_or_default();
        assert!(held == fresh, "{} is stale: run with FINIAL_BLESS=1", place.display());
    }
}
