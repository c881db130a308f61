//! ValidateJWTSVID of the Workload API, as spire-agent serves it (`endpoints/workload/handler.go`).
//!
//! Neither a token nor a claim is logged, at any level: the log has the rule that a token breaks, the caller its reason.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use config::Settings;
use identity::{Validated, WorkloadUpdate, validate_jwt};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use proto::workload as wire;
use serde_json::{Map, Value};
use tonic::Status;
use tracing::{debug, error, warn};
use transport::Peer;

use super::table::Unattested;
use super::workload::denied;
use crate::door::Admission;

/// The method's state.
#[derive(Debug)]
pub(super) struct Validate {
    admission: Arc<Admission>,
    /// `allowed_foreign_jwt_claims`: claims of foreign tokens that the answer has besides [`ALWAYS`].
    allowed: BTreeSet<String>,
}

impl Validate {
    /// The method behind this door.
    pub(super) fn new(admission: Arc<Admission>, settings: &Settings) -> Self {
        Self { admission, allowed: settings.allowed_foreign_jwt_claims.iter().cloned().collect() }
    }

    /// Validates a token by the bundles that the caller may have. The caller needs no identity.
    pub(super) async fn validate_jwt_svid(
        &self,
        caller: Unattested,
        request: wire::ValidateJwtsvidRequest,
    ) -> Result<wire::ValidateJwtsvidResponse, Status> {
        check(&request, &caller.peer)?;
        let caller = caller.attest(&self.admission).await?;
        let update = self.admission.subscribe(&caller).await.map_err(denied)?.latest();
        let peer = caller.peer();
        peer.account().work(VALIDATION);
        let bundles =
            std::iter::once(&update.bundle).chain(update.federated.values()).map(|bundle| &**bundle);
        match validate_jwt(&request.svid, bundles, &request.audience, SystemTime::now()) {
            Ok(valid) => {
                debug!(method = METHOD, pid = peer.process.pid, "Successfully validated JWT");
                Ok(self.response(valid, &update))
            }
            Err(reason) => {
                if peer.complain("invalid JWT") {
                    warn!(
                        method = METHOD,
                        pid = peer.process.pid,
                        error = reason.rule(),
                        "Failed to validate JWT"
                    );
                }
                Err(Status::invalid_argument(reason.to_string()))
            }
        }
    }

    fn response(&self, valid: Validated, update: &WorkloadUpdate) -> wire::ValidateJwtsvidResponse {
        let Validated { id, mut claims } = valid;
        if !id.is_member_of(&update.bundle.trust_domain) {
            claims.retain(|claim, _| ALWAYS.contains(&&**claim) || self.allowed.contains(claim));
        }
        wire::ValidateJwtsvidResponse { spiffe_id: id.to_string(), claims: Some(structure(claims)) }
    }
}

/// Checks that a request has what the method needs.
fn check(request: &wire::ValidateJwtsvidRequest, peer: &Peer) -> Result<(), Status> {
    for (value, name) in [(&request.audience, "audience"), (&request.svid, "svid")] {
        if value.is_empty() {
            if peer.complain(name) {
                let pid = peer.process.pid;
                error!(pid, method = METHOD, "Missing required {name} parameter");
            }
            return Err(Status::invalid_argument(format!("{name} must be specified")));
        }
    }
    Ok(())
}

fn structure(members: Map<String, Value>) -> Struct {
    Struct { fields: members.into_iter().map(|(name, member)| (name, value(member))).collect() }
}

fn value(json: Value) -> prost_types::Value {
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(on) => Kind::BoolValue(on),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(value).collect() })
        }
        Value::Object(members) => Kind::StructValue(structure(members)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// The method's name in the log.
const METHOD: &str = "ValidateJWTSVID";
/// The claims of foreign tokens that every answer has.
const ALWAYS: [&str; 3] = ["sub", "exp", "aud"];
/// Nanoseconds of a validation: the verification of a signature on P-521, the slowest of the usual ones.
const VALIDATION: u64 = 500_000;

#[cfg(test)]
mod tests {
    use identity::{Bundle, Bundles, SpiffeId, TrustDomain};
    use serde_json::json;

    use super::*;

    fn answer(id: &str, claims: &Value) -> wire::ValidateJwtsvidResponse {
        let validate = Validate {
            admission: Arc::new(Admission::new(
                vec![],
                tokio::sync::watch::channel(None).1,
                config::RateLimits::default(),
                "/proc".into(),
                crate::telemetry::Metrics::default(),
                crate::record::Record::default(),
            )),
            allowed: BTreeSet::from(["team".to_owned()]),
        };
        let bundle = Arc::new(Bundle::of_x509(TrustDomain::parse("td").unwrap(), []));
        let update = WorkloadUpdate::new(vec![], bundle, Bundles::new());
        let claims = claims.as_object().unwrap().clone();
        validate.response(Validated { id: SpiffeId::parse(id).unwrap(), claims }, &update)
    }

    #[test]
    fn of_a_foreign_token_only_the_allowed_claims_are_told() {
        let claims = json!({ "sub": "s", "exp": 1, "aud": ["a"], "iat": 1, "team": "x", "iss": "y" });
        let names = |id| answer(id, &claims).claims.unwrap().fields.into_keys().collect::<Vec<_>>();
        assert_eq!(names("spiffe://other/web"), ["aud", "exp", "sub", "team"]);
        assert_eq!(names("spiffe://td/web"), ["aud", "exp", "iat", "iss", "sub", "team"]);
    }

    #[test]
    fn claims_become_a_struct() {
        let claims = json!({ "a": [null, true, 1, 1.5, "x"], "b": { "c": {} } });
        let answer = answer("spiffe://td/web", &claims);
        assert_eq!(answer.spiffe_id, "spiffe://td/web");
        let of = |kind| prost_types::Value { kind: Some(kind) };
        let list = [
            Kind::NullValue(0),
            Kind::BoolValue(true),
            Kind::NumberValue(1.0),
            Kind::NumberValue(1.5),
            Kind::StringValue("x".into()),
        ];
        let inner = Struct { fields: [("c".to_owned(), of(Kind::StructValue(Struct::default())))].into() };
        let expected = [
            ("a".to_owned(), of(Kind::ListValue(ListValue { values: list.map(of).into() }))),
            ("b".to_owned(), of(Kind::StructValue(inner))),
        ];
        assert_eq!(answer.claims.unwrap().fields, expected.into());
    }
}
