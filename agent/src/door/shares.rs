//! What callers may make the agent keep and do.

use std::future::poll_fn;

use budget::{Budget, Limits};
use identity::Selectors;
use tokio::task::yield_now;

/// Bytes and work of all callers. A DaemonSet gives the agent 64 MiB, of which it takes 11 for itself.
pub(crate) const SHARES: Limits = Limits {
    whole: 26 * MIB,
    // A newcomer has its place while the group that holds most is made to let go.
    spare: 4 * MIB,
    group: 23 * MIB,
    // 1,000 streams of the largest kind, each with what an Envoy may ask for.
    account: 12 * MIB,
    // Nanoseconds. A call of somebody else takes about six rounds.
    work: 200_000,
};

/// Begins rounds as long as somebody waits for one. All other tasks that are ready have a go in between.
pub(crate) async fn run_rounds(budget: Budget) {
    loop {
        poll_fn(|cx| budget.poll_parked(cx)).await;
        yield_now().await;
        budget.next_round();
    }
}

/// Work that an attestation is on this thread, in nanoseconds.
pub(crate) const ATTESTATION: u64 = 60_000;
/// The same for each selector that it finds: to sort it, and to match it against the entries.
pub(crate) const SELECTOR: u64 = 300;

/// To find out whether a process has asked for these names before, in nanoseconds: its start time is read.
pub(crate) const SOUGHT: u64 = 20_000;

/// Bytes that it takes to remember what is known of a caller that listens.
pub(crate) fn remembered(selectors: &Selectors) -> usize {
    let texts: usize = selectors.iter().map(|one| one.kind.len() + one.value.len() + OF_A_SELECTOR).sum();
    SUBSCRIPTION + texts
}

/// A selector beside its texts: four words, and two counts for each text.
const OF_A_SELECTOR: usize = 64;
/// What is remembered beside selectors: the channel, and places in tables.
const SUBSCRIPTION: usize = 512;
const MIB: usize = 1024 * 1024;
