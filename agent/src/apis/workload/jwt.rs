//! The JWT methods of the Workload API (WA §6).

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::try_join_all;
use identity::{Bundle, SpiffeId};
use proto::workload as wire;
use tokio_stream::Stream;
use tonic::Status;
use tracing::{debug, error};
use transport::Peer;

use super::super::table::Unattested;
use super::{Workload, denied, no_identity, unique_hints};
use crate::door::Caller;
use crate::manager::{Proof as _, TokenError};

impl Workload {
    /// One token for each of the caller's identities, or for the one that it asks for; all of them or none.
    pub(in crate::apis) async fn fetch_jwt_svid(
        &self,
        caller: Unattested,
        request: wire::JwtsvidRequest,
    ) -> Result<wire::JwtsvidResponse, Status> {
        check(&request, &caller.peer)?;
        let caller = caller.attest(&self.admission).await?;
        let pid = caller.peer().process.pid;
        let (manager, granted) = self.admission.granted(&caller).map_err(denied)?;
        let granted: Vec<_> = granted.iter().collect();
        let mut wanted = unique_hints(&granted, |granted| granted.entry());
        wanted.retain(|granted| {
            request.spiffe_id.is_empty() || granted.entry().spiffe_id.as_str() == request.spiffe_id
        });
        if wanted.is_empty() {
            return Err(no_identity(caller.peer(), caller.selectors(), METHOD, &self.log_selectors));
        }
        let signed = wanted.iter().map(async |granted| {
            let svid = manager.jwt_svid(granted, &request.audience).await;
            let svid =
                svid.map_err(|reason| not_signed(&caller, granted.entry().spiffe_id.as_str(), &reason))?;
            let ttl = svid.expires_at.duration_since(SystemTime::now()).unwrap_or_default().as_secs_f64();
            debug!(pid, method = METHOD, registered = true, spiffe_id = %svid.id, ttl, "Fetched JWT SVID");
            let record = self.admission.record();
            record.jwt(caller.peer(), METHOD, granted.entry(), &svid, &request.audience);
            Ok::<_, Status>(wire::Jwtsvid {
                spiffe_id: svid.id.to_string(),
                svid: svid.token().to_owned(),
                hint: granted.entry().hint.clone(),
            })
        });
        Ok(wire::JwtsvidResponse { svids: try_join_all(signed).await? })
    }

    pub(in crate::apis) async fn fetch_jwt_bundles(
        &self,
        caller: Caller,
        _: wire::JwtBundlesRequest,
    ) -> Result<impl Stream<Item = Result<wire::JwtBundlesResponse, Status>> + use<>, Status> {
        let subscriber = self.subscribe(caller, "FetchJWTBundles").await?;
        self.bundles(subscriber, jwks, |bundles| wire::JwtBundlesResponse { bundles })
    }
}

/// Checks what a request asks for.
fn check(request: &wire::JwtsvidRequest, peer: &Peer) -> Result<(), Status> {
    let pid = peer.process.pid;
    if request.audience.is_empty() {
        if peer.complain("audience") {
            error!(pid, method = METHOD, "Missing required audience parameter");
        }
        return Err(Status::invalid_argument("audience must be specified"));
    }
    if !request.spiffe_id.is_empty()
        && let Err(reason) = SpiffeId::parse(&request.spiffe_id)
    {
        if peer.complain("SPIFFE ID") {
            error!(pid, method = METHOD, error = %reason, "Invalid requested SPIFFE ID");
        }
        let words = reason.as_go_spiffe_says();
        return Err(Status::invalid_argument(format!("invalid requested SPIFFE ID: {words}")));
    }
    Ok(())
}

/// The keys of a bundle's JWT-SVIDs as a JWK set.
pub(crate) fn jwks(bundle: &Bundle) -> Bytes {
    bundle.jwks().into()
}

/// The status of a call that gets no token.
pub(crate) fn no_token(reason: &TokenError) -> Status {
    let words = format!("could not fetch JWT-SVID: {reason}");
    match reason {
        TokenError::Busy => Status::resource_exhausted(words),
        TokenError::ForOneUse => Status::failed_precondition(words),
        TokenError::Server(_) | TokenError::Stopped(_) => Status::unavailable(words),
    }
}

fn not_signed(caller: &Caller, spiffe_id: &str, reason: &TokenError) -> Status {
    if caller.peer().complain("no JWT-SVID") {
        let pid = caller.peer().process.pid;
        error!(pid, method = METHOD, spiffe_id, error = %reason, "Could not fetch JWT-SVID");
    }
    no_token(reason)
}

const METHOD: &str = "FetchJWTSVID";
