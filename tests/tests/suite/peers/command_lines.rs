//! The commands of finial and of the real agent, each against either agent. Their outputs and exit codes must be the
//! same. `jwt` has the commands for tokens.

mod jwt;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dev::Entry;
use harness::build_finial;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::agents::{Agents, Running, entry, real_programs};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    let real = real_programs();
    vec![
        trial_with("admin_command_lines_crosswise", real.clone(), admin),
        trial_with("api_command_lines_crosswise", real.clone(), api),
        trial_with("api_watch_crosswise", real.clone(), watch),
        trial_with("jwt_command_lines_crosswise", real, jwt::jwt),
    ]
}

/// The exit code and output of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CommandOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

impl CommandOutput {
    /// This output with `change` applied to each line.
    fn with_lines(self, change: impl Fn(&str) -> String) -> Self {
        let out = self.out.split('\n').map(change).collect::<Vec<_>>().join("\n");
        Self { out, ..self }
    }
}

/// Runs a program with these words.
async fn run_command(program: &Path, words: &[&str], socket: &Path) -> CommandOutput {
    let mut command = Command::new(program);
    command.args(words).arg("-socketPath").arg(socket).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // The real agent's commands add "flag: help requested" to their help, and two slashes to the path of an admin
    // socket.
    let err =
        text(&output.stderr).replace("flag: help requested\n", "").replace(" dial unix ///", " dial unix /");
    CommandOutput { code: output.status.code(), out: text(&output.stdout), err }
}

/// Runs both programs with these words, and checks that their outputs are the same. `change` replaces the parts that
/// differ each time.
async fn run_both(
    programs: &[PathBuf; 2],
    words: &[&str],
    socket: &Path,
    change: impl Fn(&str) -> String,
) -> CommandOutput {
    let [finial, real] = programs;
    let finial = run_command(finial, words, socket).await.with_lines(&change);
    let real = run_command(real, words, socket).await.with_lines(&change);
    assert_eq!(finial, real, "{words:?} at {}", socket.display());
    finial
}

async fn admin((server, real): (PathBuf, PathBuf)) {
    let programs = [build_finial(), real.clone()];
    let mut agents = Agents::both((server, real)).await;
    agents.federate("other.test").await;
    agents.create(&[web()]).await;
    for running in &agents.all {
        let fetched = run_command(&programs[0], &["api", "fetch"], &running.agent.socket()).await;
        assert_eq!((fetched.code, &*fetched.err), (Some(0), ""));
    }
    let mut levels = Vec::new();
    for running in &agents.all {
        for program in &programs {
            levels.push(set_and_reset(program, &running.admin_socket).await);
        }
    }
    assert!(levels.iter().all(|output| *output == levels[0]), "{levels:#?}");
    assert_eq!(levels[0][0].out, "Logger Level : debug\nLaunch Level : debug\n\n");
    for running in &mut agents.all {
        let set = running.agent.logged("msg=\"SetLogLevel Called\"").await;
        assert!(set.contains(" new_log_level=warning"), "{set}");
        let reset = running.agent.logged("msg=\"ResetLogLevel Called\"").await;
        assert!(reset.contains(" launch_log_level=debug"), "{reset}");
    }
    let mut infos = Vec::new();
    for running in &agents.all {
        infos.push(info(&programs, running).await);
    }
    assert_eq!(infos[0], infos[1]);
    let nobody = agents.all[0].agent.path("nobody.sock");
    for words in [&["debug", "getinfo"][..], &["logger", "get"], &["logger", "set", "-level", "info"]] {
        assert_eq!(run_both(&programs, words, &nobody, str::to_owned).await.code, Some(1));
    }
    // The default path, on which probably nobody listens.
    run_both(&programs, &["logger", "get"], Path::new(""), str::to_owned).await;
}

/// The outputs of a program for all logger commands. At the end the level is the initial one.
async fn set_and_reset(program: &Path, socket: &Path) -> Vec<CommandOutput> {
    let orders: [&[&str]; 14] = [
        &["logger", "get"],
        &["logger", "set", "-level", "warn"],
        &["logger", "get", "-output", "json"],
        &["logger", "set", "-level", "WARNING", "-output", "json"],
        &["logger", "set", "-level", "panic"],
        &["logger", "get"],
        &["logger", "reset", "-output", "json"],
        &["logger", "set", "-level", "trace"],
        &["logger", "set"],
        &["logger", "set", "-level", "loud"],
        &["logger", "get", "-output", "yaml"],
        &["logger", "get", "-level", "warn"],
        &["logger", "get", "-help"],
        &["logger", "reset"],
    ];
    let mut output = Vec::new();
    for words in orders {
        output.push(run_command(program, words, socket).await);
    }
    output
}

