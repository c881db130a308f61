//! Tests of the attestor with daemons that a test scripts. `tests/` has those with real daemons.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use nix::unistd::geteuid;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

use super::*;

/// A daemon at `sock` in its folder. It answers the n-th request for a container with the n-th text, and then always with
/// the last one. An empty text closes the connection.
struct Fake {
    folder: TempDir,
    /// The paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn serving(version: &'static str, answers: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("sock")).unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (answers, log, next) = (answers.to_vec(), Arc::clone(&asked), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, log, next) = (answers.clone(), Arc::clone(&log), Arc::clone(&next));
                tokio::spawn(async move {
                    let _ = talk(stream, version, &answers, &log, &next).await;
                });
            }
        });
        Self { folder, asked }
    }

    fn asked(&self) -> Vec<String> {
        lock(&self.asked).clone()
    }

    /// An attestor whose daemons are all this one, for a process 7 with these cgroups.
    fn attestor(&self, cgroup: &str) -> Docker {
        Docker::new(self.options(cgroup))
    }

    fn options(&self, cgroup: &str) -> Options {
        let process = self.folder.path().join("7");
        fs::create_dir_all(&process).unwrap();
        fs::write(process.join("cgroup"), cgroup).unwrap();
        let socket = self.folder.path().join("sock");
        Options {
            docker_socket_path: socket.clone(),
            docker_version: None,
            container_id_cgroup_matchers: Vec::new(),
            verbose_container_locator_logs: true,
            podman_socket_path: socket,
            podman_user_sockets: (format!("{}/", self.folder.path().display()), "/sock".into()),
            proc: self.folder.path().to_owned(),
        }
    }

    /// The folder where an attestor looks for the socket of this user's Podman leads to this daemon.
    fn is_podman_of(&self, uid: u32) {
        let folder = self.folder.path().join(uid.to_string());
        std::os::unix::fs::symlink(self.folder.path(), folder).unwrap();
    }
}

