//! Measures how long a process waits for a secret whose entry is created just after it has asked. Runs finial and
//! spire-agent on one machine in one run, at a real server.
//!
//! `cargo run --release -p finial-benches --bin registration -- [--runs N] AGENT…` where each AGENT is a program that
//! takes spire-agent's command line; `SPIRE_SERVER` is the server's program. Each run has a new process, which asks by
//! SDS and tries again every 100 ms if it is refused. It either matches no entry, or has another identity already. The
//! entry is created 0.1–0.6 s after the first request. The table has the seconds from the start of `spire-server entry
//! create` to the secret: median, and the longest.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use benches::running::server::{SpireServer, join_token_agent_id};
use benches::running::{Ended, Outcome, conf, median};
use harness::{Sds, sds_request};
use tempfile::TempDir;
use tokio::time::Instant;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == ASK).is_some() {
        return ask(&arguments.collect::<Vec<_>>());
    }
    let mut runs = 20;
    if arguments.next_if(|argument| argument == "--runs").is_some() {
        runs = arguments.next().ok_or("--runs takes a number")?.parse()?;
    }
    let agents: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    let server = std::env::var_os("SPIRE_SERVER").map(PathBuf::from).ok_or("SPIRE_SERVER is not set")?;
    if agents.is_empty() {
        return Err("usage: registration [--runs N] AGENT…".into());
    }
    println!("{:<14} {:<42} {:>8} {:>8}", "server's cache", "agent", "median s", "most s");
    for cache in ["1s", "5s"] {
        for agent in &agents {
            let mut world = World::start(&server, agent, cache)?;
            for (kind, has_another) in [("matches nothing", false), ("has another identity", true)] {
                let seconds =
                    (0..runs).map(|run| world.waits(run, has_another)).collect::<Outcome<Vec<f64>>>()?;
                let most = seconds.iter().copied().fold(0.0, f64::max);
                let middle = median(seconds).unwrap_or_default();
                let name = agent.file_name().unwrap_or_default().display();
                println!("{cache:<14} {:<42} {middle:>8.2} {most:>8.2}", format!("{name}, {kind}"));
            }
        }
    }
    Ok(())
}

/// A server and an agent in one folder. Both end with the value.
struct World {
    _agent: Ended,
    parent: String,
    server: SpireServer,
    folder: TempDir,
}

impl World {
    fn start(server: &Path, program: &Path, cache: &str) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let server = SpireServer::start(server, folder.path(), cache, "WARN")?;
        let token = server.join_token()?;
        let at = folder.path();
        fs::write(at.join("bundle.pem"), server.bundle()?)?;
        let attestor = "WorkloadAttestor \"unix\" { plugin_data { discover_workload_path = true workload_size_limit = -1 } }";
        fs::write(
            at.join("agent.conf"),
            conf(at, ("127.0.0.1", server.port()), "log_level = \"WARN\"", attestor),
        )?;
        let log = fs::File::create(at.join("agent.log"))?;
        let mut command = Command::new(program);
        command.arg("run").arg("-config").arg(at.join("agent.conf")).args(["-joinToken", &token]);
        let agent = Ended(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        let parent = join_token_agent_id(&token);
        let world = Self { _agent: agent, parent, server, folder };
        // The agent serves when somebody is served.
        world.create("ready", &std::env::current_exe()?)?;
        wait(&mut world.ask(&std::env::current_exe()?, &["ready"])?)?;
        Ok(world)
    }

    /// The seconds that a new process waits for its secret after the entry is created.
    fn waits(&mut self, run: usize, has_another: bool) -> Outcome<f64> {
        let name = format!("{}-{run}", if has_another { "partial" } else { "new" });
        let program = self.folder.path().join(&name);
        fs::copy(std::env::current_exe()?, &program)?;
        let other = format!("{name}-other");
        let mut names = vec![&*name];
        if has_another {
            self.create(&other, &program)?;
            names.insert(0, &other);
        }
        let mut asking = self.ask(&program, &names)?;
        for _ in &names {
            read(&mut asking.1, "asking")?;
        }
        // At random, because the runs are in step with the agent's syncs.
        let moment = RandomState::new().build_hasher().finish() % 500;
        sleep(Duration::from_millis(100 + moment));
        let start = Instant::now();
        self.create(&name, &program)?;
        wait(&mut asking)?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn create(&self, name: &str, program: &Path) -> Outcome<()> {
        let (id, selector) = (id(name), format!("unix:path:{}", program.canonicalize()?.display()));
        let flags = ["-parentID", &self.parent, "-spiffeID", &id, "-selector", &selector];
        self.server.ask(&["entry", "create"], &flags).map(drop)
    }

    /// Starts a process that asks for these names, one after the other.
    fn ask(&self, program: &Path, names: &[&str]) -> Outcome<Asking> {
        let mut command = Command::new(program);
        command.arg(ASK).arg(self.folder.path().join("api.sock")).args(names);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let printed = child.stdout.take().ok_or("it has a standard output")?;
        Ok((Ended(child), BufReader::new(printed)))
    }
}

/// A process that asks, and what it prints.
type Asking = (Ended, BufReader<ChildStdout>);

fn read(printed: &mut BufReader<ChildStdout>, expected: &str) -> Outcome<()> {
    let mut line = String::new();
    printed.read_line(&mut line)?;
    if line.trim() == expected { Ok(()) } else { Err(format!("{line:?} instead of {expected}").into()) }
}

fn wait((process, _): &mut Asking) -> Outcome<()> {
    let child: &mut Child = &mut process.0;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("the process that asked: {status}").into()) }
}

fn id(name: &str) -> String {
    format!("spiffe://example.org/{name}")
}

/// The process that asks: for each name in turn, until it has the secret.
fn ask(arguments: &[String]) -> Outcome<()> {
    let (socket, names) = arguments.split_first().ok_or("no socket")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for name in names {
            println!("asking");
            let deadline = Instant::now() + PATIENCE;
            while !has_secret(Path::new(socket), &id(name)).await {
                if Instant::now() > deadline {
                    return Err(format!("no secret {name} within {PATIENCE:?}").into());
                }
                tokio::time::sleep(RETRY).await;
            }
        }
        Ok(())
    })
}

/// Asks once, and waits as long as the stream is held.
async fn has_secret(socket: &Path, name: &str) -> bool {
    if !socket.exists() {
        return false;
    }
    let Ok(mut sds) = Sds::open(socket, sds_request(&[name])).await else { return false };
    while let Ok(secrets) = sds.secrets(&[name]).await {
        if secrets.iter().any(|secret| secret.name == name) {
            return true;
        }
    }
    false
}

const ASK: &str = "--ask";
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(100);
