//! The flags of the demo.

use std::path::PathBuf;

use super::failure::Failure;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
cargo demo [--check] [--keep] [--agent PROGRAM]
cargo demo --server HOST:PORT --bundle FILE --join-token-frontend TOKEN --join-token-backend TOKEN
           [--trust-domain NAME] [...]

Runs frontend -> yelbapp -> yelbdb, redis with finial and Envoy on this machine, and shows what must be seen.

  --check                      only the checks, one line each; exit code 0 or 1
  --keep                       leave it running until Ctrl-C, and the files afterwards
  --agent PROGRAM              an agent that is there already, finial or spire-agent, instead of building finial
  --server HOST:PORT           a real SPIRE server instead of the built-in one; you register the entries, as you are told
  --bundle FILE                its trust bundle (spire-server bundle show)
  --trust-domain NAME          its trust domain (default am-multi-account-mesh)
  --join-token-frontend TOKEN  for the frontend's agent
  --join-token-backend TOKEN   for the other agent";

/// The meaning of a command line.
#[derive(Debug)]
pub(crate) enum Invocation {
    Help,
    Demo(Arguments),
}

/// The options of one run.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) check: bool,
    pub(crate) keep: bool,
    pub(crate) agent: Option<PathBuf>,
    pub(crate) trust_domain: String,
    /// The real SPIRE server to use; `None` for the built-in one.
    pub(crate) server: Option<RealServer>,
}

/// A real SPIRE server, and what the agents need to attest to it.
#[derive(Debug, Default)]
pub(crate) struct RealServer {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) bundle: PathBuf,
    pub(crate) frontend_token: String,
    pub(crate) backend_token: String,
}

impl Arguments {
    /// Parses the words after the program's name.
    ///
    /// # Errors
    /// If a flag is unknown, invalid or missing.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Invocation, Failure> {
        let mut arguments = Self {
            check: false,
            keep: false,
            agent: None,
            trust_domain: TRUST_DOMAIN.to_owned(),
            server: None,
        };
        let mut real = RealServer::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| Failure::usage(format!("{word} needs a value")));
            match word.as_str() {
                "-h" | "--help" => return Ok(Invocation::Help),
                "--check" => arguments.check = true,
                "--keep" => arguments.keep = true,
                "--agent" => arguments.agent = Some(value()?.into()),
                "--trust-domain" => arguments.trust_domain = value()?,
                "--server" => (real.host, real.port) = address(&value()?)?,
                "--bundle" => real.bundle = value()?.into(),
                "--join-token-frontend" => real.frontend_token = value()?,
                "--join-token-backend" => real.backend_token = value()?,
                _ => return Err(Failure::usage(format!("unknown flag {word}\n\n{HELP}"))),
            }
        }
        if !real.host.is_empty() {
            real.check(&arguments.trust_domain)?;
            arguments.server = Some(real);
        } else if arguments.trust_domain != TRUST_DOMAIN || real.given() {
            return Err(Failure::usage("--bundle, --trust-domain and the join tokens go with --server"));
        }
        Ok(Invocation::Demo(arguments))
    }
}

impl RealServer {
    fn given(&self) -> bool {
        self.bundle.as_os_str() != "" || !self.frontend_token.is_empty() || !self.backend_token.is_empty()
    }

    fn check(&self, trust_domain: &str) -> Result<(), Failure> {
        if self.bundle.as_os_str() == "" || self.frontend_token.is_empty() || self.backend_token.is_empty() {
            return Err(Failure::usage(format!(
                "with --server, the demo needs the server's bundle and two join tokens:\n\n  \
                 spire-server bundle show > bundle.pem\n  \
                 spire-server token generate -spiffeID spiffe://{trust_domain}/ns/spire/sa/spire-agent-front\n  \
                 spire-server token generate -spiffeID spiffe://{trust_domain}/ns/spire/sa/spire-agent-back\n\n\
                 and then --bundle bundle.pem --join-token-frontend TOKEN --join-token-backend TOKEN"
            )));
        }
        Ok(())
    }
}

fn address(text: &str) -> Result<(String, u16), Failure> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.unwrap_or((text, 8081));
    if host.is_empty() {
        return Err(Failure::usage(format!("--server {text:?} is not HOST:PORT")));
    }
    Ok((host.trim_matches(['[', ']']).to_owned(), port))
}

const TRUST_DOMAIN: &str = "am-multi-account-mesh";
