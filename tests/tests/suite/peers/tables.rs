//! What Go says today of the tables that unit tests hold finial against: its crypto/x509 of chains of certificates
//! (`identity/testdata/chains.json`) and of the hosts that a certificate is for (`identity/testdata/hosts.json`), its httpproxy of proxies (`agent/testdata/proxies.json`), and SPIRE, built by it, of tokens (`identity/testdata/tokens.json`). A newer Go that judges otherwise
//! shows here, and finial has to follow.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use harness::needs;
use libtest_mimic::Trial;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::clients::{self, build};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial_with("chains_are_judged_as_the_table_says", go(), judged_anew),
        trial_with("hosts_are_judged_as_the_table_says", go(), hosts_judged_anew),
        trial_with("tokens_are_judged_as_the_table_says", go_and_spire(), tokens_judged_anew),
        trial_with("proxies_are_chosen_as_the_table_says", clients::go("go"), chosen_anew),
    ]
}

/// A Go that is new enough for `tests/peers/go`; the program needs no module but its own.
fn go() -> Result<PathBuf, String> {
    go_that_lists("go", &["./chains"], "go is too old for tests/peers/go")
}

/// A Go that is new enough for SPIRE, and has its sources or can get them.
fn go_and_spire() -> Result<PathBuf, String> {
    go_that_lists("go/tokens", &["-deps", "."], "go cannot get the modules of tests/peers/go/tokens")
}

/// A Go that can list these packages of a folder of `tests/peers`; `reason` says why one cannot.
fn go_that_lists(folder: &str, packages: &[&str], reason: &str) -> Result<PathBuf, String> {
    let go = needs("GO", "go")?;
    let mut list = std::process::Command::new(&go);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(folder);
    list.arg("list").args(packages).current_dir(folder).env("GOTOOLCHAIN", "local");
    let output = list.output().map_err(|reason| reason.to_string())?;
    if output.status.success() { Ok(go) } else { Err(reason.into()) }
}

async fn judged_anew(go: PathBuf) {
    let table = table("identity/testdata/chains.json");
    let anew = output_of(go, "go", "./chains", Some(&table)).await;
    let rows = |text: &[u8]| -> Vec<Value> {
        let table: Value = serde_json::from_slice(text).expect("JSON");
        table["rows"].as_array().expect("rows").clone()
    };
    let (checked_in, anew) = (rows(&std::fs::read(table).expect("the table")), rows(&anew));
    assert!(checked_in.len() >= 80 && checked_in.len() == anew.len());
    let changed = checked_in.iter().zip(&anew).filter(|(before, now)| before["verdict"] != now["verdict"]);
    let changed: Vec<_> = changed
        .map(|(before, now)| {
            format!("{}: {}: {} → {}", now["group"], now["name"], before["verdict"], now["verdict"])
        })
        .collect();
    assert!(changed.is_empty(), "this Go judges {} chains otherwise:\n{}", changed.len(), changed.join("\n"));
}

async fn hosts_judged_anew(go: PathBuf) {
    let table = table("identity/testdata/hosts.json");
    let anew = output_of(go, "go", "./hosts", Some(&table)).await;
    let (checked_in, anew) =
        (std::fs::read_to_string(table).expect("the table"), String::from_utf8_lossy(&anew));
    let changed = checked_in.lines().zip(anew.lines()).find(|(before, now)| before != now);
    assert!(changed.is_none(), "this Go judges otherwise: {changed:?}");
    assert_eq!(checked_in, anew);
}

async fn tokens_judged_anew(go: PathBuf) {
    let table = table("identity/testdata/tokens.json");
    let anew = output_of(go, "go/tokens", ".", Some(&table)).await;
    let checked_in = std::fs::read(table).expect("the table");
    let (checked_in, anew) = (String::from_utf8_lossy(&checked_in), String::from_utf8_lossy(&anew));
    let changed = checked_in.lines().zip(anew.lines()).find(|(before, now)| before != now);
    assert!(changed.is_none(), "this SPIRE judges otherwise: {changed:?}");
    assert_eq!(checked_in, anew);
}

async fn chosen_anew(go: PathBuf) {
    let anew = output_of(go, "go", "./proxies", None).await;
    let checked_in = std::fs::read(table("agent/testdata/proxies.json")).expect("the table");
    let (checked_in, anew) = (String::from_utf8_lossy(&checked_in), String::from_utf8_lossy(&anew));
    let changed = checked_in.lines().zip(anew.lines()).find(|(before, now)| before != now);
    assert!(changed.is_none(), "this Go chooses otherwise: {changed:?}");
    assert_eq!(checked_in, anew);
}

fn table(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// What a program of `tests/peers/go` prints.
async fn output_of(go: PathBuf, folder: &str, package: &str, argument: Option<&Path>) -> Vec<u8> {
    let own = tempfile::tempdir().expect("a temporary folder");
    let program = own.path().join("program");
    build(go, folder, package, &program).await;
    let mut command = Command::new(&program);
    command.args(argument).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

const PATIENCE: Duration = Duration::from_secs(60);
