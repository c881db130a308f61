//! SIGUSR1: the files of plugins (`plugin_data_file`) are read again, and plugins whose file has changed get a new
//! configuration (SPIRE, `catalog/configure.go`). What is wrong with a file is logged, and its plugin stays as it was.

use std::path::PathBuf;
use std::sync::Arc;

use attestors::file;
use attestors::node::Attestor as NodeAttestor;
use aws_lc_rs::digest::{SHA512, digest};
use config::{PluginFile, Reread, Settings};
use tokio::sync::watch;
use tracing::{error, info};

use super::node::node_attestor_of;
use super::workload;
use crate::door::Admission;

/// What is needed to configure plugins anew.
pub(super) struct Reload {
    files: Vec<PluginFile>,
    settings: Arc<Settings>,
    admission: Arc<Admission>,
    proc: PathBuf,
    node_attestor: watch::Sender<Option<Arc<NodeAttestor>>>,
}

impl Reload {
    pub(super) fn new(
        settings: &Arc<Settings>,
        admission: &Arc<Admission>,
        proc: PathBuf,
        node_attestor: watch::Sender<Option<Arc<NodeAttestor>>>,
    ) -> Self {
        let files = settings.plugin_files().to_vec();
        Self { files, settings: Arc::clone(settings), admission: Arc::clone(admission), proc, node_attestor }
    }

    /// Reads all files.
    pub(super) async fn run(&mut self) {
        for mut file in std::mem::take(&mut self.files) {
            self.reread(&mut file).await;
            self.files.push(file);
        }
    }

    async fn reread(&self, file: &mut PluginFile) {
        let (plugin_type, plugin_name) = (file.kind(), file.name().to_owned());
        let (old_hash, before) = (hash(file.text()), file.clone());
        let outcome = match file::load_text(&file.path(), FILE).await {
            Ok(mut text) => {
                file.take(std::mem::take(&mut *text)).map_err(|problems| super::problems_text(&problems))
            }
            Err(reason) => Err(format!("failed to load plugin data: {reason}")),
        };
        let outcome = outcome.and_then(|plugin| plugin.map(|plugin| self.put(plugin)).transpose());
        match outcome {
            Ok(Some(())) => {
                let new_hash = hash(file.text());
                info!(plugin_type, plugin_name, old_hash, new_hash, "Plugin reconfigured");
            }
            Ok(None) => {
                let hash = old_hash;
                info!(
                    plugin_type,
                    plugin_name, hash, "Plugin not reconfigured since the config is unchanged"
                );
            }
            Err(reason) => {
                // The next signal tries again, also if the file is the same then.
                *file = before;
                error!(plugin_type, plugin_name, error = reason, "Failed to reconfigure plugin");
            }
        }
    }

    fn put(&self, plugin: Reread) -> Result<(), String> {
        match plugin {
            Reread::WorkloadAttestor(configured) => {
                let attestor = workload::attestor(&configured, &self.settings.experimental, &self.proc);
                self.admission.replace(attestor.map_err(|reason| reason.to_string())?);
                Ok(())
            }
            Reread::NodeAttestor(configured) => {
                // A join token takes the place of the plugin.
                if self.settings.join_token.is_none() {
                    self.node_attestor.send_replace(Some(Arc::new(node_attestor_of(&configured))));
                }
                Ok(())
            }
            Reread::KeyManager(_) => {
                Err("the folder of keys is not changed while the agent runs; restart it".to_owned())
            }
        }
    }
}

/// The hash by which the log names a version of a file.
fn hash(text: &str) -> String {
    digest(&SHA512, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The most bytes of a file with a plugin's data.
const FILE: u64 = 1024 * 1024;
