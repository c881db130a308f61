//! The Bundle service.

use std::sync::Arc;

use bytes::Bytes;
use proto::bundle::bundle_server::Bundle;
use proto::bundle::{GetBundleRequest, GetFederatedBundleRequest};
use proto::types::{self, BundleMask, X509Certificate};
use rustls::pki_types::CertificateDer;
use tonic::{Request, Response, Status};

use super::{Api, internal};
use crate::ca::{Authority, JwtKey};

#[tonic::async_trait]
impl Bundle for Api {
    async fn get_bundle(
        &self,
        request: Request<GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let (roots, keys) = {
            let ca = &mut self.0.lock().ca;
            let roots = ca.roots().map_err(|error| internal("failed to fetch bundle", error))?;
            (roots, ca.jwt().all().to_vec())
        };
        let jwt_key = |key: Arc<JwtKey>| types::JwtKey {
            public_key: Bytes::copy_from_slice(&key.public_key),
            key_id: key.id.clone(),
            expires_at: 0,
            tainted: key.tainted,
        };
        self.0.count(|counters| counters.bundles += 1);
        let bundle = types::Bundle {
            trust_domain: self.0.options.trust_domain.clone(),
            x509_authorities: roots.authorities.iter().map(|root| authority(root, &roots.tainted)).collect(),
            jwt_authorities: keys.into_iter().map(jwt_key).collect(),
            refresh_hint: self.0.options.refresh_hint,
            sequence_number: roots.sequence,
        };
        Ok(Response::new(masked(bundle, request.into_inner().output_mask)))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        self.agent(&request)?;
        self.0.count(|counters| counters.federated_bundles += 1);
        let request = request.into_inner();
        if request.trust_domain.is_empty() {
            return Err(Status::invalid_argument(
                "trust domain argument is not valid: trust domain is missing",
            ));
        }
        if request.trust_domain == self.0.options.trust_domain {
            return Err(Status::invalid_argument(
                "getting a federated bundle for the server's own trust domain is not allowed",
            ));
        }
        let found = self.0.lock().federated.get(&request.trust_domain).cloned();
        let found = found.ok_or_else(|| Status::not_found("bundle not found"))?;
        let bundle = types::Bundle {
            trust_domain: request.trust_domain,
            x509_authorities: found.authorities.iter().map(|der| certificate(der, false)).collect(),
            jwt_authorities: Vec::new(),
            refresh_hint: 0,
            sequence_number: found.sequence,
        };
        Ok(Response::new(masked(bundle, request.output_mask)))
    }
}

fn authority(root: &Arc<Authority>, tainted: &[Arc<Authority>]) -> X509Certificate {
    certificate(&root.certificate, tainted.iter().any(|one| Arc::ptr_eq(one, root)))
}

fn certificate(der: &CertificateDer<'static>, tainted: bool) -> X509Certificate {
    X509Certificate { asn1: Bytes::copy_from_slice(der), tainted }
}

fn masked(mut bundle: types::Bundle, mask: Option<BundleMask>) -> types::Bundle {
    let Some(mask) = mask else { return bundle };
    if !mask.x509_authorities {
        bundle.x509_authorities.clear();
    }
    if !mask.jwt_authorities {
        bundle.jwt_authorities.clear();
    }
    if !mask.refresh_hint {
        bundle.refresh_hint = 0;
    }
    if !mask.sequence_number {
        bundle.sequence_number = 0;
    }
    bundle
}
