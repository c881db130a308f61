//! What was asked, for assertions.

use hyper::Uri;
use tokio::sync::watch;
use tokio::time::Instant;

/// A request that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Without the query.
    pub path: String,
    /// Behind the question mark; empty without one.
    pub query: String,
    /// When it arrived.
    pub at: Instant,
}

/// All of them, in order.
#[derive(Default)]
pub(super) struct Requests(watch::Sender<Vec<Asked>>);

impl Requests {
    pub(super) fn add(&self, uri: &Uri) {
        let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
        self.0.send_modify(|all| all.push(Asked { path, query, at: Instant::now() }));
    }

    pub(super) fn all(&self) -> Vec<Asked> {
        self.0.borrow().clone()
    }

    /// Waits until there are so many of the wanted; returns those.
    pub(super) async fn wait(&self, times: usize, wanted: impl Fn(&Asked) -> bool) -> Vec<Asked> {
        let mut requests = self.0.subscribe();
        let enough = |all: &Vec<Asked>| all.iter().filter(|asked| wanted(asked)).count() >= times;
        let all = requests.wait_for(enough).await.expect("the sender is in self");
        all.iter().filter(|asked| wanted(asked)).cloned().collect()
    }
}
