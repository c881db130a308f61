//! The workload attestors at the daemons that they ask, and the real agent beside finial: a daemon's containers and units
//! have the same selectors with both.
//!
//! * `docker`, `podman`: containers that fetch their SVIDs.
//! * `systemd`: this process as a unit on a real bus; a unit of the real systemd, where that runs.
//! * `paths`: a binary that lies at another's path, in a mount namespace of its own.

mod docker;
mod paths;
mod podman;
mod systemd;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dev::Entry;
use harness::{build_finial, skipped, trial};
use libtest_mimic::Trial;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::agents::{Agents, Attestors, entry, real_programs};

pub(super) fn trials() -> Vec<Trial> {
    [docker::trials(), podman::trials(), systemd::trials(), paths::trials()].into_iter().flatten().collect()
}

/// The programs of the real server and the real agent; `None` for finial alone.
type Real = Option<(PathBuf, PathBuf)>;

/// Two trials: with finial alone, and with the real agent beside it. `needed` is what the test needs besides.
fn trials_of<N, F>(name: &'static str, needed: Result<N, String>, test: fn(N, Real) -> F) -> Vec<Trial>
where
    N: Clone + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let both = format!("{name}_of_both_agents");
    match (needed, real_programs()) {
        (Err(reason), _) => vec![skipped(name, &reason), skipped(&both, &reason)],
        (Ok(needed), Err(reason)) => {
            vec![trial(name, move || test(needed, None)), skipped(&both, &reason)]
        }
        (Ok(needed), Ok(real)) => {
            let again = needed.clone();
            vec![trial(name, move || test(needed, None)), trial(&both, move || test(again, Some(real)))]
        }
    }
}

/// Passes `needed` on where this process is root.
fn as_root<N>(needed: Result<N, String>) -> Result<N, String> {
    if nix::unistd::geteuid().is_root() { needed } else { Err("not root".to_owned()) }
}

/// Starts the agents with one attestor, and registers an entry for each selector, with the name before it.
async fn agents(real: Real, attestors: &Attestors, entries: &[(&str, &str)]) -> Agents {
    let mut agents = match real {
        Some(programs) => Agents::both_by(programs, attestors).await,
        None => Agents::finial_by(attestors).await,
    };
    let entries: Vec<Entry> = entries.iter().map(|(name, selector)| entry(name, [*selector])).collect();
    agents.create(&entries).await;
    agents
}

/// The SPIFFE IDs that `finial api fetch` prints, as names of entries, sorted; what it says instead if it fails.
async fn fetched(command: &mut Command) -> Result<Vec<String>, String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        return Err(text(&output.stdout) + &text(&output.stderr));
    }
    let id = |line: &str| Some(line.strip_prefix("SPIFFE ID:")?.trim().rsplit('/').next()?.to_owned());
    let mut names: Vec<_> = text(&output.stdout).lines().filter_map(id).collect();
    names.sort();
    Ok(names)
}

/// The words of a command that fetches from the agent whose folder is `/agent`.
const FETCH: [&str; 6] = ["/finial", "api", "fetch", "x509", "-socketPath", "/agent/api.sock"];

/// The `-v` of a container that runs [`FETCH`]: the agent's folder, finial, and the libraries that it needs.
fn volumes(agent: &Path) -> [String; 3] {
    let finial = build_finial();
    [
        format!("{}:/agent", agent.display()),
        format!("{}:/finial:ro", finial.display()),
        "/usr:/usr:ro".to_owned(),
    ]
}

/// Makes the image [`IMAGE`], which has links to the libraries in `/usr` and a variable, by `import`, the beginning of a
/// command.
async fn import(mut import: Command, folder: &Path) {
    let root = folder.join("image");
    std::fs::create_dir(&root).expect("created");
    for library in ["lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{library}"), root.join(library)).expect("linked");
    }
    let archive = folder.join("image.tar");
    let packed = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status().await;
    assert!(packed.expect("tar runs").success());
    import.args(["import", "--change", "ENV FROM_IMAGE=yes"]).arg(&archive).arg(IMAGE);
    let output = import.stdin(Stdio::null()).output().await.expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The folders of this system's hierarchies of cgroups: one, or many where they are of version 1.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.procs").exists() {
        return vec![root.to_owned()];
    }
    let folders = std::fs::read_dir(root).expect("cgroups are mounted").flatten().map(|entry| entry.path());
    folders.filter(|folder| folder.join("cgroup.procs").exists()).collect()
}

/// Removes these cgroups from each hierarchy, in this order. Processes that were killed are in them for some time yet. What
/// others use stays.
async fn remove_cgroups(cgroups: &[&str]) {
    let hierarchies = hierarchies();
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let mut left = false;
        for cgroup in hierarchies.iter().flat_map(|one| cgroups.iter().map(|name| one.join(name))) {
            left |= std::fs::remove_dir(&cgroup).is_err() && cgroup.is_dir();
        }
        if !left || Instant::now() > deadline {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

const IMAGE: &str = "finial-trial:1";
