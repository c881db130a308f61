//! The command `api watch`: prints each update until it is interrupted.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::Code;

use super::client::{self, RpcError};
use super::flags::{FlagSet, Values};
use super::x509::{Certificate, Fetched, X509Error};
use super::{block_on, console, print, socket};

/// Runs `api watch`. It always ends with an error, as go-spiffe does: an interruption, or a call that is answered with
/// InvalidArgument.
pub(super) fn run(values: &Values) -> ExitCode {
    let path = match socket::path(values) {
        Ok(path) => path,
        Err(error) => {
            console::err(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    block_on(async {
        let error = tokio::select! {
            error = watch(&path) => error,
            _ = tokio::signal::ctrl_c() => RpcError::Canceled.into(),
        };
        console::err(&error.to_string());
        ExitCode::FAILURE
    })
}

async fn watch(path: &Path) -> WatchError {
    let mut watcher = Watcher { last: Instant::now(), failures: 0 };
    loop {
        let error = watcher.follow(path).await;
        if matches!(&error, WatchError::Rpc(rpc) if matches!(rpc.code(), Code::Cancelled | Code::InvalidArgument))
        {
            return error;
        }
        console::err(&error.to_string());
        tokio::time::sleep(watcher.wait()).await;
    }
}

struct Watcher {
    /// The time of the last update, or of the start.
    last: Instant,
    /// Failed streams since the last update.
    failures: u32,
}

impl Watcher {
    /// Prints the updates of one stream, and returns the error that ends it.
    async fn follow(&mut self, path: &Path) -> WatchError {
        let opened = async { client::x509_svids(client::connect(path).await?).await };
        let mut stream = match opened.await {
            Ok(stream) => stream,
            Err(error) => return error.into(),
        };
        loop {
            let update = match client::next(&mut stream).await {
                Ok(update) => update,
                Err(error) => return error.into(),
            };
            self.failures = 0;
            let fetched = Fetched::parse(&update).and_then(|fetched| {
                fetched.verify(SystemTime::now())?;
                Ok(fetched)
            });
            match fetched {
                Ok(fetched) => self.show(fetched),
                Err(error) => return error.into(),
            }
        }
    }

    fn show(&mut self, fetched: Fetched) {
        console::out(&text(fetched, self.last.elapsed()));
        self.last = Instant::now();
    }

    /// Counts a failure and returns the wait before the next stream: one second more after each failure, up to 30 s
    /// (go-spiffe).
    fn wait(&mut self) -> Duration {
        self.failures = (self.failures + 1).min(30);
        Duration::from_secs(self.failures.into())
    }
}

/// The text of an update. It is that of `api fetch`, but without hints, and trust domains have no `spiffe://` (SPIRE,
/// `cmd/spire-agent/cli/api/watch.go`).
fn text(mut fetched: Fetched, took: Duration) -> String {
    fetched.svids.iter_mut().for_each(|svid| svid.hint.clear());
    let named = |(id, bundle): (String, _)| (id.trim_start_matches("spiffe://").to_owned(), bundle);
    let federated: BTreeMap<String, Vec<Certificate>> = fetched.federated.into_iter().map(named).collect();
    print::pretty(&fetched.svids, &federated, took)
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    X509(#[from] X509Error),
}

/// The flags of `api watch`.
pub(super) const FLAGS: FlagSet =
    FlagSet { name: "watch", flags: &[socket::instance_flag(), socket::path_flag(socket::USAGE)] };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::print::tests::{certificate, svid};

    #[test]
    fn an_update_has_no_hints_and_plain_trust_domains() {
        let federated = BTreeMap::from([("spiffe://other".to_owned(), vec![certificate(0)])]);
        let text = text(Fetched { svids: vec![svid("internal", 1)], federated }, Duration::from_secs(2));
        let expected = "Received 1 svid after 2s\n\nSPIFFE ID:\t\tspiffe://td/a\nSVID Valid After:";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\n[other] CA #1 Valid After:\t"), "{text}");
    }

    #[test]
    fn waits_grow_by_a_second_up_to_thirty() {
        let mut watcher = Watcher { last: Instant::now(), failures: 0 };
        let waits: Vec<u64> = (0..40).map(|_| watcher.wait().as_secs()).collect();
        assert_eq!((&waits[..3], waits[29], waits[39]), (&[1, 2, 3][..], 30, 30));
    }
}
