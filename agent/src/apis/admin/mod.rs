//! The APIs of the admin socket: Debug and Logger for operators, and the Delegated Identity API (SPIRE,
//! `pkg/agent/api`); and Inspect, which is Finial's own.
//!
//! It has no health service and no reflection, and calls need no security header.

mod debug;
mod delegated;
mod inspect;
mod logger;

use std::sync::Arc;
use std::time::Duration;

use config::Settings;

use self::debug::Debug;
use self::delegated::Delegated;
use self::inspect::Inspect;
use self::logger::Logger;
use super::Apis;
use super::table::{Handler, Method, Service, Shape, many, one};
use crate::door::{Admission, Patience};
use crate::explain::Inspector;
use crate::status::Status;
use crate::telemetry::{Metrics, names};

/// The services of the admin socket.
#[derive(Debug)]
pub(crate) struct Admin {
    admission: Arc<Admission>,
    debug: Debug,
    logger: Logger,
    delegated: Delegated,
    inspect: Inspect,
}

impl Admin {
    /// The services behind this door.
    pub(crate) fn new(
        settings: &Settings,
        admission: &Arc<Admission>,
        status: &Arc<Status>,
        inspector: Inspector,
    ) -> Self {
        let delegates = settings.authorized_delegates.as_slice().into();
        Self {
            admission: Arc::clone(admission),
            debug: Debug::new(Arc::clone(admission), Arc::clone(status)),
            logger: Logger::new(settings.log_level),
            delegated: Delegated::new(Arc::clone(admission), delegates),
            inspect: Inspect::new(inspector),
        }
    }
}

impl Apis for Admin {
    const SERVICES: &'static [Service<Self>] = SERVICES;
    const PATIENCE: Patience = Patience::Limited(Duration::ZERO);

    fn door(&self) -> &Admission {
        &self.admission
    }

    fn metrics(&self) -> &Metrics {
        self.admission.metrics()
    }
}

const SERVICES: &[Service<Admin>] = &[
    Service {
        name: "spire.agent.debug.v1.Debug",
        header: None,
        offered: |_| true,
        connections: Some(&names::DEBUG_CONNECTIONS),
        methods: &[Method {
            name: "GetInfo",
            request: Shape::Unary(MESSAGE),
            rate: None,
            calls: &names::GET_INFO,
            handler: Handler::Anonymous(|admin, anyone, request| {
                one(async move { Ok(admin.debug.info(anyone, request.decode()?)) })
            }),
        }],
    },
    Service {
        name: "spire.api.agent.logger.v1.Logger",
        header: None,
        offered: |_| true,
        connections: Some(&names::LOGGER_CONNECTIONS),
        methods: &[
            Method {
                name: "GetLogger",
                request: Shape::Unary(MESSAGE),
                rate: None,
                calls: &names::GET_LOGGER,
                handler: Handler::Anonymous(|admin, anyone, request| {
                    one(async move { Ok(admin.logger.get(anyone, request.decode()?)) })
                }),
            },
            Method {
                name: "SetLogLevel",
                request: Shape::Unary(MESSAGE),
                rate: None,
                calls: &names::SET_LOG_LEVEL,
                handler: Handler::Anonymous(|admin, anyone, request| {
                    one(async move { admin.logger.set(anyone, request.decode()?) })
                }),
            },
            Method {
                name: "ResetLogLevel",
                request: Shape::Unary(MESSAGE),
                rate: None,
                calls: &names::RESET_LOG_LEVEL,
                handler: Handler::Anonymous(|admin, anyone, request| {
                    one(async move { Ok(admin.logger.reset(anyone, request.decode()?)) })
                }),
            },
        ],
    },
    Service {
        name: "spire.api.agent.delegatedidentity.v1.DelegatedIdentity",
        header: None,
        offered: |_| true,
        connections: Some(&names::DELEGATED_CONNECTIONS),
        methods: &[
            Method {
                name: "SubscribeToX509SVIDs",
                request: Shape::ServerStreaming(SELECTORS_MESSAGE),
                rate: None,
                calls: &names::SUBSCRIBE_TO_X509_SVIDS,
                handler: Handler::Caller(|admin, caller, request| {
                    many(async move { admin.delegated.subscribe_to_svids(caller, request.decode()?).await })
                }),
            },
            Method {
                name: "SubscribeToX509Bundles",
                request: Shape::ServerStreaming(MESSAGE),
                rate: None,
                calls: &names::SUBSCRIBE_TO_X509_BUNDLES,
                handler: Handler::Caller(|admin, caller, request| {
                    many(async move { admin.delegated.subscribe_to_bundles(caller, request.decode()?) })
                }),
            },
            Method {
                name: "FetchJWTSVIDs",
                request: Shape::Unary(SELECTORS_MESSAGE),
                rate: None,
                calls: &names::FETCH_JWT_SVIDS,
                handler: Handler::Caller(|admin, caller, request| {
                    one(async move { admin.delegated.fetch_jwt_svids(caller, request.decode()?).await })
                }),
            },
            Method {
                name: "SubscribeToJWTBundles",
                request: Shape::ServerStreaming(MESSAGE),
                rate: None,
                calls: &names::SUBSCRIBE_TO_JWT_BUNDLES,
                handler: Handler::Caller(|admin, caller, request| {
                    many(async move { admin.delegated.subscribe_to_jwt_bundles(caller, request.decode()?) })
                }),
            },
        ],
    },
    Service {
        name: inspect::NAME,
        header: None,
        offered: |_| true,
        connections: None,
        methods: &[
            Method {
                name: "Explain",
                request: Shape::Unary(SELECTORS_MESSAGE),
                rate: None,
                calls: &names::EXPLAIN,
                handler: Handler::Unattested(|admin, caller, request| {
                    let asker = inspect::asker(&caller);
                    one(async move { admin.inspect.explain(&asker, request.decode()?).await })
                }),
            },
            Method {
                name: "ListRecords",
                request: Shape::Unary(MESSAGE),
                rate: None,
                calls: &names::LIST_RECORDS,
                handler: Handler::Unattested(|admin, caller, request| {
                    let asker = inspect::asker(&caller);
                    one(async move { admin.inspect.records(&asker, &request.decode()?) })
                }),
            },
            Method {
                name: "Overview",
                request: Shape::Unary(MESSAGE),
                rate: None,
                calls: &names::OVERVIEW,
                handler: Handler::Unattested(|admin, caller, request| {
                    let asker = inspect::asker(&caller);
                    one(async move { admin.inspect.overview(&asker, request.decode()?).await })
                }),
            },
        ],
    },
];

/// The longest message of a method that takes no selectors, in bytes.
const MESSAGE: u32 = 4 * 1024;
/// The longest message with selectors, in bytes: a pod may have hundreds of labels.
const SELECTORS_MESSAGE: u32 = 64 * 1024;
