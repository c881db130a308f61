//! The progress of a run: on standard error, and only on a terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::process::Sample;
use crate::report::Point;
use crate::workers::Totals;

/// The two lines of the progress: the load and the agent.
pub(crate) struct Progress {
    all: MultiProgress,
    load: ProgressBar,
    agent: ProgressBar,
}

impl Progress {
    /// The progress of a run whose load is complete at `total`; `None` if there is no such number.
    pub(crate) fn new(quiet: bool, mode: &str, total: Option<u64>) -> Self {
        let target =
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(10) };
        let all = MultiProgress::with_draw_target(target);
        let load = all.add(total.map_or_else(ProgressBar::no_length, ProgressBar::new));
        let template = match total {
            Some(_) => "{prefix:>7.bold} {bar:32.cyan/dim} {pos}/{len}  {elapsed:.dim}  {msg}",
            None => "{prefix:>7.bold} {spinner:.cyan} {pos}  {elapsed:.dim}  {msg}",
        };
        load.set_style(style(template).progress_chars("━╸─"));
        load.set_prefix(mode.to_owned());
        let agent = all.add(ProgressBar::new_spinner());
        agent.set_style(style("{prefix:>7.bold} {msg}"));
        agent.set_prefix("agent");
        Self { all, load, agent }
    }

    pub(crate) fn show(&self, totals: &Totals, now: &Point, before: Option<&Point>) {
        let counts = &totals.counts;
        self.load.set_position(now.served);
        let mut parts = vec![format!("{} open", now.streams)];
        if now.pushes > 0 {
            parts.push(format!("{} pushes", now.pushes));
        }
        let errors: u64 = counts.errors.values().map(|errors| errors.count).sum();
        if errors > 0 {
            parts.push(format!("{errors} errors"));
        }
        self.load.set_message(parts.join(" · "));
        let cpu = before
            .filter(|before| now.t > before.t)
            .map(|before| (now.cpu_ms - before.cpu_ms) / (now.t - before.t) / 10.0);
        self.agent.set_message(match cpu {
            _ if now.rss_kib == 0 => "not measured (--pid)".to_owned(),
            Some(cpu) => format!("{cpu:>3.0} % CPU · {:.1} MiB", now.rss_kib as f64 / 1024.0),
            None => format!("{:.1} MiB", now.rss_kib as f64 / 1024.0),
        });
    }

    pub(crate) fn settling(&self, left: Duration, sample: Sample) {
        self.load.set_message(format!("closed; looking on for {:.0} s more", left.as_secs_f64()));
        self.agent.set_message(format!("{:.1} MiB", sample.rss_kib as f64 / 1024.0));
    }

    pub(crate) fn clear(&self) {
        // A line that cannot be cleared does no harm.
        let _ = self.all.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a template of ours")
}
