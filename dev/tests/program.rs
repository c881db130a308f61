//! The programs: what `dev-server` prints, writes and reads, and how `demo` handles its flags.

use std::process::Stdio;

use libtest_mimic::Trial;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use crate::Outcome;
use crate::client::certificates;

pub(crate) fn trial() -> Trial {
    crate::trial("the_program_writes_its_files_and_reads_entries_again", the_program)
}

/// Tests only the flags. The rest of the demo has its own test: `cargo demo --check`.
pub(crate) fn demo_trial() -> Trial {
    crate::trial("the_demo_says_what_a_real_server_needs", the_demo)
}

async fn the_demo() -> Outcome {
    for (flags, code, expected) in [
        (&["--help"][..], 0, "cargo demo [--check]"),
        (&["--nope"], 2, "unknown flag --nope"),
        (&["--server"], 2, "--server needs a value"),
        (&["--bundle", "x"], 2, "go with --server"),
        (
            &["--server", "spire:8081", "--bundle", "x"],
            2,
            "token generate -spiffeID spiffe://am-multi-account-mesh/",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_demo")).args(flags).output().await?;
        let text = String::from_utf8_lossy(if code == 0 { &output.stdout } else { &output.stderr });
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {text}");
        assert!(text.contains(expected), "{flags:?}: {text}");
    }
    Ok(())
}

async fn the_program() -> Outcome {
    let dir = tempfile::tempdir()?;
    let entries = dir.path().join("entries.json");
    let token = dir.path().join("token");
    std::fs::write(&entries, ONE)?;
    let psat = format!("front:spire:agent:node-1:{}", token.display());
    let mut child = Command::new(env!("CARGO_BIN_EXE_dev-server"))
        .args(["--trust-domain", "td", "--port", "0", "--join-token", "2", "--svid-ttl", "60s"])
        .args(["--psat", &psat])
        .args(["--entries".as_ref(), entries.as_os_str(), "--data-dir".as_ref(), dir.path().as_os_str()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(wait_for(&mut lines, "entries: ").await?, "1");
    for _ in 0..2 {
        assert_eq!(wait_for(&mut lines, "join token: ").await?.len(), 36);
    }
    let address = wait_for(&mut lines, "listening on ").await?;
    tokio::net::TcpStream::connect(address).await?;
    let bundle = std::fs::read_to_string(dir.path().join("bundle.pem"))?;
    assert_eq!(certificates(&bundle).len(), 1);
    assert!(!std::fs::read(&token)?.is_empty());

    std::fs::write(&entries, r#"{"entries": []}"#)?;
    let pid = child.id().expect("it runs").to_string();
    Command::new("kill").args(["-HUP", &pid]).status().await?;
    assert_eq!(wait_for(&mut lines, "entries: ").await?, "0");
    Command::new("kill").args(["-TERM", &pid]).status().await?;
    assert!(child.wait().await?.success());
    Ok(())
}

async fn wait_for(
    lines: &mut Lines<BufReader<ChildStdout>>,
    beginning: &str,
) -> Result<String, Box<dyn std::error::Error>> {
    while let Some(line) = lines.next_line().await? {
        if let Some(rest) = line.strip_prefix(beginning) {
            return Ok(rest.to_owned());
        }
    }
    Err(format!("the program ended without {beginning:?}").into())
}

const ONE: &str = r#"{"entries": [{
    "spiffe_id": "spiffe://td/a",
    "parent_id": "spiffe://td/b",
    "selectors": [{"type": "unix", "value": "uid:1"}]
}]}"#;
