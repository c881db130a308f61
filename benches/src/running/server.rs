//! A real spire-server on loopback and its command line.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tokio::time::Instant;

use super::{Ended, Outcome};

/// A running server for `example.org` with all its files in one folder. Dropping it ends it.
pub struct SpireServer {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    process: Ended,
}

impl SpireServer {
    /// Starts a server, and waits until it is healthy. `cache` is its `cache_reload_interval`, `log` its log level.
    ///
    /// # Errors
    /// If it does not start, or is not healthy within a minute.
    pub fn start(program: &Path, folder: &Path, cache: &str, log: &str) -> Outcome<Self> {
        Self::start_with(program, folder, cache, log, ["", ""])
    }

    /// Starts a server with more settings, in its `server` block and beside it, and waits until it is healthy.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_with(
        program: &Path,
        folder: &Path,
        cache: &str,
        log: &str,
        more: [&str; 2],
    ) -> Outcome<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let conf = folder.join("server.conf");
        fs::write(&conf, server_conf(folder, port, (cache, log), more))?;
        let log = File::create(folder.join(LOG))?;
        let mut command = Command::new(program);
        command.args(["run", "-config"]).arg(conf).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().map_err(|reason| format!("{}: {reason}", program.display()))?;
        let (program, folder) = (program.to_owned(), folder.to_owned());
        let server = Self { program, folder, port, process: Ended(process) };
        server.until_healthy()?;
        Ok(server)
    }

    /// Ends the server, as an outage does.
    ///
    /// # Errors
    /// If it has ended before.
    pub fn stop(&mut self) -> Outcome<()> {
        self.process.0.kill()?;
        self.process.0.wait()?;
        Ok(())
    }

    /// The port for agents, on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The pid of spire-server, by which its CPU time is read.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// The path of the socket that its command line uses.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("server.sock")
    }

    /// The path of the server's program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The server's log.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn log(&self) -> Outcome<String> {
        Ok(fs::read_to_string(self.folder.join(LOG))?)
    }

    /// Makes a new join token.
    ///
    /// # Errors
    /// If the server makes none.
    pub fn join_token(&self) -> Outcome<String> {
        let token: serde_json::Value =
            serde_json::from_str(&self.ask(&["token", "generate"], &["-output", "json"])?)?;
        Ok(token["value"].as_str().ok_or("no token")?.to_owned())
    }

    /// The trust bundle as PEM.
    ///
    /// # Errors
    /// If the server shows none.
    pub fn bundle(&self) -> Outcome<String> {
        self.ask(&["bundle", "show"], &[])
    }

    /// Runs a command of the server's command line, such as `entry create`, with its flags. Returns its output.
    ///
    /// # Errors
    /// The text that the command printed to standard error.
    pub fn ask(&self, command: &[&str], flags: &[&str]) -> Outcome<String> {
        let output = Command::new(&self.program)
            .args(command)
            .arg("-socketPath")
            .arg(self.socket())
            .args(flags)
            .output()?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into())
    }

    fn until_healthy(&self) -> Outcome<()> {
        let start = Instant::now();
        while let Err(reason) = self.ask(&["healthcheck"], &[]) {
            if start.elapsed() > PATIENCE {
                return Err(format!("the server is not healthy: {reason}").into());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// The SPIFFE ID of an agent that attests with this join token.
#[must_use]
pub fn join_token_agent_id(token: &str) -> String {
    format!("spiffe://example.org/spire/agent/join_token/{token}")
}

/// The text of server.conf. The datastore does not wait for the disk, because nothing outlives the server and ten
/// thousand entries would take long.
fn server_conf(folder: &Path, port: u16, (cache, log): (&str, &str), [inside, beside]: [&str; 2]) -> String {
    let folder = folder.display();
    format!(
        "server {{ bind_address = \"127.0.0.1\" bind_port = \"{port}\" trust_domain = \"example.org\" \
         data_dir = \"{folder}\" socket_path = \"{folder}/server.sock\" log_level = \"{log}\" \
         experimental {{ cache_reload_interval = \"{cache}\" }} {inside} }}\n{beside}\n\
         plugins {{ DataStore \"sql\" {{ plugin_data {{ database_type = \"sqlite3\" \
         connection_string = \"{folder}/datastore.sqlite3?_synchronous=OFF\" }} }} KeyManager \"memory\" {{ plugin_data {{}} }} \
         NodeAttestor \"join_token\" {{ plugin_data {{}} }} }}\n"
    )
}

const LOG: &str = "server.log";
const PATIENCE: Duration = Duration::from_secs(60);
