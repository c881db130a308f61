//! The values of all series.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use crate::labels::sanitize;
use crate::window::Window;
use crate::{Kind, Metric, Options, Owner, Reading, Value};

/// All series, by metric.
#[derive(Debug)]
pub(crate) struct Series {
    options: Options,
    families: BTreeMap<&'static str, Family>,
}

/// The series of one metric.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) metric: &'static Metric,
    /// The name with its prefix and dots.
    name: String,
    /// Whether the filter lets the metric through. One that is left out is kept all the same, because the agent reads some
    /// of its own ([`Series::read`]).
    is_told: bool,
    /// Which series belongs to these values of the labels. Several do to one, if a label is filtered out.
    by_values: Vec<(Box<[Box<str>]>, usize)>,
    pub(crate) members: Vec<Member>,
}

/// One series.
#[derive(Debug)]
pub(crate) struct Member {
    /// The name with its prefix and dots.
    pub(crate) name: Box<str>,
    /// The labels, in go-metrics's order: its own, then those that all series have.
    pub(crate) labels: Vec<(&'static str, String)>,
    /// The name with the values of the labels; made when it is first asked for.
    flat: OnceLock<Arc<str>>,
    pub(crate) state: State,
}

impl Member {
    /// The name with the values of the labels, each behind a dot (go-metrics, `inmem_signal.go`).
    pub(crate) fn flat(&self) -> Arc<str> {
        let flat = self.flat.get_or_init(|| {
            let mut flat = self.name.to_string();
            for (_, value) in &self.labels {
                flat.push('.');
                flat.push_str(&value.replace([' ', ':'], "_"));
            }
            flat.into()
        });
        Arc::clone(flat)
    }

    /// What sinks are told of an event that has been recorded.
    pub(crate) fn told(&self, value: Value) -> Value {
        match (value, &self.state) {
            (Value::Change(_), State::Number(number)) => Value::Set(*number),
            (value, _) => value,
        }
    }
}

/// What is kept of a series.
#[derive(Debug)]
pub(crate) enum State {
    /// Of a counter or a gauge.
    Number(f64),
    Sample {
        count: u64,
        sum: f64,
        window: Window,
    },
    Histogram {
        counts: Box<[u64]>,
        sum: f64,
    },
}

impl Series {
    pub(crate) fn new(options: Options) -> Self {
        Self { options, families: BTreeMap::new() }
    }

    /// All metrics that have series and are let through, by name.
    pub(crate) fn families(&mut self) -> impl Iterator<Item = &mut Family> {
        self.families.values_mut().filter(|family| family.is_told && !family.members.is_empty())
    }

    /// The values of one metric, each with the values of its labels; also of a metric that is left out. Where a label is
    /// left out, several series are one, which has the values of the first.
    pub(crate) fn read(&self, metric: &'static Metric) -> Vec<(Vec<String>, Reading)> {
        let family = self.families.get(metric.name);
        let values = family.into_iter().flat_map(|family| {
            family.members.iter().enumerate().filter_map(|(place, member)| {
                let (values, _) = family.by_values.iter().find(|(_, of)| *of == place)?;
                let reading = match &member.state {
                    State::Number(number) => Reading::Number(*number),
                    State::Sample { count, sum, .. } => Reading::Sample(*count, *sum),
                    State::Histogram { counts, .. } => Reading::Histogram(counts.to_vec()),
                };
                Some((values.iter().map(ToString::to_string).collect(), reading))
            })
        });
        values.collect()
    }

    /// Records one event. Returns its series; `None` if the filter leaves it out, or if it would be one too many.
    pub(crate) fn record(
        &mut self,
        metric: &'static Metric,
        values: &[&str],
        value: Value,
        now: Instant,
    ) -> Option<&Member> {
        debug_assert_eq!(metric.labels.len(), values.len(), "{} has labels {:?}", metric.name, metric.labels);
        let options = &self.options;
        let family = self.families.entry(metric.name).or_insert_with(|| Family::new(metric, options));
        let place = family.place(values, options)?;
        let member = &mut family.members[place];
        member.state.apply(value, metric.kind, now);
        family.is_told.then_some(member)
    }
}

impl Family {
    fn new(metric: &'static Metric, options: &Options) -> Self {
        let name = match metric.owner {
            Owner::Spire => format!("{}.{}", options.prefix, metric.name),
            Owner::Ours => format!("finial.{}", metric.name),
            Owner::Process => metric.name.to_owned(),
        };
        let is_told = metric.owner == Owner::Process || options.filter.allows(&name);
        Self { metric, name, is_told, by_values: Vec::new(), members: Vec::new() }
    }

    /// The place of the series of these values, which is made if there is none.
    fn place(&mut self, values: &[&str], options: &Options) -> Option<usize> {
        let same = |held: &[Box<str>]| held.iter().map(|value| &**value).eq(values.iter().copied());
        if let Some((_, place)) = self.by_values.iter().find(|(held, _)| same(held)) {
            return Some(*place);
        }
        if self.by_values.len() == MOST {
            return None;
        }
        let labels = labels(self.metric, values, options);
        let place = self.members.iter().position(|member| member.labels == labels).unwrap_or_else(|| {
            let state = State::new(self.metric.kind);
            self.members.push(Member {
                name: self.name.as_str().into(),
                labels,
                flat: OnceLock::new(),
                state,
            });
            self.members.len() - 1
        });
        self.by_values.push((values.iter().map(|value| Box::from(*value)).collect(), place));
        Some(place)
    }
}

/// The labels of a series. go-metrics adds `host` behind SPIRE's labels, and does not clean its value.
fn labels(metric: &'static Metric, values: &[&str], options: &Options) -> Vec<(&'static str, String)> {
    let own = metric.labels.iter().zip(values).map(|(name, value)| (*name, sanitize(value)));
    let constant = options.labels.iter().filter(|_| metric.owner != Owner::Process).cloned();
    own.chain(constant).filter(|(name, _)| options.filter.allows_label(name)).collect()
}

impl State {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter | Kind::Gauge => Self::Number(0.0),
            Kind::Sample => Self::Sample { count: 0, sum: 0.0, window: Window::default() },
            Kind::Histogram(bounds) => Self::Histogram { counts: vec![0; bounds.len() + 1].into(), sum: 0.0 },
        }
    }

    fn apply(&mut self, value: Value, kind: Kind, now: Instant) {
        match (self, value) {
            (Self::Number(number), Value::Add(more) | Value::Change(more)) => *number += more,
            (Self::Number(number), Value::Set(value)) => *number = value,
            (Self::Sample { count, sum, window }, Value::Observe(value)) => {
                *count += 1;
                *sum += value;
                window.push(now, value);
            }
            (Self::Histogram { counts, sum }, Value::Observe(value)) => {
                let Kind::Histogram(bounds) = kind else { return };
                counts[bounds.partition_point(|bound| *bound < value)] += 1;
                *sum += value;
            }
            (state, value) => debug_assert!(false, "{value:?} is no value for {state:?}"),
        }
    }
}

/// The most series of one metric. Labels have few values; this is the limit if one of them should come from a caller by
/// mistake.
const MOST: usize = 256;
