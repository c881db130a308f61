//! Profiles of the running agent: fetched over HTTP, and written to files, as spire-agent writes them.

mod proto;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dev::Server;
use harness::{Agent, Conf, build_finial, get, get_bytes, needs, skipped, trial, x509_svid};
use libtest_mimic::Trial;
use tokio::process::Command;

use super::peers::free_port;
use super::{register, server};
use proto::Profile;

pub(super) fn trials() -> Vec<Trial> {
    let go = match needs("GO", "go") {
        Ok(go) => trial("profiles_are_read_by_go", move || read_by_go(go)),
        Err(reason) => skipped("profiles_are_read_by_go", &reason),
    };
    let name = "profiles_of_the_real_agent_have_the_same_names";
    let real = match needs("SPIRE_AGENT", "spire-agent") {
        Ok(real) => trial(name, move || written_by_the_real_agent(real)),
        Err(reason) => skipped(name, &reason),
    };
    vec![
        trial("profiles_are_served", served),
        trial("profiles_of_the_cpu_are_made_one_at_a_time", one_at_a_time),
        trial("profiles_are_written", written),
        trial("profiles_of_the_heap_need_no_second_start", environment_of_the_operator),
        go,
        real,
    ]
}

/// An agent with one identity, that serves profiles at the port.
async fn agent(more: &str) -> (Server, Agent, u16) {
    let server = server().await;
    let port = free_port();
    let agent = format!("profiling_enabled = true profiling_port = {port} {more}");
    let conf = Conf { agent, ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    agent.logged("Serving profiles").await;
    agent.logged("SVID updated").await;
    (server, agent, port)
}

/// A profile of the CPU of an agent that is called all the time.
async fn busy(agent: &Agent, port: u16) -> Vec<u8> {
    let socket = agent.wait_for_socket().await;
    let calls = async {
        loop {
            x509_svid(&socket).await.expect("an identity");
        }
    };
    tokio::select! {
        answer = get_bytes(port, "/debug/pprof/profile?seconds=2") => {
            let (status, body) = answer.expect("an answer");
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
            body.to_vec()
        }
        () = calls => unreachable!("an endless loop"),
    }
}

async fn heap(port: u16) -> Vec<u8> {
    let (status, body) = get_bytes(port, "/debug/pprof/heap").await.expect("an answer");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    body.to_vec()
}

async fn served() {
    let (_server, agent, port) = agent("").await;
    let cpu = Profile::read(&busy(&agent, port).await);
    assert_eq!(cpu.measures(), [("cpu", "nanoseconds")]);
    cpu.assert_sound();
    assert!(cpu.deepest() > 5, "stacks of {} frames", cpu.deepest());
    assert!(cpu.sum() >= 10_000_000, "{} ns", cpu.sum());
    let heap = Profile::read(&heap(port).await);
    assert_eq!(heap.measures(), [("inuse_space", "bytes")]);
    heap.assert_sound();
    assert!(heap.deepest() > 5 && heap.sum() > 100_000, "{} bytes", heap.sum());

    let (status, index) = get(port, "/debug/pprof/").await.expect("an answer");
    assert!(status == 200 && index.contains("/debug/pprof/heap"), "{index}");
    let (status, line) = get(port, "/debug/pprof/cmdline").await.expect("an answer");
    assert!(status == 200 && line.contains("\0-joinToken\0(hidden)"), "{line:?}");
    for (path, expected, words) in [
        ("/debug/pprof/goroutine?debug=2", 404, "/debug/pprof/heap"),
        ("/debug/pprof/trace", 404, "Go's runtime"),
        ("/debug/pprof/x", 404, "There is /debug/pprof/"),
        ("/", 404, "There is /debug/pprof/"),
        ("/debug/pprof/profile?seconds=301", 400, "300 seconds at most"),
        ("/debug/pprof/heap?seconds=1", 400, "-base"),
    ] {
        let (status, text) = get(port, path).await.expect("an answer");
        assert!(status == expected && text.contains(words), "{path}: {status} {text}");
    }
}

/// The second is refused while the first goes on. The first ends when its reader goes away.
async fn one_at_a_time() {
    let (_server, mut agent, port) = agent("").await;
    let first = tokio::spawn(async move { get_bytes(port, "/debug/pprof/profile?seconds=300").await });
    agent.logged("Sampling the CPU").await;
    let (status, text) = get(port, "/debug/pprof/profile?seconds=1").await.expect("an answer");
    assert_eq!((status, &*text), (500, "cpu profiling already in use\n"));
    first.abort();
    agent.logged("Sampled the CPU").await;
    let (status, _) = get(port, "/debug/pprof/profile?seconds=1").await.expect("an answer");
    assert_eq!(status, 200);
}

/// Profiles in files, next to which none of the CPU can be fetched. The agent says once what it does not have.
async fn written() {
    let server = server().await;
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    let port = free_port();
    let conf = dumping(&server, folder.path(), port);
    let mut agent = Agent::start_in(&conf, Arc::clone(&folder));
    agent.logged("so nothing is written for \\\"goroutine\\\"").await;
    agent.logged_times("Wrote a profile", 4).await;
    let (status, _) = get(port, "/debug/pprof/profile?seconds=1").await.expect("an answer");
    assert_eq!(status, 500);
    let exit = agent.stop().await;
    assert!(exit.code == Some(0) && !exit.log.contains("Cannot write a profile"), "{}", exit.log);
    assert_eq!(kinds(folder.path()), ["cpu".to_owned(), "heap".to_owned()].into());
    for (path, kind) in files(folder.path()) {
        let profile = Profile::read(&std::fs::read(path).expect("read"));
        // An agent that has done nothing for a second has no samples.
        if kind == "heap" {
            profile.assert_sound();
        }
    }
}

/// The oracle of names. Its own answers are what time passes by: it measures the heap for a second.
async fn written_by_the_real_agent(program: PathBuf) {
    let server = server().await;
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    let port = free_port();
    let conf = dumping(&server, folder.path(), port);
    let mut agent = Agent::start_program(&program, &conf, Arc::clone(&folder));
    agent.logged("Starting agent").await;
    let expected: BTreeSet<String> = ["cpu", "goroutine", "heap"].map(str::to_owned).into();
    while kinds(folder.path()) != expected {
        let _ = get_bytes(port, "/debug/pprof/heap?seconds=1").await;
    }
}

/// Writes profiles every second to `folder`, in which the agent works.
fn dumping(server: &Server, folder: &Path, port: u16) -> Conf {
    Conf {
        agent: format!(
            "profiling_enabled = true profiling_port = {port} profiling_freq = 1 \
             profiling_names = [\"cpu\", \"heap\", \"goroutine\"]"
        ),
        shell: Some(format!("cd {} && exec \"$0\" \"$@\"", folder.display())),
        ..Conf::join_token(server)
    }
}

/// The kinds of the files that are there, all of which are named as spire-agent names them.
fn kinds(folder: &Path) -> BTreeSet<String> {
    files(folder).into_iter().map(|(_, kind)| kind).collect()
}

fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let Ok(found) = std::fs::read_dir(folder.join(".profiles")) else { return Vec::new() };
    let paths = found.map(|file| file.expect("read").path());
    let named = paths.filter_map(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).expect("text").to_owned();
        if name.starts_with("agent_current_") {
            return None;
        }
        let (time, kind) = name.split_once("_agent_").expect("a time");
        let digits = time.replace(|c: char| c.is_ascii_digit(), "0");
        assert_eq!(digits, "0000-00-00_000000", "{name}");
        Some((path, kind.strip_suffix(".pb.gz").expect("an ending").to_owned()))
    });
    named.collect()
}

