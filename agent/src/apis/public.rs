//! The APIs of the public socket: its table of services, and the implementation of `sds::Admit` by the door.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use config::Settings;
use http::{Request, Response};
use http2::RequestBody;
use identity::{Identity, WorkloadUpdate};
use sds::Told;
use sds::machine::Push;
use sds::wire::Protocol;
use tokio::sync::watch;
use tonic::Status;
use tonic::server::NamedService as _;
use transport::Peer;

use super::Apis;
use super::health::Health;
use super::reflection;
use super::reply::{self, ResponseBody};
use super::system_roots::SystemRoots;
use super::table::{Handler, Method, Responded, Service, Shape, many, one, unimplemented};
use super::validate::Validate;
use super::workload::{self, Workload};
use crate::door::{Admission, Patience, Rate};
use crate::manager::{Following, Granted};
use crate::status;
use crate::telemetry::{Calls, Metrics, names};

/// The services of the public socket.
#[derive(Debug)]
pub(crate) struct Public {
    admission: Arc<Admission>,
    health: Health,
    workload: Workload,
    validate: Validate,
    sds: sds::Service<Door>,
    /// Whether the Workload API is offered (`disable_workload_api` is not set).
    offers_workload: bool,
    /// Whether SDS is offered (`disable_sds_api` is not set).
    offers_sds: bool,
}

impl Public {
    /// The services behind this door.
    pub(crate) fn new(settings: &Settings, admission: &Arc<Admission>, status: &Arc<status::Status>) -> Self {
        let anyone = settings.allow_unauthenticated_verifiers;
        Self {
            admission: Arc::clone(admission),
            health: Health::new(Arc::clone(status)),
            workload: Workload::new(Arc::clone(admission), anyone, settings.log_selectors.clone()),
            validate: Validate::new(Arc::clone(admission), settings),
            sds: sds::Service::new(Door::new(admission), sds_options(settings)),
            offers_workload: !settings.disable_workload_api,
            offers_sds: !settings.disable_sds_api,
        }
    }

    /// The number of names that SDS streams wait for.
    pub(crate) fn held_names(&self) -> Arc<AtomicUsize> {
        self.sds.held_names()
    }

    async fn secrets(self: Arc<Self>, peer: Arc<Peer>, call: Request<RequestBody>) -> Response<ResponseBody> {
        self.sds.call(peer, call).await.map(ResponseBody::Sds)
    }

    async fn reflection(
        self: Arc<Self>,
        peer: Arc<Peer>,
        call: Request<RequestBody>,
    ) -> Response<ResponseBody> {
        let offered = SERVICES.iter().filter(|service| (service.offered)(&self));
        let services = offered.map(|service| service.name).collect();
        let anyone = self.admission.anyone();
        let answers = async move { reflection::info(anyone, peer, services, call.into_body()) };
        reply::response(many(answers).await)
    }
}

impl Apis for Public {
    const SERVICES: &'static [Service<Self>] = SERVICES;
    const PATIENCE: Patience = Patience::Limited(Duration::from_secs(5));

    fn door(&self) -> &Admission {
        &self.admission
    }

    fn metrics(&self) -> &Metrics {
        self.admission.metrics()
    }
}

