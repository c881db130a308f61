//! Measures the start of an agent and its cost at rest. Runs finial and spire-agent on one machine in one run.
//!
//! `cargo run --release -p finial-benches --bin startup -- [--runs N] AGENT…` where each AGENT is a program that takes
//! spire-agent's command line. Each run uses a new join token at the development server, which has one entry from the
//! start. The report has the times from exec to a socket that can be connected and to the first X.509-SVID over the
//! Workload API (medians and extremes, ms), the size of the program, and, after ten seconds of rest, resident and
//! anonymous memory (KiB) and the CPU time of ten more seconds (ms).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use benches::running::{Ended, Outcome, conf, median, until_first_svid};
use dev::{Entry, Options, Server};
use sds_load::process::{Process, Sample};
use tokio::time::Instant;

fn main() -> Outcome<()> {
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
    // The runtime of the server. The measurement blocks this thread.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for agent in agents {
        let server = runtime.block_on(Server::start(Options::default()))?;
        report(&agent, runs, &server)?;
    }
    Ok(())
}

fn report(agent: &Path, runs: usize, server: &Server) -> Outcome<()> {
    let (mut sockets, mut svids) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let (socket, svid) = Run::start(agent, server)?.measure()?;
        sockets.push(socket);
        svids.push(svid);
    }
    let mut run = Run::start(agent, server)?;
    run.measure()?;
    sleep(REST);
    let before = run.sample()?;
    sleep(REST);
    let cpu = run.sample()?.cpu_ms - before.cpu_ms;
    let size = std::fs::metadata(agent)?.len() as f64 / f64::from(1 << 20);
    println!(
        "{:<40} {:>22} {:>22} {size:>9.1} {:>8} {:>8} {cpu:>7.1}",
        agent.display(),
        spread(sockets),
        spread(svids),
        before.rss_kib,
        before.anon_kib,
    );
    Ok(())
}

struct Run {
    agent: Ended,
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
        let address = server.address();
        let attestor = "WorkloadAttestor \"unix\" { plugin_data {} }";
        let conf = conf(path, (&address.ip().to_string(), address.port()), "log_level = \"INFO\"", attestor);
        std::fs::write(path.join("bundle.pem"), server.bundle_pem())?;
        std::fs::write(path.join("agent.conf"), conf)?;
        let start = Instant::now();
        let child = Command::new(agent)
            .args(["run", "-joinToken", &token, "-config"])
            .arg(path.join("agent.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { agent: Ended(child), start, folder })
    }

    /// The milliseconds from exec to a socket that accepts connections, and to the first SVID.
    fn measure(&mut self) -> Outcome<(f64, f64)> {
        until_first_svid(&mut self.agent, &self.folder.path().join("api.sock"), self.start)
    }

    fn sample(&self) -> Outcome<Sample> {
        let process = Process::of(self.agent.0.id());
        Ok(process.and_then(Process::sample).ok_or("the agent has ended")?)
    }
}

/// The text `median (least–most)`.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_unstable_by(f64::total_cmp);
    let (Some(&least), Some(&most)) = (values.first(), values.last()) else { return "–".into() };
    format!("{:.1} ({least:.1}–{most:.1})", median(values).unwrap_or_default())
}

const REST: Duration = Duration::from_secs(10);
