//! Metrics of the last hour, in memory, second by second, for an operator who asks for them (go-metrics, `inmem.go`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Value;
use crate::series::Member;

/// What was emitted, by second.
#[derive(Debug, Default)]
pub(crate) struct InMem {
    seconds: VecDeque<Second>,
    /// The values in all seconds.
    count: usize,
}

#[derive(Debug)]
struct Second {
    at: Duration,
    values: BTreeMap<(Group, Arc<str>), Recorded>,
}

/// go-metrics's order of the kinds, and the letters by which it names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Gauge,
    Counter,
    Sample,
}

/// All values that a series had in one second.
#[derive(Debug)]
struct Recorded {
    count: u32,
    last: f64,
    sum: f64,
    squares: f64,
    least: f64,
    most: f64,
    updated: SystemTime,
}

/// One line of what is in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct InMemLine {
    /// The beginning of the second that the values are of.
    pub at: SystemTime,
    /// `G` for a gauge, `C` for a counter, `S` for a sample.
    pub kind: char,
    /// The name, with the values of the labels.
    pub name: Arc<str>,
    /// What a gauge was set to; `None` for the others.
    pub gauge: Option<f64>,
    /// The values, of a counter or a sample.
    pub values: Summary,
}

/// What is known of several values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many there were.
    pub count: u32,
    /// The least of them.
    pub min: f64,
    /// Their mean.
    pub mean: f64,
    /// The greatest of them.
    pub max: f64,
    /// Their standard deviation.
    pub stddev: f64,
    /// Their sum.
    pub sum: f64,
    /// When the last of them came.
    pub updated: SystemTime,
}

impl InMem {
    pub(crate) fn record(&mut self, member: &Member, value: Value, now: SystemTime) {
        let (group, number) = match value {
            Value::Set(number) | Value::Change(number) => (Group::Gauge, number),
            Value::Add(number) => (Group::Counter, number),
            Value::Observe(number) => (Group::Sample, number),
        };
        let at = Duration::from_secs(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        if self.seconds.back().is_none_or(|second| second.at != at) {
            self.seconds.push_back(Second { at, values: BTreeMap::new() });
        }
        let Some(second) = self.seconds.back_mut() else { return };
        let before = second.values.len();
        let recorded = second.values.entry((group, member.flat())).or_insert_with(|| Recorded::new(now));
        recorded.add(number, now);
        self.count += second.values.len() - before;
        self.forget(at);
    }

    /// Every line, without the second that is not over.
    pub(crate) fn lines(&self, now: SystemTime) -> Vec<InMemLine> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let over = self.seconds.iter().filter(|second| second.at.as_secs() < now.as_secs());
        over.flat_map(|second| {
            second.values.iter().map(|((group, name), recorded)| InMemLine {
                at: UNIX_EPOCH + second.at,
                kind: match group {
                    Group::Gauge => 'G',
                    Group::Counter => 'C',
                    Group::Sample => 'S',
                },
                name: Arc::clone(name),
                gauge: (*group == Group::Gauge).then_some(recorded.last),
                values: recorded.summary(),
            })
        })
        .collect()
    }

    fn forget(&mut self, now: Duration) {
        while let Some(oldest) = self.seconds.front()
            && (now.saturating_sub(oldest.at) > AGE || (self.count > MOST && self.seconds.len() > 1))
        {
            self.count -= oldest.values.len();
            self.seconds.pop_front();
        }
    }
}

impl Recorded {
    fn new(now: SystemTime) -> Self {
        let (least, most) = (f64::INFINITY, f64::NEG_INFINITY);
        Self { count: 0, last: 0.0, sum: 0.0, squares: 0.0, least, most, updated: now }
    }

    fn add(&mut self, number: f64, now: SystemTime) {
        self.count += 1;
        self.last = number;
        self.sum += number;
        self.squares += number * number;
        self.least = self.least.min(number);
        self.most = self.most.max(number);
        self.updated = now;
    }

    fn summary(&self) -> Summary {
        let count = f64::from(self.count);
        let mean = self.sum / count;
        let variance = if self.count < 2 {
            0.0
        } else {
            (count * self.squares - self.sum * self.sum) / (count * (count - 1.0))
        };
        Summary {
            count: self.count,
            min: self.least,
            mean,
            max: self.most,
            stddev: variance.max(0.0).sqrt(),
            sum: self.sum,
            updated: self.updated,
        }
    }
}

/// How long a second is kept (SPIRE, `telemetry/inmem.go`).
const AGE: Duration = Duration::from_hours(1);
/// The most values that are kept, of about a hundred bytes each. An agent that is busier keeps less than an hour.
const MOST: usize = 16_384;