const SERVICES: &[Service<Public>] = &[
    Service {
        name: sds::Service::<Door>::NAME,
        header: None,
        offered: |public| public.offers_sds,
        connections: Some(&names::SDS_CONNECTIONS),
        methods: &[
            secrets("StreamSecrets", Some(Rate::StreamSecrets), &names::STREAM_SECRETS),
            secrets("FetchSecrets", Some(Rate::FetchSecrets), &names::FETCH_SECRETS),
            secrets("DeltaSecrets", Some(Rate::StreamSecrets), &names::DELTA_SECRETS),
        ],
    },
    Service {
        name: "SpiffeWorkloadAPI",
        header: Some("workload.spiffe.io"),
        offered: |public| public.offers_workload,
        connections: Some(&names::WORKLOAD_CONNECTIONS),
        methods: &[
            Method {
                name: "FetchX509SVID",
                request: Shape::ServerStreaming(MESSAGE),
                rate: Some(Rate::FetchX509Svid),
                calls: &names::FETCH_X509_SVID,
                handler: Handler::Caller(|public, caller, request| {
                    many(async move { public.workload.fetch_x509_svid(caller, request.decode()?).await })
                }),
            },
            Method {
                name: "FetchX509Bundles",
                request: Shape::ServerStreaming(MESSAGE),
                rate: Some(Rate::FetchX509Bundles),
                calls: &names::FETCH_X509_BUNDLES,
                handler: Handler::Caller(|public, caller, request| {
                    many(async move { public.workload.fetch_x509_bundles(caller, request.decode()?).await })
                }),
            },
            Method {
                name: "FetchJWTSVID",
                request: Shape::Unary(MESSAGE),
                rate: Some(Rate::FetchJwtSvid),
                calls: &names::FETCH_JWT_SVID,
                handler: Handler::Unattested(|public, caller, request| {
                    one(async move { public.workload.fetch_jwt_svid(caller, request.decode()?).await })
                }),
            },
            Method {
                name: "FetchJWTBundles",
                request: Shape::ServerStreaming(MESSAGE),
                rate: Some(Rate::FetchJwtBundles),
                calls: &names::FETCH_JWT_BUNDLES,
                handler: Handler::Caller(|public, caller, request| {
                    many(async move { public.workload.fetch_jwt_bundles(caller, request.decode()?).await })
                }),
            },
            Method {
                name: "ValidateJWTSVID",
                request: Shape::Unary(TOKEN_MESSAGE),
                rate: None,
                calls: &names::VALIDATE_JWT_SVID,
                handler: Handler::Unattested(|public, caller, request| {
                    one(async move { public.validate.validate_jwt_svid(caller, request.decode()?).await })
                }),
            },
            Method {
                name: "FetchWITSVID",
                request: Shape::ServerStreaming(MESSAGE),
                rate: None,
                calls: &names::FETCH_WIT_SVID,
                handler: Handler::Anonymous(|_, _, _| unimplemented("fetching WIT-SVIDs is not implemented")),
            },
            Method {
                name: "FetchWITBundles",
                request: Shape::ServerStreaming(MESSAGE),
                rate: None,
                calls: &names::FETCH_WIT_BUNDLES,
                handler: Handler::Anonymous(|_, _, _| {
                    unimplemented("fetching WIT bundles is not implemented")
                }),
            },
        ],
    },
    Service {
        name: "grpc.health.v1.Health",
        header: None,
        offered: |_| true,
        connections: None,
        methods: &[
            Method {
                name: "Check",
                request: Shape::Unary(MESSAGE),
                rate: None,
                calls: &names::HEALTH_CHECK,
                handler: Handler::Anonymous(|public, anyone, request| {
                    one(async move { public.health.check(anyone, &request.decode()?) })
                }),
            },
            Method::unimplemented(
                "Watch",
                Shape::ServerStreaming(MESSAGE),
                &names::HEALTH_WATCH,
                |_, _, _| unimplemented("method Watch not implemented"),
            ),
            Method::unimplemented("List", Shape::Unary(MESSAGE), &names::HEALTH_LIST, |_, _, _| {
                unimplemented("method List not implemented")
            }),
        ],
    },
    reflection("grpc.reflection.v1.ServerReflection", METHODS),
    reflection("grpc.reflection.v1alpha.ServerReflection", ALPHA_METHODS),
];

/// The reflection service, under one of its two names.
const fn reflection(name: &'static str, methods: &'static [Method<Public>]) -> Service<Public> {
    Service { name, header: None, offered: |_| true, connections: None, methods }
}

const METHODS: &[Method<Public>] = &[reflects(&names::REFLECTION)];
const ALPHA_METHODS: &[Method<Public>] = &[reflects(&names::REFLECTION_ALPHA)];

/// The only method of the reflection service.
const fn reflects(calls: &'static Calls) -> Method<Public> {
    fn reflect(public: Arc<Public>, peer: Arc<Peer>, call: Request<RequestBody>) -> Responded {
        Box::pin(public.reflection(peer, call))
    }
    let handler = Handler::Own(reflect);
    Method { name: "ServerReflectionInfo", request: Shape::Own, rate: None, calls, handler }
}

/// A method of SDS. The crate `sds` asks the door, through [`Door`], which also applies the rate limit.
const fn secrets(name: &'static str, rate: Option<Rate>, calls: &'static Calls) -> Method<Public> {
    Method {
        name,
        request: Shape::Own,
        rate,
        calls,
        handler: Handler::Own(|public, peer, call| Box::pin(public.secrets(peer, call))),
    }
}

