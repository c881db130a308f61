//! Configurations as people write them: their settings, and the messages about their mistakes.

#[path = "main/agent.rs"]
mod agent;
#[path = "main/documented.rs"]
mod documented;
#[path = "main/idle.rs"]
mod idle;
#[path = "main/otlp.rs"]
mod otlp;
#[path = "main/plugins.rs"]
mod plugins;
#[path = "main/telemetry.rs"]
mod telemetry;
#[path = "main/trust.rs"]
mod trust;
#[path = "main/whole_files.rs"]
mod whole_files;

use std::collections::HashMap;
use std::io;
use std::path::Path;

use config::{Errors, Overrides, Settings};

/// A file with the required settings, and `keys` in `agent { }`.
fn with_agent(keys: &str) -> String {
    format!("agent {{\n{MINIMUM}\n{keys}\n}}\n{PLUGINS}")
}

/// A file with the required settings, and these plugins.
fn with_plugins(plugins: &str) -> String {
    format!("agent {{\n{MINIMUM}\n}}\nplugins {{\n{plugins}\n}}")
}

fn load(text: &str) -> Result<Settings, Errors> {
    load_with(text, &Overrides::default(), &[])
}

fn load_with(text: &str, overrides: &Overrides, files: &[(&str, &str)]) -> Result<Settings, Errors> {
    let files: HashMap<&Path, &str> = files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
    Settings::load(text, overrides, &|path| match files.get(path) {
        Some(text) => Ok((*text).to_owned()),
        None => Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
    })
}

#[track_caller]
fn sound(text: &str) -> Settings {
    load(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// All problems, each as a string.
#[track_caller]
fn problems(text: &str) -> Vec<String> {
    let errors = load(text).expect_err(text);
    assert_eq!(errors.unknown, [], "{errors}");
    errors.problems.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn assert_problems(text: &str, expected: &[&str]) {
    let found = problems(text);
    let same = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
    assert!(same, "{text}\nfound {found:#?}\nexpected {expected:#?}");
}

const MINIMUM: &str =
    "trust_domain = \"td\" server_address = \"server\" server_port = 8081 trust_bundle_path = \"b.pem\"";

const PLUGINS: &str = "plugins {
  KeyManager \"memory\" {}
  NodeAttestor \"join_token\" {}
  WorkloadAttestor \"unix\" {}
}";
