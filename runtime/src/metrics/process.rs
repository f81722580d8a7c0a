//! What the process itself uses, read from /proc when somebody asks. Elsewhere than on Linux there is nothing to read.

use std::{sync::Once, time::Instant};

use opentelemetry::global;

use super::{Amount, Definition, Gauge, Level, instrument::SCOPE};

/// Clock ticks a second in /proc, part of the kernel's interface on every architecture we build for.
const TICKS: f64 = 100.0;

static CPU: Amount<0> =
    Amount::new("process.cpu.time", "s", &[], "Processor time the process has used, its children excepted");
static MEMORY: Level<0> =
    Level::new("process.memory.usage", "By", &[], "Physical memory the process holds, its children excepted");
static FILES: Level<0> = Level::new(
    "process.open_file_descriptor.count",
    "{file_descriptor}",
    &[],
    "Files and sockets the process has open",
);
static FILES_LIMIT: Level<0> = Level::new(
    "process.open_file_descriptor.limit",
    "{file_descriptor}",
    &[],
    "Files and sockets the process may have open",
);
static UPTIME: Gauge<0> = Gauge::new(
    "process.uptime",
    "s",
    &[],
    "How long the process runs; a smaller value than before is a restart",
);

/// All of this module.
pub(super) fn definitions() -> Vec<Definition> {
    vec![
        CPU.definition(),
        MEMORY.definition(),
        FILES.definition(),
        FILES_LIMIT.definition(),
        UPTIME.definition(),
    ]
}

/// Registers them, once a process.
pub(super) fn observe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let meter = global::meter(SCOPE);
        let (uptime, started) = (UPTIME.definition(), Instant::now());
        let _ = meter
            .f64_observable_gauge(uptime.name)
            .with_unit(uptime.unit)
            .with_description(uptime.help)
            .with_callback(move |observer| observer.observe(started.elapsed().as_secs_f64(), &[]))
            .build();
        let cpu = CPU.definition();
        let _ = meter
            .f64_observable_counter(cpu.name)
            .with_unit(cpu.unit)
            .with_description(cpu.help)
            .with_callback(|observer| {
                if let Some(seconds) =
                    std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat))
                {
                    observer.observe(seconds, &[]);
                }
            })
            .build();
        observed(&MEMORY.definition(), || {
            field(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
                .map(|kib| kib.saturating_mul(1024))
        });
        observed(&FILES.definition(), || {
            i64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()
        });
        observed(&FILES_LIMIT.definition(), || {
            field(&std::fs::read_to_string("/proc/self/limits").ok()?, "Max open files")
        });
    });
}

fn observed(definition: &Definition, read: impl Fn() -> Option<i64> + Send + Sync + 'static) {
    let _ = global::meter(SCOPE)
        .i64_observable_up_down_counter(definition.name)
        .with_unit(definition.unit)
        .with_description(definition.help)
        .with_callback(move |observer| {
            if let Some(value) = read() {
                observer.observe(value, &[]);
            }
        })
        .build();
}

/// User and system time. The program's name may hold spaces and parentheses: what counts follows the last one.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

/// The first number behind `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("nonsense"), None);
        assert_eq!(field("Name:\tx\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(field("Max open files            1024     4096    files", "Max open files"), Some(1024));
        assert_eq!(field("Max open files            unlimited", "Max open files"), None);
    }
}
