//! A simulated Envoy: one connection, one stream for each secret, ACKs, and Envoy's reconnection.
//!
//! With the Workload API it is a simulated client of one of its streams, which sends no ACKs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use http::Request;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::clock;
use crate::connection::{Connection, Failure, Stream};
use crate::plan::{Answers, Api, Hold, Plan, Reading};
use crate::tally::{Tally, Timed};
use crate::wire::{self, Malformed, Message, Requests, Response};

/// The data that all Envoys of a process share.
pub(crate) struct Fleet {
    pub(crate) plan: Plan,
    pub(crate) tally: Rc<Tally>,
    requests: Vec<Requests>,
    head: http::request::Parts,
    pub(crate) unserved: RefCell<Vec<(usize, usize)>>,
}

impl Fleet {
    pub(crate) fn new(plan: Plan, tally: Rc<Tally>) -> Self {
        let node = wire::node(plan.node_bytes);
        let requests = |name: &String, node| match plan.api {
            Api::Delta => Requests::delta(name, plan.node_in, node),
            _ => Requests::new(name, plan.node_in, node),
        };
        let requests = plan.names.iter().map(|name| requests(name, node.clone())).collect();
        let head = head(plan.api);
        Self { plan, tally, requests, head, unserved: RefCell::default() }
    }

    /// Opens a stream for a name. The Workload API ignores the name.
    pub(crate) async fn open(
        &self,
        connection: &Connection,
        name: usize,
        version: &[u8],
    ) -> Result<Stream, Failure> {
        let request = Request::from_parts(self.head.clone(), ());
        let tally = Rc::clone(&self.tally);
        let asked = move || tally.count(|counts| counts.asked += 1);
        let stream = match self.plan.api {
            Api::Sds | Api::Delta => {
                connection
                    .stream(request, self.requests[name].first(version).on_written(asked), false)
                    .await?
            }
            Api::Workload | Api::X509Bundles | Api::JwtBundles => {
                connection.stream(request, Message::empty().on_written(asked), true).await?
            }
        };
        self.tally.count(|counts| counts.streams_opened += 1);
        Ok(stream)
    }

    /// Waits for the next response of a stream.
    pub(crate) async fn response(&self, stream: &mut Stream, name: usize) -> Result<Response, Failure> {
        let message = stream.next().await?.ok_or_else(Failure::ended)?;
        let response = self.read(&message)?;
        let asked = &self.plan.names[name];
        if self.plan.api.is_sds() && response.name.as_deref() != Some(asked.as_bytes()) {
            let got = response.name.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            return Err(Failure {
                code: "another resource".into(),
                message: format!("{got:?} for {asked:?}"),
            });
        }
        Ok(response)
    }

    fn read(&self, message: &Bytes) -> Result<Response, Malformed> {
        match self.plan.api {
            Api::Sds => wire::response(message),
            Api::Delta => wire::delta_response(message),
            Api::Workload => wire::x509_svids(message),
            Api::X509Bundles | Api::JwtBundles => Ok(wire::bundles(message)),
        }
    }

    /// The ACK of a response; `None` for the Workload API.
    pub(crate) fn ack(&self, name: usize, response: &Response) -> Option<Message> {
        let ack = || self.requests[name].answer(&response.version, &response.nonce, None);
        self.plan.api.is_sds().then(ack)
    }
}

/// One simulated Envoy.
pub(crate) struct Envoy {
    fleet: Rc<Fleet>,
    number: usize,
    hold: Rc<Hold>,
    connection: Mutex<Option<Rc<Connection>>>,
    waiting: Cell<usize>,
}

/// The state of a stream that survives its reconnections.
#[derive(Default)]
struct Memory {
    accepted: Bytes,
    served: bool,
    responses: u64,
    backoff: Backoff,
}

impl Envoy {
    pub(crate) fn new(fleet: Rc<Fleet>, hold: Rc<Hold>, number: usize) -> Rc<Self> {
        let waiting = Cell::new(hold.streams);
        Rc::new(Self { fleet, number, hold, connection: Mutex::new(None), waiting })
    }

    /// Runs one stream, with its reconnections.
    pub(crate) async fn live(self: Rc<Self>, index: usize) {
        sleep(self.hold.delay(self.number)).await;
        let name = index % self.fleet.plan.names.len();
        let mut memory = Memory::default();
        let unserved = Unserved { envoy: &self, name, served: Cell::new(false) };
        let asked = clock::now();
        loop {
            let Err(failure) = self.once(name, asked, &mut memory, &unserved).await;
            self.fleet.tally.failed(&failure);
            if !self.hold.reconnect {
                self.fleet.tally.count(|counts| counts.gave_up += 1);
                return std::future::pending().await;
            }
            sleep(memory.backoff.next(rand::random())).await;
        }
    }

