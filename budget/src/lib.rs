//! What callers may make the agent keep, in one tree of accounts: whole agent → caller group → connection.
//!
//! - [`Budget`]: the whole. Its unit is up to the owner: the agent has one in bytes and one in descriptors.
//! - [`Group`]: callers that share one fate, because one of them could multiply itself into all of them.
//! - [`Account`]: one connection of a group.
//! - [`Charge`]: something that is kept. It is taken out *before* the thing is made, and given back when it is dropped.
//!
//! A charge is refused when it exceeds the account's or the group's limit. When the whole is short, the group that holds
//! most loses first: a group that holds more than its fair share is refused, one that holds less is served from a spare
//! amount, and the idlest account of the greediest group is told to go ([`Account::poll_notice`]).
//!
//! Work is counted too ([`turns`]): a group has an allowance for each round, and whoever wants more waits for the next.
//!
//! The crate knows no socket and no clock: "idlest" is the account that was used the longest number of uses ago, and a
//! round ends when the owner says so.

pub mod turns;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use turns::{Rounds, Share};

#[cfg(test)]
mod tests;

/// The limits of a [`Budget`], all but `work` in the same unit.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// What all groups may hold together.
    pub whole: usize,
    /// What is left beyond `whole` for groups that hold less than their fair share.
    pub spare: usize,
    /// What one group may hold.
    pub group: usize,
    /// What one account may hold.
    pub account: usize,
    /// The work that the accounts of one group may do in a round, in units of the owner's choice.
    pub work: u64,
}

/// The root of the tree. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget {
    whole: Arc<Whole>,
}

/// A caller group. It is forgotten when its last handle, account or charge is gone.
#[derive(Debug, Clone)]
pub struct Group {
    node: Arc<GroupNode>,
}

/// A connection's account. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Account {
    node: Arc<AccountNode>,
}

/// An amount that is held, until dropped.
#[derive(Debug)]
pub struct Charge {
    account: Account,
    amount: usize,
}

/// Why a connection is to end, though its client has done nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Everybody is to finish what was begun, and to begin nothing new.
    Drain,
    /// Others need what the account holds: it must go now.
    Evicted,
}

/// There is no room for a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The connection holds as much as one may.
    #[error("the connection holds as much as one may")]
    Account,
    /// The caller's group holds as much as one may.
    #[error("the caller's group holds as much as one may")]
    Group,
    /// All callers together hold as much as they may, and this group at least its fair share.
    #[error("callers hold as much as they may together")]
    Whole,
}

#[derive(Debug)]
struct Whole {
    limits: Limits,
    held: AtomicUsize,
    /// Grows with each use of any account; tells which account was used last.
    uses: AtomicU64,
    draining: AtomicBool,
    /// Waits until nothing is held any more.
    drained: Mutex<Option<Waker>>,
    rounds: Rounds,
    groups: Mutex<HashMap<Box<str>, Weak<GroupNode>>>,
}

struct GroupNode {
    whole: Arc<Whole>,
    key: Box<str>,
    held: AtomicUsize,
    slow: AtomicBool,
    share: Share,
    accounts: Mutex<Vec<Weak<AccountNode>>>,
}

struct AccountNode {
    group: Arc<GroupNode>,
    held: AtomicUsize,
    used: AtomicU64,
    evicted: AtomicBool,
    /// Waits for its turn, or was called to take it.
    turn: turns::State,
    waker: Mutex<Option<Waker>>,
}

