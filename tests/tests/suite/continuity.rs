//! What is not lost when the agent ends: under `finial keep`, from one keeper to another, and by systemd's protocol.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dev::Fault;
use harness::{
    Agent, Conf, Sds, build_finial, health, needs, sds_request, skipped, trial, trial_as_root, x509_svid,
};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use tokio::process::Command;
use tonic::Code;

use super::{ids, register, register_under, server};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("a_killed_agent_serves_the_same_svid_while_the_server_is_down", the_same_svid),
        trial("what_the_server_has_withdrawn_goes_at_the_first_sync", withdrawn_meanwhile),
        trial("a_restart_with_keys_in_memory_does_not_attest_again", does_not_attest_again),
        trial("callers_wait_while_the_agent_is_started_again", callers_wait),
        trial("a_banned_agent_serves_nothing_after_its_restart", banned),
        trial("a_keeper_ends_with_its_agent_and_erases_its_memory", keeper_ends),
        trial("a_keeper_does_not_repeat_a_configuration_that_is_refused", refused_configuration),
        trial("a_keeper_that_is_killed_takes_its_agent_with_it", killed_keeper),
        trial("a_damaged_memory_is_thrown_away", damaged_memory),
        trial_as_root("a_keeper_has_no_key_in_its_own_memory", no_key_in_the_keeper),
        trial("a_node_that_starts_without_the_server_serves_its_sealed_cache", sealed_cache),
        trial("a_second_keeper_takes_over_and_the_first_waits_to_be_ended", takes_over),
        trial("an_agent_goes_on_when_its_successor_never_gets_ready", never_ready),
        trial("another_socket_path_is_kept_from_its_first_start_on", another_path),
        trial("an_agent_is_started_again_when_its_successor_is_gone", successor_gone),
    ];
    match needs("SYSTEMD_SOCKET_ACTIVATE", "systemd-socket-activate") {
        Ok(program) => trials.push(trial("a_socket_of_systemd_is_served_and_stays", move || {
            socket_of_systemd(program.clone())
        })),
        Err(reason) => trials.push(skipped("a_socket_of_systemd_is_served_and_stays", &reason)),
    }
    match needs("SYSTEMD_ANALYZE", "systemd-analyze") {
        Ok(program) => trials.push(trial("units_are_what_systemd_takes", move || units(program.clone()))),
        Err(reason) => trials.push(skipped("units_are_what_systemd_takes", &reason)),
    }
    trials
}

/// A kept agent that has served `spiffe://example.org/web`, and the ID of the entry.
async fn kept() -> (dev::Server, Agent, String) {
    let server = server().await;
    let conf = Conf { order: "keep", agent: AGENT.into(), ..Conf::join_token(&server) };
    let entry = register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    agent.logged("SVID updated").await;
    (server, agent, entry)
}

/// The certificate that a caller gets.
async fn certificate(socket: &Path) -> bytes::Bytes {
    let mut stream = x509_svid(socket).await.expect("served");
    let message = stream.message().await.expect("served").expect("a message");
    assert_eq!(ids(&message), ["spiffe://example.org/web"]);
    message.svids[0].x509_svid.clone()
}

