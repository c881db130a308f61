//! What Prometheus's clients tell of their process, under the names that all of them use.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};
use telemetry::{Kind, Metric, Metrics, Owner};

const fn process(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { name, labels: &[], kind, owner: Owner::Process, help }
}

static CPU: Metric =
    process("process_cpu_seconds_total", Kind::Counter, "Total user and system CPU time spent in seconds.");
static OPEN_FDS: Metric = process("process_open_fds", Kind::Gauge, "Number of open file descriptors.");
static MAX_FDS: Metric = process("process_max_fds", Kind::Gauge, "Maximum number of open file descriptors.");
static VIRTUAL: Metric =
    process("process_virtual_memory_bytes", Kind::Gauge, "Virtual memory size in bytes.");
static VIRTUAL_MAX: Metric = process(
    "process_virtual_memory_max_bytes",
    Kind::Gauge,
    "Maximum amount of virtual memory available in bytes.",
);
static RESIDENT: Metric =
    process("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.");
static START: Metric = process(
    "process_start_time_seconds",
    Kind::Gauge,
    "Start time of the process since unix epoch in seconds.",
);

/// Reads the state of this process.
#[expect(clippy::cast_precision_loss, reason = "Prometheus's numbers are floating-point")]
pub(super) fn read(metrics: &Metrics) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |number: usize| -> f64 {
        fields.get(number - 3).and_then(|text| text.parse().ok()).unwrap_or_default()
    };
    let value = |name, usual: i64| sysconf(name).ok().flatten().unwrap_or(usual) as f64;
    let (ticks, page) = (value(SysconfVar::CLK_TCK, 100), value(SysconfVar::PAGE_SIZE, 4096));
    metrics.set(&CPU, &[], (field(14) + field(15)) / ticks);
    metrics.set(&VIRTUAL, &[], field(23));
    metrics.set(&RESIDENT, &[], field(24) * page);
    let booted = fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = booted.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    if let Some(booted) = booted {
        metrics.set(&START, &[], booted + field(22) / ticks);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        metrics.set(&OPEN_FDS, &[], open.count() as f64);
    }
    for (gauge, resource) in [(&MAX_FDS, Resource::RLIMIT_NOFILE), (&VIRTUAL_MAX, Resource::RLIMIT_AS)] {
        if let Ok((soft, _)) = getrlimit(resource) {
            metrics.set(gauge, &[], soft as f64);
        }
    }
}
