//! The status page and `finial top`, with a real browser where there is one.

use std::path::PathBuf;
use std::process::Stdio;

use dev::{Entry, Server};
use harness::{Agent, Conf, Sds, build_finial, get, needs, sds_request, skipped, trial};
use libtest_mimic::Trial;
use tempfile::TempDir;
use tokio::process::Command;

use super::server;

pub(super) fn trials() -> Vec<Trial> {
    let browser = match needs("CHROMIUM", "chromium") {
        Ok(browser) => trial("status_page_in_a_browser", move || in_a_browser(browser)),
        Err(reason) => skipped("status_page_in_a_browser", &reason),
    };
    vec![trial("status_page_and_top_show_the_agent", shown), browser]
}

/// An agent with one identity, whose secret a stream has, and the port of its page.
async fn agent() -> (Server, Agent, TempDir, u16, Sds) {
    let server = server().await;
    let private = tempfile::tempdir().expect("a temporary folder");
    let conf = Conf {
        agent: format!(
            "admin_socket_path = \"{}/admin.sock\" experimental {{ status_address = \"0\" }}",
            private.path().display()
        ),
        ..Conf::join_token(&server)
    };
    let parent = server.join_token_agent_id(&conf.join_token.clone().unwrap_or_default());
    let uid = format!("unix:uid:{}", nix::unistd::geteuid());
    let entry = Entry::new("spiffe://example.org/web", &parent, [&*uid]);
    server.create_entry(Entry { id: "<i>entry</i>".to_owned(), ..entry });
    let mut agent = Agent::start(&conf);
    let line = agent.logged("Serving the status page").await;
    let address =
        line.split("address=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an address");
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    agent.logged("SVID updated").await;
    let mut stream =
        Sds::open(&agent.socket(), sds_request(&["spiffe://example.org/web"])).await.expect("a stream");
    stream.secrets(&["spiffe://example.org/web"]).await.expect("a secret");
    (server, agent, private, port, stream)
}

async fn shown() {
    let (_server, _agent, private, port, _stream) = agent().await;
    let (status, page) = get(port, "/").await.expect("a page");
    assert_eq!(status, 200);
    for part in ["spiffe://example.org/web", "<b>1</b> open calls", "class=\"state ready\"", "<svg"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(page.contains("&lt;i&gt;entry&lt;/i&gt;") && !page.contains("<i>"), "{page}");
    let (status, json) = get(port, "/status.json").await.expect("a document");
    let document: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((status, &document["agent"]["state"]), (200, &"ready".into()));
    assert!(!json.contains("PRIVATE") && !page.contains("PRIVATE"));
    assert_eq!(get(port, "/x").await.expect("an answer").0, 404);

    let mut top = Command::new(build_finial());
    top.args(["top", "-once", "-socketPath"]).arg(private.path().join("admin.sock"));
    let output = top.output().await.expect("run");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && text.contains("spiffe://example.org/web"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

/// What the browser has after the page's script has run. That the page needs no script, `shown` shows.
async fn in_a_browser(browser: PathBuf) {
    let (_server, _agent, _private, port, _stream) = agent().await;
    let profile = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(&browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://127.0.0.1:{port}/"))
        .stderr(Stdio::null())
        .output()
        .await
        .expect("run");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(page.contains("<td>spiffe://example.org/web</td>"), "{page}");
    assert!(page.contains("&lt;i&gt;entry&lt;/i&gt;"), "{page}");
}
