//! What happens to the servers and to the agents.

use std::ops::Range;
use std::time::Duration;

/// A course of events.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// A short name for the command line.
    pub name: &'static str,
    /// What happens, for the reader of the report.
    pub title: &'static str,
    /// How the agents begin.
    pub start: Start,
    /// What happens when.
    pub events: Vec<(Duration, Event)>,
    /// How long it lasts, in virtual time.
    pub length: Duration,
    /// The seconds with which others are compared: the fleet at rest.
    pub rest: Range<usize>,
    /// The seconds after the disturbance.
    pub after: Range<usize>,
}

/// How the agents begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// They have run for long: SVIDs of all ages.
    Running,
    /// All start within this time.
    Within(Duration),
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// All servers end.
    Lost,
    /// All servers are there again.
    Back,
    /// One replica ends.
    ReplicaLost,
    /// The authority that has signed everything so far is tainted; another signs.
    Tainted,
    /// One wave of so many restarts its agents.
    Wave(usize, usize),
    /// Only this part of the servers' cores works, and what is too much is refused; all of them with 1.
    Capacity(f64),
}

impl Scenario {
    /// All scenarios.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::steady(),
            Self::outage("outage-1m", "The servers are gone for a minute", 1),
            Self::outage("outage-10m", "The servers are gone for ten minutes", 10),
            Self::outage("outage-1h", "The servers are gone for an hour", 60),
            Self::started_at_once(),
            Self::tainted(),
            Self::upgrade(),
            Self::replica_lost(),
            Self::storm(),
        ]
    }

    /// Nothing happens.
    #[must_use]
    pub fn steady() -> Self {
        Self::running("steady", "Nothing happens", Vec::new(), 1200, 600..1200)
    }

    fn outage(name: &'static str, title: &'static str, minutes: u64) -> Self {
        let back = QUIET + 60 * minutes;
        let events = vec![(seconds(QUIET), Event::Lost), (seconds(back), Event::Back)];
        Self::running(name, title, events, back + 600, second(back)..second(back + 600))
    }

    /// All agents start within a time, and nothing else happens.
    #[must_use]
    pub fn started_within(start: Duration, length: Duration) -> Self {
        let base = Self::running("started", "All agents start", Vec::new(), length.as_secs(), 0..0);
        Self { start: Start::Within(start), rest: 0..0, ..base }
    }

    fn started_at_once() -> Self {
        let base = Self::running("start", "All agents start within one second", Vec::new(), 2400, 0..2400);
        Self { start: Start::Within(seconds(1)), rest: 600..1200, ..base }
    }

    fn tainted() -> Self {
        let events = vec![(seconds(QUIET), Event::Tainted)];
        Self::running(
            "taint",
            "The authority is tainted",
            events,
            QUIET + 300,
            second(QUIET)..second(QUIET + 300),
        )
    }

    fn upgrade() -> Self {
        let wave = |number| (seconds(QUIET + 60 * number as u64), Event::Wave(number, WAVES));
        let end = QUIET + 60 * WAVES as u64;
        let events = (0..WAVES).map(wave).collect();
        let title = "A rolling upgrade: twenty waves, one a minute, restart each agent once";
        Self::running("upgrade", title, events, end + 120, second(QUIET)..second(end))
    }

    fn replica_lost() -> Self {
        let events = vec![(seconds(QUIET), Event::ReplicaLost)];
        let title = "One replica of three is lost, and stays away";
        Self::running("replica", title, events, QUIET + 600, second(QUIET)..second(QUIET + 600))
    }

    fn storm() -> Self {
        let back = QUIET + 300;
        let events = vec![(seconds(QUIET), Event::Capacity(0.2)), (seconds(back), Event::Capacity(1.0))];
        let title = "For five minutes a fifth of the cores works, and what is too much is refused with ResourceExhausted";
        Self::running("storm", title, events, back + 600, second(back)..second(back + 600))
    }

    fn running(
        name: &'static str,
        title: &'static str,
        events: Vec<(Duration, Event)>,
        length: u64,
        after: Range<usize>,
    ) -> Self {
        let rest = 60..second(QUIET);
        Self { name, title, start: Start::Running, events, length: seconds(length), rest, after }
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn second(seconds: u64) -> usize {
    usize::try_from(seconds).expect("a scenario has hours")
}

/// The seconds before anything happens.
const QUIET: u64 = 300;
const WAVES: usize = 20;
