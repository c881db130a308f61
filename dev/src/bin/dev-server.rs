//! `dev-server`: the development SPIRE server as a program.
//!
//! ```text
//! dev-server [--trust-domain example.org] [--ip 127.0.0.1] [--port 8081] [--data-dir .] [--entries FILE]
//!            [--svid-ttl 1h] [--agent-ttl 1h] [--ca-ttl 24h] [--token-ttl 10m] [--intermediate]
//!            [--max-connection-age 3m]
//!            [--join-token N] [--psat CLUSTER:NAMESPACE:SERVICE_ACCOUNT:NODE:FILE]...
//! ```
//!
//! It prints the join tokens and its address, one per line. The file `bundle.pem` in the data directory and the token
//! files are written before the address is printed, and kept up to date. The entries file is read again when it changes
//! and on SIGHUP. SIGINT and SIGTERM end the server. All state is in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use dev::{Options, Server, entries};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dev-server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Failure> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    fs::create_dir_all(&arguments.data_dir)?;
    let join_tokens = arguments.join_tokens;
    let server = Server::start(arguments.options.clone()).await?;
    let mut files = Files::new(arguments);
    files.refresh(&server)?;
    for _ in 0..join_tokens {
        println!("join token: {}", server.create_join_token());
    }
    println!("listening on {}", server.address());

    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => files.entries_read = None,
            _ = tick.tick() => {}
        }
        // An error must not end the server: the file may be half edited.
        if let Err(error) = files.refresh(&server) {
            eprintln!("dev-server: {error}");
        }
    }
}

/// The files on disk: the entries, which are read, and the bundle and tokens, which are kept up to date.
struct Files {
    arguments: Arguments,
    entries_read: Option<SystemTime>,
    bundle: String,
    tokens_until: Instant,
}

impl Files {
    fn new(arguments: Arguments) -> Self {
        Self { arguments, entries_read: None, bundle: String::new(), tokens_until: Instant::now() }
    }

    fn refresh(&mut self, server: &Server) -> Result<(), Failure> {
        let bundle = server.bundle_pem();
        if bundle != self.bundle {
            write(&self.arguments.data_dir.join("bundle.pem"), &bundle)?;
            self.bundle = bundle;
        }
        if Instant::now() >= self.tokens_until {
            for psat in &self.arguments.psats {
                let token =
                    server.psat_token(&psat.cluster, &psat.namespace, &psat.service_account, &psat.node);
                write(&psat.file, &token)?;
            }
            self.tokens_until = Instant::now() + self.arguments.options.token_ttl / 2;
        }
        self.reload(server)
    }

    fn reload(&mut self, server: &Server) -> Result<(), Failure> {
        let Some(path) = &self.arguments.entries else { return Ok(()) };
        let modified = fs::metadata(path)?.modified()?;
        if self.entries_read == Some(modified) {
            return Ok(());
        }
        self.entries_read = Some(modified);
        server.replace_entries(entries::read(path)?);
        println!("entries: {}", server.entries().len());
        Ok(())
    }
}

/// Replaces a file atomically, because an agent may read it at any time.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let part = path.with_extension("part");
    fs::write(&part, text)?;
    fs::rename(&part, path)?;
    Ok(())
}

struct Arguments {
    options: Options,
    data_dir: PathBuf,
    entries: Option<PathBuf>,
    join_tokens: usize,
    psats: Vec<Psat>,
}

/// The subject of a service account token, and the file to write the token to.
struct Psat {
    cluster: String,
    namespace: String,
    service_account: String,
    node: String,
    file: PathBuf,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut arguments = Self {
            options: Options { port: 8081, ..Options::default() },
            data_dir: PathBuf::from("."),
            entries: None,
            join_tokens: 0,
            psats: Vec::new(),
        };
        while let Some(flag) = words.next() {
            if flag == "--intermediate" {
                arguments.options.intermediate = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{flag} needs a value, or is unknown"))?;
            arguments.set(&flag, value)?;
        }
        Ok(arguments)
    }

    fn set(&mut self, flag: &str, value: String) -> Result<(), Failure> {
        match flag {
            "--trust-domain" => self.options.trust_domain = value,
            "--ip" => self.options.ip = value.parse()?,
            "--port" => self.options.port = value.parse()?,
            "--svid-ttl" => self.options.svid_ttl = duration(&value)?,
            "--agent-ttl" => self.options.agent_ttl = duration(&value)?,
            "--ca-ttl" => self.options.ca_ttl = duration(&value)?,
            "--max-connection-age" => self.options.max_connection_age = duration(&value)?,
            "--token-ttl" => self.options.token_ttl = duration(&value)?,
            "--data-dir" => self.data_dir = value.into(),
            "--entries" => self.entries = Some(value.into()),
            "--join-token" => self.join_tokens = value.parse()?,
            "--psat" => self.psats.push(psat(&value)?),
            _ => return Err(format!("unknown flag {flag}").into()),
        }
        Ok(())
    }
}

fn psat(text: &str) -> Result<Psat, Failure> {
    let parts: Vec<&str> = text.splitn(5, ':').collect();
    let [cluster, namespace, service_account, node, file] = parts[..] else {
        return Err(format!("{text:?} is not CLUSTER:NAMESPACE:SERVICE_ACCOUNT:NODE:FILE").into());
    };
    Ok(Psat {
        cluster: cluster.to_owned(),
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        node: node.to_owned(),
        file: file.into(),
    })
}

/// Parses a duration like `90s`, `5m` or `24h`.
fn duration(text: &str) -> Result<Duration, Failure> {
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => return Err(format!("{text:?} is not a duration like 90s, 5m or 24h").into()),
    };
    let number: u64 = text[..text.len() - 1].parse()?;
    Ok(Duration::from_secs(number * unit))
}
