//! Tests of the attestor with a bus that a test scripts. `tests/` has those with a real bus.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::lock;

/// A bus that answers calls in order with these texts, `Hello` apart. An empty text is an error; `-` is silence.
struct Fake {
    folder: TempDir,
    connections: Arc<AtomicUsize>,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Fake {
    fn answering(texts: &'static [&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("bus")).unwrap();
        let (connections, said) = (Arc::new(AtomicUsize::new(0)), Arc::<Mutex<Vec<u8>>>::default());
        let (counted, heard) = (Arc::clone(&connections), Arc::clone(&said));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(talk(stream, texts, Arc::clone(&heard)));
            }
        });
        Self { folder, connections, said }
    }

    fn attestor(&self) -> Systemd {
        let address =
            format!("unix:path=/no/such/bus;unix:path={}", self.folder.path().join("bus").display());
        Systemd::new(Some(&address), self.folder.path())
    }

    fn process(&self, pid: i32, cgroup: &str) {
        let folder = self.folder.path().join(pid.to_string());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("cgroup"), cgroup).unwrap();
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn talk(mut stream: UnixStream, texts: &[&str], heard: Arc<Mutex<Vec<u8>>>) -> std::io::Result<()> {
    let mut greeting = vec![0; b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n".len()];
    stream.read_exact(&mut greeting).await?;
    stream.write_all(b"DATA\r\nOK 00\r\n").await?;
    for (serial, text) in (1_u8..).zip(["hello"].iter().chain(texts)) {
        let mut call = [0; 2048];
        let length = stream.read(&mut call).await?;
        lock(&heard).extend(&call[..length]);
        if *text == "-" {
            std::future::pending::<()>().await;
        }
        // A signal first, as after `Hello`.
        stream.write_all(b"l\x04\x01\x01\0\0\0\0\x05\0\0\0\0\0\0\0").await?;
        let kind = if text.is_empty() { 3 } else { 2 };
        let length = u8::try_from(text.len()).unwrap();
        let mut message = vec![b'l', kind, 1, 1, length + 5, 0, 0, 0, 9, 0, 0, 0, 15, 0, 0, 0];
        message.extend([5, 1, b'u', 0, serial, 0, 0, 0, 8, 1, b'g', 0, 1, b's', 0, 0]);
        message.extend([length, 0, 0, 0]);
        message.extend(text.bytes());
        message.push(0);
        stream.write_all(&message).await?;
    }
    Ok(())
}

fn texts(found: Result<Vec<Selector>, SystemdError>) -> Vec<String> {
    found.unwrap().iter().map(ToString::to_string).collect()
}

const WEB: &str = "0::/system.slice/web.service\n";
const ANSWERS: &[&str] = &["/org/freedesktop/systemd1/unit/web_2eservice", "web.service", "/etc/web.service"];
const SELECTORS: [&str; 2] = ["systemd:id:web.service", "systemd:fragment_path:/etc/web.service"];

#[tokio::test]
async fn a_process_has_a_unit_and_its_file() {
    let fake = Fake::answering(ANSWERS);
    fake.process(7, WEB);
    assert_eq!(texts(fake.attestor().attest(7).await), SELECTORS);
    let said = String::from_utf8_lossy(&lock(&fake.said)).into_owned();
    for text in ["Hello", "GetUnitByPID", "web_2eservice", "Get\0", "Id\0", "FragmentPath\0"] {
        assert!(said.contains(text), "{text}: {said}");
    }
}

#[tokio::test]
async fn processes_of_one_unit_share_a_look() {
    let fake = Fake::answering(ANSWERS);
    fake.process(7, WEB);
    fake.process(8, WEB);
    fake.process(9, "0::/system.slice/db.service\n");
    fake.process(10, "0::/\n");
    let attestor = fake.attestor();
    for found in join_all((0..50).map(|at| attestor.attest(7 + at % 2))).await {
        assert_eq!(texts(found), SELECTORS);
    }
    assert_eq!(fake.connections(), 1);
    attestor.attest(9).await.unwrap();
    assert_eq!(fake.connections(), 2);
    // Outside of units, a neighbour in the cgroup says nothing of a process.
    for _ in 0..2 {
        attestor.attest(10).await.unwrap();
    }
    assert_eq!(fake.connections(), 4);
}

#[tokio::test(start_paused = true)]
async fn failures_are_in_the_words_of_spire_agent() {
    let reason = async |texts: &'static [&'static str]| {
        let fake = Fake::answering(texts);
        fake.process(7, WEB);
        let reason = fake.attestor().attest(7).await.unwrap_err();
        format!("{}: {reason}", reason.code())
    };
    assert_eq!(reason(&[""]).await, "Internal: failed to get unit by pid 7: ");
    assert_eq!(reason(&["/unit", ""]).await, "Internal: error getting value for Id: ");
    assert_eq!(reason(&["/unit", "id", ""]).await, "Internal: error getting value for FragmentPath: ");
    assert_eq!(reason(&["-"]).await, "Internal: systemd did not answer within 5s");
    assert!(
        reason(&["/unit"]).await.starts_with("Internal: error getting value for Id: "),
        "the bus hangs up"
    );
    for address in ["unix:path=/no/such/bus", "tcp:host=localhost"] {
        let attestor = Systemd::new(Some(address), Path::new("/proc"));
        let reason = attestor.attest(1).await.unwrap_err().to_string();
        assert!(reason.starts_with("failed to open dbus connection: "), "{reason}");
    }
}

/// Whoever shared the look of a process that has exited looks again.
#[tokio::test]
async fn the_failure_of_another_process_is_not_passed_on() {
    let fake = Fake::answering(&[""]);
    fake.process(7, WEB);
    fake.process(8, WEB);
    let attestor = fake.attestor();
    let (one, other) = tokio::join!(attestor.attest(7), attestor.attest(8));
    assert_eq!(one.unwrap_err().to_string(), "failed to get unit by pid 7: ");
    assert_eq!(other.unwrap_err().to_string(), "failed to get unit by pid 8: ");
    assert_eq!(fake.connections(), 2);
}
