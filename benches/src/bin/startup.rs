//! How an agent starts and what it costs at rest: finial beside spire-agent, same machine, same run.
//!
//! `cargo run --release -p finial-benches --bin startup -- [--runs N] AGENT…` where each AGENT is a program that takes
//! spire-agent's command line. Each run is a fresh join token against the development server, one entry known before.
//! Reported: exec → socket connectable, exec → first X.509-SVID over the Workload API (medians and extremes, ms), size of
//! the program, and after ten seconds of rest resident and anonymous memory (KiB) and CPU time over ten more (ms).

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dev::{Entry, Options, Server};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let mut runs = 20;
    if arguments.next_if(|argument| argument == "--runs").is_some() {
        runs = arguments.next().ok_or("--runs takes a number")?.parse()?;
    }
    let agents: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    if agents.is_empty() {
        return Err("usage: startup [--runs N] AGENT…".into());
    }
    println!(
        "{:<40} {:>22} {:>22} {:>9} {:>8} {:>8} {:>7}",
        "agent", "exec → socket", "exec → SVID", "size MiB", "RSS", "anon", "CPU ms"
    );
    for agent in agents {
        report(&agent, runs).await?;
    }
    Ok(())
}

async fn report(agent: &Path, runs: usize) -> Outcome<()> {
    let server = Server::start(Options::default()).await?;
    let (mut sockets, mut svids) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let mut run = Run::start(agent, &server)?;
        let (socket, svid) = run.measure().await?;
        sockets.push(socket);
        svids.push(svid);
        run.stop();
    }
    let mut run = Run::start(agent, &server)?;
    run.measure().await?;
    sleep(REST).await;
    let (resident, anonymous) = (run.status("VmRSS:")?, run.status("RssAnon:")?);
    let before = run.cpu()?;
    sleep(REST).await;
    let cpu = run.cpu()?.saturating_sub(before);
    run.stop();
    let size = std::fs::metadata(agent)?.len() as f64 / f64::from(1 << 20);
    println!(
        "{:<40} {:>22} {:>22} {size:>9.1} {resident:>8} {anonymous:>8} {cpu:>7}",
        agent.display(),
        spread(sockets),
        spread(svids),
    );
    Ok(())
}

struct Run {
    child: Child,
    start: Instant,
    folder: tempfile::TempDir,
}

impl Run {
    fn start(agent: &Path, server: &Server) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        let token = server.create_join_token();
        let uid =
            format!("unix:uid:{}", std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self")?));
        server.create_entry(Entry::new(
            "spiffe://example.org/web",
            server.join_token_agent_id(&token),
            [&*uid],
        ));
        std::fs::write(path.join("bundle.pem"), server.bundle_pem())?;
        std::fs::write(path.join("agent.conf"), conf(path, server))?;
        let start = Instant::now();
        let child = Command::new(agent)
            .args(["run", "-joinToken", &token, "-config"])
            .arg(path.join("agent.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, start, folder })
    }

    /// Milliseconds from exec to a socket that takes connections, and to the first SVID.
    async fn measure(&mut self) -> Outcome<(f64, f64)> {
        let socket = self.folder.path().join("api.sock");
        while UnixStream::connect(&socket).await.is_err() {
            self.check()?;
            sleep(Duration::from_micros(100)).await;
        }
        let connectable = self.start.elapsed();
        loop {
            if let Ok(mut stream) = harness::x509_svid(&socket).await
                && let Ok(Some(_)) = stream.message().await
            {
                return Ok((connectable.as_secs_f64() * 1e3, self.start.elapsed().as_secs_f64() * 1e3));
            }
            self.check()?;
            sleep(Duration::from_micros(500)).await;
        }
    }

    fn check(&mut self) -> Outcome<()> {
        match self.child.try_wait()? {
            Some(status) => Err(format!("the agent ended: {status}").into()),
            None => Ok(()),
        }
    }

    /// A line of /proc/PID/status, in KiB.
    fn status(&self, label: &str) -> Outcome<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(label)).ok_or("no such line")?;
        Ok(line.split_whitespace().next().ok_or("no value")?.parse()?)
    }

    /// CPU time in milliseconds, from scheduler statistics of all threads.
    fn cpu(&self) -> Outcome<u64> {
        let mut nanoseconds = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += text.split_whitespace().next().ok_or("no value")?.parse::<u64>()?;
        }
        Ok(nanoseconds / 1_000_000)
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.stop();
    }
}

fn conf(path: &Path, server: &Server) -> String {
    let (folder, address) = (path.display(), server.address());
    format!(
        "agent {{ data_dir = \"{folder}\" log_level = \"INFO\" server_address = \"{}\" server_port = \"{}\" \
         socket_path = \"{folder}/api.sock\" trust_bundle_path = \"{folder}/bundle.pem\" trust_domain = \"example.org\" }}\n\
         plugins {{ NodeAttestor \"join_token\" {{ plugin_data {{}} }} KeyManager \"memory\" {{ plugin_data {{}} }} \
         WorkloadAttestor \"unix\" {{ plugin_data {{}} }} }}\n",
        address.ip(),
        address.port()
    )
}

/// `median (least–most)`.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_unstable_by(f64::total_cmp);
    let (Some(least), Some(most)) = (values.first(), values.last()) else { return "–".into() };
    format!("{:.1} ({least:.1}–{most:.1})", values[values.len() / 2])
}

const REST: Duration = Duration::from_secs(10);
