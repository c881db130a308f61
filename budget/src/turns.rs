//! Turns: an account whose group has used up its allowance of work waits until a new round begins.
//!
//! One caller may have thousands of connections, and each is a task that may be ready. If each had a turn of its own,
//! everybody else would wait for thousands of turns. So all connections of a group share one turn, and take their
//! parts of it in the order in which they came.
//!
//! The owner runs the rounds: it waits for [`Budget::poll_parked`], lets all other ready tasks run, and calls
//! [`Budget::next_round`]. While no group has used up its allowance there are no rounds and nothing to run.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use crate::{Account, AccountNode, Budget, GroupNode, lock};

#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// The number of the current round.
    current: AtomicU64,
    /// Groups with accounts that wait.
    waiting: Mutex<Vec<Weak<GroupNode>>>,
    /// The owner's task, while it waits in [`Budget::poll_parked`].
    owner: Mutex<Option<Waker>>,
}

/// How much of the current round's allowance a group has used, and which of its accounts wait.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// The round in which `used` was counted.
    round: AtomicU64,
    used: AtomicU64,
    /// The queue may have accounts. It is read before the queue is locked, which is nearly always empty.
    parked: AtomicBool,
    /// Waiting accounts in the order of their turns.
    queue: Mutex<VecDeque<Weak<AccountNode>>>,
}

/// Whether an account waits for its turn: [`FREE`], [`PARKED`] or [`CALLED`].
#[derive(Debug, Default)]
pub(crate) struct State(AtomicU8);

const FREE: u8 = 0;
const PARKED: u8 = 1;
const CALLED: u8 = 2;

impl Account {
    /// Counts work that the account has done.
    #[inline]
    pub fn work(&self, units: u64) {
        self.node.group.begin_round();
        self.node.group.share.used.fetch_add(units, Ordering::Relaxed);
    }

    /// Whether the group has some of its allowance left. Work that comes in pieces asks before each piece.
    #[must_use]
    #[inline]
    pub fn may_work(&self) -> bool {
        self.node.group.may_work()
    }

    /// The rest of the group's allowance, in units of work.
    #[inline]
    #[must_use]
    pub fn allowance(&self) -> u64 {
        let group = &self.node.group;
        group.begin_round();
        group.whole.limits.work.saturating_sub(group.share.used.load(Ordering::Relaxed))
    }

    /// Ready when the account may begin to work. Otherwise it joins the queue of its group, and the task of `cx` is
    /// woken when it may try again. With `first` it joins at the head: an account that was interrupted still holds
    /// memory for unfinished work.
    pub fn poll_turn(&self, cx: &Context<'_>, first: bool) -> Poll<()> {
        let group = &self.node.group;
        let is_free = self.node.turn.0.load(Ordering::Relaxed) == FREE;
        if is_free && !group.share.parked.load(Ordering::Relaxed) && group.may_work() {
            return Poll::Ready(());
        }
        let mut queue = lock(&group.share.queue);
        let state = self.node.turn.0.load(Ordering::Relaxed);
        if state == PARKED {
            self.node.register(cx);
            return Poll::Pending;
        }
        // An account that was not called must not overtake those that wait.
        if group.may_work() && (queue.is_empty() || state == CALLED || first) {
            self.node.turn.0.store(FREE, Ordering::Relaxed);
            return Poll::Ready(());
        }
        self.node.turn.0.store(PARKED, Ordering::Relaxed);
        group.share.parked.store(true, Ordering::Relaxed);
        self.node.register(cx);
        if first || state == CALLED {
            queue.push_front(Arc::downgrade(&self.node));
        } else {
            queue.push_back(Arc::downgrade(&self.node));
        }
        if queue.len() == 1 {
            drop(queue);
            group.whole.rounds.wait(group);
        }
        Poll::Pending
    }
}

impl Budget {
    /// Ready when an account waits for the next round. Otherwise the task of `cx` is woken when one does. Only one
    /// task may wait for it.
    pub fn poll_parked(&self, cx: &Context<'_>) -> Poll<()> {
        let rounds = &self.whole.rounds;
        *lock(&rounds.owner) = Some(cx.waker().clone());
        if lock(&rounds.waiting).is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Begins a round: every group has its whole allowance again, and the first waiting accounts of each are woken.
    pub fn next_round(&self) {
        let rounds = &self.whole.rounds;
        rounds.current.fetch_add(1, Ordering::Relaxed);
        let groups = std::mem::take(&mut *lock(&rounds.waiting));
        for group in groups.iter().filter_map(Weak::upgrade) {
            let mut called = Vec::with_capacity(CALLED_AT_ONCE);
            let mut queue = lock(&group.share.queue);
            while called.len() < CALLED_AT_ONCE
                && let Some(next) = queue.pop_front()
            {
                called.extend(next.upgrade());
            }
            let more = !queue.is_empty();
            group.share.parked.store(more, Ordering::Relaxed);
            called.iter().for_each(|account| account.turn.0.store(CALLED, Ordering::Relaxed));
            drop(queue);
            called.iter().for_each(|account| account.wake());
            if more {
                rounds.wait(&group);
            }
        }
    }
}

impl Rounds {
    /// Records that an account of `group` waits, and wakes the owner.
    fn wait(&self, group: &Arc<GroupNode>) {
        let mut waiting = lock(&self.waiting);
        if !waiting.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(group))) {
            waiting.push(Arc::downgrade(group));
        }
        drop(waiting);
        let owner = lock(&self.owner).take();
        if let Some(owner) = owner {
            owner.wake();
        }
    }
}

impl GroupNode {
    #[inline]
    fn begin_round(&self) {
        let current = self.whole.rounds.current.load(Ordering::Relaxed);
        if self.share.round.load(Ordering::Relaxed) != current {
            self.share.round.store(current, Ordering::Relaxed);
            self.share.used.store(0, Ordering::Relaxed);
        }
    }

    #[inline]
    fn may_work(&self) -> bool {
        self.begin_round();
        self.share.used.load(Ordering::Relaxed) < self.whole.limits.work
    }
}

/// Accounts of a group that are woken when a round begins. Most waiting accounts have little to do, so that one alone
/// would leave allowance unused. Those that find nothing left go back to the head of the queue.
const CALLED_AT_ONCE: usize = 4;
