//! The gRPC services of the SPIRE server, limited to the methods that an agent calls.

mod agent;
mod attest;
mod bundle;
mod denied;
mod entry;
mod svid;

use std::sync::Arc;

use bytes::Bytes;
use proto::agent::agent_server::AgentServer;
use proto::bundle::bundle_server::BundleServer;
use proto::entry::entry_server::EntryServer;
use proto::svid::svid_server::SvidServer;
use proto::types;
use rustls::pki_types::CertificateDer;
use tonic::service::Routes;
use tonic::{Request, Status};

use crate::ca::Issued;
use crate::peer::{Caller, Peer};
use crate::state::Shared;

/// The caller and the method of a request. Each request has it in its extensions.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) peer: Peer,
    /// The full name of the method, which refusals cite.
    pub(crate) method: String,
}

/// All services.
pub(crate) fn routes(shared: &Arc<Shared>) -> Routes {
    let api = || Api(Arc::clone(shared));
    Routes::default()
        .add_service(AgentServer::new(api()))
        .add_service(BundleServer::new(api()))
        .add_service(EntryServer::new(api()))
        .add_service(SvidServer::new(api()))
        .prepare()
}

/// The implementation of all services.
struct Api(Arc<Shared>);

impl Api {
    /// The agent that calls, or the refusal if it may not. Counts refusals.
    fn agent<T>(&self, request: &Request<T>) -> Result<Arc<Caller>, Status> {
        let call = request.extensions().get::<Call>().expect("the listener adds a Call to each request");
        let denied = match &call.peer {
            Peer::Anonymous => denied::without_details(&call.method),
            Peer::Unusable(reason) => Status::unauthenticated(*reason),
            Peer::Known(caller) => match self.0.lock().authorize(caller) {
                Ok(()) => return Ok(Arc::clone(caller)),
                Err(reason) => denied::because(reason, &call.method),
            },
        };
        self.0.count(|counters| counters.denied += 1);
        Err(denied)
    }
}

fn internal(what: &str, error: impl std::fmt::Display) -> Status {
    Status::internal(format!("{what}: {error}"))
}

/// A SPIFFE ID as a message. A malformed one becomes a path without a trust domain, which no client accepts.
fn wire_id(text: &str) -> types::Spiffeid {
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return types::Spiffeid { trust_domain: String::new(), path: text.to_owned() };
    };
    let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    types::Spiffeid { trust_domain: trust_domain.to_owned(), path: path.to_owned() }
}

fn wire_svid(spiffe_id: &str, chain: &[CertificateDer<'_>], issued: &Issued) -> types::X509svid {
    types::X509svid {
        cert_chain: chain.iter().map(|der| Bytes::copy_from_slice(der)).collect(),
        id: Some(wire_id(spiffe_id)),
        expires_at: issued.not_after,
        hint: String::new(),
    }
}
