//! Containers of Podman, whose service the test starts: root's, and one in the cgroups of a user, whose service is found by
//! the user's ID. (Root runs it there, in folders of root's: a rootless Podman needs a login of that user.)

use std::path::{Path, PathBuf};

use harness::{Agent, needs};
use libtest_mimic::Trial;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Duration, Instant, sleep};

use super::super::agents::Attestors;
use super::super::programs::Program;
use super::{FETCH, IMAGE, Real, agents, as_root, fetched, import, remove_cgroups, trials_of, volumes};

pub(super) fn trials() -> Vec<Trial> {
    trials_of("podman_selectors", as_root(needs("PODMAN", "podman")), selectors)
}

/// Podman with storage of its own.
struct Podman {
    program: PathBuf,
    folder: TempDir,
}

impl Podman {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (flag, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.folder.path().join(name));
        }
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        // The other runtime refuses to run where cgroups are of both versions.
        if let Ok(runc) = needs("RUNC", "runc") {
            command.arg("--runtime").arg(runc);
        }
        command
    }

    /// A service at this socket.
    async fn service(&self, socket: &Path) -> Program {
        let mut command = self.command();
        command.args(["system", "service", "--time=0"]).arg(format!("unix://{}", socket.display()));
        let service = Program::start("podman", &mut command);
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            assert!(Instant::now() < deadline, "podman does not serve");
            sleep(Duration::from_millis(20)).await;
        }
        service
    }

    /// The SPIFFE IDs that a new container gets from the agent.
    async fn container(&self, agent: &Agent, more: &[&str]) -> Result<Vec<String>, String> {
        let mut run = self.command();
        run.args(["run", "--rm", "--network", "none", "--label", "app=web", "--env", "A=1"]);
        // The defaults may be more than this process may have.
        run.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]).args(more);
        for volume in volumes(agent.folder().path()) {
            run.args(["--volume", &volume]);
        }
        fetched(run.arg(IMAGE).args(FETCH)).await
    }
}

async fn selectors(program: PathBuf, real: Real) {
    let podman = Podman { program, folder: tempfile::tempdir().expect("a temporary folder") };
    import(podman.command(), podman.folder.path()).await;
    let at = |name: &str| podman.folder.path().join(name);
    let attestor = Attestors::of(format!(
        "WorkloadAttestor \"docker\" {{ plugin_data {{ docker_socket_path = \"unix:///no/such/docker.sock\"
         podman_socket_path = \"unix://{}\" podman_socket_path_template = \"unix://{}/%d.sock\" }} }}",
        at("podman.sock").display(),
        podman.folder.path().display()
    ));
    let image = "docker:image_id:localhost/finial-trial:1";
    let entries = [
        ("label", "docker:label:app:web"),
        ("env", "docker:env:A=1"),
        ("image", image),
        ("other", "docker:env:A=2"),
    ];
    let agents = agents(real, &attestor, &entries).await;
    let all = ["env", "image", "label"].map(str::to_owned).to_vec();
    let service = podman.service(&at("podman.sock")).await;
    for running in &agents.all {
        let found = podman.container(&running.agent, &[]).await;
        assert_eq!(found, Ok(all.clone()), "{}: {}", running.whose, running.agent.log());
    }
    // In the cgroups of a user, whose service is asked.
    drop(service);
    let _service = podman.service(&at("4711.sock")).await;
    for running in &agents.all {
        let parent = ["--cgroup-parent", &format!("/{CGROUPS}")];
        let found = podman.container(&running.agent, &parent).await;
        assert_eq!(found, Ok(all.clone()), "{}: {}", running.whose, running.agent.log());
    }
    let conmon = format!("{CGROUPS}/conmon");
    remove_cgroups(&[&conmon, CGROUPS, "finial-trial/user-4711.slice", "finial-trial"]).await;
}

/// The cgroups of a user in which a container runs.
const CGROUPS: &str = "finial-trial/user-4711.slice/podman";
