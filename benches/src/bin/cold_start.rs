//! Measures a node's worst minute: a pod list of 5 MiB, 500 pods that all call at once, and an agent that has just
//! started and may use 64 MiB. Runs finial and spire-agent on one machine in one run.
//!
//! `cargo run --release -p finial-benches --bin cold_start -- [--pods N] AGENT…` as root, where each AGENT is a program
//! that takes spire-agent's command line. Every caller is a process of its own in a cgroup with a container's name. The
//! kubelet (read-only port) and the server are the development ones, outside of the memory limit. The report has the
//! callers served, the time from the first call to the last SVID, the agent's peak of resident memory, the peak charged
//! to its cgroup (including the page cache of its program), how often the limit was hit, whether the agent was killed,
//! and the requests to the kubelet.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use benches::running::{Ended, Outcome, conf};
use dev::kube::{Kubelet, KubeletOptions, container_id, crowd, pod_list};
use dev::{Entry, Options, Server};
use sds_load::process::Process;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == CALLER).is_some() {
        return call(Path::new(&arguments.next().ok_or("no socket")?));
    }
    let mut pods = 500;
    if arguments.next_if(|argument| argument == "--pods").is_some() {
        pods = arguments.next().ok_or("--pods takes a number")?.parse()?;
    }
    let agents: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    if agents.is_empty() {
        return Err("usage: cold_start [--pods N] AGENT…".into());
    }
    println!(
        "{:<36} {:>9} {:>8} {:>9} {:>12} {:>9} {:>7} {:>9}",
        "agent", "served", "last ms", "peak RSS", "cgroup peak", "limit hit", "killed", "requests"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for agent in agents {
        runtime.block_on(report(&agent, pods))?;
    }
    Ok(())
}

/// Runs one caller: it reports that it is ready, waits for the start, and fetches its SVID.
fn call(socket: &Path) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    runtime.block_on(async {
        let svid = async {
            let mut stream = harness::x509_svid(socket).await?;
            stream.message().await
        };
        let first = tokio::time::timeout(PATIENCE, svid).await??;
        first.map(drop).ok_or_else(|| "the stream ended".into())
    })
}

async fn report(agent: &Path, pods: usize) -> Outcome<()> {
    let server = Server::start(Options::default()).await?;
    let kubelet = Kubelet::start(&KubeletOptions::default())?;
    let crowd = crowd(pods);
    kubelet.list(pod_list(&crowd));
    let folder = tempfile::tempdir()?;
    let limit = Cgroup::new("memory/finial-cold-start-agent")?;
    limit.write("memory.limit_in_bytes", &(64 << 20).to_string())?;
    let mut agent_run = start(agent, &server, &kubelet, folder.path(), &limit)?;
    let socket = folder.path().join("api.sock");
    let healthy = async {
        while !(UnixStream::connect(&socket).await.is_ok() && harness::health(&socket).await) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, healthy).await.is_err() {
        let ended = agent_run.0.try_wait()?;
        let hit = limit.read("memory.failcnt")?;
        println!(
            "{:<36} not healthy within {PATIENCE:?} (exit {ended:?}, limit hit {hit} times)",
            agent.display()
        );
        return Ok(());
    }
    let group = Cgroup::new("freezer/finial-cold-start")?;
    let (gate, mut callers) = (std::io::pipe()?, Vec::new());
    for pod in &crowd {
        callers.push(caller(&group, pod, &socket, &gate.0)?);
    }
    let start = Instant::now();
    drop(gate);
    let mut served = 0;
    for caller in &mut callers {
        served += usize::from(caller.0.wait()?.success());
    }
    let last = start.elapsed().as_millis();
    let sample = Process::of(agent_run.0.id()).and_then(Process::sample).unwrap_or_default();
    let killed = agent_run.0.try_wait()?.is_some();
    println!(
        "{:<36} {:>9} {last:>8} {:>9} {:>12} {:>9} {:>7} {:>9}",
        agent.display(),
        format!("{served}/{pods}"),
        format!("{} KiB", sample.peak_kib),
        format!("{} KiB", limit.read("memory.max_usage_in_bytes")?.parse::<u64>()? / 1024),
        limit.read("memory.failcnt")?,
        if killed { "yes" } else { "no" },
        kubelet.requests().iter().filter(|asked| asked.path == "/pods").count(),
    );
    Ok(())
}

fn start(agent: &Path, server: &Server, kubelet: &Kubelet, folder: &Path, limit: &Cgroup) -> Outcome<Ended> {
    let token = server.create_join_token();
    let parent = server.join_token_agent_id(&token);
    server.create_entry(Entry::new("spiffe://example.org/crowd", parent, ["k8s:ns:crowd"]));
    fs::write(folder.join("bundle.pem"), server.bundle_pem())?;
    let (address, port) = (server.address(), kubelet.read_only_address().port());
    let attestor =
        format!("WorkloadAttestor \"k8s\" {{ plugin_data {{ kubelet_read_only_port = {port} }} }}");
    let address = (&*address.ip().to_string(), address.port());
    fs::write(folder.join("agent.conf"), conf(folder, address, "log_level = \"WARN\"", &attestor))?;
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", limit.0.display());
    let child = Command::new("sh")
        .args(["-c", &enter])
        .arg(agent)
        .args(["run", "-joinToken", &token, "-config"])
        .arg(folder.join("agent.conf"))
        .stdin(Stdio::null())
        .stdout(fs::File::create(folder.join("log"))?)
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Ended(child))
}

fn caller(group: &Cgroup, pod: &dev::kube::Pod, socket: &Path, gate: &std::io::PipeReader) -> Outcome<Ended> {
    let id = container_id(&format!("{}/main", pod.name));
    let own = group.within(&format!("pod{}/{id}", pod.uid))?;
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", own.display());
    let child = Command::new("sh")
        .args(["-c", &enter])
        .arg(std::env::current_exe()?)
        .arg(CALLER)
        .arg(socket)
        .stdin(gate.try_clone()?)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Ended(child))
}

/// A cgroup (version 1). Dropping it removes it with all in it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Outcome<Self> {
        let path = Path::new("/sys/fs/cgroup").join(name);
        fs::create_dir_all(&path).map_err(|reason| format!("{}: {reason}; needs root", path.display()))?;
        Ok(Self(path))
    }

    fn within(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    fn write(&self, file: &str, value: &str) -> Outcome<()> {
        Ok(fs::write(self.0.join(file), value)?)
    }

    fn read(&self, file: &str) -> Outcome<String> {
        Ok(fs::read_to_string(self.0.join(file))?.trim().to_owned())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes a cgroup's folders from the inside out. Its files vanish with them and cannot be removed.
fn remove(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

const CALLER: &str = "--caller";
const PATIENCE: Duration = Duration::from_secs(60);
