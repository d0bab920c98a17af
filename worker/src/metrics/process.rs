//! What the operating system says of this process, under the names that all clients of Prometheus use
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>, read 2026-11). Linux only: elsewhere, and where
//! `/proc` cannot be read, there are no samples.

use std::fs;

use super::family::{
    Family, PROCESS_CPU, PROCESS_FDS, PROCESS_MAX_FDS, PROCESS_RESIDENT, PROCESS_START, PROCESS_THREADS,
    PROCESS_VIRTUAL,
};
use super::text::Page;

/// Clock ticks of a second in `/proc`: `USER_HZ`, which is 100 on all platforms that this program runs on (proc(5), time(7)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes what is known of this process.
pub(super) fn show(page: &mut Page) {
    let stat = Stat::read();
    let of_stat = |value: fn(&Stat) -> f64| stat.as_ref().map(value);
    let started_s = || Some(booted_s()? + stat.as_ref()?.started_s);
    let families: [(&Family, Option<f64>); 7] = [
        (&PROCESS_START, started_s()),
        (&PROCESS_CPU, of_stat(|stat| stat.cpu_s)),
        (&PROCESS_RESIDENT, status_kib("VmRSS:").map(|kib| kib * 1024.0)),
        (&PROCESS_VIRTUAL, of_stat(|stat| stat.virtual_bytes)),
        (&PROCESS_FDS, open_files()),
        (&PROCESS_MAX_FDS, most_files()),
        (&PROCESS_THREADS, of_stat(|stat| stat.threads)),
    ];
    for (family, value) in families {
        page.family(family, |samples| value.into_iter().for_each(|value| samples.value(&[], value)));
    }
}

/// What `/proc/self/stat` says.
struct Stat {
    cpu_s: f64,
    threads: f64,
    /// Since the machine was booted.
    started_s: f64,
    virtual_bytes: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // The program's name, in brackets, may hold anything; what follows begins with the third field.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_s: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            threads: field(20)?,
            started_s: field(22)? / TICKS_PER_SECOND,
            virtual_bytes: field(23)?,
        })
    }
}

fn booted_s() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn status_kib(name: &str) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[expect(clippy::cast_precision_loss, reason = "files of a process")]
fn open_files() -> Option<f64> {
    // The one that lists them is among them.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn most_files() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let soft = text.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?;
    if soft == "unlimited" { Some(f64::INFINITY) } else { soft.parse().ok() }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn linux_tells_all_of_it() {
        let stat = Stat::read().unwrap();
        assert!(stat.threads >= 1.0 && stat.virtual_bytes > 1e6 && stat.cpu_s >= 0.0 && stat.started_s > 0.0);
        assert!(status_kib("VmRSS:").unwrap() > 500.0);
        assert!(booted_s().unwrap() > 1.6e9);
        let (open, most) = (open_files().unwrap(), most_files().unwrap());
        assert!(open >= 3.0 && open < most, "{open} {most}");
    }
}
