//! `fleet calibrate`: real agents at a real spire-server, beside the simulation of as many.
//!
//! The server counts the calls (its Prometheus metrics), the kernel its CPU. SVIDs live for a few minutes, so that some
//! are renewed in a short run. A join token works once, so agents renew their own SVID by RenewAgent, which counts as
//! an attestation here, and costs as much as one in the simulation.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use benches::running::server::SpireServer;
use benches::running::{Ended, Outcome, conf};
use fleet::{Costs, Kind, Load, Scenario, Size, Tally};
use sds_load::process::Process;
use tokio::time::Instant;

use crate::measure::{UNLIMITED, create_entries, token};

/// What is calibrated.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// A spire-server.
    pub(crate) server: PathBuf,
    /// A program that takes spire-agent's command line.
    pub(crate) agent: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) size: Size,
    /// How long it is observed.
    pub(crate) minutes: usize,
}

/// Runs the agents, prints both, and returns.
pub(crate) fn calibrate(plan: &Plan, costs: &Costs) -> Outcome<()> {
    let (counted, started) = Real::start(plan)?.observe(plan)?;
    let simulated = simulate(plan, costs, started);
    let seconds = 0..60 * plan.minutes;
    println!(
        "{} agents, {} identities, sync_interval {:?}, SVIDs of {:?}, {} minutes from the first start, {}",
        plan.size.agents,
        plan.size.identities,
        plan.size.interval,
        plan.size.lifetime,
        plan.minutes,
        plan.agent.display()
    );
    println!("{:<44} {:>10} {:>10} {:>7}", "", "counted", "simulated", "ratio");
    let sum = |of: fn(&Load) -> f64| simulated.sum(seconds.clone(), of);
    let minutes = plan.minutes as f64;
    for (name, real, model) in [
        ("syncs a minute", counted.syncs / minutes, sum(|load| f64::from(load.syncs)) / minutes),
        (
            "attestations and renewals of agents",
            counted.attestations,
            sum(|load| f64::from(load.attestations)),
        ),
        ("calls for X.509-SVIDs", counted.sign_calls, sum(|load| f64::from(load.sign_calls))),
        ("lines of level error", counted.errors, sum(|load| f64::from(load.errors))),
        ("the server's CPU, ms", counted.cpu_ms, sum(|load| load.cpu) * 1e3),
        (
            "… after the first minute, ms a minute",
            counted.rest_ms,
            simulated.sum(60..60 * plan.minutes, |load| load.cpu) * 1e3 / (minutes - 1.0),
        ),
    ] {
        let ratio = if model > 0.0 { format!("{:.2}", real / model) } else { String::new() };
        println!("{name:<44} {real:>10.1} {model:>10.1} {ratio:>7}");
    }
    Ok(())
}

/// The server's CPU for a sync of thirty real agents that sync each second, in microseconds, by what else they do then.
pub(crate) fn real_sync(server: &Path, agent: &Path) -> Outcome<f64> {
    let (interval, lifetime) = (Duration::from_secs(1), Duration::from_hours(1));
    let size = Size { agents: 30, interval, lifetime, ..Size::default() };
    let (server, agent) = (server.to_owned(), agent.to_owned());
    let plan = Plan { server, agent, kind: Kind::Uncalled, size, minutes: 3 };
    let (counted, _) = Real::start(&plan)?.observe(&plan)?;
    Ok(counted.rest_ms * 1e3 / (counted.syncs / 3.0))
}

/// The same agents in virtual time.
fn simulate(plan: &Plan, costs: &Costs, started: Duration) -> Tally {
    let length = Duration::from_secs(60 * plan.minutes as u64);
    let scenario = Scenario::started_within(started, length);
    let mut size = Size { replicas: 1, used: 1.0, ..plan.size.clone() };
    size.used = size.cores(costs) / CORES;
    fleet::run(&scenario, plan.kind, &size, costs, 1).tally
}

/// What the server has counted.
#[derive(Debug, Clone, Copy)]
struct Counted {
    syncs: f64,
    attestations: f64,
    sign_calls: f64,
    errors: f64,
    cpu_ms: f64,
    /// CPU a minute, without the first.
    rest_ms: f64,
}

/// A server and its agents.
struct Real {
    folder: tempfile::TempDir,
    server: SpireServer,
    metrics: u16,
    agents: Vec<Ended>,
    first_start: Instant,
    started: Duration,
    /// What the server needs by itself, in milliseconds a second.
    idle: f64,
    before: f64,
}