async fn talk(
    mut stream: UnixStream,
    version: &str,
    answers: &[String],
    log: &Mutex<Vec<String>>,
    next: &AtomicUsize,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await? > 0 {
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let head = String::from_utf8_lossy(&request).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        lock(log).push(path.clone());
        request.clear();
        let answer = match &*path {
            "/_ping" => format!("HTTP/1.1 200 OK\r\nApi-Version: {version}\r\nContent-Length: 2\r\n\r\n"),
            path if path.contains("/images/") => ok(r#"{"Id":"sha256:11"}"#),
            _ => answers[next.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)].clone(),
        };
        if answer.is_empty() {
            return Ok(());
        }
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn web() -> String {
    ok(&format!(r#"{{"Id":"{ID}","Config":{{"Image":"web:1","Labels":{{"app":"web"}},"Env":["A=1"]}}}}"#))
}

fn gone() -> String {
    let body = format!(r#"{{"message":"No such container: {ID}"}}"#);
    format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn texts(found: &Inspected) -> Vec<String> {
    found.selectors.iter().map(ToString::to_string).collect()
}

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const SELECTORS: [&str; 4] = [
    "docker:image_id:web:1",
    "docker:label:app:web",
    "docker:env:A=1",
    "docker:image_config_digest:sha256:11",
];

fn docker_cgroup() -> String {
    format!("1:cpu:/docker/{ID}\n0::/system.slice/docker-{ID}.scope\n")
}

fn paths(version: &str) -> Vec<String> {
    vec![format!("/v{version}/containers/{ID}/json"), format!("/v{version}/images/web:1/json")]
}

#[tokio::test]
async fn a_container_has_labels_variables_and_an_image() {
    let fake = Fake::serving("1.41", &[web()]);
    let attestor = fake.attestor(&docker_cgroup());
    assert_eq!(texts(&attestor.attest(7).await.unwrap()), SELECTORS);
    assert_eq!(fake.asked(), [vec!["/_ping".to_owned()], paths("1.41")].concat());
    // The answer still holds.
    assert_eq!(texts(&attestor.attest(7).await.unwrap()), SELECTORS);
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test]
async fn versions_are_negotiated_unless_one_is_configured() {
    for (theirs, ours) in
        [("1.41", "1.41"), ("1.99", "1.55"), ("1.12", "1.55"), ("../x", "1.55"), ("", "1.55")]
    {
        let fake = Fake::serving(theirs, &[web()]);
        fake.attestor(&docker_cgroup()).attest(7).await.unwrap();
        assert_eq!(fake.asked()[1..], paths(ours), "{theirs:?}");
    }
    let fake = Fake::serving("1.41", &[web()]);
    let options = Options { docker_version: Some((1, 24)), ..fake.options(&docker_cgroup()) };
    Docker::new(options).attest(7).await.unwrap();
    assert_eq!(fake.asked(), paths("1.24"));
}

#[tokio::test]
async fn a_process_without_a_container_asks_nobody() {
    let fake = Fake::serving("1.41", &[web()]);
    let attestor = fake.attestor("0::/system.slice/sshd.service\n");
    assert!(attestor.attest(7).await.unwrap().selectors.is_empty());
    // Nor does one that has exited.
    assert!(attestor.attest(8).await.unwrap().selectors.is_empty());
    assert!(fake.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_container_that_the_daemon_does_not_know_yet_is_asked_for_four_times() {
    let began = Instant::now();
    let fake = Fake::serving("1.41", &[gone(), String::new(), gone(), web()]);
    assert_eq!(texts(&fake.attestor(&docker_cgroup()).attest(7).await.unwrap()), SELECTORS);
    assert_eq!(began.elapsed().as_millis() / 100, 7);
    let fake = Fake::serving("1.41", &[gone()]);
    let attestor = fake.attestor(&docker_cgroup());
    let refusal = attestor.attest(7).await.unwrap_err();
    let expected = format!("Error response from daemon: No such container: {ID}");
    assert_eq!((refusal.to_string(), refusal.code()), (expected, "Unknown"));
    assert_eq!(fake.asked().len(), 8);
    // A failure is not kept.
    attestor.attest(7).await.unwrap_err();
    assert_eq!(fake.asked().len(), 16);
}

#[tokio::test]
async fn callers_of_one_container_share_a_look() {
    let fake = Fake::serving("1.41", &[web()]);
    let attestor = fake.attestor(&docker_cgroup());
    for found in join_all((0..100).map(|_| attestor.attest(7))).await {
        assert_eq!(texts(&found.unwrap()), SELECTORS);
    }
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_too_long_or_of_another_container_are_refused() {
    let reason = async |answer: String, cgroup: String| {
        let fake = Fake::serving("1.41", &[answer]);
        fake.is_podman_of(geteuid().as_raw());
        fake.attestor(&cgroup).attest(7).await.unwrap_err().to_string()
    };
    let announced = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", ANSWER + 1);
    assert_eq!(reason(announced, docker_cgroup()).await, "the daemon's answer is longer than 4194304 bytes");
    let long = ok(&format!("{{\"x\":\"{}\"}}", "x".repeat(ANSWER_OF_USER)));
    let podman = format!("0::/user.slice/user-{}.slice/libpod-{ID}.scope\n", geteuid());
    assert_eq!(reason(long, podman).await, "the daemon's answer is longer than 262144 bytes");
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    let chunked =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(5));
    assert_eq!(reason(chunked, docker_cgroup()).await, "the daemon's answer is longer than 4194304 bytes");
    let another = web().replace(ID, &ID.replace('0', "1"));
    assert_eq!(reason(another, docker_cgroup()).await, "the daemon answered for another container");
    let text = reason("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]".into(), docker_cgroup()).await;
    assert!(text.starts_with("error reading JSON: "), "{text}");
    let moved = "HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".to_owned();
    let text = reason(moved, docker_cgroup()).await;
    assert_eq!(text, "Error response from daemon: API returned a 301 but provided no error-message");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_not_there() {
    let fake = Fake::serving("1.41", &[web()]);
    let gone = Options { docker_socket_path: "/no/such/sock".into(), ..fake.options(&docker_cgroup()) };
    let refusal = Docker::new(gone).attest(7).await.unwrap_err().to_string();
    let expected = "failed to connect to the docker API at unix:///no/such/sock; check if the path is correct and if the \
                    daemon is running: ENOENT: No such file or directory";
    assert!(refusal.starts_with(&expected[..110]), "{refusal}");
    let silent = Fake::serving("1.41", &["HTTP/1.1 200 OK\r\n".to_owned()]);
    let refusal = silent.attestor(&docker_cgroup()).attest(7).await.unwrap_err().to_string();
    assert_eq!(refusal, "the daemon did not answer within 5s");
}

#[tokio::test]
async fn the_podman_of_a_user_must_run_as_that_user() {
    let own = geteuid().as_raw();
    let fake = Fake::serving("1.41", &[web()]);
    let cgroup = |uid: u32| format!("0::/user.slice/user-{uid}.slice/user@{uid}.service/libpod-{ID}.scope\n");
    fake.is_podman_of(own);
    assert_eq!(texts(&fake.attestor(&cgroup(own)).attest(7).await.unwrap()), SELECTORS);
    let other = Fake::serving("1.41", &[web()]);
    // A daemon of another user at the place of this user's: it is not asked.
    let folder = other.folder.path().join((own + 1).to_string());
    fs::create_dir(&folder).unwrap();
    nix::unistd::chown(&folder, Some((own + 1).into()), None).unwrap_or_default();
    std::os::unix::fs::symlink(other.folder.path().join("sock"), folder.join("sock")).unwrap();
    let refusal = other.attestor(&cgroup(own + 1)).attest(7).await.unwrap_err().to_string();
    let expected = format!("its daemon runs as user {own}, and must run as user {}", own + 1);
    assert!(refusal.ends_with(&expected), "{refusal}");
    assert!(other.asked().is_empty());
}

/// A user can make a cgroup with the name of another's container.
#[tokio::test]
async fn in_the_cgroups_of_a_user_only_a_daemon_of_the_user_is_believed() {
    let own = geteuid().as_raw();
    let cgroup = |uid: u32| format!("0::/user.slice/user-{uid}.slice/user@{uid}.service/docker-{ID}.scope\n");
    let fake = Fake::serving("1.41", &[web()]);
    assert_eq!(texts(&fake.attestor(&cgroup(own)).attest(7).await.unwrap()), SELECTORS);
    let other = Fake::serving("1.41", &[web()]);
    let refusal = other.attestor(&cgroup(own + 1)).attest(7).await.unwrap_err().to_string();
    let expected = format!("its daemon runs as user {own}, and must run as user {}", own + 1);
    assert!(refusal.ends_with(&expected), "{refusal}");
    assert!(other.asked().is_empty());
}

/// A user can mount the cgroup of another's container in a mount namespace of their own.
#[tokio::test]
async fn mounts_count_only_in_the_cgroup_of_the_agents_own_container() {
    let fake = Fake::serving("1.41", &[web()]);
    let mounts = format!("868 867 0:38 /docker/{ID} /mnt ro - cgroup2 cgroup rw\n");
    let found = async |cgroup: &str| {
        let attestor = fake.attestor(cgroup);
        fs::write(fake.folder.path().join("7/mountinfo"), &mounts).unwrap();
        texts(&attestor.attest(7).await.unwrap()).len()
    };
    assert_eq!(found("0::/user.slice/user-1000.slice/session-1.scope\n").await, 0);
    assert_eq!(found("1:cpu:/\n0::/../user.slice\n").await, 0);
    assert!(fake.asked().is_empty());
    assert_eq!(found("1:cpu:/\n0::/\n").await, SELECTORS.len());
}

#[tokio::test]
async fn configured_patterns_find_the_container() {
    let fake = Fake::serving("1.41", &[web()]);
    let with = |cgroup: &str| {
        let matchers = vec!["/my.slice/*/<id>".to_owned()];
        Docker::new(Options { container_id_cgroup_matchers: matchers, ..fake.options(cgroup) })
    };
    assert_eq!(texts(&with(&format!("0::/my.slice/x/{ID}\n")).attest(7).await.unwrap()), SELECTORS);
    assert!(with(&docker_cgroup()).attest(7).await.unwrap().selectors.is_empty());
    let refusal = with("0::/my.slice/x/name\n").attest(7).await.unwrap_err();
    assert_eq!(refusal.to_string(), "container id \"name\" is not 64 hexadecimal digits");
}

#[test]
fn turns_of_users_who_are_gone_are_forgotten() {
    let turns = Turns::default();
    let held = turns.of(Daemon::PodmanOf(1));
    for uid in 2..1000 {
        turns.of(Daemon::PodmanOf(uid));
    }
    assert!(lock(&turns.users).len() <= 2);
    assert!(Arc::ptr_eq(&held, &turns.of(Daemon::PodmanOf(1))));
}
