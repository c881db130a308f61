//! `fleet costs`: what the calls of an agent cost a real spire-server, by the CPU clock of its process.
//!
//! The calls are the agent's own (`agent::upstream`), made one after the other. What the server does by itself in the
//! same time is taken off.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::keys::{AgentKey, AgentSvid, Keys};
use agent::upstream::link::{Credentials, Link, Tls};
use agent::upstream::sync::{SyncState, sync};
use agent::upstream::tls::{KeyExchange, Roots};
use agent::upstream::{attest, jwt, mint};
use attestors::node::JoinToken;
use benches::running::Outcome;
use benches::running::server::SpireServer;
use config::{KeyType, Withdrawal};
use fleet::Costs;
use identity::{Bundle, Entry, TrustDomain};
use proto::bundle::GetBundleRequest;
use proto::bundle::bundle_client::BundleClient;
use sds_load::process::Process;
use tokio::time::{Instant, sleep};

/// Measures a server by finial's calls. It is started for this, without its limits for one address. Of real agents
/// nothing is known yet, which is written as 1.
pub(crate) async fn costs(program: &Path, measured: String) -> Outcome<Costs> {
    let folder = tempfile::tempdir()?;
    let server = SpireServer::start_with(program, folder.path(), "5s", "ERROR", [UNLIMITED, ""])?;
    let mut bench = Bench::new(&server).await?;
    create_entries(&server, ENTRIES)?;
    // The server reads its entries every five seconds.
    sleep(Duration::from_secs(11)).await;
    bench.rest().await?;
    let attestation = bench.attestations(&server).await?;
    let mut known = SyncState::new(Withdrawal::Immediate, INTERVAL);
    let entries = sync(&bench.link, &mut known, true).await?.entries.ok_or("no entries")?;
    if entries.len() < ENTRIES {
        return Err(format!("{} of {ENTRIES} entries", entries.len()).into());
    }
    let call = bench.each("sync", MANY, async |link: &Link| {
        sync(link, &mut known, true).await?;
        Ok(())
    });
    let sync_call = call.await?;
    let bundle = bench.each("bundle", MANY, get_bundle).await?;
    let status = bench.each("status", FEW, async |link: &Link| Ok(attest::post_status(link).await?)).await?;
    let refused = async |link: &Link| match jwt::sign(link, "", &[]).await {
        Ok(_) => Err("a token for no entry".into()),
        Err(_) => Ok(()),
    };
    let refusal = bench.each("refusal", MANY, refused).await?;
    let connection = bench.connections().await? - bundle;
    let renewal = bench.renewals().await?;
    let one = bench.signings(&entries, 1, MANY).await?;
    let many = bench.signings(&entries, BATCH, 4).await?;
    let signature = (many - one) / (BATCH - 1) as f64;
    Ok(Costs {
        measured,
        connection,
        sync: sync_call,
        bundle,
        attestation,
        renewal,
        status,
        batch: one - signature,
        signature,
        refusal,
        entries: entries.len(),
        real_sync: 1.0,
        real_sync_of_spire_agent: 1.0,
    })
}

/// A link to the server, and the server's CPU.
struct Bench {
    process: Process,
    port: u16,
    link: Link,
    keys: Keys,
    bundle: Arc<Bundle>,
    svid: Arc<AgentSvid>,
    /// What the server needs by itself, in microseconds a second.
    idle: f64,
}

impl Bench {
    async fn new(server: &SpireServer) -> Outcome<Self> {
        let process = Process::of(server.pid()).ok_or("the server has ended")?;
        let (mut keys, link) =
            (Keys::memory(), link(server.port(), Credentials { roots: Roots::Insecure, svid: None }));
        let token = token(server)?;
        let attestor = JoinToken::new(token).into();
        let new = attest::attest(&link, &Roots::Insecure, &attestor, keys.renew(None).await?).await?;
        let roots = Roots::Bundle(Arc::clone(&new.bundle));
        link.set_credentials(Credentials { roots, svid: Some(Arc::clone(&new.svid)) });
        Ok(Self { process, port: server.port(), link, keys, bundle: new.bundle, svid: new.svid, idle: 0.0 })
    }

    async fn rest(&mut self) -> Outcome<()> {
        let (before, start) = (self.cpu()?, Instant::now());
        sleep(REST).await;
        self.idle = (self.cpu()? - before) / start.elapsed().as_secs_f64();
        println!("at rest: {:.0} µs a second", self.idle);
        Ok(())
    }

    /// The microseconds of one call.
    async fn each(
        &self,
        name: &str,
        count: usize,
        mut call: impl AsyncFnMut(&Link) -> Outcome<()>,
    ) -> Outcome<f64> {
        for _ in 0..count / 10 {
            call(&self.link).await?;
        }
        let (before, start) = (self.cpu()?, Instant::now());
        for _ in 0..count {
            call(&self.link).await?;
        }
        self.share(name, count, before, start)
    }

