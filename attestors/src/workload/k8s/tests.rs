//! Tests of the attestor with a fake kubelet on a read-only port.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A fake kubelet. It answers each request with the next of its texts, and then always with the last one.
struct Kubelet {
    port: u16,
    requests: Arc<AtomicUsize>,
}

impl Kubelet {
    async fn serving(texts: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let texts = Arc::new(texts);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (texts, counted) = (Arc::clone(&texts), Arc::clone(&counted));
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while stream.read_buf(&mut request).await.unwrap() > 0 {
                        if request.ends_with(b"\r\n\r\n") {
                            let i = counted.fetch_add(1, Ordering::SeqCst).min(texts.len() - 1);
                            let head =
                                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", texts[i].len());
                            stream.write_all(head.as_bytes()).await.unwrap();
                            stream.write_all(texts[i].as_bytes()).await.unwrap();
                            request.clear();
                        }
                    }
                });
            }
        });
        Self { port, requests }
    }

    fn attestor(&self, proc: &Path) -> K8s {
        K8s::new(self.options(proc))
    }

    fn options(&self, proc: &Path) -> Options {
        let kubelet = KubeletOptions {
            port: Port::ReadOnly(self.port),
            ca_path: None,
            auth: Auth::Anonymous,
            node_name: None,
            reload_interval: Duration::from_secs(60),
        };
        Options {
            source: Some(PodSource::Kubelet(kubelet)),
            max_poll_attempts: 60,
            poll_retry_interval: Duration::from_millis(500),
            disable_container_selectors: false,
            locator: Locator::Segments,
            verbose_container_locator_logs: false,
            namespace_labels: None,
            cri_socket_path: None,
            proc: proc.to_owned(),
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A `/proc` with one process, which has this cgroup text.
fn proc(pid: i32, cgroup: &str) -> TempDir {
    let proc = tempfile::tempdir().unwrap();
    let folder = proc.path().join(pid.to_string());
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("cgroup"), cgroup).unwrap();
    proc
}

fn oracle(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/oracle");
    fs::read_to_string(folder.join(format!("oracle.{name}"))).unwrap()
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<_> = lines.collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

async fn attested(pods: String, cgroup: &str) -> Vec<String> {
    let proc = proc(7, cgroup);
    let kubelet = Kubelet::serving(vec![pods]).await;
    let found = kubelet.attestor(proc.path()).attest(7).await.unwrap();
    sorted(found.iter().map(ToString::to_string))
}

#[tokio::test]
async fn the_real_agents_selectors() {
    for container in ["main", "sidecar"] {
        let found = attested(oracle("pods.json"), &oracle(&format!("{container}.cgroup"))).await;
        let expected = oracle(&format!("{container}.selectors.txt"));
        assert_eq!(found, sorted(expected.lines().map(str::to_owned)), "{container}");
    }
}

/// The fixture was recorded when the init container had ended; while it ran, no other container existed.
#[tokio::test]
async fn the_real_agents_selectors_of_an_init_container() {
    let mut list: serde_json::Value = serde_json::from_str(&oracle("pods.json")).unwrap();
    let uid = list["items"][0]["metadata"]["uid"].as_str().unwrap().to_owned();
    let status = &mut list["items"][0]["status"];
    for kind in ["containerStatuses", "initContainerStatuses"] {
        for container in status[kind].as_array_mut().unwrap() {
            if container["name"] != "once" {
                container["imageID"] = "".into();
                container["containerID"] = "".into();
            }
        }
    }
    let id = status["initContainerStatuses"][0]["containerID"].as_str().unwrap();
    let (_, id) = id.split_once("://").unwrap();
    let cgroup = format!("0::/kubepods/besteffort/pod{uid}/{id}\n");
    let found = attested(list.to_string(), &cgroup).await;
    assert_eq!(found, sorted(oracle("once.selectors.txt").lines().map(str::to_owned)));
}

/// spire-agent gives no selectors here (its fixture is empty). Finial's differ from the pod's other ones only by
/// name.
#[tokio::test]
async fn ephemeral_containers_are_attested() {
    assert_eq!(oracle("look.selectors.txt"), "");
    let found = attested(oracle("pods.json"), &oracle("look.cgroup")).await;
    let main = oracle("main.selectors.txt").replace("container-name:main", "container-name:look");
    assert_eq!(found, sorted(main.lines().map(str::to_owned)));
}

#[tokio::test]
async fn a_process_without_a_container() {
    let proc = proc(7, "0::/system.slice/sshd.service\n");
    let kubelet = Kubelet::serving(vec!["{}".into()]).await;
    assert_eq!(kubelet.attestor(proc.path()).attest(7).await.unwrap(), []);
    assert_eq!(kubelet.requests(), 0);
}

const CGROUP: &str = "0::/kubepods/pod11111111-2222-3333-4444-555555555555/\
                      0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n";
const EMPTY: &str = r#"{"items":[]}"#;

fn pods(published: bool) -> String {
    let status = if published {
        r#"{"containerStatuses":[{"name":"c","image":"i","imageID":"d",
        "containerID":"containerd://0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}]}"#
    } else {
        "{}"
    };
    format!(
        r#"{{"items":[{{"metadata":{{"uid":"11111111-2222-3333-4444-555555555555","namespace":"ns"}},
        "spec":{{"containers":[{{"name":"c","image":"i"}}]}},"status":{status}}}]}}"#
    )
}