    async fn once(
        &self,
        name: usize,
        asked: u64,
        memory: &mut Memory,
        unserved: &Unserved<'_>,
    ) -> Result<std::convert::Infallible, Failure> {
        let connection = self.connection().await?;
        let fleet = &self.fleet;
        let mut stream = fleet.open(&connection, name, &memory.accepted).await?;
        let _open = fleet.tally.open(|counts| &mut counts.streams_open);
        if matches!(self.hold.reading, Reading::Window(_)) {
            stream.keep_window();
        }
        let mut content = None;
        loop {
            let response = fleet.response(&mut stream, name).await?;
            let now = clock::now();
            memory.backoff.reset();
            memory.responses += 1;
            match content.replace(response.content) {
                None if !memory.served => {
                    memory.served = true;
                    unserved.served.set(true);
                    fleet.tally.served(asked);
                }
                None => {}
                Some(before) if before == response.content => {
                    fleet.tally.count(|counts| counts.unneeded += 1)
                }
                Some(_) => {
                    fleet.tally.count(|counts| counts.pushes += 1);
                    fleet.tally.arrived(&fleet.plan.names[name], response.content, now);
                }
            }
            self.answer(&mut stream, name, memory, &response, now)?;
            if memory.responses == 1 {
                self.one_more_is_served(&connection);
            }
        }
    }

    /// The connection of all streams. The first stream that finds it closed opens another.
    async fn connection(&self) -> Result<Rc<Connection>, Failure> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = connection.as_ref().filter(|open| open.is_open()) {
            return Ok(Rc::clone(open));
        }
        let window = match self.hold.reading {
            Reading::Window(bytes) => Some(bytes),
            _ => None,
        };
        let opened = Rc::new(Connection::open(&self.fleet.plan.socket, window, &self.fleet.tally).await?);
        if self.hold.reading == Reading::Nothing {
            opened.stop_reading();
        }
        *connection = Some(Rc::clone(&opened));
        Ok(opened)
    }

    fn one_more_is_served(&self, connection: &Connection) {
        self.waiting.set(self.waiting.get() - 1);
        if self.waiting.get() == 0 && self.hold.reading == Reading::UntilServed {
            connection.stop_reading();
        }
    }

    fn answer(
        &self,
        stream: &mut Stream,
        name: usize,
        memory: &mut Memory,
        response: &Response,
        arrived: u64,
    ) -> Result<(), Failure> {
        let fleet = &self.fleet;
        if !fleet.plan.api.is_sds() {
            return Ok(());
        }
        let nack = match fleet.plan.answers {
            Answers::Never => return Ok(()),
            Answers::NackEvery(every) => every > 0 && memory.responses.is_multiple_of(every),
            Answers::Ack => false,
        };
        let error = nack.then_some("sds-load rejects every so many-th response");
        if !nack {
            memory.accepted = response.version.clone();
        }
        let answer = fleet.requests[name].answer(&memory.accepted, &response.nonce, error);
        let tally = Rc::clone(&fleet.tally);
        let written = move || {
            tally.time(Timed::ArrivalToAck, clock::now() - arrived);
            tally.count(|counts| *if nack { &mut counts.nacks } else { &mut counts.acks } += 1);
        };
        stream.send(answer.on_written(written), false)
    }
}

/// Reports a stream without a secret when it is dropped at the end of the run.
struct Unserved<'a> {
    envoy: &'a Envoy,
    name: usize,
    served: Cell<bool>,
}

impl Drop for Unserved<'_> {
    fn drop(&mut self) {
        if !self.served.get() {
            self.envoy.fleet.unserved.borrow_mut().push((self.envoy.number, self.name));
        }
    }
}

/// The request headers, as Envoy and clients of the Workload API send them.
fn head(api: Api) -> http::request::Parts {
    let builder = Request::post(match api {
        Api::Sds => {
            "http://static_cluster_sds_unix_socket/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
        }
        Api::Delta => {
            "http://static_cluster_sds_unix_socket/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"
        }
        Api::Workload => "http://localhost/SpiffeWorkloadAPI/FetchX509SVID",
        Api::X509Bundles => "http://localhost/SpiffeWorkloadAPI/FetchX509Bundles",
        Api::JwtBundles => "http://localhost/SpiffeWorkloadAPI/FetchJWTBundles",
    });
    let builder = builder.header("te", "trailers").header("content-type", "application/grpc");
    let builder = if api.is_sds() {
        builder.header("x-envoy-internal", "true").header("x-forwarded-for", "127.0.0.1")
    } else {
        builder.header("workload.spiffe.io", "true")
    };
    builder.body(()).expect("well-formed").into_parts().0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_well_formed() {
        for (api, path) in [
            (Api::Sds, "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"),
            (Api::Delta, "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"),
            (Api::Workload, "/SpiffeWorkloadAPI/FetchX509SVID"),
            (Api::X509Bundles, "/SpiffeWorkloadAPI/FetchX509Bundles"),
            (Api::JwtBundles, "/SpiffeWorkloadAPI/FetchJWTBundles"),
        ] {
            assert_eq!(head(api).uri.path(), path);
        }
    }
}