/// The output of `debug getinfo`, as text and as JSON, without the agent's name and the times that differ.
async fn info(programs: &[PathBuf; 2], running: &Running) -> (String, Value) {
    let people = run_both(programs, &["debug", "getinfo"], &running.admin_socket, without_times).await;
    assert_eq!((people.code, &*people.err), (Some(0), ""));
    let json = &["debug", "getinfo", "-output", "json"];
    let scripts = run_both(programs, json, &running.admin_socket, timeless_json).await;
    let mut info: Value = serde_json::from_str(&scripts.out).expect("JSON");
    let own = &mut info["svid_chain"][0];
    let path = own["id"]["path"].take();
    let path = path.as_str().expect("it has an ID");
    assert!(path.starts_with("/spire/agent/join_token/"), "{path}");
    assert!(own["expires_at"].take().is_string());
    (people.out.replace(path, "PATH"), info)
}

/// A line of the text of `debug getinfo`, without its time.
fn without_times(line: &str) -> String {
    let changing = ["  Uptime: ", "  Last Sync Success: ", "        Expires At: "];
    changing.into_iter().find(|label| line.starts_with(label)).unwrap_or(line).to_owned()
}

/// A line of the JSON of `debug getinfo`, without its times and in its own order.
fn timeless_json(line: &str) -> String {
    let Ok(info) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    let uptime = format!("\"uptime\":{}", info["uptime"]);
    let sync = format!("\"last_sync_success\":{}", info["last_sync_success"]);
    assert!(line.contains(&uptime) && line.contains(&sync), "{line}");
    line.replace(&uptime, "\"uptime\":0").replace(&sync, "\"last_sync_success\":\"0\"")
}

async fn api((server, real): (PathBuf, PathBuf)) {
    let programs = [build_finial(), real.clone()];
    let mut agents = Agents::both((server, real)).await;
    let fetch = ["api", "fetch", "x509"];
    for running in &agents.all {
        let refused = run_both(&programs, &fetch, &running.agent.socket(), str::to_owned).await;
        assert_eq!(refused.code, Some(1));
    }
    agents.federate("other.test").await;
    agents.create(&[web()]).await;
    for running in &agents.all {
        let socket = running.agent.socket();
        let people = run_both(&programs, &fetch, &socket, without_duration).await;
        assert!(people.out.contains("\nSPIFFE ID:\t\tspiffe://example.org/web\nHint:\t\t\tinternal\n"));
        assert_eq!((people.code, &*people.err), (Some(0), ""));
        for words in [
            &["api", "fetch", "x509", "-output", "json"][..],
            &["api", "fetch", "-silent"],
            &["api", "fetch", "x509", "-output", "json", "-silent"],
            &["healthcheck"],
            &["healthcheck", "-verbose"],
        ] {
            assert_eq!(run_both(&programs, words, &socket, str::to_owned).await.code, Some(0), "{words:?}");
        }
        let [finial, real] = [written(&programs[0], &socket).await, written(&programs[1], &socket).await];
        assert_eq!(finial, real);
        assert_eq!(finial.len(), 4);
        // The folder must be there.
        let nowhere = ["api", "fetch", "x509", "-write", "/nope"];
        assert_eq!(run_both(&programs, &nowhere, &socket, without_duration).await.code, Some(1));
    }
    let nobody = agents.all[0].agent.path("nobody.sock");
    for words in [&fetch[..], &["healthcheck"], &["healthcheck", "-verbose"], &["api", "watch", "-loud"]] {
        assert_eq!(run_both(&programs, words, &nobody, str::to_owned).await.code, Some(1));
    }
}

/// What both programs print of the identity of a command, and the files that they write. They must be the same.
pub(super) async fn fetch_x509(programs: &[PathBuf; 2], socket: &Path) -> String {
    let fetched = run_both(programs, &["api", "fetch", "x509"], socket, without_duration).await;
    assert_eq!((fetched.code, &*fetched.err), (Some(0), ""));
    run_both(programs, &["api", "fetch", "x509", "-output", "json"], socket, str::to_owned).await;
    let [finial, real] = programs;
    assert_eq!(written(finial, socket).await, written(real, socket).await);
    fetched.out
}