#[tokio::test]
async fn a_container_that_shows_late() {
    let proc = proc(7, CGROUP);
    let kubelet = Kubelet::serving(vec![EMPTY.into(), pods(false), pods(false), pods(true)]).await;
    let found = kubelet.attestor(proc.path()).attest(7).await.unwrap();
    assert!(found.iter().any(|selector| &*selector.value == "container-name:c"));
    assert_eq!(kubelet.requests(), 4);
}

#[test]
fn waits_between_looks() {
    let ms = Duration::from_millis;
    let (mut spent, mut last, mut waits) = (ms(0), ms(0), Vec::new());
    while waits.len() < 26 {
        last = wait(last, spent, ms(2)).min(ms(500));
        spent += last;
        waits.push(last.as_millis());
    }
    assert_eq!(waits[..4], [25, 50, 100, 100]);
    assert_eq!(waits[20..], [100, 100, 200, 400, 500, 500]);
    // The look took long, because the list is big.
    assert_eq!(wait(ms(25), ms(30), ms(60)), ms(300));
}

#[tokio::test]
async fn a_container_that_never_shows() {
    let proc = proc(7, CGROUP);
    let kubelet = Kubelet::serving(vec![pods(false)]).await;
    let mut options = kubelet.options(proc.path());
    (options.max_poll_attempts, options.poll_retry_interval) = (2, Duration::from_millis(30));
    let reason = K8s::new(options).attest(7).await.unwrap_err();
    assert_eq!(
        (reason.code(), &*reason.to_string()),
        ("DeadlineExceeded", "no selectors found after max poll attempts")
    );
}

#[tokio::test]
async fn the_pod_alone_when_container_selectors_are_disabled() {
    let proc = proc(7, CGROUP);
    let kubelet = Kubelet::serving(vec![pods(false)]).await;
    let mut options = kubelet.options(proc.path());
    options.disable_container_selectors = true;
    let found = K8s::new(options).attest(7).await.unwrap();
    assert!(found.iter().any(|selector| &*selector.value == "ns:ns"));
    assert!(!found.iter().any(|selector| selector.value.starts_with("container-")));
}

#[tokio::test]
async fn many_at_once_share_one_request() {
    let proc = proc(7, CGROUP);
    let kubelet = Kubelet::serving(vec![pods(true)]).await;
    let attestor = kubelet.attestor(proc.path());
    let all = join_all((0..500).map(|_| attestor.attest(7))).await;
    assert!(all.into_iter().all(|found| found.is_ok()));
    assert_eq!(kubelet.requests(), 1);
}

#[tokio::test]
async fn no_kubelet_client() {
    let proc = proc(7, CGROUP);
    let kubelet = Kubelet::serving(vec![pods(true)]).await;
    let mut options = kubelet.options(proc.path());
    options.source = None;
    let reason = K8s::new(options).attest(7).await.unwrap_err();
    assert_eq!((reason.code(), &*reason.to_string()), ("FailedPrecondition", "kubelet client is disabled"));
}

#[tokio::test]
async fn a_kubelet_that_is_not_there() {
    let proc = proc(7, CGROUP);
    let kubelet = Kubelet::serving(vec!["no json".into()]).await;
    let mut options = kubelet.options(proc.path());
    (options.max_poll_attempts, options.poll_retry_interval) = (2, Duration::from_millis(30));
    let reason = K8s::new(options.clone()).attest(7).await.unwrap_err();
    assert_eq!(reason.code(), "Unavailable");
    assert!(reason.to_string().starts_with("unable to parse kubelet response: "), "{reason}");
    if let Some(PodSource::Kubelet(kubelet)) = &mut options.source {
        kubelet.port = Port::ReadOnly(1);
    }
    let reason = K8s::new(options).attest(7).await.unwrap_err();
    assert!(
        reason.to_string().starts_with("unable to perform request: cannot connect to 127.0.0.1:1: "),
        "{reason}"
    );
}
