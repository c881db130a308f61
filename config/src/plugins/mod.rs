//! Reads the block `plugins { }`.
//!
//! `declared` reads which plugins there are, in the order of the file; `builtin` knows the names and numbers that
//! spire-agent accepts; `configured` reads the data of the plugins that Finial has, with `node` for the
//! node attestors, and `docker` and `k8s` for these plugins.
//!
//! As in spire-agent, there are two levels of errors. A block that cannot be read is an error of the file. A plugin
//! that cannot be loaded is found only by `run`: that error is kept in [`Outcome`] and returned by
//! [`crate::Settings::plugins`].

mod builtin;
mod configured;
mod declared;
pub(crate) mod docker;
pub(crate) mod k8s;
mod node;
mod reread;

use std::io;
use std::path::{Path, PathBuf};

pub use self::reread::{PluginFile, Reread};
use crate::decode::Section;
use crate::{DockerOptions, K8sOptions, Problem, Warning, WorkloadApi};

/// The plugins of a configuration that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugins {
    /// The plugin that attests the node, unless there is a join token ([`crate::Settings::join_token`]).
    pub node_attestor: NodeAttestor,
    /// The plugin that keeps the keys of the agent's own SVID.
    pub key_manager: KeyManager,
    /// The workload attestors; at least one, in the order of the file.
    pub workload_attestors: Vec<WorkloadAttestor>,
}

/// A node attestor (SPIRE: `plugins.NodeAttestor`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAttestor {
    /// `http_challenge`
    HttpChallenge(HttpChallenge),
    /// `join_token`; the token itself is [`crate::Settings::join_token`].
    JoinToken,
    /// `k8s_psat`
    K8sPsat {
        /// The name under which the server knows the cluster.
        cluster: String,
        /// The file of the projected service account token.
        token_path: PathBuf,
    },
    /// `x509pop`
    X509Pop(X509Pop),
}

/// Where the server fetches the nonce of `http_challenge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpChallenge {
    /// The name under which the server finds this host (SPIRE: `hostname`); `None` for the system's host name.
    pub hostname: Option<String>,
    /// What tells several agents of a host apart (SPIRE: `agentname`).
    pub agent_name: String,
    /// The port of the agent's listener; 0 for any free one (SPIRE: `port`).
    pub port: u16,
    /// The port that the server connects to (SPIRE: `advertised_port`); `None` for that of the listener.
    pub advertised_port: Option<u16>,
}

/// Where `x509pop` gets its certificate and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum X509Pop {
    /// From files, which are read again for each attestation.
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
        /// The address (SPIRE: `spiffe_endpoint_socket`).
        address: WorkloadApi,
    },
}

/// A key manager (SPIRE: `plugins.KeyManager`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyManager {
    /// `memory`: keys are lost when the agent stops.
    Memory,
    /// `disk`: keys are in a file.
    Disk {
        /// The folder of `keys.json`.
        directory: PathBuf,
    },
}

/// A workload attestor (SPIRE: `plugins.WorkloadAttestor`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadAttestor {
    /// `unix`
    Unix {
        /// Whether to read the executable at all, for the selectors `path` and `sha256`.
        discover_workload_path: bool,
        /// The largest executable that is hashed, in bytes: a larger one fails the attestation. 0 means any size; a
        /// negative value means that none is hashed.
        workload_size_limit: i64,
    },
    /// `k8s`
    K8s(Box<K8sOptions>),
    /// `docker`
    Docker(Box<DockerOptions>),
    /// `systemd`
    Systemd,
    /// `slurm`
    Slurm,
}

/// The outcome of reading the block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The plugins, which are usable only if there are no problems.
    pub(crate) plugins: Option<Plugins>,
    pub(crate) problems: Vec<Problem>,
    /// The plugins whose data is in files of their own.
    pub(crate) files: Vec<PluginFile>,
    /// Keys of the plugins' data that do nothing.
    pub(crate) warnings: Vec<Warning>,
}

/// Reads the block. Problems of the file go to the section's report, all others to the outcome.
pub(crate) fn read(top: &Section<'_>, read_file: &dyn Fn(&Path) -> io::Result<String>) -> Outcome {
    configured::configure(&declared::read(top), read_file)
}
