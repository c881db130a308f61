//! A hostile process: connections that say nothing, connections that say nonsense, and calls on connections of many streams.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use benches::running::Outcome;
use harness::x509_svid_on;
use nix::unistd::{Gid, Uid, geteuid, setgid, setuid};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

/// Runs the process, as this user or another, and waits for its end.
pub(crate) async fn flood(socket: &Path, seconds: u64, own: bool) -> Outcome<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(if own { OWN } else { WORD })
        .arg(socket)
        .arg(seconds.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let status = command.status().await?;
    if status.success() { Ok(()) } else { Err(format!("the flood ended with {status}").into()) }
}

/// The process. Unless its word is [`OWN`] it becomes another user, if it may.
pub(crate) fn run(word: &str, socket: &Path, seconds: u64) -> Outcome<()> {
    if word != OWN && geteuid().is_root() {
        setgid(Gid::from_raw(NOBODY))?;
        setuid(Uid::from_raw(NOBODY))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(pour(socket, Instant::now() + Duration::from_secs(seconds)));
    Ok(())
}

async fn pour(socket: &Path, end: Instant) {
    let (mut held, mut connections, mut calls) = (Vec::new(), 0, 0);
    while Instant::now() < end {
        for number in 0..BATCH {
            let Ok(mut stream) = UnixStream::connect(socket).await else { continue };
            connections += 1;
            if number % 2 == 0 {
                let nonsense = stream.write_all(&[0xff; 4096]);
                let _ = timeout(PATIENCE, nonsense).await;
            }
            if held.len() < MOST {
                held.push(stream);
            }
        }
        let calling = async {
            let channel = harness::channel(socket).await;
            for _ in 0..BATCH {
                // To be refused is what it has come for.
                let _ = x509_svid_on(&channel).await;
                calls += 1;
            }
        };
        let _ = timeout(PATIENCE, calling).await;
        sleep(Duration::from_millis(20)).await;
    }
    println!("          {connections} hostile connections, {calls} hostile calls");
}

/// The arguments that make this program the hostile process.
pub(crate) const WORD: &str = "flood-of-another-user";
pub(crate) const OWN: &str = "flood-of-the-own-user";
const NOBODY: u32 = 65_534;
const BATCH: usize = 50;
/// The most connections that it keeps.
const MOST: usize = 800;
const PATIENCE: Duration = Duration::from_secs(1);
