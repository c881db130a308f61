//! ghostunnel, which carries bytes of programs without TLS through mutual TLS: a tunnel's two ends get their SVIDs from
//! one agent and accept one another by SPIFFE ID.

use std::io;
use std::path::{Path, PathBuf};

use dev::{Entry, Options, Server};
use harness::{Agent, Conf, unix_attestor, x509_svid};
use libtest_mimic::Trial;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional, split};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::process::Command;

use super::super::server_with;
use super::caller::Caller;
use super::mesh::{BACKEND, BY_PATH, FRONTEND};
use super::programs::{Program, pinned};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    let trial = |name, test| trial_with(name, pinned("ghostunnel"), test);
    vec![trial("ghostunnel_carries_bytes_while_svids_and_authority_are_replaced", replaced)]
}

async fn replaced(program: PathBuf) {
    let world = World::new(&program).await;
    let mut backend = world.backend("backend").await;
    let mut frontend = world.frontend("frontend", "frontend", BACKEND).await;
    world.carries("frontend").await.expect("carried");
    world.refuses(&mut backend).await;
    let old = world.caller().await;
    let shown = async || old.call(&world.path("backend.tls")).await;
    let first = shown().await.expect("accepted");

    let changed = Entry { dns_names: vec!["backend".into()], ..world.entry("backend") };
    assert!(world.server.update_entry(changed));
    let second = world.until(async || shown().await.ok().filter(|now| *now != first)).await;
    world.server.rotate_ca();
    world.server.taint_old_cas();
    world.until(async || shown().await.ok().filter(|now| *now != second)).await;
    // Both ends have certificates of the new authority. When the backend has forgotten the old one, it refuses what
    // that has signed.
    world.server.forget_old_cas();
    world.until(async || shown().await.err()).await;
    world.carries("frontend").await.expect("carried");
    world.caller().await.call(&world.path("backend.tls")).await.expect("accepted");
    assert!(frontend.runs() && backend.runs());
    for log in [frontend.log(), backend.log()] {
        assert!(!log.contains("spiffe/error"), "{log}");
    }
}

/// A server, an agent, and a folder in which each end has a link to the program: the agent distinguishes them by their
/// paths.
struct World {
    server: Server,
    agent: Agent,
    folder: TempDir,
    program: PathBuf,
    parent: String,
}

impl World {
    async fn new(program: &Path) -> Self {
        let server = server_with(Options::default()).await;
        let conf = Conf {
            agent: "experimental { sync_interval = \"200ms\" }".into(),
            workload_attestors: unix_attestor(BY_PATH),
            ..Conf::join_token(&server)
        };
        let parent = server.join_token_agent_id(conf.join_token.as_deref().unwrap_or_default());
        let agent = Agent::start(&conf);
        agent.wait_for_socket().await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let world = Self { server, agent, folder, program: program.to_owned(), parent };
        for name in ["frontend", "backend", "stranger"] {
            world.server.create_entry(world.entry(name));
        }
        let own = std::env::current_exe().expect("this program has a path");
        let selector = format!("unix:path:{}", own.display());
        world.server.create_entry(Entry::new(FRONTEND, &*world.parent, [&*selector]));
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().expect("it exists").join(name)
    }

    fn entry(&self, name: &str) -> Entry {
        let selector = format!("unix:path:{}", self.path(name).display());
        let id = format!("spiffe://example.org/{name}");
        Entry { id: name.to_owned(), ..Entry::new(id, &*self.parent, [&*selector]) }
    }

    /// The end that speaks TLS to the outside, on `NAME.tls`, and takes only the frontend. Behind it is an echo.
    async fn backend(&self, name: &str) -> Program {
        let echo = UnixListener::bind(self.path("echo")).expect("bound");
        tokio::spawn(async move {
            while let Ok((stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut input, mut output) = split(stream);
                    tokio::io::copy(&mut input, &mut output).await
                });
            }
        });
        let listen = format!("{}.tls", self.path(name).display());
        let target = self.path("echo").display().to_string();
        self.start(
            name,
            &["server", "--listen", &unix(&listen), "--target", &unix(&target), "--allow-uri", FRONTEND],
        )
        .await
    }

    /// The end that speaks TLS to the backend, and takes only that SPIFFE ID. Programs find it on `WAY.plain`.
    async fn frontend(&self, name: &str, way: &str, wanted: &str) -> Program {
        // The target must be a port, and a free port may be taken by the time that the backend listens on it.
        let port = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let target = port.local_addr().expect("it is bound").to_string();
        let backend = self.path("backend.tls");
        tokio::spawn(async move {
            while let Ok((mut here, _)) = port.accept().await {
                let backend = backend.clone();
                tokio::spawn(async move {
                    let mut there = UnixStream::connect(backend).await?;
                    copy_bidirectional(&mut here, &mut there).await
                });
            }
        });
        let listen = format!("{}.plain", self.path(way).display());
        self.start(name, &["client", "--listen", &unix(&listen), "--target", &target, "--verify-uri", wanted])
            .await
    }

    async fn start(&self, name: &str, words: &[&str]) -> Program {
        let link = self.path(name);
        if !link.exists() && std::fs::hard_link(&self.program, &link).is_err() {
            // A hard link fails across file systems, and to a file of another owner.
            std::fs::copy(&self.program, &link).expect("copied");
        }
        let api = format!("unix://{}", self.agent.socket().display());
        let mut command = Command::new(link);
        let mut program = Program::start(name, command.args(words).args(["--use-workload-api-addr", &api]));
        program.prints("listening for connections on").await;
        program
    }

    /// Sends bytes into the tunnel, which must all come back.
    async fn carries(&self, way: &str) -> io::Result<()> {
        let stream = UnixStream::connect(self.path(&format!("{way}.plain"))).await?;
        let (mut input, mut output) = split(stream);
        let sent: Vec<u8> = (0..LENGTH).map(|number| (number % 251) as u8).collect();
        let mut back = vec![0; LENGTH];
        let (sending, receiving) = tokio::join!(output.write_all(&sent), input.read_exact(&mut back));
        sending.and(receiving)?;
        assert!(back == sent);
        Ok(())
    }

    /// A frontend that wants another backend carries nothing, and a backend carries nothing for a stranger.
    async fn refuses(&self, backend: &mut Program) {
        let mut choosy = self.frontend("frontend", "choosy", "spiffe://example.org/another").await;
        assert!(self.carries("choosy").await.is_err());
        choosy.prints("principal not allowed").await;
        let mut stranger = self.frontend("stranger", "stranger", BACKEND).await;
        assert!(self.carries("stranger").await.is_err());
        backend.prints("principal not allowed").await;
        assert!(stranger.runs());
    }

    /// A caller of TLS with the SVID that this process has now, which is a frontend too.
    async fn caller(&self) -> Caller {
        let mut stream = x509_svid(&self.agent.socket()).await.expect("an SVID");
        let mut response = stream.message().await.expect("an SVID").expect("a message");
        let svid = response.svids.remove(0);
        Caller::new(svid.x509_svid.to_vec(), svid.x509_svid_key.to_vec())
    }

    /// Repeats what asks the backend until it has a value. Meanwhile the tunnel carries all that it is given.
    async fn until<T>(&self, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        loop {
            self.carries("frontend").await.expect("carried");
            if let Some(value) = ask().await {
                return value;
            }
        }
    }
}

fn unix(path: &str) -> String {
    format!("unix:{path}")
}

/// More than fits into one record of TLS.
const LENGTH: usize = 100_000;
