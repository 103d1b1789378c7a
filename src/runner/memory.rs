//! How much memory the machine can still give, so that a cache that does not fit is refused at
//! start instead of the process being killed under load.

/// A control group's files; the first version's groups count under other names.
const GROUPS: [[&str; 4]; 2] = [
    ["/sys/fs/cgroup", "memory.max", "memory.current", "file"],
    ["/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"],
];

/// Bytes that this process can still use without swapping: the machine's, or less in a control
/// group with a limit. `None` where the system does not say.
pub(crate) fn available_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_meminfo(&text));
    let of_groups = GROUPS.into_iter().filter_map(|[folder, limit, usage, cache]| {
        let read = |file: &str| std::fs::read_to_string(format!("{folder}/{file}")).ok();
        // "max" is no number, and no limit.
        let limit: u64 = read(limit)?.trim().parse().ok()?;
        let usage: u64 = read(usage)?.trim().parse().ok()?;
        // Cached files are counted and can be had back.
        let cache = read("memory.stat").and_then(|text| of_stat(&text, cache)).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(cache)))
    });
    of_groups.chain(machine).min()
}

/// Finds the line `name 123`.
fn of_stat(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Finds the line `MemAvailable: 123 kB`.
fn of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_bytes() {
        let text = "MemTotal:       24689364 kB\nMemAvailable:   12 kB\nBuffers: 1 kB\n";

        assert_eq!(of_meminfo(text), Some(12 * 1024));
        assert_eq!(of_meminfo("MemTotal: 1 kB\n"), None);
        assert_eq!(of_stat("file_mapped 3\nfile 4096\n", "file"), Some(4096));
    }
}
