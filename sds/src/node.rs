//! What an Envoy says of itself in the `Node` of its requests.

use crate::wire::{Kind, Metadata, Node};

/// The facts that decide how an Envoy's validation contexts are encoded. They are taken from the first message that
/// has a node.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) seen: bool,
    pub(crate) disable_validation: Option<bool>,
    pub(crate) too_old: bool,
}

impl NodeFacts {
    /// Takes the facts from `node`, unless they are known. Returns whether it took them.
    pub(crate) fn latch(&mut self, node: Option<&Node>) -> bool {
        let Some(node) = node.filter(|_| !self.seen) else { return false };
        let version = node.user_agent_build_version.as_ref().and_then(|build| build.version.as_ref());
        // The SPIFFE validator came with Envoy 1.18 (SPIRE, `supportsSPIFFEAuthExtension`). No version counts as new
        // enough.
        self.too_old =
            version.is_some_and(|v| v.major_number < 1 || (v.major_number == 1 && v.minor_number < 18));
        self.disable_validation = node.metadata.as_ref().and_then(disable_validation);
        self.seen = true;
        true
    }
}

/// The value of [`METADATA_KEY`]: a bool, or a string that Go's ParseBool accepts.
fn disable_validation(metadata: &Metadata) -> Option<bool> {
    let entry = metadata.fields.iter().rfind(|entry| entry.key == METADATA_KEY)?;
    match entry.value.as_ref()?.kind.as_ref()? {
        Kind::Bool(value) => Some(*value),
        Kind::Text(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        },
    }
}

/// The only entry of a node's metadata that is read (SPIRE, `sdsv3`).
pub(crate) const METADATA_KEY: &str = "disable_spiffe_cert_validation";
