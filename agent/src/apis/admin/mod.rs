//! The admin socket: for operators, and for whoever asks for the identities of others (SPIRE, `pkg/agent/api`).
//!
//! It has no health, no reflection, and asks for no header.

mod debug;
mod delegated;
mod logger;

use std::sync::Arc;

use budget::Charge;
use config::Settings;
use http::{Request, Response};
use http2::RequestBody;
use proto::debug::debug_server::DebugServer;
use proto::delegated::delegated_identity_server::DelegatedIdentityServer;
use proto::logger::logger_server::LoggerServer;
use tonic::server::NamedService;
use tower::Service as _;
use transport::Peer;

use self::debug::Debug;
use self::delegated::Delegated;
use self::logger::Logger;
use super::call::{Judged, Service, Shape};
use super::{Answer, Apis, MESSAGE, read};
use crate::door::Admission;
use crate::status::Status;

/// What is served on the admin socket.
#[derive(Debug)]
pub(crate) struct Admin {
    debug: DebugServer<Debug>,
    logger: LoggerServer<Logger>,
    delegated: DelegatedIdentityServer<Delegated>,
}

impl Admin {
    /// The APIs behind a door.
    pub(crate) fn new(settings: &Settings, admission: &Arc<Admission>, status: &Arc<Status>) -> Self {
        let delegates = settings.authorized_delegates.as_slice().into();
        Self {
            debug: DebugServer::new(Debug::new(Arc::clone(admission), Arc::clone(status))),
            logger: LoggerServer::new(Logger::new(settings.log_level)),
            delegated: DelegatedIdentityServer::new(Delegated::new(Arc::clone(admission), delegates)),
        }
    }
}

impl Apis for Admin {
    const SERVICES: &'static [Service] = &[
        Service { name: DEBUG, header: None, methods: &[("GetInfo", Shape::Unary(MESSAGE))] },
        Service {
            name: LOGGER,
            header: None,
            methods: &[
                ("GetLogger", Shape::Unary(MESSAGE)),
                ("SetLogLevel", Shape::Unary(MESSAGE)),
                ("ResetLogLevel", Shape::Unary(MESSAGE)),
            ],
        },
        Service {
            name: DELEGATED,
            header: None,
            methods: &[
                ("SubscribeToX509SVIDs", Shape::ServerStreaming(SELECTORS_MESSAGE)),
                ("SubscribeToX509Bundles", Shape::ServerStreaming(MESSAGE)),
                ("FetchJWTSVIDs", Shape::Unary(SELECTORS_MESSAGE)),
                ("SubscribeToJWTBundles", Shape::ServerStreaming(MESSAGE)),
            ],
        },
    ];

    async fn call(
        &self,
        peer: Arc<Peer>,
        call: &Judged,
        request: Request<RequestBody>,
    ) -> (Response<Answer>, Option<Charge>) {
        let (mut request, charge) = match read(&peer, call, request).await {
            Ok(read) => read,
            Err(status) => return (status.into_http(), None),
        };
        request.extensions_mut().insert(peer);
        let Ok(response) = match call.service {
            DEBUG => self.debug.clone().call(request).await,
            LOGGER => self.logger.clone().call(request).await,
            _ => self.delegated.clone().call(request).await,
        };
        (response.map(Answer::Other), Some(charge))
    }
}

const DEBUG: &str = DebugServer::<Debug>::NAME;
const LOGGER: &str = LoggerServer::<Logger>::NAME;
const DELEGATED: &str = DelegatedIdentityServer::<Delegated>::NAME;
/// The longest message with selectors, in bytes: a pod may have hundreds of labels.
const SELECTORS_MESSAGE: u32 = 64 * 1024;
