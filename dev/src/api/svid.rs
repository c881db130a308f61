//! The SVID service: signs X.509-SVIDs for workloads, each with a status of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::svid::svid_server::Svid;
use proto::svid::{
    BatchNewX509svidRequest, BatchNewX509svidResponse, NewJwtsvidRequest, NewJwtsvidResponse,
    NewX509svidParams, batch_new_x509svid_response,
};
use proto::types;
use tonic::{Request, Response, Status};

use super::{Api, internal, wire_id, wire_svid};
use crate::ca::{self, CsrError, Leaf, Signer};
use crate::entries::Entry;
use crate::fault::Fault;
use crate::ids;

#[tonic::async_trait]
impl Svid for Api {
    async fn batch_new_x509svid(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        let caller = self.agent(&request)?;
        self.0.count(|counters| counters.sign_calls += 1);
        let params = request.into_inner().params;
        if params.is_empty() {
            return Err(Status::invalid_argument("missing parameters"));
        }
        if params.len() > SIGN_LIMIT {
            return Err(Status::resource_exhausted(format!(
                "rejecting request due to certificate signing rate limiting: rate: Wait(n={}) exceeds limiter's \
                 burst {SIGN_LIMIT}",
                params.len()
            )));
        }
        let entries = self.0.authorized(&caller.id);
        let signer =
            self.0.lock().ca.signer().map_err(|error| internal("failed to sign X509-SVID", error))?;
        let results = params.iter().map(|params| match self.sign(params, &entries, &signer) {
            Ok(svid) => result(0, "OK", Some(svid)),
            Err(status) => result(status.code().into(), status.message(), None),
        });
        let results: Vec<_> = results.collect();
        let signed = results.iter().filter(|result| result.svid.is_some()).count();
        self.0.count(|counters| counters.signed += signed as u64);
        Ok(Response::new(BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<NewJwtsvidRequest>,
    ) -> Result<Response<NewJwtsvidResponse>, Status> {
        let caller = self.agent(&request)?;
        self.0.count(|counters| counters.jwt_calls += 1);
        let request = request.into_inner();
        if request.entry_id.is_empty() {
            return Err(Status::invalid_argument("missing entry ID"));
        }
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("at least one audience is required"));
        }
        let entries = self.0.authorized(&caller.id);
        let entry = entries.get(&request.entry_id);
        let entry = entry.ok_or_else(|| Status::not_found("entry not found or not authorized"))?;
        let signer = self.0.lock().ca.jwt().signer();
        let issued_at = ids::now();
        let ttl = match entry.jwt_svid_ttl {
            ..=0 => ids::seconds(self.0.options.jwt_svid_ttl),
            ttl => i64::from(ttl),
        };
        let expires_at = issued_at + ttl;
        let svid = types::Jwtsvid {
            token: signer.sign(&entry.spiffe_id, &request.audience, issued_at, expires_at),
            id: Some(wire_id(&entry.spiffe_id)),
            expires_at,
            issued_at,
            hint: entry.hint.clone(),
        };
        Ok(Response::new(NewJwtsvidResponse { svid: Some(svid) }))
    }
}

impl Api {
    fn sign(
        &self,
        params: &NewX509svidParams,
        entries: &BTreeMap<String, Arc<Entry>>,
        signer: &Signer,
    ) -> Result<types::X509svid, Status> {
        if params.entry_id.is_empty() {
            return Err(Status::invalid_argument("missing entry ID"));
        }
        if params.csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        let entry = entries
            .get(&params.entry_id)
            .ok_or_else(|| Status::not_found("entry not found or not authorized"))?;
        if self.0.fault() == Fault::RefuseToSign {
            return Err(Status::internal("failed to sign X509-SVID: the authority is away"));
        }
        let key = ca::public_key(&params.csr).map_err(|error| match error {
            CsrError::Malformed(why) => Status::invalid_argument(format!("malformed CSR: {why}")),
            CsrError::Signature(why) => Status::invalid_argument(format!("invalid CSR signature: {why}")),
        })?;
        if !entry.spiffe_id.starts_with("spiffe://") {
            return Err(Status::internal("entry has malformed SPIFFE ID"));
        }
        let ttl = match entry.x509_svid_ttl {
            ..=0 => ids::seconds(self.0.options.svid_ttl),
            ttl => i64::from(ttl),
        };
        let leaf = Leaf { spiffe_id: &entry.spiffe_id, dns_names: &entry.dns_names, ttl };
        let (chain, issued) =
            signer.issue(&leaf, &key).map_err(|error| internal("failed to sign X509-SVID", error))?;
        Ok(wire_svid(&entry.spiffe_id, &chain, &issued))
    }
}

fn result(code: i32, message: &str, svid: Option<types::X509svid>) -> batch_new_x509svid_response::Result {
    let status = types::Status { code, message: message.to_owned() };
    batch_new_x509svid_response::Result { status: Some(status), svid }
}

/// The most SVIDs of one call. The real server also limits the rate per second.
const SIGN_LIMIT: usize = 500;