impl Real {
    fn start(plan: &Plan) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let metrics = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let ttl = plan.size.lifetime.as_secs();
        let inside = format!("{UNLIMITED} default_x509_svid_ttl = \"{ttl}s\" agent_ttl = \"{ttl}s\"");
        let beside = format!("telemetry {{ Prometheus {{ host = \"127.0.0.1\" port = {metrics} }} }}");
        let server = SpireServer::start_with(&plan.server, folder.path(), "5s", "ERROR", [&inside, &beside])?;
        create_entries(&server, plan.size.identities)?;
        let tokens = (0..plan.size.agents).map(|_| token(&server)).collect::<Outcome<Vec<_>>>()?;
        fs::write(folder.path().join("bundle.pem"), server.bundle()?)?;
        // The server reads its entries, and is at rest.
        sleep(Duration::from_secs(8));
        let before = cpu(&server)?;
        sleep(REST);
        let idle = (cpu(&server)? - before) / REST.as_secs_f64();
        let (first_start, before) = (Instant::now(), cpu(&server)?);
        let mut this = Self {
            folder,
            server,
            metrics,
            agents: Vec::new(),
            first_start,
            started: Duration::ZERO,
            idle,
            before,
        };
        for (number, token) in tokens.iter().enumerate() {
            this.agents.push(this.agent(number, token, plan)?);
        }
        this.started = this.first_start.elapsed();
        Ok(this)
    }

    fn agent(&self, number: usize, token: &str, plan: &Plan) -> Outcome<Ended> {
        let at = self.folder.path().join(number.to_string());
        fs::create_dir(&at)?;
        fs::copy(self.folder.path().join("bundle.pem"), at.join("bundle.pem"))?;
        let settings = format!(
            "log_level = \"ERROR\" experimental {{ sync_interval = \"{}ms\" }}",
            plan.size.interval.as_millis()
        );
        let attestor = "WorkloadAttestor \"unix\" { plugin_data {} }";
        fs::write(at.join("agent.conf"), conf(&at, ("127.0.0.1", self.server.port()), &settings, attestor))?;
        let log = File::create(at.join("log"))?;
        let mut command = Command::new(&plan.agent);
        command.arg("run").arg("-config").arg(at.join("agent.conf")).args(["-joinToken", token]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Ended(command.spawn()?))
    }

    /// Waits, and reads what was counted. Also returns within which time the agents were started.
    fn observe(mut self, plan: &Plan) -> Outcome<(Counted, Duration)> {
        let end = Duration::from_secs(60 * plan.minutes as u64);
        sleep(Duration::from_mins(1).saturating_sub(self.first_start.elapsed()));
        let (minute, at) = (cpu(&self.server)?, self.first_start.elapsed());
        sleep(end.saturating_sub(self.first_start.elapsed()));
        let (now, all) = (cpu(&self.server)?, self.first_start.elapsed());
        let text = metrics(self.metrics)?;
        for agent in &mut self.agents {
            agent.check()?;
        }
        let own = |time: Duration| self.idle * time.as_secs_f64();
        let counted = Counted {
            syncs: count(&text, "entry_v1_entry_sync_authorized_entries"),
            attestations: count(&text, "agent_v1_agent_attest_agent")
                + count(&text, "agent_v1_agent_renew_agent"),
            sign_calls: count(&text, "svid_v1_svid_batch_new_x509svid"),
            errors: errors(self.folder.path(), plan.size.agents),
            cpu_ms: now - self.before - own(all),
            rest_ms: (now - minute - own(all - at)) / (all - at).as_secs_f64() * 60.0,
        };
        Ok((counted, self.started))
    }
}

/// The server's CPU time so far in milliseconds.
fn cpu(server: &SpireServer) -> Outcome<f64> {
    let sample = Process::of(server.pid()).and_then(Process::sample);
    Ok(sample.ok_or("the server has ended")?.cpu_ms)
}

fn metrics(port: u16) -> Outcome<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The calls of one kind, whatever became of them.
fn count(metrics: &str, call: &str) -> f64 {
    let series = format!("spire_server_rpc_{call}{{");
    let of = metrics.lines().filter(|line| line.starts_with(&series));
    of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The lines of level error that the agents have logged.
fn errors(folder: &Path, agents: usize) -> f64 {
    let logs =
        (0..agents).filter_map(|agent| fs::read_to_string(folder.join(agent.to_string()).join("log")).ok());
    logs.map(|log| log.lines().filter(|line| line.contains("level=error")).count()).sum::<usize>() as f64
}

/// The cores of the simulated server.
const CORES: f64 = 2.0;
const REST: Duration = Duration::from_secs(15);