impl Budget {
    /// An empty tree.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let whole = Whole {
            limits,
            held: AtomicUsize::new(0),
            uses: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            drained: Mutex::default(),
            rounds: Rounds::default(),
            groups: Mutex::default(),
        };
        Self { whole: Arc::new(whole) }
    }

    /// The group with this name, made where there is none.
    #[must_use]
    pub fn group(&self, key: &str) -> Group {
        let mut groups = lock(&self.whole.groups);
        if let Some(node) = groups.get(key).and_then(Weak::upgrade) {
            return Group { node };
        }
        let node = Arc::new(GroupNode {
            whole: Arc::clone(&self.whole),
            key: key.into(),
            held: AtomicUsize::new(0),
            slow: AtomicBool::new(false),
            share: Share::default(),
            accounts: Mutex::default(),
        });
        groups.insert(key.into(), Arc::downgrade(&node));
        Group { node }
    }

    /// What all groups hold together.
    #[must_use]
    pub fn held(&self) -> usize {
        self.whole.held.load(Ordering::Relaxed)
    }

    /// Gives every account [`Notice::Drain`], those that are opened later too.
    pub fn drain(&self) {
        self.whole.draining.store(true, Ordering::Release);
        let groups: Vec<_> = lock(&self.whole.groups).values().filter_map(Weak::upgrade).collect();
        for group in groups {
            let accounts: Vec<_> = lock(&group.accounts).iter().filter_map(Weak::upgrade).collect();
            accounts.iter().for_each(|account| account.wake());
        }
    }

    /// Ready when nothing is held any more, after [`Self::drain`]. For one task only.
    pub fn poll_drained(&self, cx: &Context<'_>) -> Poll<()> {
        *lock(&self.whole.drained) = Some(cx.waker().clone());
        if self.held() == 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    /// How many groups there are.
    #[must_use]
    pub fn groups(&self) -> usize {
        lock(&self.whole.groups).len()
    }
}

impl Group {
    /// Opens an account for one more connection. It holds nothing yet.
    #[must_use]
    pub fn account(&self) -> Account {
        let node = Arc::new(AccountNode {
            group: Arc::clone(&self.node),
            held: AtomicUsize::new(0),
            used: AtomicU64::new(self.node.whole.uses.fetch_add(1, Ordering::Relaxed)),
            evicted: AtomicBool::new(false),
            turn: turns::State::default(),
            waker: Mutex::default(),
        });
        let mut accounts = lock(&self.node.accounts);
        if accounts.len() == accounts.capacity() {
            accounts.retain(|account| account.strong_count() > 0);
        }
        accounts.push(Arc::downgrade(&node));
        Account { node }
    }

    /// What the group holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.node.held.load(Ordering::Relaxed)
    }

    /// Notes that one piece of work for a member took longer than others should wait for.
    pub fn mark_slow(&self) {
        self.node.slow.store(true, Ordering::Relaxed);
    }

    /// Whether work for members is to be done elsewhere than where others wait.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.node.slow.load(Ordering::Relaxed)
    }

    /// The name that the group was made with.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.node.key
    }
}

impl Account {
    /// An account of a tree of its own, with this limit; for callers that have nobody to share with.
    #[must_use]
    pub fn alone(limit: usize) -> Self {
        let limits = Limits { whole: limit, spare: 0, group: limit, account: limit, work: u64::MAX };
        Budget::new(limits).group("").account()
    }

    /// Takes out an amount.
    ///
    /// # Errors
    /// [`Refused`]; nothing is held then.
    pub fn charge(&self, amount: usize) -> Result<Charge, Refused> {
        self.take(amount)?;
        Ok(Charge { account: self.clone(), amount })
    }

