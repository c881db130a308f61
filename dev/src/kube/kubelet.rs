//! The kubelet's server: `/pods`, with authentication and authorization.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, StatusCode, header};
use tokio::sync::watch;

use super::body::{self, Answer};
use super::door::{Answers, Door};
use super::requests::{ReceivedRequest, Requests};
use super::{Authority, Pod, pod_list};
use crate::server::Error;

/// A running kubelet. A test controls it by its methods, which take effect at once.
pub struct Kubelet {
    shared: Arc<Shared>,
    authority: Authority,
    secure: Door,
    read_only: Door,
}

/// The options of a kubelet.
#[derive(Clone, Debug)]
pub struct KubeletOptions {
    /// The names in its certificate.
    pub names: Vec<String>,
}

/// The rights of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// The account is known but has no rights.
    Nothing,
    /// `nodes/pods`: it may read the pods, and no other path.
    Pods,
    /// `nodes/proxy`: it may read everything.
    Proxy,
}

/// A fault of the answer to `/pods`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KubeletFault {
    /// The kubelet works.
    #[default]
    None,
    /// It does not answer until another fault, or none, is set.
    Silent,
    /// It answers with this error status and text.
    Status(u16, String),
    /// It answers 200 with this text.
    Text(String),
    /// It answers with the first half of the list as if it were complete.
    Truncated,
    /// It sends the first half of the list and cuts the connection.
    CutOff,
}

struct Shared {
    accounts: Mutex<Accounts>,
    list: Mutex<Bytes>,
    fault: watch::Sender<KubeletFault>,
    requests: Requests,
}

#[derive(Default)]
struct Accounts {
    tokens: BTreeMap<String, Rights>,
    certificates: BTreeMap<String, Rights>,
    anonymous: Option<Rights>,
}

impl Kubelet {
    /// Starts a kubelet with an authority of its own. It serves until it is dropped. At first it accepts nobody on the
    /// secure port; the read-only port needs no account.
    pub fn start(options: &KubeletOptions) -> Result<Self, Error> {
        let authority = Authority::new()?;
        let shared = Arc::new(Shared {
            accounts: Mutex::default(),
            list: Mutex::new(pod_list(&[]).into()),
            fault: watch::Sender::default(),
            requests: Requests::default(),
        });
        let tls = authority.server(&options.names, &authority)?;
        let secure = Door::open(Some(tls), Arc::new(Secure(Arc::clone(&shared))))?;
        let read_only = Door::open(None, Arc::new(ReadOnly(Arc::clone(&shared))))?;
        Ok(Self { shared, authority, secure, read_only })
    }

    /// The address of the HTTPS port.
    pub fn address(&self) -> SocketAddr {
        self.secure.address()
    }

    /// The address of the read-only port.
    pub fn read_only_address(&self) -> SocketAddr {
        self.read_only.address()
    }

    /// The authority that signs the kubelet's certificate and client certificates.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Closes both ports and cuts every connection.
    pub async fn down(&self) {
        self.secure.set_open(false).await;
        self.read_only.set_open(false).await;
    }

    /// Opens both ports again.
    pub async fn up(&self) {
        self.secure.set_open(true).await;
        self.read_only.set_open(true).await;
    }

    /// Replaces the certificate by one of this authority with these names, and cuts every connection.
    pub async fn certificate(&self, authority: &Authority, names: &[&str]) -> Result<(), Error> {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        self.secure.replace_tls(authority.server(&names, &self.authority)?).await;
        Ok(())
    }
}

/// The tokens and client certificates that it accepts, and their rights.
impl Kubelet {
    /// Accepts a token, as that of `system:serviceaccount:spire:spire-agent`.
    pub fn accept_token(&self, token: &str, rights: Rights) {
        self.shared.accounts().tokens.insert(token.into(), rights);
    }

    /// Stops accepting a token.
    pub fn refuse_token(&self, token: &str) {
        self.shared.accounts().tokens.remove(token);
    }

