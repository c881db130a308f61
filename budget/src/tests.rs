use proptest::prelude::*;

use super::*;

fn limits(whole: usize, spare: usize, group: usize, account: usize) -> Limits {
    Limits { whole, spare, group, account, work: 100 }
}

#[test]
fn each_level_has_its_limit() {
    let budget = Budget::new(limits(100, 0, 60, 40));
    let group = budget.group("a");
    let (one, two) = (group.account(), group.account());
    let first = one.charge(40).unwrap();
    assert_eq!(one.charge(1).unwrap_err(), Refused::Account);
    assert_eq!(two.charge(21).unwrap_err(), Refused::Group);
    let second = two.charge(20).unwrap();
    assert_eq!((budget.held(), group.held(), two.held()), (60, 60, 20));
    drop((first, second));
    assert_eq!((budget.held(), group.held(), one.held(), two.held()), (0, 0, 0, 0));
}

#[test]
fn a_newcomer_is_served_from_the_spare_and_the_greediest_loses_its_idlest() {
    let budget = Budget::new(limits(100, 10, 100, 100));
    let greedy = budget.group("greedy");
    let (busy, idle) = (greedy.account(), greedy.account());
    let (_kept, _too) = (idle.charge(50).unwrap(), busy.charge(50).unwrap());
    busy.touch();
    let cx = Context::from_waker(Waker::noop());
    assert!(idle.poll_notice(&cx).is_none() && busy.poll_notice(&cx).is_none());
    assert_eq!(busy.charge(1).unwrap_err(), Refused::Group);
    let newcomer = budget.group("new").account();
    let _served = newcomer.charge(10).unwrap();
    assert_eq!(idle.poll_notice(&cx), Some(Notice::Evicted), "the idlest of the greediest group goes");
    assert!(busy.poll_notice(&cx).is_none() && newcomer.poll_notice(&cx).is_none());
}

#[test]
fn who_has_its_share_is_refused_when_the_whole_is_short() {
    let budget = Budget::new(limits(100, 50, 80, 80));
    let (a, b) = (budget.group("a").account(), budget.group("b").account());
    let (_a, _b) = (a.charge(50).unwrap(), b.charge(50).unwrap());
    assert_eq!(a.charge(1).unwrap_err(), Refused::Whole);
    assert_eq!(b.charge(1).unwrap_err(), Refused::Whole);
}

#[test]
fn a_group_is_forgotten_with_its_last_handle() {
    let budget = Budget::new(limits(10, 0, 10, 10));
    let charge = budget.group("a").account().charge(3).unwrap();
    assert_eq!(budget.groups(), 1, "a charge keeps its group");
    assert_eq!(budget.group("a").held(), 3);
    drop(charge);
    assert_eq!((budget.groups(), budget.held()), (0, 0));
}

#[test]
fn a_group_that_has_used_up_its_allowance_waits_in_order_and_others_do_not() {
    let budget = Budget::new(limits(10, 0, 10, 10));
    let cx = Context::from_waker(Waker::noop());
    let group = budget.group("greedy");
    let accounts: Vec<_> = (0..6).map(|_| group.account()).collect();
    let other = budget.group("other").account();
    assert!(budget.poll_parked(&cx).is_pending());
    assert!(accounts[0].poll_turn(&cx, false).is_ready());
    accounts[0].work(100);
    for account in &accounts {
        assert!(account.poll_turn(&cx, false).is_pending());
    }
    assert!(other.poll_turn(&cx, false).is_ready(), "another group has its own allowance");
    assert!(budget.poll_parked(&cx).is_ready());
    budget.next_round();
    assert!(accounts[4].poll_turn(&cx, false).is_pending(), "it was not called yet");
    assert!(accounts[0].poll_turn(&cx, false).is_ready());
    accounts[0].work(99);
    assert!(accounts[1].poll_turn(&cx, false).is_ready());
    accounts[1].work(1);
    assert!(accounts[2].poll_turn(&cx, false).is_pending(), "nothing is left for it");
    assert!(accounts[1].poll_turn(&cx, true).is_pending());
    budget.next_round();
    assert!(accounts[1].poll_turn(&cx, false).is_ready(), "who was interrupted goes first");
    assert!(accounts[2].poll_turn(&cx, false).is_ready());
    drop((accounts, group));
    budget.next_round();
    assert!(budget.poll_parked(&cx).is_pending(), "nobody is left who waits");
}