/// An operator who has set jemalloc's variable is heeded: nothing is added to it, and the process is not replaced.
async fn environment_of_the_operator() {
    let server = server().await;
    let port = free_port();
    let conf = Conf {
        agent: format!("profiling_enabled = true profiling_port = {port}"),
        environment: vec![("_RJEM_MALLOC_CONF", "prof:false".into())],
        ..Conf::join_token(&server)
    };
    let mut agent = Agent::start(&conf);
    agent.logged("Memory profiles are disabled").await;
    agent.logged("Serving profiles").await;
    let (status, text) = get(port, "/debug/pprof/heap").await.expect("an answer");
    assert!(status == 500 && text.contains("heap profiles are off"), "{text}");
}

/// `go tool pprof` reads both, and names what allocated by the symbols of the program, which the one of the tests has.
async fn read_by_go(go: PathBuf) {
    let (_server, agent, port) = agent("").await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, profile) in [("cpu", busy(&agent, port).await), ("heap", heap(port).await)] {
        let file = folder.path().join(name);
        std::fs::write(&file, profile).expect("written");
        let raw = pprof(&go, &["-symbolize=none".as_ref(), "-raw".as_ref(), &file]).await;
        assert!(raw.contains("Samples:") && raw.contains("Locations"), "{raw}");
    }
    // Over HTTP it asks for the names of functions, too.
    let (program, url) = (build_finial(), format!("http://127.0.0.1:{port}/debug/pprof/heap"));
    let top = pprof(&go, &["-top".as_ref(), &program, url.as_ref()]).await;
    assert!(top.contains("Type: inuse_space") && top.contains("run_logged"), "{top}");
}

async fn pprof(go: &Path, arguments: &[&Path]) -> String {
    // It keeps what it has fetched.
    let own = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(go)
        .args(["tool", "pprof"])
        .args(arguments)
        .env("PPROF_TMPDIR", own.path())
        .output()
        .await
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).expect("text")
}
