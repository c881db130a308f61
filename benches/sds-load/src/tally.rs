//! The counters of a worker, and the sum of the counters of several.
//!
//! A worker sends its [`Counts`] with every tick, and its [`Latencies`] once, at the end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::clock;
use crate::connection::Failure;
use crate::flood::Outcome;

/// The counters of a worker. It has one thread, so they need no locks.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: RefCell<Counts>,
    latencies: RefCell<Latencies>,
    rotations: RefCell<BTreeMap<Content, Arrivals>>,
    finished: Cell<bool>,
    /// Whether the storm is over.
    pub(crate) calm: Cell<bool>,
    /// Notified when the parent should get a tick early.
    pub(crate) nudge: Notify,
}

/// The counts so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counts {
    pub(crate) connections_open: u64,
    pub(crate) connections_opened: u64,
    pub(crate) streams_open: u64,
    pub(crate) streams_opened: u64,
    /// Streams that have had a first secret, each counted once however often it reconnects.
    pub(crate) served: u64,
    /// The time at which the last of them had it.
    pub(crate) last_served: u64,
    /// Streams that have failed and are not opened again.
    pub(crate) gave_up: u64,
    /// Responses after the first on a stream with something new in them.
    pub(crate) pushes: u64,
    /// Responses after the first on a stream with nothing new in them.
    pub(crate) unneeded: u64,
    /// First requests that were written.
    pub(crate) asked: u64,
    pub(crate) acks: u64,
    pub(crate) nacks: u64,
    /// Complete exchanges of `churn` and `warm`.
    pub(crate) exchanges: u64,
    pub(crate) newcomers: u64,
    pub(crate) newcomers_failed: u64,
    /// Newcomers and probes that wait for their answer.
    pub(crate) waiting: u64,
    pub(crate) probes: u64,
    pub(crate) probes_failed: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) errors: BTreeMap<String, Errors>,
    pub(crate) flood: Outcome,
}

/// The failures of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Errors {
    pub(crate) count: u64,
    /// The text of the first one.
    pub(crate) example: String,
}

/// A version of a resource: its name and the hash of its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) name: String,
    pub(crate) hash: u64,
}

/// The arrivals of a pushed content: the first, the last and the number of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrivals {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) streams: u64,
}

/// A kind of latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Timed {
    FirstSecret,
    ArrivalToAck,
    Newcomer,
    Health,
    Exchange,
    FreshStream,
    FreshConnection,
}

/// Histograms of nanoseconds.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Latencies(BTreeMap<Timed, Histogram<u64>>);

/// [`Latencies`] in a message: pairs of a value and its count.
pub(crate) type Pairs = Vec<(Timed, Vec<(u64, u64)>)>;

impl Tally {
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.borrow_mut());
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.borrow().clone()
    }

    pub(crate) fn failed(&self, failure: &Failure) {
        let mut counts = self.counts.borrow_mut();
        let errors = counts.errors.entry(failure.code.to_string()).or_default();
        if errors.count == 0 {
            errors.example.clone_from(&failure.message);
        }
        errors.count += 1;
    }

    pub(crate) fn time(&self, timed: Timed, nanoseconds: u64) {
        self.latencies.borrow_mut().record(timed, nanoseconds, 1);
    }

    pub(crate) fn latencies(&self) -> Latencies {
        self.latencies.take()
    }

    /// Notes that a stream's first secret has arrived. `asked` is the time of its request.
    pub(crate) fn served(&self, asked: u64) {
        let now = clock::now();
        self.time(Timed::FirstSecret, now - asked);
        self.count(|counts| {
            counts.served += 1;
            counts.last_served = now;
        });
    }

    /// Notes the arrival of a push with new content.
    pub(crate) fn arrived(&self, name: &str, hash: u64, now: u64) {
        let mut rotations = self.rotations.borrow_mut();
        let content = Content { name: name.to_owned(), hash };
        let arrivals = rotations.entry(content).or_insert(Arrivals { first: now, last: now, streams: 0 });
        arrivals.last = now;
        arrivals.streams += 1;
    }

    pub(crate) fn rotations(&self) -> Vec<(Content, Arrivals)> {
        self.rotations.borrow().iter().map(|(content, arrivals)| (content.clone(), *arrivals)).collect()
    }

    /// Notes that the work of this process is done.
    pub(crate) fn finish(&self) {
        self.finished.set(true);
        self.nudge.notify_one();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.get()
    }

    /// Increments a count until the guard is dropped.
    pub(crate) fn open(self: &Rc<Self>, field: fn(&mut Counts) -> &mut u64) -> Open {
        self.count(|counts| *field(counts) += 1);
        Open { tally: Rc::clone(self), field }
    }
}

/// A guard of a count. Its drop decrements the count.
pub(crate) struct Open {
    tally: Rc<Tally>,
    field: fn(&mut Counts) -> &mut u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        let field = self.field;
        self.tally.count(|counts| *field(counts) -= 1);
    }
}