/// Waits until the keeper has a memory with the certificate that callers get, and returns it.
async fn memory(agent: &Agent) -> File {
    let certificate = certificate(&agent.socket()).await;
    let holds = |file: &File| {
        let mut content =
            vec![0; file.metadata().map_or(0, |found| usize::try_from(found.len()).unwrap_or(0))];
        let read = file.read_exact_at(&mut content, 0);
        read.is_ok() && content.windows(certificate.len()).any(|window| *window == *certificate)
    };
    loop {
        for found in std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("procfs").flatten() {
            let is_memory = std::fs::read_link(found.path())
                .is_ok_and(|to| to.to_string_lossy().contains("memfd:finial"));
            let file = OpenOptions::new().read(true).write(true).open(found.path());
            if is_memory && let Some(file) = file.ok().filter(holds) {
                return file;
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn the_same_svid() {
    let (server, mut agent, _) = kept().await;
    let before = certificate(&agent.socket()).await;
    let inode = agent.socket().metadata().expect("the socket").ino();
    memory(&agent).await;
    server.fault(Fault::Down).await;
    for times in 1..=3 {
        agent.signal_kept(Signal::SIGKILL);
        agent.logged_times("Serving what the last process had", times).await;
        assert_eq!(certificate(&agent.socket()).await, before);
        assert!(health(&agent.socket()).await);
    }
    assert_eq!(agent.socket().metadata().expect("the socket").ino(), inode);
    let names = ["spiffe://example.org/web"];
    let mut sds = Sds::open(&agent.socket(), sds_request(&names)).await.expect("served");
    assert_eq!(sds.secrets(&names).await.expect("served")[0].name, names[0]);
    assert_eq!(agent.stop().await.code, Some(0));
}

async fn withdrawn_meanwhile() {
    let (server, mut agent, entry) = kept().await;
    memory(&agent).await;
    server.fault(Fault::Down).await;
    assert!(server.delete_entry(&entry));
    agent.signal_kept(Signal::SIGKILL);
    agent.logged("Serving what the last process had").await;
    let mut stream = x509_svid(&agent.socket()).await.expect("served");
    assert_eq!(
        ids(&stream.message().await.expect("served").expect("a message")),
        ["spiffe://example.org/web"]
    );
    server.fault(Fault::None).await;
    let status = loop {
        match stream.message().await {
            Ok(Some(message)) => assert_eq!(ids(&message), ["spiffe://example.org/web"]),
            Ok(None) => panic!("the stream ends without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
}

async fn does_not_attest_again() {
    let (server, mut agent, _) = kept().await;
    memory(&agent).await;
    for (times, signal) in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
        agent.signal_kept(signal);
        agent.logged_times("Agent is ready", times + 2).await;
    }
    assert_eq!(server.counters().attested, 1);
}

/// The socket is open all the time: of many connects while the agent is killed again and again, none is refused.
async fn callers_wait() {
    let (_server, mut agent, _) = kept().await;
    memory(&agent).await;
    for times in 1..=5 {
        agent.signal_kept(Signal::SIGKILL);
        let connections: Vec<UnixStream> =
            (0..50).map(|_| UnixStream::connect(agent.socket()).expect("not refused")).collect();
        agent.logged_times("Serving what the last process had", times).await;
        certificate(&agent.socket()).await;
        drop(connections);
    }
}

async fn banned() {
    let server = server().await;
    let conf = Conf { order: "keep", agent: AGENT.into(), ..Conf::psat(&server) };
    register_under(&server, &server.psat_agent_id("cluster", "node"), "web");
    let mut agent = Agent::start(&conf);
    agent.logged("SVID updated").await;
    memory(&agent).await;
    let id = server.agents()[0].id.clone();
    assert!(server.ban(&id));
    agent.logged("Agent is banned").await;
    agent.logged("The agent has ended; starting it again").await;
    agent.logged_times("Starting agent", 2).await;
    agent.logged("no valid identity of its own").await;
    assert!(!agent.log().contains("Serving what the last process had"), "{}", agent.log());
}

async fn keeper_ends() {
    let (_server, agent, _) = kept().await;
    let (memory, kept) = (memory(&agent).await, agent.kept_pid());
    let exit = agent.stop().await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    assert!(exit.log.contains("Agent stopped gracefully"), "{}", exit.log);
    assert!(!Path::new(&format!("/proc/{kept}")).exists());
    assert_eq!(memory.metadata().expect("a file").len(), 0);
}

async fn refused_configuration() {
    let server = server().await;
    let conf = Conf { order: "keep", agent: "no_such_key = 1".into(), ..Conf::join_token(&server) };
    let exit = Agent::start(&conf).exited().await;
    assert_eq!(exit.code, Some(1));
    assert!(exit.log.contains("no_such_key"), "{}", exit.log);
}

async fn killed_keeper() {
    let (_server, agent, _) = kept().await;
    let kept = agent.kept_pid();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent.pid()), Signal::SIGKILL).expect("it runs");
    let exit = agent.exited().await;
    // The log ends when both have closed it.
    assert!(exit.log.contains("Agent stopped gracefully"), "{}", exit.log);
    assert!(!Path::new(&format!("/proc/{kept}/exe")).exists());
}

async fn damaged_memory() {
    let (_server, mut agent, _) = kept().await;
    let memory = memory(&agent).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent.kept_pid()), Signal::SIGSTOP).expect("it runs");
    memory.write_all_at(b"\xff\xff", 500).expect("damaged");
    agent.signal_kept(Signal::SIGKILL);
    let line = agent.logged("thrown away").await;
    assert!(line.contains("it is damaged"), "{line}");
    // Keys in memory are gone with it, and the token is spent.
    agent.logged_times("The agent has ended; starting it again", 2).await;
}

async fn sealed_cache() {
    let server = server().await;
    let folder = std::sync::Arc::new(tempfile::tempdir().expect("a folder"));
    std::fs::write(folder.path().join("key"), [7; 32]).expect("written");
    let block =
        format!("experimental {{ sealed_cache {{ key_file = \"{}/key\" }} }}", folder.path().display());
    let conf = Conf { agent: block, ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start_in(&conf, std::sync::Arc::clone(&folder));
    agent.logged("SVID updated").await;
    let before = certificate(&agent.socket()).await;
    let cache = agent.path("data/sealed-cache");
    // With the certificate in it, it is longer than that.
    while cache.metadata().map_or(0, |found| found.len()) < 1500 {
        tokio::task::yield_now().await;
    }
    let content = std::fs::read(&cache).expect("the cache");
    assert!(!content.windows(before.len()).any(|window| *window == *before), "it is encrypted");
    agent.stop().await;
    server.fault(Fault::Down).await;
    let mut agent = Agent::start_in(&conf, std::sync::Arc::clone(&folder));
    agent.logged("Serving what the last process had").await;
    assert_eq!(certificate(&agent.socket()).await, before);
    agent.stop().await;
    // Without its key it is worth nothing.
    std::fs::write(folder.path().join("key"), [8; 32]).expect("written");
    let mut agent = Agent::start_in(&conf, std::sync::Arc::clone(&folder));
    agent.logged("The sealed cache cannot be used").await;
    agent.stop().await;
    std::fs::write(folder.path().join("key"), [8; 3]).expect("written");
    let exit = Agent::start_in(&conf, folder).exited().await;
    assert!(exit.code == Some(1) && exit.log.contains("at least 32 are needed"), "{}", exit.log);
}

/// The private key that callers get is in the memory file, and nowhere in the keeper's own memory: it never reads the file.
async fn no_key_in_the_keeper() {
    let (_server, agent, _) = kept().await;
    let memory = memory(&agent).await;
    let mut stream = x509_svid(&agent.socket()).await.expect("served");
    let key = stream.message().await.expect("served").expect("a message").svids[0].x509_svid_key.clone();
    let holds = |content: &[u8]| content.windows(key.len()).any(|window| *window == *key);
    let length = usize::try_from(memory.metadata().expect("a file").len()).expect("it is small");
    let mut content = vec![0; length];
    memory.read_exact_at(&mut content, 0).expect("read");
    assert!(holds(&content), "the scan finds what is there");
    let keeper = agent.pid();
    let maps = std::fs::read_to_string(format!("/proc/{keeper}/maps")).expect("procfs");
    let all = File::open(format!("/proc/{keeper}/mem")).expect("procfs");
    let mut scanned = 0;
    for line in maps.lines().filter(|line| !line.ends_with("[vvar]") && !line.ends_with("[vsyscall]")) {
        let (from, to) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
        let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).expect("a number"));
        let mut content = vec![0; usize::try_from(to - from).expect("it fits")];
        if all.read_exact_at(&mut content, from).is_ok() {
            scanned += content.len();
            assert!(!holds(&content), "the keeper has the key at {line}");
        }
    }
    assert!(scanned > 100_000, "{scanned} bytes");
}

/// A keeper whose agent has served and has sealed what it served, and its configuration.
async fn one(server: &dev::Server) -> (Conf, Agent) {
    let conf = Conf { order: "keep", agent: AGENT.into(), ..Conf::join_token(server) };
    register(server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    agent.logged("SVID updated").await;
    memory(&agent).await;
    (conf, agent)
}

async fn takes_over() {
    let server = server().await;
    let (conf, mut first) = one(&server).await;
    let before = certificate(&first.socket()).await;
    let inode = first.socket().metadata().expect("the socket").ino();
    let mut held = x509_svid(&first.socket()).await.expect("served");
    held.message().await.expect("served").expect("a message");

    let mut second = Agent::start_in(&conf, first.folder());
    second.logged("Taking over from the other agent").await;
    first.logged("Another agent has taken over").await;
    let status = held.message().await.expect_err("it ends");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "agent is shutting down"));
    assert_eq!(certificate(&second.socket()).await, before);
    assert_eq!(server.counters().attested, 1);
    assert_eq!(second.socket().metadata().expect("the socket").ino(), inode);

    // The second is as good as the first: it may be killed, and replaced.
    second.signal_kept(Signal::SIGKILL);
    second.logged_times("Agent is ready", 2).await;
    assert_eq!(certificate(&second.socket()).await, before);
    first.logged("The agent that has taken over is gone").await;
    let exit = first.stop().await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    assert_eq!(exit.log.matches("Starting agent\"").count(), 1, "the first is not needed:\n{}", exit.log);
    assert_eq!(certificate(&second.socket()).await, before);
    let mut third = Agent::start_in(&conf, second.folder());
    third.logged("Taking over from the other agent").await;
    assert_eq!(second.stop().await.code, Some(0));
    assert_eq!(certificate(&third.socket()).await, before);
}

