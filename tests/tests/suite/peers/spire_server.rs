//! The real SPIRE server and its command line.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dev::Entry;
use harness::Conf;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// What differs between servers.
pub(super) struct Options<'a> {
    pub(super) trust_domain: &'a str,
    /// More plugins.
    pub(super) plugins: &'a str,
    /// More lines of the `server` block.
    pub(super) server: &'a str,
    /// How long X509-SVIDs live.
    pub(super) svid_ttl: &'a str,
    /// The folder of the datastore that it shares with other servers; its own if there is none.
    pub(super) datastore: Option<&'a Path>,
    /// Its `cache_reload_interval`; the server's default if there is none.
    pub(super) cache: Option<&'a str>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            trust_domain: "example.org",
            plugins: "",
            server: "",
            svid_ttl: "60s",
            datastore: None,
            cache: None,
        }
    }
}

/// A running server. Dropping it ends it.
pub(super) struct SpireServer {
    /// Its SPIFFE ID without a path, `spiffe://TRUST_DOMAIN`.
    domain: String,
    program: PathBuf,
    folder: TempDir,
    port: u16,
    _child: Child,
}

impl SpireServer {
    /// Starts a server for `example.org` whose SVIDs live for a minute.
    pub(super) async fn start(program: &Path) -> Self {
        Self::start_with(program, "").await
    }

    /// Starts such a server with more plugins.
    pub(super) async fn start_with(program: &Path, plugins: &str) -> Self {
        Self::start_of(program, &Options { plugins, ..Options::default() }).await
    }

    /// Starts a server with these options.
    pub(super) async fn start_of(program: &Path, options: &Options<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let config = folder.path().join("server.conf");
        std::fs::write(&config, configuration(folder.path(), port, options)).expect("written");
        let log = File::create(folder.path().join("log")).expect("created");
        let mut command = Command::new(program);
        command.args(["run", "-config"]).arg(&config).stdin(Stdio::null()).kill_on_drop(true);
        let child = command.stdout(log.try_clone().expect("cloned")).stderr(log).spawn().expect("it starts");
        let domain = format!("spiffe://{}", options.trust_domain);
        let server = Self { domain, program: program.to_owned(), folder, port, _child: child };
        server.healthy().await;
        server
    }

