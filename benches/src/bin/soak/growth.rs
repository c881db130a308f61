//! The memory and descriptors of agent and keeper over time.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sds_load::process::Process;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Looks every second. Dropping it ends it.
pub(crate) struct Growth {
    keeper: watch::Sender<i32>,
    /// Of the keeper, and of its agent.
    series: Arc<Mutex<[Series; 2]>>,
    task: JoinHandle<()>,
}

/// Resident KiB and open descriptors.
type Look = [u64; 2];

#[derive(Debug, Default, Clone)]
struct Series {
    first: Option<Look>,
    last: Look,
    most: Look,
}

impl Growth {
    /// Watches this keeper and the agents that it runs.
    pub(crate) fn watch(keeper: i32) -> Self {
        let (keeper, present) = watch::channel(keeper);
        let series = Arc::<Mutex<[Series; 2]>>::default();
        let shared = Arc::clone(&series);
        let task = tokio::spawn(async move {
            loop {
                sleep(BETWEEN).await;
                let keeper = present.borrow().cast_unsigned();
                let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
                let agent = children.ok().and_then(|pids| pids.split(' ').next()?.parse().ok());
                let mut series = shared.lock().unwrap_or_else(PoisonError::into_inner);
                for (series, pid) in series.iter_mut().zip([Some(keeper), agent]) {
                    if let Some(seen) = pid.and_then(look) {
                        series.add(seen);
                    }
                }
            }
        });
        Self { keeper, series, task }
    }

    /// Watches another keeper from now on.
    pub(crate) fn follow(&self, keeper: i32) {
        self.keeper.send_replace(keeper);
    }

    /// Prints the figures. Returns whether nothing has grown.
    pub(crate) fn report(&self) -> bool {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut flat = true;
        for (name, series) in ["keeper", "agent"].into_iter().zip(series) {
            let Series { first, last, most } = series;
            let first = first.unwrap_or_default();
            println!(
                "{name}: RSS first {}, last {}, most {} KiB; descriptors first {}, last {}, most {}",
                first[0], last[0], most[0], first[1], last[1], most[1]
            );
            flat &= last[0] <= first[0] * 3 / 2 + 4096 && last[1] <= first[1] + 16;
        }
        flat
    }
}

impl Series {
    fn add(&mut self, look: Look) {
        self.first.get_or_insert(look);
        self.last = look;
        self.most = [self.most[0].max(look[0]), self.most[1].max(look[1])];
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn look(pid: u32) -> Option<Look> {
    let resident = Process::of(pid)?.sample()?.rss_kib;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    Some([resident, descriptors])
}

const BETWEEN: Duration = Duration::from_secs(1);
