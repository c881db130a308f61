//! Limits how much callers may make the agent hold, by a tree of accounts: whole agent → caller group → connection.
//!
//! - [`Budget`]: the root of the tree. The owner chooses its unit: the agent has one budget in bytes and one in
//!   descriptors.
//! - [`Group`]: callers that share one limit, because one of them could multiply itself into all of them.
//! - [`Account`]: one connection of a group.
//! - [`Charge`]: an amount that something takes. It is taken out *before* the thing is made, and dropping it gives it
//!   back.
//!
//! A charge is refused when it exceeds the account's or the group's limit. When the whole is used up, the group that
//! holds most loses first: a group that holds more than its fair share is refused; one that holds less is served from
//! a spare amount, and the idlest account of the greediest group is evicted ([`Account::poll_notice`]).
//!
//! Work is counted, too ([`turns`]): each group has an allowance for each round, and waits for the next when it is
//! used up.
//!
//! The crate knows no socket and no clock: the "idlest" account is the one whose last use is the most uses ago, and a
//! round ends when the owner says so.

mod drain;
pub mod turns;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Waker};

use turns::{Rounds, Share};

#[cfg(test)]
mod tests;

/// The limits of a [`Budget`]. All but `work` are in the budget's unit.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most that all groups may hold together.
    pub whole: usize,
    /// An amount beyond `whole`, for groups that hold no more than their fair share.
    pub spare: usize,
    /// The most that one group may hold.
    pub group: usize,
    /// The most that one account may hold.
    pub account: usize,
    /// The work that all accounts of a group may do in one round, in a unit of the owner's choice.
    pub work: u64,
}

/// The root of the tree. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget {
    whole: Arc<Whole>,
}

/// A handle to a caller group. The group is forgotten when its last handle, account or charge is dropped.
#[derive(Debug, Clone)]
pub struct Group {
    node: Arc<GroupNode>,
}

/// The account of one connection. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Account {
    node: Arc<AccountNode>,
}

/// An amount that an account holds until the charge is dropped.
#[derive(Debug)]
pub struct Charge {
    account: Account,
    amount: usize,
}

/// What is held at each level of a [`Budget`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Levels {
    /// The amount of all groups together.
    pub whole: usize,
    /// The amount of the group that holds most.
    pub group: usize,
    /// The amount of the account that holds most.
    pub account: usize,
    /// The number of groups.
    pub groups: usize,
    /// The number of accounts.
    pub accounts: usize,
}

/// What one group of a [`Budget`] holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The name of the group.
    pub key: Box<str>,
    /// The amount that its accounts hold.
    pub held: usize,
    /// The number of its accounts.
    pub accounts: usize,
}

/// Why a connection must end, although its client has done nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The budget drains: the connection must finish what it has begun, and begin nothing new.
    Drain,
    /// It is the connection's turn to end: what it has begun ends now.
    Over,
    /// Other groups need what the account holds: the connection must close now.
    Evicted,
}

/// Why there is no room for a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The account's limit is reached.
    #[error("the connection holds as much as one may")]
    Account,
    /// The group's limit is reached.
    #[error("the caller's group holds as much as one may")]
    Group,
    /// The limit of all groups together is reached, and this group holds its fair share or more, or the spare amount
    /// is used up, too.
    #[error("callers hold as much as they may together")]
    Whole,
}

#[derive(Debug)]
struct Whole {
    limits: Limits,
    held: AtomicUsize,
    /// Counts the uses of all accounts, so that they can be ordered by their last use.
    uses: AtomicU64,
    draining: AtomicBool,
    /// The task that waits in [`Budget::poll_drained`].
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
    over: AtomicBool,
    /// Whether it waits for its turn.
    turn: turns::State,
    waker: Mutex<Option<Waker>>,
}

impl Budget {
    /// A budget without groups.
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

    /// Returns the group with the name `key`, and makes it if there is none.
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

    /// The amount that all groups hold together.
    #[must_use]
    pub fn held(&self) -> usize {
        self.whole.held.load(Ordering::Relaxed)
    }

