//! Makes the configuration of plugins from what the file declares, or reports why it cannot.

use std::cell::RefCell;
use std::io;
use std::path::Path;

use super::builtin::{PluginType, no_builtin};
use super::declared::{Data, Declared};
use super::{KeyManager, NodeAttestor, Outcome, PluginFile, Plugins, WorkloadAttestor, docker, k8s, node};
use crate::decode::{Section, Strictness, no_hint};
use crate::hcl::{self, Object};
use crate::report::{Report, not_supported};
use crate::{Problem, Warning};

type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// The plugins that were read without problems.
#[derive(Default)]
pub(super) struct Found {
    pub(super) node_attestor: Option<NodeAttestor>,
    pub(super) key_manager: Option<KeyManager>,
    pub(super) workload_attestors: Vec<WorkloadAttestor>,
}

pub(super) fn configure(declared: &[Declared<'_>], read_file: ReadFile<'_>) -> Outcome {
    let mut problems = Vec::new();
    let mut found = Found::default();
    let (mut loaded, mut files) = (Vec::new(), Vec::new());
    for plugin in declared {
        match PluginType::from_name(plugin.kind) {
            None => problems.push(plugin.problem(format!("unsupported plugin type {:?}", plugin.kind))),
            Some(_) if !plugin.enabled => {}
            Some(kind) => {
                loaded.push(kind);
                let read = RefCell::new(None);
                let reading =
                    |path: &Path| read_file(path).inspect(|text| drop(read.replace(Some(text.clone()))));
                found.load(kind, plugin, &reading, &mut problems);
                if let (Data::File(path), Some(text)) = (&plugin.data, read.into_inner()) {
                    files.push(PluginFile::new(kind, plugin, path, text));
                }
            }
        }
    }
    for kind in PluginType::ALL {
        let count = loaded.iter().filter(|other| **other == kind).count();
        if let Err(reason) = kind.check_count(count) {
            let message = format!("plugin type {:?} constraint not satisfied: {reason}", kind.name());
            problems.push(Problem { line: None, message });
        }
    }
    let warnings = declared.iter().flat_map(|plugin| plugin.warnings.take()).collect();
    Outcome { plugins: found.complete(), problems, files, warnings }
}

impl Found {
    /// Reads a supported plugin's configuration. An unsupported plugin or wrong data becomes a problem.
    pub(super) fn load(
        &mut self,
        kind: PluginType,
        plugin: &Declared<'_>,
        read_file: ReadFile<'_>,
        problems: &mut Vec<Problem>,
    ) {
        if plugin.external {
            problems.push(plugin.not_supported("external plugin", kind));
            return;
        }
        if !kind.builtins().contains(&plugin.name) {
            problems.push(plugin.unknown(kind));
            return;
        }
        match (kind, plugin.name) {
            (PluginType::NodeAttestor, "join_token") if plugin.without_data(problems) => {
                self.node_attestor = Some(NodeAttestor::JoinToken);
            }
            (PluginType::KeyManager, "memory") if plugin.without_data(problems) => {
                self.key_manager = Some(KeyManager::Memory);
            }
            (PluginType::WorkloadAttestor, "systemd") if plugin.without_data(problems) => {
                self.workload_attestors.push(WorkloadAttestor::Systemd);
            }
            (PluginType::WorkloadAttestor, "slurm") if plugin.without_data(problems) => {
                self.workload_attestors.push(WorkloadAttestor::Slurm);
            }
            (_, "join_token" | "memory" | "systemd" | "slurm") => {}
            (PluginType::NodeAttestor, "http_challenge") => {
                self.node_attestor = plugin.read(read_file, problems, node::http_challenge);
            }
            (PluginType::NodeAttestor, "k8s_psat") => {
                self.node_attestor = plugin.read(read_file, problems, node::k8s_psat);
            }
            (PluginType::NodeAttestor, "x509pop") => {
                self.node_attestor = plugin.read(read_file, problems, node::x509pop);
            }
            (PluginType::KeyManager, "disk") => {
                self.key_manager = plugin.read(read_file, problems, disk);
            }
            (PluginType::WorkloadAttestor, "unix") => {
                self.workload_attestors.extend(plugin.read(read_file, problems, unix));
            }
            (PluginType::WorkloadAttestor, "k8s") => {
                self.workload_attestors.extend(plugin.read(read_file, problems, k8s::read));
            }
            (PluginType::WorkloadAttestor, "docker") => {
                self.workload_attestors.extend(plugin.read(read_file, problems, docker::read));
            }
            (PluginType::WorkloadAttestor, "windows") => {
                let message = "failed to configure plugin \"windows\": not supported in this platform";
                problems.push(plugin.problem(message.to_owned()));
            }
            _ => problems.push(plugin.not_supported("", kind)),
        }
    }

    fn complete(self) -> Option<Plugins> {
        Some(Plugins {
            node_attestor: self.node_attestor?,
            key_manager: self.key_manager?,
            workload_attestors: self.workload_attestors,
        })
    }
}

impl Declared<'_> {
    fn problem(&self, message: String) -> Problem {
        Problem { line: Some(self.line), message }
    }

    fn not_supported(&self, what: &str, kind: PluginType) -> Problem {
        let plugin = format!("{what} {} {:?}", kind.name(), self.name);
        self.problem(not_supported(plugin.trim_start()))
    }

    fn unknown(&self, kind: PluginType) -> Problem {
        self.problem(no_builtin(kind, self.name))
    }

    /// Checks that a plugin that has no configuration was given none.
    fn without_data(&self, problems: &mut Vec<Problem>) -> bool {
        let empty = matches!(self.data, Data::None);
        if !empty {
            problems.push(self.failed("no supported configuration interface found; remove plugin_data"));
        }
        empty
    }

    fn failed(&self, reason: &str) -> Problem {
        self.problem(format!("failed to configure plugin {:?}: {reason}", self.name))
    }

    /// Reads the plugin's data from the file or from `plugin_data_file`.
    fn read<T>(
        &self,
        read_file: ReadFile<'_>,
        problems: &mut Vec<Problem>,
        decode: impl Fn(Section<'_>) -> Option<T>,
    ) -> Option<T> {
        let object: Object;
        let blocks = match &self.data {
            Data::None => Vec::new(),
            Data::Inline(blocks) => blocks.clone(),
            Data::Unreadable => {
                problems.push(self.failed("unable to decode configuration: write plugin_data { … }"));
                return None;
            }
            Data::File(path) => match self.load_file(path, read_file) {
                Ok(loaded) => {
                    object = loaded;
                    vec![&object]
                }
                Err(problem) => {
                    problems.push(problem);
                    return None;
                }
            },
        };
        let report = Report::default();
        let decoded = decode(Section::new("", blocks, Some(self.line), &report));
        let (errors, warnings) = report.finish();
        let named = |warning: Warning| {
            let message = match &self.data {
                Data::File(path) => format!("{} of {path})", warning.message.trim_end_matches(')')),
                _ => warning.message,
            };
            Warning { message: format!("Plugin {:?}: {message}", self.name), ..warning }
        };
        self.warnings.borrow_mut().extend(warnings.into_iter().map(named));
        let sound = errors.is_empty();
        let in_file = matches!(self.data, Data::File(_));
        for problem in errors.problems {
            let line = problem.line.filter(|_| !in_file).unwrap_or(self.line);
            problems.push(Problem { line: Some(line), ..self.failed(&problem.message) });
        }
        for unknown in errors.unknown {
            problems.push(self.failed(&format!("unknown configurations detected: {}", unknown.keys())));
        }
        decoded.filter(|_| sound)
    }

    fn load_file(&self, path: &str, read_file: ReadFile<'_>) -> Result<Object, Problem> {
        let text = read_file(Path::new(path))
            .map_err(|error| self.failed(&format!("failed to load plugin data: {error}")))?;
        hcl::parse(&text)
            .map_err(|error| self.failed(&format!("unable to decode configuration: {path}: {error}")))
    }
}

fn disk(section: Section<'_>) -> Option<KeyManager> {
    let directory = section.text("directory");
    if directory.is_none() {
        section.report().problem(section.line, "directory must be configured");
    }
    section.finish(Strictness::Ignore, "plugin_data", no_hint);
    Some(KeyManager::Disk { directory: directory?.value.into() })
}

fn unix(section: Section<'_>) -> Option<WorkloadAttestor> {
    let unix = WorkloadAttestor::Unix {
        discover_workload_path: section.is_set("discover_workload_path"),
        workload_size_limit: section.int("workload_size_limit").map_or(0, |limit| limit.value),
    };
    section.finish(Strictness::Ignore, "plugin_data", no_hint);
    Some(unix)
}
