//! Turns: whose group has used up its allowance of work waits until a new round begins.
//!
//! One caller may have thousands of connections, and each is a task that is ready. Were each to have its turn, everybody
//! else would wait for thousands of turns. So the turns of a group together are as long as one, and its connections take
//! them in the order in which they came.
//!
//! The owner runs the rounds: it waits for [`Budget::poll_parked`], lets all other tasks that are ready have a go, and
//! calls [`Budget::next_round`]. While nobody has used up an allowance there are no rounds and nothing to run.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use crate::{Account, AccountNode, Budget, GroupNode, lock};

/// The rounds of a budget.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// The number of the current round.
    current: AtomicU64,
    /// Groups of which an account waits.
    waiting: Mutex<Vec<Weak<GroupNode>>>,
    /// The task that runs the rounds, while it waits for somebody to wait.
    owner: Mutex<Option<Waker>>,
}

/// A group's share of the current round.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// The round that `used` is of.
    round: AtomicU64,
    used: AtomicU64,
    /// The queue may have somebody. Asked first: nearly always it has nobody.
    parked: AtomicBool,
    /// The accounts that wait, in the order of their turns.
    queue: Mutex<VecDeque<Weak<AccountNode>>>,
}

/// Whether an account waits for its turn.
#[derive(Debug, Default)]
pub(crate) struct State(AtomicU8);

const FREE: u8 = 0;
const PARKED: u8 = 1;
const CALLED: u8 = 2;

impl Account {
    /// Counts work that was done.
    #[inline]
    pub fn work(&self, units: u64) {
        self.node.group.begin_round();
        self.node.group.share.used.fetch_add(units, Ordering::Relaxed);
    }

    /// Whether the group has not used up its allowance. Work in pieces asks before each piece.
    #[must_use]
    #[inline]
    pub fn may_work(&self) -> bool {
        self.node.group.may_work()
    }

    /// Work that is left of the group's allowance.
    #[inline]
    #[must_use]
    pub fn allowance(&self) -> u64 {
        let group = &self.node.group;
        group.begin_round();
        group.whole.limits.work.saturating_sub(group.share.used.load(Ordering::Relaxed))
    }

    /// Ready when the account may begin to work. Else it is in the queue of its group, and `cx` is woken when it may try
    /// again. With `first` it is put at the head of the queue: for one that was interrupted and holds what it has not
    /// worked off.
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
        // Whoever was not called does not overtake those that wait.
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
    /// Ready when an account waits for the next round. Else `cx` is woken when one does; for one task only.
    pub fn poll_parked(&self, cx: &Context<'_>) -> Poll<()> {
        let rounds = &self.whole.rounds;
        *lock(&rounds.owner) = Some(cx.waker().clone());
        if lock(&rounds.waiting).is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Begins a round: every group has its whole allowance again, and the first of those that wait are woken.
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
    /// Takes note that an account of a group waits.
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

/// Accounts of a group that are woken when a round begins. Most that wait have little to do, so that one alone would
/// leave the allowance unused; those for whom nothing is left go back to the head of the queue.
const CALLED_AT_ONCE: usize = 4;