/// Gives SDS access to the door.
#[derive(Debug)]
pub(crate) struct Door {
    admission: Arc<Admission>,
    system_roots: SystemRoots,
}

impl Door {
    fn new(admission: &Arc<Admission>) -> Self {
        Self { admission: Arc::clone(admission), system_roots: SystemRoots::default() }
    }
}

impl sds::Admit for Door {
    async fn admit(&self, peer: Arc<Peer>, called: sds::Called) -> Result<sds::Admission, Status> {
        let rate = match called {
            sds::Called::Stream(_) => Some(Rate::StreamSecrets),
            sds::Called::FetchSecrets => Some(Rate::FetchSecrets),
            sds::Called::HeldStream => None,
        };
        // Waits without limit, because an error would start Envoy's backoff of up to 30 s.
        let caller = self.admission.caller(peer, Patience::Endless, rate).await.map_err(workload::denied)?;
        let updates = self.admission.subscribe(&caller).await.map_err(workload::denied)?;
        Ok(sds::Admission { updates, is_complete: caller.is_complete() })
    }

    fn sought<'a>(&self, peer: &Peer, protocol: Protocol, names: impl Iterator<Item = &'a str> + Clone) {
        self.admission.sought(peer, method(protocol), names);
    }

    async fn follow(
        &self,
        update: &WorkloadUpdate,
        entry_id: &str,
        audience: &[String],
    ) -> Result<Following, Status> {
        let stopping = || Status::unavailable("agent is shutting down");
        let manager = self.admission.manager().ok_or_else(stopping)?;
        let withdrawn = || Status::unavailable("the identity was withdrawn");
        let granted = Granted::by(update, entry_id).ok_or_else(withdrawn)?;
        manager.follow_jwt_svid(&granted, audience).await.map_err(|reason| workload::no_token(&reason))
    }

    fn system_roots(&self) -> sds::SystemRoots {
        self.system_roots.subscribe()
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.admission.news()
    }

    fn random(&self) -> u32 {
        rand::random()
    }

    fn pushed(&self, peer: &Peer, protocol: Protocol, push: &Push, update: Option<&Arc<WorkloadUpdate>>) {
        self.admission.metrics().add(&names::PUSHES, &[label(protocol)], 1);
        let method = method(protocol);
        let Some(update) = update else { return };
        for resource in &push.resources {
            if let Some(svid) = resource.svid() {
                let is_its =
                    |identity: &&Identity| identity.svid.as_ref().is_some_and(|one| Arc::ptr_eq(one, svid));
                if let Some(identity) = update.granting(svid.id.as_str()).find(is_its) {
                    self.admission.record().x509(peer, method, &identity.entry, svid);
                }
            } else if let Some(svid) = resource.token()
                && let Some(identity) = update.granting(svid.id.as_str()).next()
            {
                let name = [resource.name.to_string()];
                self.admission.record().jwt(peer, method, &identity.entry, svid, &name);
            }
        }
    }

    fn tell(&self, protocol: Protocol, told: Told) {
        let labels = [label(protocol)];
        let metrics = self.admission.metrics();
        match told {
            Told::Acked { after } => metrics.elapsed(&names::ACK_SECONDS, &labels, after),
            Told::Nacked => metrics.add(&names::NACKS, &labels, 1),
        }
    }
}

fn method(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Sotw => "StreamSecrets",
        Protocol::Delta => "DeltaSecrets",
    }
}

fn label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Sotw => "sotw",
        Protocol::Delta => "delta",
    }
}

fn sds_options(settings: &Settings) -> sds::Options {
    let sds = &settings.sds;
    sds::Options {
        default_svid_name: sds.default_svid_name.clone(),
        default_bundle_name: sds.default_bundle_name.clone(),
        default_all_bundles_name: sds.default_all_bundles_name.clone(),
        disable_spiffe_cert_validation: sds.disable_spiffe_cert_validation,
        unknown_names: match sds.unknown_names {
            config::UnknownNames::Hold => sds::UnknownNames::Hold,
            config::UnknownNames::Reject => sds::UnknownNames::Reject,
        },
        jwt: sds.jwt,
    }
}

/// The longest message of a method that takes audiences and IDs, in bytes.
const MESSAGE: u32 = 4 * 1024;
/// The longest message of a method that takes a token, in bytes.
const TOKEN_MESSAGE: u32 = 64 * 1024;
