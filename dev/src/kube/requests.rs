//! The requests that a server has received, for assertions.

use hyper::Uri;
use tokio::sync::watch;
use tokio::time::Instant;

/// A received request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedRequest {
    /// The path, without the query.
    pub path: String,
    /// The text after the question mark; empty if there is none.
    pub query: String,
    /// The time of arrival.
    pub at: Instant,
}

/// All received requests, in order.
#[derive(Default)]
pub(super) struct Requests(watch::Sender<Vec<ReceivedRequest>>);

impl Requests {
    pub(super) fn add(&self, uri: &Uri) {
        let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
        self.0.send_modify(|all| all.push(ReceivedRequest { path, query, at: Instant::now() }));
    }

    pub(super) fn all(&self) -> Vec<ReceivedRequest> {
        self.0.borrow().clone()
    }

    /// Waits until `times` requests are `wanted`, and returns these.
    pub(super) async fn wait(
        &self,
        times: usize,
        wanted: impl Fn(&ReceivedRequest) -> bool,
    ) -> Vec<ReceivedRequest> {
        let mut requests = self.0.subscribe();
        let enough = |all: &Vec<ReceivedRequest>| all.iter().filter(|asked| wanted(asked)).count() >= times;
        let all = requests.wait_for(enough).await.expect("the sender is in self");
        all.iter().filter(|asked| wanted(asked)).cloned().collect()
    }
}