    async fn healthy(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(reason) = self.try_ask(&["healthcheck"]).await {
            assert!(Instant::now() < deadline, "the server is not healthy: {reason}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where it listens for agents.
    pub(super) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The configuration of a new agent, and its SPIFFE ID.
    pub(super) async fn agent(&self, unix: &str) -> (Conf, String) {
        self.agent_by_token(unix, &["token", "generate", "-output", "json"]).await
    }

    /// The configuration of a new agent with the node alias `alias`, and its SPIFFE ID.
    pub(super) async fn agent_of(&self, unix: &str, alias: &str) -> (Conf, String) {
        self.agent_by_token(unix, &["token", "generate", "-output", "json", "-spiffeID", alias]).await
    }

    async fn agent_by_token(&self, unix: &str, generate: &[&str]) -> (Conf, String) {
        let printed = self.ask(generate).await;
        let token: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        let token = token["value"].as_str().expect("a token").to_owned();
        let id = self.id(&format!("spire/agent/join_token/{token}"));
        let trust_domain = self.domain.trim_start_matches("spiffe://").to_owned();
        let bundle = self.ask(&["bundle", "show"]).await;
        let conf = Conf {
            join_token: Some(token),
            disk_keys: true,
            workload_attestors: harness::unix_attestor(unix),
            ..Conf::new(format!("127.0.0.1:{}", self.port), trust_domain, bundle)
        };
        (conf, id)
    }

    /// The SPIFFE ID with this path (without the slash at its start) in the server's trust domain.
    pub(super) fn id(&self, path: &str) -> String {
        format!("{}/{path}", self.domain)
    }

    /// The SPIFFE ID of the server's trust domain.
    pub(super) fn domain(&self) -> &str {
        &self.domain
    }

    /// Registers `spiffe://TRUST_DOMAIN/NAME`.
    pub(super) async fn register(&self, name: &str, parent: &str, selector: &str) {
        self.register_with(name, parent, selector, &[]).await;
    }

    /// Registers `spiffe://TRUST_DOMAIN/NAME` with more flags of `entry create`.
    pub(super) async fn register_with(&self, name: &str, parent: &str, selector: &str, flags: &[&str]) {
        let id = self.id(name);
        let mut arguments = vec!["entry", "create", "-parentID", parent, "-spiffeID", &id];
        arguments.extend(["-selector", selector, "-output", "json"]);
        self.ask(&[&arguments, flags].concat()).await;
    }

    /// Adds an entry with its own ID. DNS names and the TTL of JWT-SVIDs are left out.
    pub(super) async fn create(&self, entry: &Entry) {
        let mut arguments = vec!["entry".to_owned(), "create".to_owned()];
        let mut flag = |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
        flag("-entryID", &entry.id);
        flag("-spiffeID", &entry.spiffe_id);
        flag("-parentID", &entry.parent_id);
        flag("-hint", &entry.hint);
        flag("-x509SVIDTTL", &entry.x509_svid_ttl.to_string());
        for selector in &entry.selectors {
            flag("-selector", &format!("{}:{}", selector.kind, selector.value));
        }
        for trust_domain in &entry.federates_with {
            flag("-federatesWith", trust_domain);
        }
        arguments.extend([format!("-admin={}", entry.admin), format!("-downstream={}", entry.downstream)]);
        self.ask(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }

    /// Replaces the selectors and the hint of an entry.
    pub(super) async fn update(&self, entry: &Entry) {
        let mut arguments = vec!["entry", "update", "-entryID", &entry.id, "-spiffeID", &entry.spiffe_id];
        arguments.extend(["-parentID", &entry.parent_id, "-hint", &entry.hint]);
        let selectors: Vec<String> =
            entry.selectors.iter().map(|one| format!("{}:{}", one.kind, one.value)).collect();
        arguments.extend(selectors.iter().flat_map(|selector| ["-selector", &**selector]));
        self.ask(&arguments).await;
    }

    /// Deletes an entry.
    pub(super) async fn delete(&self, entry_id: &str) {
        self.ask(&["entry", "delete", "-entryID", entry_id]).await;
    }

    /// Sets the bundle of another trust domain to these certificates, as PEM.
    pub(super) async fn set_bundle(&self, trust_domain: &str, authorities: &str) {
        self.set_bundle_as("pem", &format!("spiffe://{trust_domain}"), authorities).await;
    }

    /// Sets the bundle of another trust domain, in the format `pem` or `spiffe`.
    pub(super) async fn set_bundle_as(&self, format: &str, id: &str, bundle: &str) {
        let path = self.folder.path().join("bundle");
        std::fs::write(&path, bundle).expect("written");
        let path = path.display().to_string();
        self.ask(&["bundle", "set", "-format", format, "-id", id, "-path", &path]).await;
    }

    /// Federates with the trust domain of another server, which gives its bundle at this port.
    pub(super) async fn federate(&self, other: &Self, port: u16) {
        let path = self.folder.path().join("other.bundle");
        std::fs::write(&path, other.ask(&["bundle", "show", "-format", "spiffe"]).await).expect("written");
        let (domain, url, id) =
            (&*other.domain, format!("https://127.0.0.1:{port}"), other.id("spire/server"));
        let path = path.display().to_string();
        let mut create = vec!["federation", "create", "-trustDomain", domain, "-bundleEndpointURL", &url];
        create.extend(["-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", &id]);
        create.extend(["-trustDomainBundlePath", &path, "-trustDomainBundleFormat", "spiffe"]);
        self.ask(&create).await;
    }

    /// Fetches the bundle of a trust domain that it federates with now instead of at its next poll. For some seconds after a
    /// revocation, the other server still shows a certificate of the old authority.
    pub(super) async fn refresh(&self, domain: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(reason) = self.try_ask(&["federation", "refresh", "-id", domain]).await {
            assert!(Instant::now() < deadline, "{reason}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ceases to federate with a trust domain. The entries stay.
    pub(super) async fn forget(&self, domain: &str) {
        self.ask(&["federation", "delete", "-id", domain]).await;
        self.ask(&["bundle", "delete", "-id", domain, "-mode", "dissociate"]).await;
    }

    /// Lets every entry federate with a trust domain.
    pub(super) async fn federate_all(&self, domain: &str) {
        let printed = self.ask(&["entry", "show", "-output", "json"]).await;
        let answer: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        let id = |of: &serde_json::Value| {
            let part = |name: &str| of[name].as_str().expect("a text").to_owned();
            format!("spiffe://{}{}", part("trust_domain"), part("path"))
        };
        for entry in answer["entries"].as_array().into_iter().flatten() {
            let (own, parent) = (id(&entry["spiffe_id"]), id(&entry["parent_id"]));
            let entry_id = entry["id"].as_str().expect("an ID");
            let selector = &entry["selectors"][0];
            let selector = ["type", "value"].map(|name| selector[name].as_str().expect("a text")).join(":");
            let mut update = vec!["entry", "update", "-entryID", entry_id, "-spiffeID", &own];
            update.extend(["-parentID", &parent, "-selector", &selector, "-federatesWith", domain]);
            self.ask(&update).await;
        }
    }

    /// Evicts an agent. It may attest again.
    pub(super) async fn evict(&self, id: &str) {
        self.ask(&["agent", "evict", "-spiffeID", id]).await;
    }

    /// Bans an agent. It may not attest again.
    pub(super) async fn ban(&self, id: &str) {
        self.ask(&["agent", "ban", "-spiffeID", id]).await;
    }

    /// The ID of the X.509 authority in this state: `active`, `prepared` or `old`.
    pub(super) async fn authority(&self, state: &str) -> String {
        self.shown("x509", state, "authority_id").await
    }

    /// A field of the authority of this kind (`x509`, `jwt`) in this state.
    pub(super) async fn shown(&self, kind: &str, state: &str, field: &str) -> String {
        let printed = self.ask(&["localauthority", kind, "show", "-output", "json"]).await;
        let answer: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        answer[state][field].as_str().expect("there is one in this state").to_owned()
    }

    /// Waits until the server's own bundle has this JWT authority as a tainted one.
    pub(super) async fn until_tainted(&self, id: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let printed = self.ask(&["bundle", "show", "-output", "json"]).await;
            let bundle: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
            let mut keys = bundle["jwt_authorities"].as_array().into_iter().flatten();
            if keys.any(|key| key["key_id"] == id && key["tainted"] == true) {
                return;
            }
            assert!(Instant::now() < deadline, "{id} is not tainted in {printed}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs a subcommand of `localauthority x509`.
    pub(super) async fn order(&self, arguments: &[&str]) {
        self.ask(&[&["localauthority", "x509"], arguments].concat()).await;
    }

    /// The SPIFFE IDs of the server's agents.
    pub(super) async fn agents(&self) -> Vec<String> {
        let printed = self.ask(&["agent", "list", "-output", "json"]).await;
        let answer: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        let agents = answer["agents"].as_array().into_iter().flatten();
        agents
            .filter_map(|agent| agent["id"]["path"].as_str())
            .map(|path| format!("{}{path}", self.domain))
            .collect()
    }

    /// The number of log lines that contain this text.
    pub(super) fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Runs the server's command line, and returns what it prints.
    pub(super) async fn ask(&self, arguments: &[&str]) -> String {
        match self.try_ask(arguments).await {
            Ok(printed) => printed,
            Err(reason) => panic!("{arguments:?}: {reason}"),
        }
    }

    /// Runs the server's command line. The error is what it prints to standard error.
    pub(super) async fn try_ask(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("-socketPath").arg(self.folder.path().join("server.sock"));
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
        let output = output.map_err(|reason| reason.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

/// A port that is free now. The server refuses port 0.
pub(crate) fn free_port() -> u16 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    free.expect("there is a free port").port()
}

fn configuration(folder: &Path, port: u16, options: &Options<'_>) -> String {
    let store = options.datastore.unwrap_or(folder).display();
    let cache = options.cache.map(|cache| format!("experimental {{ cache_reload_interval = \"{cache}\" }}"));
    let (cache, plugins, folder) = (cache.unwrap_or_default(), options.plugins, folder.display());
    let (trust_domain, ttl, more) = (options.trust_domain, options.svid_ttl, options.server);
    format!(
        r#"server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    trust_domain = "{trust_domain}"
    data_dir = "{folder}/data"
    socket_path = "{folder}/server.sock"
    log_level = "DEBUG"
    default_x509_svid_ttl = "{ttl}"
    agent_ttl = "10m"
    {cache}
    {more}
}}
plugins {{
    DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{store}/store.sqlite3" }} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "memory" {{ plugin_data {{}} }}
    {plugins}
}}
"#
    )
}