/// The files that `api fetch x509 -write` makes: name, permissions and content of each.
async fn written(program: &Path, socket: &Path) -> Vec<(String, u32, String)> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().display().to_string();
    let output = run_command(program, &["api", "fetch", "x509", "-silent", "-write", &path], socket).await;
    assert_eq!((output.code, &*output.err), (Some(0), ""));
    let entries = std::fs::read_dir(folder.path()).expect("readable");
    let mut files: Vec<_> = entries
        .map(|file| {
            let file = file.expect("readable");
            let name = file.file_name().to_string_lossy().into_owned();
            assert!(output.out.contains(&format!(" to file {path}/{name}.\n")), "{}", output.out);
            let mode = file.metadata().expect("readable").mode();
            (name, mode, std::fs::read_to_string(file.path()).expect("readable"))
        })
        .collect();
    files.sort();
    files
}

/// A line without its duration, which the first line of an update has.
fn without_duration(line: &str) -> String {
    let head = line.split_once(" after ").filter(|_| line.starts_with("Received ")).map(|(head, _)| head);
    head.unwrap_or(line).to_owned()
}

/// A running `api watch`.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    last: Vec<String>,
}

impl Watch {
    fn start(program: &Path, socket: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(["api", "watch", "-socketPath"]).arg(socket).stdin(Stdio::null()).kill_on_drop(true);
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines, last: Vec::new() }
    }

    /// Waits for the next update that differs from the last one. The real agent repeats an update if a new entry's SVID
    /// is still being minted.
    async fn update(&mut self) -> Vec<String> {
        loop {
            let update = self.any_update().await;
            if update != self.last {
                self.last.clone_from(&update);
                return update;
            }
        }
    }

    /// Waits for the next update. Its first line has the number of SVIDs. There is an empty line before each SVID and
    /// one at the end.
    async fn any_update(&mut self) -> Vec<String> {
        let mut update = vec![without_duration(&self.line().await)];
        let svids = update[0].split(' ').nth(1).and_then(|count| count.parse().ok()).expect("a count");
        while update.iter().filter(|line| line.is_empty()).count() <= svids {
            update.push(self.line().await);
        }
        update
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time");
        line.expect("readable").expect("it goes on")
    }

    /// Interrupts the command, and returns its exit code and output.
    async fn interrupt(mut self) -> CommandOutput {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs");
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("it runs");
        let rest = timeout(PATIENCE, self.lines.next_line()).await.expect("it ends").expect("readable");
        let output = timeout(PATIENCE, self.child.wait_with_output()).await.expect("it ends");
        let output = output.expect("waited for");
        // The real agent's command prints the reason twice.
        let mut err: Vec<String> =
            String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
        err.dedup();
        CommandOutput { code: output.status.code(), out: rest.unwrap_or_default(), err: err.join("\n") }
    }
}

async fn watch((server, real): (PathBuf, PathBuf)) {
    let programs = [build_finial(), real.clone()];
    let mut agents = Agents::both((server, real)).await;
    agents.federate("other.test").await;
    agents.create(&[web()]).await;
    let mut watches: Vec<_> = agents
        .all
        .iter()
        .map(|running| programs.each_ref().map(|program| Watch::start(program, &running.agent.socket())))
        .collect();
    for [finial, real] in &mut watches {
        let update = finial.update().await;
        assert_eq!(update, real.update().await);
        assert_eq!(&update[..3], ["Received 1 svid", "", "SPIFFE ID:\t\tspiffe://example.org/web"]);
    }
    agents.create(&[Entry { x509_svid_ttl: HOUR, ..of_this_user("late") }]).await;
    for [finial, real] in &mut watches {
        let update = finial.update().await;
        assert_eq!(update, real.update().await);
        assert_eq!(update[0], "Received 2 svids");
    }
    for [finial, real] in watches {
        let end = finial.interrupt().await;
        assert_eq!(end, real.interrupt().await);
        assert_eq!(end.code, Some(1));
    }
}

/// The entry of this process and its children. Its SVID stays the same for the duration of a test.
fn web() -> Entry {
    Entry {
        hint: "internal".to_owned(),
        federates_with: vec!["spiffe://other.test".to_owned()],
        x509_svid_ttl: HOUR,
        ..of_this_user("web")
    }
}

fn of_this_user(name: &str) -> Entry {
    entry(name, [&*format!("unix:uid:{}", nix::unistd::getuid())])
}

const HOUR: i32 = 3600;
const PATIENCE: Duration = Duration::from_secs(100);