async fn never_ready() {
    let server = server().await;
    let (conf, mut first) = one(&server).await;
    let before = certificate(&first.socket()).await;
    let mut held = x509_svid(&first.socket()).await.expect("served");
    held.message().await.expect("served").expect("a message");
    server.fault(Fault::Down).await;
    let mut second = Agent::start_in(&conf, first.folder());
    second.logged("Synchronize failed").await;
    assert_eq!(certificate(&first.socket()).await, before);
    assert!(!second.log().contains("Starting agent APIs"), "{}", second.log());
    assert_eq!(second.stop().await.code, Some(0));
    first.logged("The agent that was to take over is gone; this one goes on").await;
    assert_eq!(certificate(&first.socket()).await, before);
    assert_eq!(first.stop().await.code, Some(0));
    assert!(held.message().await.is_err());
}

async fn another_path() {
    let (_server, mut agent, _) = kept().await;
    let conf = agent.path("agent.conf");
    let text = std::fs::read_to_string(&conf).expect("the configuration");
    std::fs::write(&conf, text.replace("/api.sock", "/other.sock")).expect("written");
    agent.signal_kept(Signal::SIGKILL);
    agent.logged("Closing a socket of the last process").await;
    let other = agent.path("other.sock");
    agent.logged_times("Starting agent APIs", 2).await;
    certificate(&other).await;
    let inode = other.metadata().expect("the socket").ino();
    agent.signal_kept(Signal::SIGKILL);
    UnixStream::connect(&other).expect("not refused");
    agent.logged_times("Starting agent APIs", 3).await;
    certificate(&other).await;
    assert_eq!(other.metadata().expect("the socket").ino(), inode);
    assert!(UnixStream::connect(agent.socket()).is_err(), "nobody serves the old one");
}