#[test]
fn draining_reaches_all_accounts_and_those_that_come() {
    let budget = Budget::new(limits(10, 0, 10, 10));
    let cx = Context::from_waker(Waker::noop());
    let before = budget.group("a").account();
    assert_eq!(before.poll_notice(&cx), None);
    budget.drain();
    assert_eq!(before.poll_notice(&cx), Some(Notice::Drain));
    assert_eq!(budget.group("b").account().poll_notice(&cx), Some(Notice::Drain));
    let charge = before.charge(1).unwrap();
    assert!(budget.poll_drained(&cx).is_pending());
    drop(charge);
    assert!(budget.poll_drained(&cx).is_ready());
}

#[test]
fn accounts_end_a_few_at_a_time() {
    let budget = Budget::new(limits(10, 0, 10, 10));
    let accounts: Vec<Account> = (0..5).map(|_| budget.group("a").account()).collect();
    let cx = Context::from_waker(Waker::noop());
    let over = || accounts.iter().filter(|account| account.poll_notice(&cx) == Some(Notice::Over)).count();
    budget.drain();
    assert_eq!((over(), budget.end_some(2), over()), (0, 3, 2));
    assert_eq!((budget.end_some(2), budget.end_some(2), over()), (1, 0, 5));
}

/// A step of a random history of charges.
#[derive(Debug, Clone)]
enum Step {
    Charge(usize, usize),
    Set(usize, usize),
    Drop(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..6usize, 0..60usize).prop_map(|(account, amount)| Step::Charge(account, amount)),
        (0..8usize, 0..60usize).prop_map(|(charge, amount)| Step::Set(charge, amount)),
        (0..8usize).prop_map(Step::Drop),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    /// After every step each level holds the sum of the level below and keeps within its limit; nothing is held at
    /// the end.
    #[test]
    fn nothing_leaks_and_no_limit_is_passed(steps in steps()) {
        let limits = limits(120, 20, 80, 50);
        let budget = Budget::new(limits);
        let groups = ["a", "b", "c"].map(|key| budget.group(key));
        let accounts: Vec<Account> = (0..6).map(|n| groups[n % 3].account()).collect();
        let mut charges: Vec<(usize, Charge)> = Vec::new();
        for step in steps {
            match step {
                Step::Charge(account, amount) => {
                    if let Ok(charge) = accounts[account].charge(amount) {
                        charges.push((account, charge));
                    }
                }
                Step::Set(at, amount) => if let Some((_, charge)) = charges.get_mut(at) {
                    let before = charge.amount();
                    let now = if charge.set(amount).is_ok() { amount } else { before };
                    prop_assert_eq!(charge.amount(), now);
                },
                Step::Drop(at) => if at < charges.len() { drop(charges.swap_remove(at)); },
            }
            let sum = |of: &dyn Fn(usize) -> bool| -> usize {
                charges.iter().filter(|(account, _)| of(*account)).map(|(_, charge)| charge.amount()).sum()
            };
            for (n, account) in accounts.iter().enumerate() {
                prop_assert_eq!(account.held(), sum(&|at| at == n));
                prop_assert!(account.held() <= limits.account);
            }
            for (n, group) in groups.iter().enumerate() {
                prop_assert_eq!(group.held(), sum(&|at| at % 3 == n));
                prop_assert!(group.held() <= limits.group);
            }
            prop_assert_eq!(budget.held(), sum(&|_| true));
            prop_assert!(budget.held() <= limits.whole + limits.spare);
        }
        drop(charges);
        prop_assert_eq!(budget.held(), 0);
    }
}
