//! Plugins whose data is in a file of its own (`plugin_data_file`), which can be read again while the agent runs.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};

use super::builtin::PluginType;
use super::configured::Found;
use super::declared::{Data, Declared};
use super::{KeyManager, NodeAttestor, WorkloadAttestor};
use crate::Problem;

/// A plugin whose data is in a file, and what the file said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginFile {
    kind: PluginType,
    name: String,
    path: String,
    line: u32,
    text: String,
}

/// A plugin with new data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reread {
    /// The plugin that attests the node.
    NodeAttestor(NodeAttestor),
    /// The plugin that keeps the agent's keys.
    KeyManager(KeyManager),
    /// A plugin that attests workloads.
    WorkloadAttestor(WorkloadAttestor),
}

impl PluginFile {
    pub(super) fn new(kind: PluginType, plugin: &Declared<'_>, path: &str, text: String) -> Self {
        Self { kind, name: plugin.name.to_owned(), path: path.to_owned(), line: plugin.line, text }
    }

    /// The plugin's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The plugin's type, as agent.conf names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind.name()
    }

    /// The path of `plugin_data_file`, as configured.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.path.clone().into()
    }

    /// What the file said when it was last taken.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Takes what the file says now. Returns the plugin if that is something else than before.
    ///
    /// # Errors
    /// What is wrong with it. The plugin stays as it was.
    pub fn take(&mut self, text: String) -> Result<Option<Reread>, Vec<Problem>> {
        if text == self.text {
            return Ok(None);
        }
        let declared = Declared {
            kind: self.kind.name(),
            name: &self.name,
            line: self.line,
            external: false,
            enabled: true,
            data: Data::File(self.path.clone()),
            warnings: RefCell::default(),
        };
        let (mut found, mut problems) = (Found::default(), Vec::new());
        let read = |_: &Path| Ok::<_, io::Error>(text.clone());
        found.load(self.kind, &declared, &read, &mut problems);
        let plugin = found
            .node_attestor
            .map(Reread::NodeAttestor)
            .or_else(|| found.key_manager.map(Reread::KeyManager))
            .or_else(|| found.workload_attestors.pop().map(Reread::WorkloadAttestor));
        match plugin {
            Some(plugin) if problems.is_empty() => {
                self.text = text;
                Ok(Some(plugin))
            }
            _ => Err(problems),
        }
    }
}
