//! The process as the kernel sees it, under the names that Prometheus' own libraries use. Read from
//! `/proc`; elsewhere than on Linux there is nothing.

use std::fs;

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntCounter};

use crate::telemetry;

/// Clock ticks of a second in `/proc`: 100 for every program on Linux, whatever the kernel's own rate.
const TICKS_PER_SECOND: f64 = 100.0;

/// What there is to say about the process now.
pub(crate) fn process() -> Vec<MetricFamily> {
    let mut families = Vec::new();
    if let Some(seconds) = cpu_seconds() {
        let help = "CPU time that the process has used, in seconds";
        if let Ok(counter) = Counter::new("process_cpu_seconds_total", help) {
            counter.inc_by(seconds);
            families.extend(counter.collect());
        }
    }
    let help = "Log lines that were dropped because the log was not read fast enough";
    if let Ok(counter) = IntCounter::new("events_log_lines_dropped_total", help) {
        counter.inc_by(telemetry::dropped());
        families.extend(counter.collect());
    }
    let gauges = [
        (
            "process_start_time_seconds",
            "When the process started, in seconds since 1970",
            start_time_seconds(),
        ),
        (
            "process_resident_memory_bytes",
            "Memory that the process holds",
            status_kib("VmRSS:").map(|kib| kib * 1024.0),
        ),
        (
            "process_virtual_memory_bytes",
            "Addresses that the process has reserved",
            status_kib("VmSize:").map(|kib| kib * 1024.0),
        ),
        (
            "process_threads",
            "Threads of the process",
            status_kib("Threads:"),
        ),
        (
            "process_open_fds",
            "Files and sockets that the process has open",
            open_fds(),
        ),
        (
            "process_max_fds",
            "Files and sockets that the process may have open",
            max_fds(),
        ),
    ];
    for (name, help, value) in gauges {
        if let (Some(value), Ok(gauge)) = (value, Gauge::new(name, help)) {
            gauge.set(value);
            families.extend(gauge.collect());
        }
    }
    families
}

/// Fields of `/proc/self/stat` behind the name, which may hold spaces and brackets; the first is the
/// third of proc(5).
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

fn status_kib(name: &str) -> Option<f64> {
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
