//! Containers of a real Docker daemon, which the test starts in namespaces of its own, so that nothing is left of it.

use std::path::{Path, PathBuf};

use harness::{Agent, build_finial, needs, x509_svid};
use libtest_mimic::Trial;
use tempfile::TempDir;
use tokio::process::Command;
use tonic::Code;

use super::super::agents::{Agents, Attestors};
use super::super::programs::Program;
use super::{
    FETCH, IMAGE, Real, agents, as_root, fetched, hierarchies, import, remove_cgroups, trials_of, volumes,
};

pub(super) fn trials() -> Vec<Trial> {
    let needed = needs("DOCKERD", "dockerd").and_then(|daemon| Ok((daemon, needs("DOCKER", "docker")?)));
    trials_of("docker_selectors", as_root(needed), selectors)
}

/// A running daemon, and what asks it.
struct Docker {
    client: PathBuf,
    daemon: Program,
    folder: TempDir,
}

impl Docker {
    async fn start((daemon, client): (PathBuf, PathBuf)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let mut command = Command::new("unshare");
        command.args(["--pid", "--mount", "--mount-proc", "--fork", "--kill-child"]).arg(daemon);
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]);
        command.arg("--data-root").arg(at("data")).arg("--exec-root").arg(at("exec"));
        command.arg("--pidfile").arg(at("pid")).arg("--host").arg(format!("unix://{}", at("sock").display()));
        let mut daemon = Program::start("dockerd", &mut command);
        daemon.prints("API listen on").await;
        let docker = Self { client, daemon, folder };
        import(docker.client(), docker.folder.path()).await;
        docker
    }

    fn client(&self) -> Command {
        let mut client = Command::new(&self.client);
        client.arg("--host").arg(format!("unix://{}", self.folder.path().join("sock").display()));
        client
    }

    /// The SPIFFE IDs that a new container gets from the agent.
    async fn container(&self, agent: &Agent, variable: &str) -> Result<Vec<String>, String> {
        let mut run = self.client();
        run.args(["run", "--rm", "--network", "none", "--label", "app=web", "--env", variable]);
        for volume in volumes(agent.folder().path()) {
            run.args(["--volume", &volume]);
        }
        fetched(run.arg(IMAGE).args(FETCH)).await
    }

    /// What the daemon says of its image.
    async fn image_id(&self) -> String {
        let output = self.client().args(["image", "inspect", "--format", "{{.Id}}", IMAGE]).output().await;
        String::from_utf8(output.expect("it runs").stdout).expect("text").trim().to_owned()
    }
}

fn attestor(socket: &Path) -> Attestors {
    Attestors::of(format!(
        "WorkloadAttestor \"docker\" {{ plugin_data {{ docker_socket_path = \"unix://{}\" }} }}",
        socket.display()
    ))
}

async fn selectors(programs: (PathBuf, PathBuf), real: Real) {
    let mut docker = Docker::start(programs).await;
    let digest = format!("docker:image_config_digest:{}", docker.image_id().await);
    let entries = [
        ("label", "docker:label:app:web"),
        ("env", "docker:env:A=1"),
        ("env-of-image", "docker:env:FROM_IMAGE=yes"),
        ("image", "docker:image_id:finial-trial:1"),
        ("digest", &*digest),
        ("other-label", "docker:label:app:db"),
        ("other-env", "docker:env:A=2"),
        ("user", "docker:uid:0"),
    ];
    let agents = agents(real, &attestor(&docker.folder.path().join("sock")), &entries).await;
    for running in &agents.all {
        let all = ["digest", "env", "env-of-image", "image", "label"].map(str::to_owned).to_vec();
        let log = running.agent.log();
        assert_eq!(docker.container(&running.agent, "A=1").await, Ok(all), "{}: {log}", running.whose);
        let changed = ["digest", "env-of-image", "image", "label", "other-env"].map(str::to_owned).to_vec();
        assert_eq!(docker.container(&running.agent, "A=2").await, Ok(changed), "{}", running.whose);
        // This process is in no container.
        let refusal = match x509_svid(&running.agent.socket()).await {
            Ok(mut stream) => stream.message().await.map(drop),
            Err(status) => Err(status),
        };
        assert_eq!(refusal.map_err(|status| status.code()), Err(Code::PermissionDenied), "{}", running.whose);
    }
    forged(&docker, &agents).await;
    let log = agents.all[0].agent.log();
    assert!(log.contains("docker:env:A=…") && !log.contains("docker:env:A=1"), "{log}");
    assert!(docker.daemon.runs());
    docker.daemon.end().await;
    remove_cgroups(&["docker"]).await;
}

/// A cgroup in the part of the tree where a user may make some has the name of another's container. spire-agent takes the
/// process in it for that container.
async fn forged(docker: &Docker, agents: &Agents) {
    let mut run = docker.client();
    run.args([
        "run",
        "--detach",
        "--rm",
        "--network",
        "none",
        "--label",
        "app=web",
        "--volume",
        "/usr:/usr:ro",
    ]);
    let output = run.args([IMAGE, "/usr/bin/sleep", "1000"]).output().await.expect("it runs");
    let id = String::from_utf8(output.stdout).expect("text").trim().to_owned();
    let name = format!("finial-trial/user-4711.slice/docker-{id}.scope");
    let cgroups: Vec<_> = hierarchies().iter().map(|hierarchy| made(hierarchy, Path::new(&name))).collect();
    for running in &agents.all {
        let mut command = Command::new("sh");
        let enter: String =
            cgroups.iter().map(|one| format!("echo $$ > {}/cgroup.procs && ", one.display())).collect();
        command.args(["-c", &format!("{enter} exec \"$0\" \"$@\"")]);
        command.arg(build_finial()).args(&FETCH[1..FETCH.len() - 1]).arg(running.agent.socket());
        let found = fetched(&mut command).await;
        if running.whose == "finial" {
            let refusal = found.expect_err("no daemon of the user has it");
            assert!(refusal.contains("workload attestation failed"), "{refusal}");
        } else {
            assert!(found.as_ref().is_ok_and(|names| names.contains(&"label".to_owned())), "{found:?}");
        }
    }
    let ended = docker.client().args(["rm", "--force", &id]).output().await.expect("it runs");
    assert!(ended.status.success(), "{ended:?}");
    remove_cgroups(&[&name, "finial-trial/user-4711.slice", "finial-trial"]).await;
}

/// Makes a cgroup. Those of `cpuset` take no process before they have processors.
fn made(hierarchy: &Path, name: &Path) -> PathBuf {
    let mut parent = hierarchy.to_owned();
    for part in name {
        let cgroup = parent.join(part);
        // Another test may have made it.
        let _ = std::fs::create_dir(&cgroup);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(text) = std::fs::read(parent.join(file)) {
                std::fs::write(cgroup.join(file), text).expect("written");
            }
        }
        parent = cgroup;
    }
    parent
}
