//! Limits on the memory and the work that callers may cost the agent.

use std::future::poll_fn;

use budget::{Budget, Limits};
use identity::Selectors;
use tokio::task::yield_now;

/// Limits of all callers together: bytes, and nanoseconds of work in one round. A DaemonSet gives the agent 64 MiB, and
/// the agent takes 11 of them for itself.
pub(crate) const SHARES: Limits = Limits {
    whole: 26 * MIB,
    // Room for a newcomer while the group that holds most is made to release memory.
    spare: 4 * MIB,
    group: 23 * MIB,
    // Enough for 1,000 streams of the largest kind, each with all that an Envoy may ask for.
    account: 12 * MIB,
    // Nanoseconds. A call of another group takes about six rounds.
    work: 200_000,
};

/// Starts a round of the budget whenever an account waits for one. Between two rounds every task that is ready runs
/// once.
pub(crate) async fn run_rounds(budget: Budget) {
    loop {
        poll_fn(|cx| budget.poll_parked(cx)).await;
        yield_now().await;
        budget.next_round();
    }
}

/// Nanoseconds that one attestation takes on the serving thread.
pub(crate) const ATTESTATION: u64 = 60_000;
/// Nanoseconds that each selector adds to an attestation, for sorting it and matching it against the entries.
pub(crate) const SELECTOR: u64 = 300;

/// Nanoseconds that it takes to find out whether a process has asked for these names before: its start time is read
/// from procfs.
pub(crate) const SOUGHT: u64 = 20_000;

/// Bytes that the manager keeps for a subscription with these selectors.
pub(crate) fn remembered(selectors: &Selectors) -> usize {
    let texts: usize = selectors.iter().map(|one| one.kind.len() + one.value.len() + OF_A_SELECTOR).sum();
    SUBSCRIPTION + texts
}

/// Bytes of a selector without its texts: four words, and two reference counts for each text.
const OF_A_SELECTOR: usize = 64;
/// Bytes of a subscription without its selectors: the channel, and places in tables.
const SUBSCRIPTION: usize = 512;
const MIB: usize = 1024 * 1024;
