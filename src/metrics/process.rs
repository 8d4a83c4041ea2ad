//! Reads the metrics of the process from `/proc`, under the names that Prometheus' client libraries use.
//! Systems other than Linux have none.
//!
//! The `process` feature of the crate `prometheus` is not used: it counts CPU time in whole seconds, which makes
//! the rate of a mostly idle server useless.

use std::fs;

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

/// Clock ticks per second in `/proc`: always 100 for programs on Linux, whatever the kernel's own rate.
const TICKS_PER_SECOND: f64 = 100.0;

/// Returns the current metrics of the process; leaves out those that cannot be read.
pub(crate) fn process() -> Vec<MetricFamily> {
    let mut families = Vec::new();
    if let Some(seconds) = cpu_seconds() {
        let help = "CPU time used by the process, in seconds";
        if let Ok(counter) = Counter::new("process_cpu_seconds_total", help) {
            counter.inc_by(seconds);
            families.extend(counter.collect());
        }
    }
    let gauges = [
        (
            "process_start_time_seconds",
            "When the process started, in seconds since 1970",
            start_time_seconds(),
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory of the process",
            status("VmRSS:").map(|kib| kib * 1024.0),
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory of the process",
            status("VmSize:").map(|kib| kib * 1024.0),
        ),
        ("process_threads", "Threads of the process", status("Threads:")),
        ("process_open_fds", "Open file descriptors", open_fds()),
        ("process_max_fds", "Limit of open file descriptors", max_fds()),
    ];
    for (name, help, value) in gauges {
        if let (Some(value), Ok(gauge)) = (value, Gauge::new(name, help)) {
            gauge.set(value);
            families.extend(gauge.collect());
        }
    }
    families
}

/// Returns the fields of `/proc/self/stat` after the process name, which may contain spaces and parentheses. Index 0
/// is field 3 of proc(5).
fn stat() -> Option<Vec<f64>> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    let number = |field: &str| field.parse().unwrap_or_default();
    Some(fields.split_whitespace().map(number).collect())
}

fn cpu_seconds() -> Option<f64> {
    let stat = stat()?;
    Some((stat.get(11)? + stat.get(12)?) / TICKS_PER_SECOND)
}

fn start_time_seconds() -> Option<f64> {
    let since_boot = stat()?.get(19)? / TICKS_PER_SECOND;
    let kernel = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = kernel
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .parse()
        .ok()?;
    Some(boot + since_boot)
}

/// Returns the number of a line of `/proc/self/status`.
fn status(name: &str) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

fn open_fds() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    u32::try_from(count).ok().map(f64::from)
}

fn max_fds() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let limits = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    limits.split_whitespace().next()?.parse().ok()
}