    async fn attestations(&mut self, server: &SpireServer) -> Outcome<f64> {
        let tokens = (0..FEW).map(|_| token(server)).collect::<Outcome<Vec<_>>>()?;
        // The server's own work for the tokens ends.
        sleep(Duration::from_secs(2)).await;
        let (before, start) = (self.cpu()?, Instant::now());
        for token in tokens {
            let request = self.keys.renew(None).await?;
            attest::attest(&self.link, &self.roots(), &JoinToken::new(token).into(), request).await?;
        }
        self.share("attestation", FEW, before, start)
    }

    /// A connection and GetBundle on it.
    async fn connections(&self) -> Outcome<f64> {
        let (before, start) = (self.cpu()?, Instant::now());
        for _ in 0..FEW {
            let credentials = Credentials { roots: self.roots(), svid: Some(Arc::clone(&self.svid)) };
            get_bundle(&link(self.port, credentials)).await?;
        }
        self.share("connection and bundle", FEW, before, start)
    }

    async fn renewals(&mut self) -> Outcome<f64> {
        let (before, start) = (self.cpu()?, Instant::now());
        for _ in 0..FEW {
            let current: AgentKey = self.svid.key.clone();
            let request = self.keys.renew(Some(&current)).await?;
            // The certificate of this connection stays good for as long as the measurement lasts.
            attest::renew(&self.link, request).await?;
        }
        self.share("renewal", FEW, before, start)
    }

    async fn signings(&self, entries: &[Arc<Entry>], size: usize, count: usize) -> Outcome<f64> {
        let batch: Vec<_> = entries.iter().cycle().take(size).cloned().collect();
        let call = async |link: &Link| {
            let signed = mint::mint(link, batch.clone(), KeyType::EcP256).await?;
            if signed.iter().all(|(_, outcome)| outcome.is_ok()) {
                Ok(())
            } else {
                Err("not all are signed".into())
            }
        };
        self.each(&format!("batch of {size}"), count, call).await
    }

    fn share(&self, name: &str, count: usize, before: f64, start: Instant) -> Outcome<f64> {
        let own = self.idle * start.elapsed().as_secs_f64();
        let each = (self.cpu()? - before - own) / count as f64;
        println!("{name}: {each:.0} µs, of {count}");
        Ok(each)
    }

    fn roots(&self) -> Roots {
        Roots::Bundle(Arc::clone(&self.bundle))
    }

    /// The server's CPU time so far, in microseconds.
    fn cpu(&self) -> Outcome<f64> {
        Ok(self.process.sample().ok_or("the server has ended")?.cpu_ms * 1e3)
    }
}

async fn get_bundle(link: &Link) -> Outcome<()> {
    let call = |channel| async move {
        BundleClient::new(channel).get_bundle(GetBundleRequest { output_mask: None }).await
    };
    link.read(agent::upstream::CALL_LIMIT, call).await?;
    Ok(())
}

fn link(port: u16, credentials: Credentials) -> Link {
    let domain = TrustDomain::parse("example.org").expect("a trust domain");
    Link::new(Tls::new("127.0.0.1".into(), port, domain.server_id(), KeyExchange::Preferred), credentials)
}

/// Registers so many entries for the agents.
pub(crate) fn create_entries(server: &SpireServer, count: usize) -> Outcome<()> {
    for number in 0..count {
        let id = format!("spiffe://example.org/web-{number}");
        let selector = format!("unix:uid:{}", 5000 + number);
        server.ask(&["entry", "create"], &["-parentID", NODE, "-spiffeID", &id, "-selector", &selector])?;
    }
    Ok(())
}

/// A join token of an agent that has the entries below [`NODE`].
pub(crate) fn token(server: &SpireServer) -> Outcome<String> {
    let made = server.ask(&["token", "generate"], &["-spiffeID", NODE, "-output", "json"])?;
    let token: serde_json::Value = serde_json::from_str(&made)?;
    Ok(token["value"].as_str().ok_or("no token")?.to_owned())
}

/// One machine stands for many.
pub(crate) const UNLIMITED: &str = "ratelimit { attestation = false signing = false }";
/// The node alias of the agents.
pub(crate) const NODE: &str = "spiffe://example.org/node";
const ENTRIES: usize = 10;
const INTERVAL: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_secs(20);
/// How often a call is made whose cost is below a millisecond.
const MANY: usize = 2000;
/// … and above.
const FEW: usize = 100;
/// The entries of a full batch.
const BATCH: usize = 500;
