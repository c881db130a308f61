//! Every shipped configuration is valid for finial and for the real spire-agent, so that a rollback is possible.
//! (`tests/cluster` runs both with each of them on a node.) `table` tries each key at its limits, `sources` the combinations of
//! keys for the first bundle.

mod rows;
mod sources;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{build_finial, needs, skipped};
use libtest_mimic::{Failed, Trial};

pub(super) fn trials() -> Vec<Trial> {
    let ours = Trial::test("shipped_configurations_are_valid", || validate(&build_finial()));
    let name = "shipped_configurations_are_valid_for_the_real_agent";
    let real = match needs("SPIRE_AGENT", "spire-agent") {
        Ok(real) => Trial::test(name, move || validate(&real)),
        Err(reason) => skipped(name, &reason),
    };
    let mut trials = vec![ours, real];
    trials.push(sources::trial());
    trials.extend(table::trials());
    trials
}

fn validate(program: &Path) -> Result<(), Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let mut found = Vec::new();
    configurations(&folder, &mut found);
    for path in SHIPPED {
        assert!(found.contains(&folder.join(path)), "no {path}");
    }
    for file in found {
        let output =
            Command::new(program).args(["validate", "-config"]).arg(&file).output().expect("it runs");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", file.display());
        assert!(said.contains("SPIRE agent configuration file is valid."), "{said}");
    }
    Ok(())
}

fn configurations(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            configurations(&path, found);
        } else if path.file_name().is_some_and(|name| name == "agent.conf") {
            found.push(path);
        }
    }
}

/// Configurations that must be among those found: the overlays', and the one that the chart renders (`tests/cluster`
/// keeps it up to date).
const SHIPPED: &[&str] = &["frontend/agent.conf", "backend/agent.conf", "chart/ci/agent.conf"];
