//! One run: while the workers make the load, the parent samples the agent and shows the progress.

use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use crate::clock;
use crate::error::Error;
use crate::plan::{Order, Plan};
use crate::process::{Process, Sample};
use crate::progress::Progress;
use crate::report::{Phase, Point};
use crate::workers::{Measured, Totals, Workers};

/// A run under way.
pub(crate) struct Run {
    pub(crate) workers: Workers,
    process: Option<Process>,
    progress: Progress,
    samples: Interval,
    totals: Totals,
    /// The start of the load, by the clock of all processes.
    pub(crate) start: u64,
    pub(crate) phases: Vec<Phase>,
    pub(crate) points: Vec<Point>,
    interrupted: bool,
}

/// The results of a finished run.
pub(crate) struct Finished {
    pub(crate) measured: Measured,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) phases: Vec<Phase>,
    pub(crate) points: Vec<Point>,
}

impl Run {
    pub(crate) async fn start(
        plans: Vec<Plan>,
        process: Option<Process>,
        every: Duration,
        progress: Progress,
    ) -> Result<Self, Error> {
        let workers = Workers::start(plans).await?;
        let mut samples = interval(every.max(Duration::from_millis(1)));
        samples.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut run = Self {
            workers,
            process,
            progress,
            samples,
            totals: Totals::default(),
            start: clock::now(),
            phases: Vec::new(),
            points: Vec::new(),
            interrupted: false,
        };
        run.phase("before");
        // Long enough for all workers to read the order.
        let notice = NOTICE * u32::try_from(run.workers.len()).unwrap_or(1);
        run.start = clock::now() + u64::try_from(notice.as_nanos()).unwrap_or(0);
        run.workers.order_all(&Order::Go { at: run.start }).await?;
        Ok(run)
    }

    /// Waits until `enough` is true, the time is over, or the user interrupts. Returns whether it was enough.
    pub(crate) async fn until(
        &mut self,
        limit: Option<Duration>,
        mut enough: impl FnMut(&Totals) -> bool,
    ) -> Result<bool, Error> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        while !self.interrupted {
            if enough(&self.totals) {
                return Ok(true);
            }
            if !self.step(deadline).await? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Waits for one event. Returns false if the time is over.
    pub(crate) async fn step(&mut self, deadline: Option<Instant>) -> Result<bool, Error> {
        let over = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = self.workers.hear() => {
                heard?;
                self.totals = self.workers.totals();
            }
            _ = self.samples.tick() => self.sample(),
            _ = tokio::signal::ctrl_c() => self.interrupted = true,
            () = over => return Ok(false),
        }
        Ok(true)
    }

    /// Waits for this time, and keeps sampling.
    pub(crate) async fn rest(&mut self, time: Duration) -> Result<(), Error> {
        self.until(Some(time), |_| false).await.map(drop)
    }

    /// Runs a shell command, and keeps sampling.
    pub(crate) async fn shell(&mut self, command: &str) -> Result<(), Error> {
        let mut shell = Command::new("sh");
        let output = shell.arg("-c").arg(command).kill_on_drop(true).output();
        tokio::pin!(output);
        let output = loop {
            tokio::select! {
                output = &mut output => break output.map_err(Error::Worker)?,
                stepped = self.step(None) => stepped.map(drop)?,
            }
        };
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Trigger { status: output.status.to_string(), stderr })
    }

    /// Whether the user has pressed Ctrl-C. The run then ends early, with a report.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }

    pub(crate) fn cpu_ms(&self) -> Option<f64> {
        Some(self.look()?.cpu_ms)
    }

    /// Samples the agent at the end of a phase.
    pub(crate) fn phase(&mut self, name: &str) {
        let streams = self.totals.counts.streams_open;
        self.phases.extend(self.look().map(|sample| phase(name, self.start, streams, sample)));
    }

    /// Makes the workers close everything, and keeps sampling for `settle` after that.
    pub(crate) async fn finish(mut self, settle: Duration) -> Result<Finished, Error> {
        self.sample();
        let Self { workers, process, progress, start, mut phases, mut points, .. } = self;
        let end = clock::now();
        let measured = workers.stop().await?;
        let look = || process.and_then(Process::sample);
        phases.extend(look().map(|sample| phase("closed", start, 0, sample)));
        let mut ticks = interval(SETTLE_SAMPLES);
        let deadline = Instant::now() + settle;
        while Instant::now() < deadline {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = tokio::signal::ctrl_c() => break,
            }
            if let Some(sample) = look() {
                points.push(point(start, &measured.totals, Some(sample)));
                progress.settling(deadline.duration_since(Instant::now()), sample);
            }
        }
        if !settle.is_zero() {
            phases.extend(look().map(|sample| phase("settled", start, 0, sample)));
        }
        progress.clear();
        Ok(Finished { measured, start, end, phases, points })
    }

    fn look(&self) -> Option<Sample> {
        self.process.and_then(Process::sample)
    }

    fn sample(&mut self) {
        let sample = self.look();
        let point = point(self.start, &self.totals, sample);
        self.progress.show(&self.totals, &point, self.points.last());
        self.points.push(point);
    }
}

fn phase(name: &str, start: u64, streams: u64, sample: Sample) -> Phase {
    Phase { name: name.to_owned(), at_s: since(start), streams, sample }
}

fn point(start: u64, totals: &Totals, sample: Option<Sample>) -> Point {
    let (counts, sample) = (&totals.counts, sample.unwrap_or_default());
    Point {
        t: since(start),
        streams: counts.streams_open,
        served: counts.served.max(counts.exchanges),
        pushes: counts.pushes + counts.unneeded,
        cpu_ms: sample.cpu_ms,
        rss_kib: sample.rss_kib,
        anon_kib: sample.anon_kib,
    }
}

fn since(start: u64) -> f64 {
    clock::now().saturating_sub(start) as f64 / 1e9
}

const NOTICE: Duration = Duration::from_millis(1);
const SETTLE_SAMPLES: Duration = Duration::from_millis(250);
