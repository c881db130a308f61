//! What Go's crypto/x509 says today of the chains that finial's verifier is held against (`identity/testdata/chains.json`). A
//! newer Go that judges otherwise shows here, and the verifier has to follow.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use harness::needs;
use libtest_mimic::Trial;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::clients::build;
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial_with("chains_are_judged_as_the_table_says", go(), judged_anew)]
}

/// A Go that is new enough for `tests/peers/go`; the program needs no module but its own.
fn go() -> Result<PathBuf, String> {
    let go = needs("GO", "go")?;
    let mut list = std::process::Command::new(&go);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/go");
    list.args(["list", "./chains"]).current_dir(folder).env("GOTOOLCHAIN", "local");
    let output = list.output().map_err(|reason| reason.to_string())?;
    if output.status.success() { Ok(go) } else { Err("go is too old for tests/peers/go".into()) }
}

async fn judged_anew(go: PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("chains");
    build(go, "go", "./chains", &program).await;
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("../identity/testdata/chains.json");
    let mut judge = Command::new(&program);
    judge.arg(&table).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, judge.output()).await.expect("it ends").expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = |text: &[u8]| -> Vec<Value> {
        let table: Value = serde_json::from_slice(text).expect("JSON");
        table["rows"].as_array().expect("rows").clone()
    };
    let (checked_in, anew) = (rows(&std::fs::read(table).expect("the table")), rows(&output.stdout));
    assert!(checked_in.len() >= 80 && checked_in.len() == anew.len());
    let changed = checked_in.iter().zip(&anew).filter(|(before, now)| before["verdict"] != now["verdict"]);
    let changed: Vec<_> = changed
        .map(|(before, now)| {
            format!("{}: {}: {} → {}", now["group"], now["name"], before["verdict"], now["verdict"])
        })
        .collect();
    assert!(changed.is_empty(), "this Go judges {} chains otherwise:\n{}", changed.len(), changed.join("\n"));
}

const PATIENCE: Duration = Duration::from_secs(60);