    /// Accepts client certificates with this common name.
    pub fn accept_certificate(&self, name: &str, rights: Rights) {
        self.shared.accounts().certificates.insert(name.into(), rights);
    }

    /// Accepts requests without credentials.
    pub fn accept_anonymous(&self, rights: Rights) {
        self.shared.accounts().anonymous = Some(rights);
    }
}

/// Answers and requests.
impl Kubelet {
    /// Sets the pods of the node.
    pub fn pods(&self, pods: &[Pod]) {
        self.list(pod_list(pods));
    }

    /// Sets the text of the pod list.
    pub fn list(&self, text: impl Into<Bytes>) {
        *self.shared.list.lock().expect(HELD) = text.into();
    }

    /// Sets the fault, also for requests that wait for an answer.
    pub fn fault(&self, fault: KubeletFault) {
        self.shared.fault.send_replace(fault);
    }

    /// All requests until now.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.requests.all()
    }

    /// Waits until a path was requested `times` times, and returns these requests. It has no timeout of its own.
    pub async fn asked(&self, path: &str, times: usize) -> Vec<ReceivedRequest> {
        self.shared.requests.wait(times, |asked| asked.path == path).await
    }
}

impl Shared {
    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().expect(HELD)
    }

    async fn pods(&self) -> Answer {
        let mut faults = self.fault.subscribe();
        let answers = faults.wait_for(|fault| *fault != KubeletFault::Silent).await;
        let fault = answers.expect("the sender is in self").clone();
        let list = self.list.lock().expect(HELD).clone();
        match fault {
            KubeletFault::None | KubeletFault::Silent => body::json(StatusCode::OK, list),
            KubeletFault::Status(code, text) => {
                body::text(StatusCode::from_u16(code).expect("a status"), text)
            }
            KubeletFault::Text(text) => body::json(StatusCode::OK, text),
            KubeletFault::Truncated => body::json(StatusCode::OK, list.slice(..list.len() / 2)),
            KubeletFault::CutOff => body::cut_off(&list),
        }
    }
}

/// The HTTPS port.
struct Secure(Arc<Shared>);

impl Answers for Secure {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, client: Option<Arc<str>>) -> Answer {
        self.0.requests.add(request.uri());
        let rights = self.0.accounts().rights(&request, client.as_deref());
        match (rights, request.uri().path()) {
            (None, _) => body::text(StatusCode::UNAUTHORIZED, "Unauthorized"),
            (Some(Rights::Pods | Rights::Proxy), "/pods" | "/pods/") => self.0.pods().await,
            (Some(Rights::Proxy), _) => not_found(),
            (Some(_), "/pods" | "/pods/") => forbidden("pods proxy"),
            (Some(_), _) => forbidden("proxy"),
        }
    }
}

/// The plain HTTP port, which everybody may read.
struct ReadOnly(Arc<Shared>);

impl Answers for ReadOnly {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, _: Option<Arc<str>>) -> Answer {
        self.0.requests.add(request.uri());
        match request.uri().path() {
            "/pods" | "/pods/" => self.0.pods().await,
            _ => not_found(),
        }
    }
}

impl Accounts {
    fn rights(&self, request: &Request<Incoming>, client: Option<&str>) -> Option<Rights> {
        if let Some(known) = client.and_then(|name| self.certificates.get(name)) {
            return Some(*known);
        }
        let Some(authorization) = request.headers().get(header::AUTHORIZATION) else { return self.anonymous };
        let token = authorization.to_str().ok()?.strip_prefix("Bearer ")?;
        self.tokens.get(token).copied()
    }
}

impl Default for KubeletOptions {
    fn default() -> Self {
        Self { names: vec!["127.0.0.1".into(), "node".into()] }
    }
}

fn forbidden(subresources: &str) -> Answer {
    let user = "system:serviceaccount:spire:spire-agent";
    let text =
        format!("Forbidden (user={user}, verb=get, resource=nodes, subresource(s)=[{subresources}])\n");
    body::text(StatusCode::FORBIDDEN, text)
}

fn not_found() -> Answer {
    body::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

const HELD: &str = "nobody panics with it in hand";
