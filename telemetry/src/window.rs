//! The newest values of a sample, for its quantiles.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The values of the last ten seconds, at most [`MOST`] of them. Prometheus's client for Go has the same ten seconds.
#[derive(Debug, Default)]
pub(crate) struct Window {
    values: VecDeque<(Instant, f64)>,
}

impl Window {
    pub(crate) fn push(&mut self, now: Instant, value: f64) {
        self.expire(now);
        if self.values.len() == MOST {
            self.values.pop_front();
        }
        self.values.push_back((now, value));
    }

    /// These quantiles of the values; NaN where there is none.
    pub(crate) fn quantiles<const N: usize>(&mut self, now: Instant, quantiles: [f64; N]) -> [f64; N] {
        self.expire(now);
        let mut values: Vec<f64> = self.values.iter().map(|(_, value)| *value).collect();
        values.sort_unstable_by(f64::total_cmp);
        quantiles.map(|quantile| {
            #[expect(clippy::cast_precision_loss, reason = "there are few")]
            let rank = (quantile * values.len() as f64).ceil();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rank is a small number"
            )]
            let place = (rank as usize).saturating_sub(1);
            values.get(place).copied().unwrap_or(f64::NAN)
        })
    }

    fn expire(&mut self, now: Instant) {
        while self.values.front().is_some_and(|(at, _)| now.duration_since(*at) > AGE) {
            self.values.pop_front();
        }
        if self.values.is_empty() {
            self.values = VecDeque::new();
        }
    }
}

/// How long a value counts.
const AGE: Duration = Duration::from_secs(10);
/// The most values that are kept: 8 KiB for a series. A busier one shows the quantiles of the newest.
const MOST: usize = 512;
