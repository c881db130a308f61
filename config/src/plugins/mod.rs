//! The block `plugins { }`.
//!
//! `declared` reads which plugins there are, in the order of the file, `builtin` knows the names
//! and numbers that spire-agent accepts, `configured` reads the data of the plugins that we have
//! (`k8s` those of that one).
//!
//! There are two levels of errors, as in spire-agent. What makes the block unreadable is an error of
//! the file. What keeps a plugin from loading is found only by `run`: it is kept in the
//! [`Outcome`] and handed out by [`crate::Settings::plugins`].

mod builtin;
mod configured;
mod declared;
pub(crate) mod k8s;

use std::io;
use std::path::{Path, PathBuf};

use crate::decode::Section;
use crate::{K8sOptions, Problem};

/// The plugins of a configuration that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugins {
    /// Attests the node, unless there is a join token ([`crate::Settings::join_token`]).
    pub node_attestor: NodeAttestor,
    /// Keeps the keys of the agent's own SVID.
    pub key_manager: KeyManager,
    /// At least one, in the order of the file.
    pub workload_attestors: Vec<WorkloadAttestor>,
}

/// SPIRE: `plugins.NodeAttestor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAttestor {
    /// `join_token`; the token itself is [`crate::Settings::join_token`].
    JoinToken,
    /// `k8s_psat`
    K8sPsat {
        /// Name of the cluster, as the server knows it.
        cluster: String,
        /// The projected service account token.
        token_path: PathBuf,
    },
    /// `x509pop`
    X509Pop(X509Pop),
}

/// Where `x509pop` has its certificate and key from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum X509Pop {
    /// From files, which are read anew at each attestation.
    Files {
        /// SPIRE: `private_key_path`.
        private_key: PathBuf,
        /// SPIRE: `certificate_path`.
        certificate: PathBuf,
        /// SPIRE: `intermediates_path`.
        intermediates: Option<PathBuf>,
    },
    /// From the Workload API of another agent.
    WorkloadApi {
        /// SPIRE: `spiffe_endpoint_socket`; the path of the socket.
        socket: PathBuf,
    },
}

/// SPIRE: `plugins.KeyManager`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyManager {
    /// `memory`
    Memory,
    /// `disk`
    Disk {
        /// Where `keys.json` is.
        directory: PathBuf,
    },
}

/// SPIRE: `plugins.WorkloadAttestor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadAttestor {
    /// `unix`
    Unix {
        /// Whether to look at the executable at all (`path`, `sha256`).
        discover_workload_path: bool,
        /// 0: hash whatever the size; below: never hash; above: fail if the file is larger.
        workload_size_limit: i64,
    },
    /// `k8s`
    K8s(Box<K8sOptions>),
}

/// What has become of the block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Complete and sound only if there are no problems.
    pub(crate) plugins: Option<Plugins>,
    pub(crate) problems: Vec<Problem>,
}

/// Reads the block. Problems of the file go to the section's report, the others to the outcome.
pub(crate) fn read(top: &Section<'_>, read_file: &dyn Fn(&Path) -> io::Result<String>) -> Outcome {
    configured::configure(&declared::read(top), read_file)
}
