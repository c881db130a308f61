//! A binary of a user's own at the path of another, in a mount namespace of the user's own.

use std::path::PathBuf;

use harness::{build_finial, needs, unix_attestor};
use libtest_mimic::Trial;
use tokio::process::Command;

use super::super::agents::{Attestors, Running};
use super::super::programs::Program;
use super::{FETCH, Real, agents, as_root, fetched, trials_of};

pub(super) fn trials() -> Vec<Trial> {
    trials_of("unix_path_in_a_mount_namespace", as_root(needs("UNSHARE", "unshare")), binaries)
}

/// With `unix_paths = "host"` the path is left out, and without it, and by the real agent, it is believed. A hash is that
/// of the file that runs, and is believed in any case.
async fn binaries(unshare: PathBuf, real: Real) {
    let finial = build_finial();
    let output = Command::new("sha256sum").arg(&finial).output().await.expect("it runs");
    let hash = String::from_utf8_lossy(&output.stdout).split(' ').next().expect("a hash").to_owned();
    let (hash, own) = (format!("unix:sha256:{hash}"), format!("unix:path:{}", finial.display()));
    let another = format!("unix:path:{ANOTHER}");
    let entries = [("another", &*another), ("hash", &*hash), ("own", &*own)];
    let blocks = || unix_attestor("discover_workload_path = true");
    let names = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());

    let mut host = Attestors::of(blocks());
    host.experimental = "unix_paths = \"host\"";
    for running in &agents(real, &host, &entries).await.all {
        let believed: &[&str] = if running.whose == "finial" { &["hash"] } else { &["another", "hash"] };
        assert_eq!(honest(running).await, names(&["hash", "own"]), "{}", running.whose);
        assert_eq!(inside(&unshare, running).await, names(believed), "{}", running.whose);
        assert_eq!(outside(&unshare, running).await, names(believed), "{}", running.whose);
    }
    let any = agents(None, &Attestors::of(blocks()), &entries).await;
    assert_eq!(inside(&unshare, &any.all[0]).await, names(&["another", "hash"]));
}

/// What finial fetches, at its own path.
async fn honest(agent: &Running) -> Result<Vec<String>, String> {
    let mut command = Command::new(build_finial());
    fetched(command.args(&FETCH[1..FETCH.len() - 1]).arg(agent.agent.socket())).await
}

/// What finial fetches at [`ANOTHER`], in a mount namespace in which it lies there.
async fn inside(unshare: &PathBuf, agent: &Running) -> Result<Vec<String>, String> {
    let mut command = Command::new(unshare);
    let script = format!("mount --bind \"$0\" {ANOTHER} && exec {ANOTHER} api fetch x509 -socketPath \"$1\"");
    command.args(["--mount", "sh", "-c", &script]).arg(build_finial()).arg(agent.agent.socket());
    fetched(&mut command).await
}

/// What finial fetches outside of that namespace, run through a process in it.
async fn outside(unshare: &PathBuf, agent: &Running) -> Result<Vec<String>, String> {
    let mut command = Command::new(unshare);
    let script = format!("mount --bind \"$0\" {ANOTHER} && echo $$ && read line");
    command.args(["--mount", "sh", "-c", &script]).arg(build_finial());
    let mut inside = Program::start("unshare", &mut command);
    let pid = inside.prints("").await;
    let mut command = Command::new(format!("/proc/{pid}/root{ANOTHER}"));
    fetched(command.args(&FETCH[1..FETCH.len() - 1]).arg(agent.agent.socket())).await
}

/// A program that every system has, and that nothing runs meanwhile.
const ANOTHER: &str = "/usr/bin/tac";
