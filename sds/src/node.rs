//! What an Envoy says of itself.

use bytes::Bytes;
use prost::Message as _;

use crate::wire::Node;

/// What of it decides how its validation contexts look; latched from the first message that has a node.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct NodeFacts {
    seen: bool,
    pub(crate) disable_validation: Option<bool>,
    pub(crate) too_old: bool,
}

impl NodeFacts {
    pub(crate) fn latch(&mut self, node: Option<&Node>) {
        let Some(node) = node.filter(|_| !self.seen) else { return };
        let version = node.user_agent_build_version.as_ref().and_then(|build| build.version.as_ref());
        // The validator came with 1.18 (SPIRE, `supportsSPIFFEAuthExtension`); no version counts as new enough.
        self.too_old =
            version.is_some_and(|v| v.major_number < 1 || (v.major_number == 1 && v.minor_number < 18));
        self.disable_validation = disable_validation(&node.metadata);
        self.seen = true;
    }
}

/// The node metadata key `disable_spiffe_cert_validation`: a bool, or a string that Go's ParseBool takes.
fn disable_validation(metadata: &Bytes) -> Option<bool> {
    use prost_types::value::Kind;
    let mut metadata = prost_types::Struct::decode(metadata.clone()).ok()?;
    match metadata.fields.remove("disable_spiffe_cert_validation")?.kind? {
        Kind::BoolValue(value) => Some(value),
        Kind::StringValue(text) => match &*text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        },
        _ => None,
    }
}