    /// What is held at each level of the tree.
    #[must_use]
    pub fn levels(&self) -> Levels {
        let mut levels = Levels { whole: self.held(), ..Levels::default() };
        let groups: Vec<_> = lock(&self.whole.groups).values().filter_map(Weak::upgrade).collect();
        levels.groups = groups.len();
        for group in groups {
            levels.group = levels.group.max(group.held.load(Ordering::Relaxed));
            for account in lock(&group.accounts).iter().filter_map(Weak::upgrade) {
                levels.accounts += 1;
                levels.account = levels.account.max(account.held.load(Ordering::Relaxed));
            }
        }
        levels
    }

    /// What each group holds, in no order.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        let groups: Vec<_> = lock(&self.whole.groups).values().filter_map(Weak::upgrade).collect();
        let holder = |group: &Arc<GroupNode>| Holder {
            key: group.key.clone(),
            held: group.held.load(Ordering::Relaxed),
            accounts: lock(&group.accounts).iter().filter(|account| account.strong_count() > 0).count(),
        };
        groups.iter().map(holder).collect()
    }

    /// The limits of the budget.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.whole.limits
    }

    /// The number of groups that have an account, a charge or a handle.
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
            over: AtomicBool::new(false),
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

    /// The amount that all accounts of the group hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.node.held.load(Ordering::Relaxed)
    }

    /// Records that one piece of work for a member of this group took longer than others should wait for.
    pub fn mark_slow(&self) {
        self.node.slow.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::mark_slow`] was called: work for members must run where nobody else waits for it.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.node.slow.load(Ordering::Relaxed)
    }

    /// The name that [`Budget::group`] was given.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.node.key
    }
}

impl Account {
    /// An account in a budget of its own with this limit and no limit of work, for callers that share with nobody.
    #[must_use]
    pub fn alone(limit: usize) -> Self {
        let limits = Limits { whole: limit, spare: 0, group: limit, account: limit, work: u64::MAX };
        Budget::new(limits).group("").account()
    }

    /// Takes out `amount`.
    ///
    /// # Errors
    /// [`Refused`] by a limit of the account, the group or the budget. Nothing is held then.
    pub fn charge(&self, amount: usize) -> Result<Charge, Refused> {
        self.take(amount)?;
        Ok(Charge { account: self.clone(), amount })
    }

    /// The amount that the account holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.node.held.load(Ordering::Relaxed)
    }

    /// Records a use of the connection. [`Notice::Evicted`] goes to the account that was not used for longest.
    #[inline]
    pub fn touch(&self) {
        let now = self.node.group.whole.uses.fetch_add(1, Ordering::Relaxed);
        self.node.used.store(now, Ordering::Relaxed);
    }

    /// Whether the connection must end. If not, the task of `cx` is woken when it must.
    #[must_use]
    pub fn poll_notice(&self, cx: &Context<'_>) -> Option<Notice> {
        self.node.register(cx);
        if self.node.evicted.load(Ordering::Acquire) {
            return Some(Notice::Evicted);
        }
        if self.node.over.load(Ordering::Acquire) {
            return Some(Notice::Over);
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
        // One order with `drain` and `poll_drained`: either this sees that somebody waits, or the waiter sees what is held now.
        let before = whole.held.fetch_sub(amount, Ordering::SeqCst);
        if before == amount && whole.draining.load(Ordering::SeqCst) {
            let drained = lock(&whole.drained).take();
            if let Some(drained) = drained {
                drained.wake();
            }
        }
    }
}

impl Charge {
    /// The amount that the charge holds.
    #[must_use]
    #[inline]
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Whether the account's connection must end, whatever it has begun ([`Notice::Over`]).
    #[must_use]
    #[inline]
    pub fn is_over(&self) -> bool {
        self.account.node.over.load(Ordering::Relaxed)
    }

    /// Changes the charge to `amount`. To lower it never fails.
    ///
    /// # Errors
    /// [`Refused`] by a limit of the account, the group or the budget. The charge is unchanged then.
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
    /// Evicts the idlest account of the group that holds most. It is one at a time: the next charge that finds no
    /// room evicts the next.
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
        // A new group of the same name may have been made since the last handle of this one was dropped.
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

/// Adds `amount` to `held` if the sum is within `limit`. Returns whether it did.
fn add(held: &AtomicUsize, amount: usize, limit: usize) -> bool {
    let sum = |held: usize| held.checked_add(amount).filter(|sum| *sum <= limit);
    held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok()
}

/// Ignores poisoning: no code here panics while it holds a lock, so that counters and lists are sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
