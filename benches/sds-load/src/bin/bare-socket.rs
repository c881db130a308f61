//! `bare-socket`: measures the cost of a push and its answer over only a Unix socket.
//!
//! A server writes a push to each of N connections and reads an answer from each, without HTTP/2, gRPC and decoding.
//! Its CPU time per push is the least that any agent can need on this machine, so an agent's time can be stated as a
//! multiple of it. The server is a process of its own. The program prints one line of JSON.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::{Parser, Subcommand};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The least that a push and its answer can cost on this machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    side: Option<Side>,
    #[command(flatten)]
    load: Load,
    /// Pin the server to this CPU
    #[arg(long)]
    server_cpu: Option<usize>,
    /// Pin the clients to this CPU
    #[arg(long)]
    client_cpu: Option<usize>,
}

#[derive(Debug, Clone, clap::Args)]
struct Load {
    /// Connections
    #[arg(long, short, default_value_t = 1000, global = true)]
    connections: usize,
    /// Pushes to each
    #[arg(long, default_value_t = 10, global = true)]
    rounds: usize,
    /// Size of a push: a secret with its chain and key
    #[arg(long, default_value_t = 1500, global = true)]
    push_bytes: usize,
    /// Size of an answer: 61214 for an ACK with Envoy's node, 104 without
    #[arg(long, default_value_t = 61_214, global = true)]
    answer_bytes: usize,
}

#[derive(Debug, Subcommand)]
enum Side {
    /// Started by bare-socket itself.
    #[command(hide = true)]
    Serve { socket: PathBuf },
}

/// The measurements of the server, and the load.
#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    connections: usize,
    rounds: usize,
    push_bytes: usize,
    answer_bytes: usize,
    /// The server's CPU time for each push with its answer, in microseconds.
    cpu_us_per_push: f64,
    /// Milliseconds from the first push of a round to the last answer, of the median round.
    round_ms: f64,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let cli = Cli::parse();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    match &cli.side {
        Some(Side::Serve { socket }) => {
            pin(cli.server_cpu)?;
            let outcome = serve(socket, &cli.load)?;
            println!("{}", serde_json::to_string(&outcome)?);
            Ok(())
        }
        None => {
            pin(cli.client_cpu)?;
            answer(&cli)
        }
    }
}

fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::this(), &set)?)
}

fn serve(socket: &Path, load: &Load) -> Result<Outcome> {
    let listener = UnixListener::bind(socket)?;
    println!("listening");
    let mut connections = Connections::new()?;
    for _ in 0..load.connections {
        connections.add(listener.accept()?.0, load.answer_bytes)?;
    }
    let push = vec![7; load.push_bytes];
    let mut rounds = Vec::new();
    let before = microseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    for _ in 0..load.rounds {
        let start = microseconds(ClockId::CLOCK_MONOTONIC)?;
        for Connection { socket, .. } in &mut connections.all {
            socket.write_all(&push)?;
        }
        let mut answered = 0;
        while answered < load.connections {
            answered += connections.read()?.len();
        }
        rounds.push((microseconds(ClockId::CLOCK_MONOTONIC)? - start) / 1e3);
    }
    let spent = microseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)? - before;
    rounds.sort_unstable_by(f64::total_cmp);
    Ok(Outcome {
        connections: load.connections,
        rounds: load.rounds,
        push_bytes: load.push_bytes,
        answer_bytes: load.answer_bytes,
        cpu_us_per_push: spent / (load.connections * load.rounds) as f64,
        round_ms: rounds.get(rounds.len() / 2).copied().unwrap_or(0.0),
    })
}

/// Runs the clients, all in this process.
fn answer(cli: &Cli) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("bare-socket-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let outcome = answer_in(&folder.join("socket"), cli);
    std::fs::remove_dir_all(&folder)?;
    println!("{}", outcome?);
    Ok(())
}

fn answer_in(socket: &Path, cli: &Cli) -> Result<String> {
    let mut server = Ended(server(socket, cli)?);
    let output = server.0.stdout.take().ok_or("the server has no output")?;
    let mut lines = BufReader::new(output).lines();
    lines.next().ok_or("the server ended at once")??;
    let mut connections = Connections::new()?;
    for _ in 0..cli.load.connections {
        connections.add(UnixStream::connect(socket)?, cli.load.push_bytes)?;
    }
    let answer = vec![9; cli.load.answer_bytes];
    let mut left = cli.load.connections * cli.load.rounds;
    while left > 0 {
        for number in connections.read()? {
            connections.all[number].socket.write_all(&answer)?;
            left -= 1;
        }
    }
    Ok(lines.next().ok_or("the server said nothing")??)
}

fn server(socket: &Path, cli: &Cli) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    let Load { connections, rounds, push_bytes, answer_bytes } = cli.load;
    for (flag, value) in [
        ("--connections", connections),
        ("--rounds", rounds),
        ("--push-bytes", push_bytes),
        ("--answer-bytes", answer_bytes),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    if let Some(cpu) = cli.server_cpu {
        command.arg("--server-cpu").arg(cpu.to_string());
    }
    Ok(command.arg("serve").arg(socket).stdout(Stdio::piped()).spawn()?)
}

/// A process that does not outlive this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail only if the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Many sockets, from which messages of one size are read.
struct Connections {
    epoll: Epoll,
    all: Vec<Connection>,
    buffer: Vec<u8>,
}

struct Connection {
    socket: UnixStream,
    message: usize,
    left: usize,
}

impl Connections {
    fn new() -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        Ok(Self { epoll, all: Vec::new(), buffer: vec![0; 64 * 1024] })
    }

    fn add(&mut self, socket: UnixStream, message: usize) -> Result<()> {
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, self.all.len() as u64))?;
        self.all.push(Connection { socket, message, left: message });
        Ok(())
    }

    /// Waits, and reads once from each readable socket. Returns the connections whose message is complete.
    fn read(&mut self) -> Result<Vec<usize>> {
        let mut events = [EpollEvent::empty(); 256];
        let ready = self.epoll.wait(&mut events, EpollTimeout::NONE)?;
        let mut complete = Vec::new();
        for event in &events[..ready] {
            let number = usize::try_from(event.data())?;
            let Connection { socket, message, left } = &mut self.all[number];
            let most = (*left).min(self.buffer.len());
            let read = socket.read(&mut self.buffer[..most])?;
            if read == 0 {
                return Err("the other side has gone".into());
            }
            *left -= read;
            if *left == 0 {
                *left = *message;
                complete.push(number);
            }
        }
        Ok(complete)
    }
}

fn microseconds(clock: ClockId) -> Result<f64> {
    let time = clock_gettime(clock)?;
    Ok(time.tv_sec() as f64 * 1e6 + time.tv_nsec() as f64 / 1e3)
}