impl Counts {
    /// Adds the counts of another process.
    pub(crate) fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.connections_open, other.connections_open),
            (&mut self.connections_opened, other.connections_opened),
            (&mut self.streams_open, other.streams_open),
            (&mut self.streams_opened, other.streams_opened),
            (&mut self.served, other.served),
            (&mut self.gave_up, other.gave_up),
            (&mut self.pushes, other.pushes),
            (&mut self.unneeded, other.unneeded),
            (&mut self.asked, other.asked),
            (&mut self.acks, other.acks),
            (&mut self.nacks, other.nacks),
            (&mut self.exchanges, other.exchanges),
            (&mut self.newcomers, other.newcomers),
            (&mut self.newcomers_failed, other.newcomers_failed),
            (&mut self.waiting, other.waiting),
            (&mut self.probes, other.probes),
            (&mut self.probes_failed, other.probes_failed),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.bytes_out, other.bytes_out),
        ];
        for (own, other) in pairs {
            *own += other;
        }
        self.last_served = self.last_served.max(other.last_served);
        self.flood.add(&other.flood);
        for (code, errors) in &other.errors {
            let own = self.errors.entry(code.clone()).or_default();
            if own.count == 0 {
                own.example.clone_from(&errors.example);
            }
            own.count += errors.count;
        }
    }
}

impl Arrivals {
    /// Adds the arrivals in another process.
    pub(crate) fn add(&mut self, other: &Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.streams += other.streams;
    }
}

impl Latencies {
    fn record(&mut self, timed: Timed, nanoseconds: u64, times: u64) {
        let fresh = || Histogram::new(SIGNIFICANT_DIGITS).expect("between 0 and 5 digits");
        let histogram = self.0.entry(timed).or_insert_with(fresh);
        // The histogram grows by itself, so every value fits.
        let _ = histogram.record_n(nanoseconds, times);
    }

    pub(crate) fn to_pairs(&self) -> Pairs {
        let pairs = |histogram: &Histogram<u64>| {
            histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
        };
        self.0.iter().map(|(timed, histogram)| (*timed, pairs(histogram))).collect()
    }

    /// Adds the latencies of another process.
    pub(crate) fn add(&mut self, pairs: &Pairs) {
        for (timed, pairs) in pairs {
            for (value, count) in pairs {
                self.record(*timed, *value, *count);
            }
        }
    }

    /// The histogram of several kinds together; `None` if nothing was timed.
    pub(crate) fn together(&self, kinds: &[Timed]) -> Option<Histogram<u64>> {
        let mut found = kinds.iter().filter_map(|kind| self.0.get(kind));
        let mut all = found.next()?.clone();
        for histogram in found {
            // Both histograms grow by themselves.
            let _ = all.add(histogram);
        }
        Some(all)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Timed, &Histogram<u64>)> {
        self.0.iter().map(|(timed, histogram)| (*timed, histogram))
    }
}

const SIGNIFICANT_DIGITS: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_of_two_processes_are_as_of_one() {
        let (left, right, both) = (Tally::default(), Tally::default(), Tally::default());
        for value in 1..=1000 {
            (if value % 3 == 0 { &left } else { &right }).time(Timed::FirstSecret, value * 1000);
            both.time(Timed::FirstSecret, value * 1000);
        }
        let mut merged = Latencies::default();
        merged.add(&left.latencies().to_pairs());
        merged.add(&right.latencies().to_pairs());
        assert_eq!(merged, both.latencies());
        let (_, histogram) = merged.iter().next().unwrap();
        let percentile = histogram.value_at_quantile(0.99);
        assert!((989_000..=991_500).contains(&percentile), "{percentile}");
        assert_eq!((histogram.len(), histogram.value_at_quantile(0.5) / 1000), (1000, 500));
    }

    #[test]
    fn counts_of_two_processes_add_up() {
        let failure = |message: &str| Failure { code: "Unavailable".into(), message: message.into() };
        let (left, right) = (Tally::default(), Tally::default());
        left.count(|counts| (counts.served, counts.last_served) = (2, 50));
        right.count(|counts| (counts.served, counts.last_served) = (3, 40));
        left.failed(&failure("first"));
        right.failed(&failure("second"));
        right.failed(&failure("third"));
        let mut sum = left.counts();
        sum.add(&right.counts());
        assert_eq!((sum.served, sum.last_served), (5, 50));
        assert_eq!(sum.errors["Unavailable"], Errors { count: 3, example: "first".into() });
    }

    #[test]
    fn a_rotation_spans_all_processes() {
        let mut arrivals = Arrivals { first: 30, last: 40, streams: 2 };
        arrivals.add(&Arrivals { first: 10, last: 35, streams: 1 });
        assert_eq!(arrivals, Arrivals { first: 10, last: 40, streams: 3 });
    }

    #[test]
    fn what_is_open_is_counted_until_it_is_dropped() {
        let tally = Rc::new(Tally::default());
        let open = tally.open(|counts| &mut counts.streams_open);
        assert_eq!(tally.counts().streams_open, 1);
        drop(open);
        assert_eq!(tally.counts().streams_open, 0);
    }
}
