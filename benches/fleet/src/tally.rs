//! What a fleet offers to its servers, second by second.

use std::time::Duration;

use crate::server::Call;

/// What was offered within one second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Connections, also those that nobody accepted.
    pub connections: u32,
    /// Syncs that a server answered.
    pub syncs: u32,
    /// Attestations, and renewals of agents' own SVIDs, that a server answered.
    pub attestations: u32,
    /// Entries that were to be signed.
    pub signatures: u32,
    /// Calls with [`Self::signatures`].
    pub sign_calls: u32,
    /// Calls that were refused with ResourceExhausted.
    pub refusals: u32,
    /// Lines of level error that agents wrote.
    pub errors: u32,
    /// CPU seconds of the servers that were asked for.
    pub cpu: f64,
}

/// The load of each second, and how fast agents came back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// The load of each second since the start.
    pub loads: Vec<Load>,
    /// For each agent that has synced since the last mark, the time from the mark to its first sync.
    pub back: Vec<Duration>,
    mark: Option<Duration>,
    marks: u32,
}

impl Tally {
    fn at(&mut self, now: Duration) -> &mut Load {
        let second = usize::try_from(now.as_secs()).expect("a scenario has hours");
        if self.loads.len() <= second {
            self.loads.resize(second + 1, Load::default());
        }
        &mut self.loads[second]
    }

    pub(crate) fn connected(&mut self, now: Duration) {
        self.at(now).connections += 1;
    }

    pub(crate) fn called(&mut self, call: Call, now: Duration) {
        let load = self.at(now);
        match call {
            Call::Sync => load.syncs += 1,
            Call::Sign(entries) => {
                load.sign_calls += 1;
                load.signatures += u32::try_from(entries).expect("a batch");
            }
            Call::Status => {}
        }
    }

    pub(crate) fn attested(&mut self, now: Duration) {
        self.at(now).attestations += 1;
    }

    pub(crate) fn refused(&mut self, now: Duration) {
        self.at(now).refusals += 1;
    }

    pub(crate) fn worked(&mut self, microseconds: f64, now: Duration) {
        self.at(now).cpu += microseconds / 1e6;
    }

    pub(crate) fn error(&mut self, now: Duration) {
        self.at(now).errors += 1;
    }

    /// From now on the first sync of each agent is noted.
    pub(crate) fn mark(&mut self, now: Duration) {
        self.mark = Some(now);
        self.marks += 1;
        self.back.clear();
    }

    /// Notes a sync of an agent that has `seen` so many marks.
    pub(crate) fn synced(&mut self, seen: &mut u32, at: Duration) {
        if let Some(mark) = self.mark.filter(|mark| at >= *mark)
            && *seen != self.marks
        {
            *seen = self.marks;
            self.back.push(at - mark);
        }
    }

    /// The sum of a figure over these seconds.
    #[must_use]
    pub fn sum(&self, seconds: std::ops::Range<usize>, of: impl Fn(&Load) -> f64) -> f64 {
        let end = seconds.end.min(self.loads.len());
        self.loads[seconds.start.min(end)..end].iter().map(of).sum()
    }

    /// The mean of a figure over these seconds.
    #[must_use]
    pub fn mean(&self, seconds: std::ops::Range<usize>, of: impl Fn(&Load) -> f64) -> f64 {
        self.sum(seconds.clone(), of) / seconds.len().max(1) as f64
    }

    /// The most of a figure in one of these seconds.
    #[must_use]
    pub fn most(&self, seconds: std::ops::Range<usize>, of: impl Fn(&Load) -> f64) -> f64 {
        let end = seconds.end.min(self.loads.len());
        self.loads[seconds.start.min(end)..end].iter().map(of).fold(0.0, f64::max)
    }

    /// The time after the mark within which this share of so many agents has synced; `None` if fewer have.
    #[must_use]
    pub fn back_within(&self, share: f64, agents: usize) -> Option<Duration> {
        let mut back = self.back.clone();
        back.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
        let wanted = (share * agents as f64).ceil() as usize;
        back.get(wanted.max(1) - 1).copied()
    }
}
