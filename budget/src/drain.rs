//! How the connections of a process that stops are sent away ([`Notice`](crate::Notice)).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use super::{AccountNode, Budget, GroupNode, lock};

impl Budget {
    /// Gives [`Notice::Drain`](crate::Notice::Drain) to every account, including those that are opened later.
    pub fn drain(&self) {
        self.whole.draining.store(true, Ordering::SeqCst);
        self.accounts().iter().for_each(|account| account.wake());
    }

    /// Gives [`Notice::Over`](crate::Notice::Over) to this many accounts that have not got it, and returns how many are left then. The clients of a
    /// process that drains come back at once, so that they should not all be sent away at once.
    pub fn end_some(&self, count: usize) -> usize {
        let accounts = self.accounts();
        let left: Vec<_> = accounts.iter().filter(|account| !account.over.load(Ordering::Acquire)).collect();
        for account in left.iter().take(count) {
            account.over.store(true, Ordering::Release);
            account.wake();
        }
        left.len().saturating_sub(count)
    }

    /// The open accounts of all groups.
    fn accounts(&self) -> Vec<Arc<AccountNode>> {
        let groups: Vec<_> = lock(&self.whole.groups).values().filter_map(Weak::upgrade).collect();
        let of_group = |group: &Arc<GroupNode>| {
            lock(&group.accounts).iter().filter_map(Weak::upgrade).collect::<Vec<_>>()
        };
        groups.iter().flat_map(of_group).collect()
    }

    /// Ready when nothing is held, after [`Self::drain`]. Only one task may wait for it.
    pub fn poll_drained(&self, cx: &Context<'_>) -> Poll<()> {
        *lock(&self.whole.drained) = Some(cx.waker().clone());
        if self.whole.held.load(Ordering::SeqCst) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}
