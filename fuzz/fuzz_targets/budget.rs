//! Charges, changes and returns are made in any order. Each level of the tree must hold the sum of the levels below it,
//! within its limit; a group below its fair share must not be refused while there is spare; and nothing may be left at
//! the end. An account that waits for a turn must get it after at most as many rounds as others wait.
#![no_main]

use std::task::{Context, Waker};

use budget::{Account, Budget, Charge, Limits};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let budget = Budget::new(LIMITS);
    let groups = ["a", "b", "c"].map(|key| budget.group(key));
    let mut accounts: Vec<Account> = (0..ACCOUNTS).map(|n| groups[n % 3].account()).collect();
    let mut charges: Vec<(usize, Charge)> = Vec::new();
    let cx = Context::from_waker(Waker::noop());
    let mut waits = [0_u32; ACCOUNTS];
    for &[op, at, amount] in data.as_chunks::<3>().0 {
        let account = usize::from(at) % ACCOUNTS;
        match op % 8 {
            0..3 => {
                if let Ok(charge) = accounts[account].charge(amount.into()) {
                    charges.push((account, charge));
                }
            }
            3 if !charges.is_empty() => {
                let place = usize::from(at) % charges.len();
                let before = charges[place].1.amount();
                let set = charges[place].1.set(amount.into());
                let now = if set.is_ok() { amount.into() } else { before };
                assert!(charges[place].1.amount() == now && (set.is_ok() || usize::from(amount) > before));
            }
            4 if !charges.is_empty() => drop(charges.swap_remove(usize::from(at) % charges.len())),
            5 => {
                let ready = accounts[account].poll_turn(&cx, amount.is_multiple_of(2)).is_ready();
                waits[account] = u32::from(!ready);
                accounts[account].work(if ready { amount.into() } else { 0 });
            }
            6 => {
                budget.next_round();
                for (n, account) in accounts.iter().enumerate() {
                    if waits[n] > 0 && account.poll_turn(&cx, false).is_ready() {
                        waits[n] = 0;
                        account.work(amount.into());
                    }
                }
            }
            7 => {
                // A connection ends and is replaced by another.
                charges.retain(|(of, _)| *of != account);
                accounts[account] = groups[account % 3].account();
                waits[account] = 0;
            }
            _ => {}
        }
        check(&budget, &accounts, &charges);
    }
    // Every account that waits gets a turn in the end.
    for account in &accounts {
        let mut rounds = 0;
        while account.poll_turn(&cx, false).is_pending() {
            budget.next_round();
            rounds += 1;
            assert!(rounds <= 2 * ACCOUNTS, "it waits for ever");
        }
    }
    drop((charges, accounts, groups));
    assert_eq!((budget.held(), budget.groups()), (0, 0));
});

fn check(budget: &Budget, accounts: &[Account], charges: &[(usize, Charge)]) {
    let sum = |of: &dyn Fn(usize) -> bool| -> usize {
        charges.iter().filter(|(account, _)| of(*account)).map(|(_, charge)| charge.amount()).sum()
    };
    for (n, account) in accounts.iter().enumerate() {
        assert_eq!(account.held(), sum(&|at| at == n));
        assert!(account.held() <= LIMITS.account);
    }
    for n in 0..3 {
        assert!(sum(&|at| at % 3 == n) <= LIMITS.group);
    }
    assert_eq!(budget.held(), sum(&|_| true));
    assert!(budget.held() <= LIMITS.whole + LIMITS.spare);
}

const ACCOUNTS: usize = 9;
const LIMITS: Limits = Limits { whole: 900, spare: 100, group: 600, account: 400, work: 200 };