async fn successor_gone() {
    let server = server().await;
    let (conf, mut first) = one(&server).await;
    let mut second = Agent::start_in(&conf, first.folder());
    second.logged("Taking over from the other agent").await;
    first.logged("Another agent has taken over").await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(second.pid()), Signal::SIGKILL).expect("it runs");
    first.logged("The agent that has taken over is gone").await;
    first.logged_times("Starting agent APIs", 2).await;
    certificate(&first.socket()).await;
}

/// The listener belongs to systemd's program, which passes it on by `LISTEN_FDS`.
async fn socket_of_systemd(systemd_socket_activate: PathBuf) {
    let server = server().await;
    let conf = Conf { agent: AGENT.into(), ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let folder = tempfile::tempdir().expect("a folder");
    let agent = conf.command(&build_finial(), "run", folder.path());
    let agent = agent.as_std();
    let socket = folder.path().join("api.sock");
    let mut systemd = Command::new(systemd_socket_activate);
    systemd.arg("-l").arg(&socket).arg(agent.get_program()).args(agent.get_args());
    systemd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = systemd.spawn().expect("it starts");
    while UnixStream::connect(&socket).is_err() {
        assert!(child.try_wait().expect("waited for").is_none(), "it has ended");
        tokio::task::yield_now().await;
    }
    let inode = socket.metadata().expect("the socket").ino();
    let served = tokio::time::timeout(Duration::from_secs(60), certificate(&socket)).await;
    served.expect("served on the socket that was passed");
    assert_eq!(socket.metadata().expect("the socket").ino(), inode);
}

/// Syncs often, so that what follows from a sync comes soon.
const AGENT: &str = "experimental { sync_interval = \"200ms\" }";

/// systemd's own judgement of the units, with the program of this build in the place of the installed one.
async fn units(systemd_analyze: PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    for name in ["finial.service", "finial.socket"] {
        let text = std::fs::read_to_string(shipped.join(name)).expect("a unit");
        let text = text.replace("/usr/bin/finial", &build_finial().display().to_string());
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let run = async |arguments: &[&str]| {
        let output = Command::new(&systemd_analyze).args(arguments).current_dir(folder.path()).output().await;
        let output = output.expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (is_good, said) = run(&["--man=no", "verify", "./finial.service", "./finial.socket"]).await;
    // Of systemd 254.
    let newer = ["RestartSteps", "RestartMaxDelaySec", "FileDescriptorStorePreserve"];
    let complaints = said.lines().filter(|line| !newer.iter().any(|key| line.contains(key)));
    assert!(is_good && complaints.clone().count() == 0, "{said}");
    let (is_good, said) =
        run(&["security", "--offline=yes", "--threshold=20", "--no-pager", "./finial.service"]).await;
    assert!(is_good, "{said}");
}
