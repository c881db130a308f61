//! Where the first bundle comes from.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use identity::Url;

/// How the agent authenticates the server at first contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustBundleSource {
    /// Not at all (SPIRE: `agent.insecure_bootstrap`).
    Insecure,
    /// By the bundle in a file (SPIRE: `agent.trust_bundle_path`, `agent.trust_bundle_format`).
    File {
        /// The path of the file.
        path: PathBuf,
        /// The format of the file.
        format: BundleFormat,
    },
    /// By the bundle that a web server has (SPIRE: `agent.trust_bundle_url`).
    Web {
        /// The URL, whose scheme is `https`.
        url: BundleUrl,
        /// The format of what it serves.
        format: BundleFormat,
    },
    /// By the bundle that a server on a Unix socket has (SPIRE: `agent.trust_bundle_unix_socket`).
    UnixSocket {
        /// The path of the socket.
        socket: PathBuf,
        /// The URL that is asked for (SPIRE: `agent.trust_bundle_url`). Its scheme is `http`.
        url: BundleUrl,
        /// The format of what it serves.
        format: BundleFormat,
    },
    /// By the bundle that another agent serves (SPIRE: `agent.trust_bundle_spiffe_workload_api`).
    WorkloadApi(WorkloadApi),
}

/// The format of a trust bundle (SPIRE: `agent.trust_bundle_format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BundleFormat {
    /// PEM certificates.
    #[default]
    Pem,
    /// A SPIFFE bundle document (JSON).
    Spiffe,
}

/// A URL with a host. It is shown without its user information and query, which may be secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct BundleUrl(Url);

impl BundleUrl {
    /// Takes a URL. `None` if it has no host, or a port that is none.
    pub(crate) fn new(url: Url) -> Option<Self> {
        let (host, port) = url.host_and_port();
        let usable = !host.is_empty() && (port.is_empty() || port.parse::<u16>().is_ok_and(|port| port != 0));
        usable.then_some(Self(url))
    }

    /// The URL, for the request.
    #[must_use]
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for BundleUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.0.scheme, self.0.host, self.0.path)
    }
}

impl fmt::Debug for BundleUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BundleUrl({self})")
    }
}

/// The address of a Workload API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadApi {
    /// `unix:///path`
    Unix(PathBuf),
    /// `tcp://address:port`
    Tcp(SocketAddr),
}

impl WorkloadApi {
    /// Reads an address as go-spiffe does (`workloadapi/addr.go`), and in its words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).ok_or("workload endpoint socket is not a valid URI")?;
        let is_opaque = !url.scheme.is_empty() && !url.path.is_empty() && !url.path.starts_with('/');
        let has_host = !url.host.is_empty();
        let kind = match &*url.scheme {
            "tcp" | "unix" => &url.scheme,
            _ => return Err("workload endpoint socket URI must have a \"tcp\" or \"unix\" scheme".into()),
        };
        let rules = [
            (is_opaque && !has_host, "not be opaque"),
            (url.user.is_some(), "not include user info"),
            (kind == "tcp" && !has_host, "include a host"),
            (kind == "tcp" && !url.path.is_empty(), "not include a path"),
            (kind == "unix" && !has_host && url.path.is_empty(), "include a path"),
            (!url.query.is_empty(), "not include query values"),
            (!url.fragment.is_empty(), "not include a fragment"),
            // go-spiffe finds this when it dials.
            (kind == "unix" && has_host, "not include a host; write unix:///path/to/socket"),
        ];
        if let Some((_, rule)) = rules.into_iter().find(|(broken, _)| *broken) {
            return Err(format!("workload endpoint {kind} socket URI must {rule}"));
        }
        if kind == "unix" {
            let path = url.unescaped_path().ok_or("workload endpoint socket is not a valid URI")?;
            return Ok(Self::Unix(path.into()));
        }
        let (host, port) = url.host_and_port();
        let address: IpAddr =
            host.parse().map_err(|_| "workload endpoint tcp socket URI host component must be an IP:port")?;
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or("workload endpoint tcp socket URI host component must include a port")?;
        Ok(Self::Tcp(SocketAddr::new(address, port)))
    }
}

/// As it is written in the configuration.
impl fmt::Display for WorkloadApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}