    /// What the account holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.node.held.load(Ordering::Relaxed)
    }

    /// Notes that the connection does something, so that it is not the idlest.
    #[inline]
    pub fn touch(&self) {
        let now = self.node.group.whole.uses.fetch_add(1, Ordering::Relaxed);
        self.node.used.store(now, Ordering::Relaxed);
    }

    /// Whether the connection is to end. Where it is not, `cx` is woken when it must.
    #[must_use]
    pub fn poll_notice(&self, cx: &Context<'_>) -> Option<Notice> {
        self.node.register(cx);
        if self.node.evicted.load(Ordering::Acquire) {
            return Some(Notice::Evicted);
        }
        self.node.group.whole.draining.load(Ordering::Acquire).then_some(Notice::Drain)
    }

    fn take(&self, amount: usize) -> Result<(), Refused> {
        let group = &self.node.group;
        let whole = &group.whole;
        let limits = whole.limits;
        if !add(&self.node.held, amount, limits.account) {
            return Err(Refused::Account);
        }
        if !add(&group.held, amount, limits.group) {
            self.node.held.fetch_sub(amount, Ordering::Relaxed);
            return Err(Refused::Group);
        }
        if add(&whole.held, amount, limits.whole) {
            return Ok(());
        }
        let fair = limits.whole / lock(&whole.groups).len().max(1);
        let below = group.held.load(Ordering::Relaxed) <= fair;
        if below {
            whole.evict();
            if add(&whole.held, amount, limits.whole + limits.spare) {
                return Ok(());
            }
        }
        group.held.fetch_sub(amount, Ordering::Relaxed);
        self.node.held.fetch_sub(amount, Ordering::Relaxed);
        Err(Refused::Whole)
    }

    fn give_back(&self, amount: usize) {
        self.node.held.fetch_sub(amount, Ordering::Relaxed);
        self.node.group.held.fetch_sub(amount, Ordering::Relaxed);
        let whole = &self.node.group.whole;
        let before = whole.held.fetch_sub(amount, Ordering::Relaxed);
        if before == amount && whole.draining.load(Ordering::Relaxed) {
            let drained = lock(&whole.drained).take();
            if let Some(drained) = drained {
                drained.wake();
            }
        }
    }
}

impl Charge {
    /// What is held.
    #[must_use]
    #[inline]
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Makes it `amount`. To take less never fails.
    ///
    /// # Errors
    /// [`Refused`]; it stays what it was then.
    #[inline]
    pub fn set(&mut self, amount: usize) -> Result<(), Refused> {
        if let Some(more) = amount.checked_sub(self.amount) {
            if more > 0 {
                self.account.take(more)?;
            }
        } else {
            self.account.give_back(self.amount - amount);
        }
        self.amount = amount;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.give_back(self.amount);
    }
}

impl Whole {
    /// Tells the idlest account of the group that holds most to go. One at a time: the next short charge tells the next.
    fn evict(&self) {
        let groups: Vec<_> = lock(&self.groups).values().filter_map(Weak::upgrade).collect();
        let Some(greediest) = groups.iter().max_by_key(|group| group.held.load(Ordering::Relaxed)) else {
            return;
        };
        let accounts: Vec<_> = lock(&greediest.accounts).iter().filter_map(Weak::upgrade).collect();
        let stays = |account: &&Arc<AccountNode>| !account.evicted.load(Ordering::Relaxed);
        let idlest = accounts.iter().filter(stays).min_by_key(|account| account.used.load(Ordering::Relaxed));
        if let Some(idlest) = idlest {
            idlest.evicted.store(true, Ordering::Release);
            idlest.wake();
        }
    }
}

impl AccountNode {
    fn register(&self, cx: &Context<'_>) {
        let mut waker = lock(&self.waker);
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    fn wake(&self) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for GroupNode {
    fn drop(&mut self) {
        let mut groups = lock(&self.whole.groups);
        // One of the same name may have been made since the last handle of this one was dropped.
        if groups.get(&self.key).is_some_and(|group| group.strong_count() == 0) {
            groups.remove(&self.key);
        }
    }
}

impl fmt::Debug for GroupNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("key", &self.key).field("held", &self.held).finish_non_exhaustive()
    }
}

impl fmt::Debug for AccountNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("group", &self.group.key)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

/// Adds an amount where the sum stays within the limit.
fn add(held: &AtomicUsize, amount: usize, limit: usize) -> bool {
    let sum = |held: usize| held.checked_add(amount).filter(|sum| *sum <= limit);
    held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok()
}

/// A panic of another thread leaves counters and lists as good as they were.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
