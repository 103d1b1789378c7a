//! How much memory the machine can still give, so that a cache that does not fit is refused at
//! start instead of the process being killed under load.

use std::path::{Path, PathBuf};

/// Where control groups are, how a process's line in `/proc/self/cgroup` begins, and a group's
/// files. Those of the first version count under other names.
const HIERARCHIES: [Hierarchy; 2] = [
    Hierarchy {
        root: "/sys/fs/cgroup",
        controller: "",
        files: ["memory.max", "memory.current", "file"],
    },
    Hierarchy {
        root: "/sys/fs/cgroup/memory",
        controller: "memory",
        files: ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"],
    },
];

struct Hierarchy {
    root: &'static str,
    controller: &'static str,
    files: [&'static str; 3],
}

/// Bytes that this process can still use without swapping: the machine's, or less in a control
/// group with a limit, be it the process's own or one around it. `None` where the system does not
/// say.
pub(crate) fn available_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_meminfo(&text));
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_groups = HIERARCHIES.iter().flat_map(|hierarchy| {
        let [limit, usage, cache] = hierarchy.files;
        groups(hierarchy, &own).into_iter().filter_map(move |folder| {
            let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
            // "max" is no number, and no limit.
            let limit: u64 = read(limit)?.trim().parse().ok()?;
            let usage: u64 = read(usage)?.trim().parse().ok()?;
            // Cached files are counted and can be had back.
            let cache = read("memory.stat").and_then(|text| of_stat(&text, cache)).unwrap_or(0);
            Some(limit.saturating_sub(usage.saturating_sub(cache)))
        })
    });
    of_groups.chain(machine).min()
}

/// The folders of the process's group and of all around it. In a container, the outermost that can
/// be seen is the container's.
fn groups(hierarchy: &Hierarchy, own: &str) -> Vec<PathBuf> {
    let root = Path::new(hierarchy.root);
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let is_it = fields.next()?.split(',').any(|name| name == hierarchy.controller);
        fields.next().filter(|_| is_it)
    });
    let own = root.join(path.unwrap_or_default().trim_start_matches('/'));
    own.ancestors().take_while(|group| group.starts_with(root)).map(Path::to_owned).collect()
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

    #[test]
    fn every_group_around_the_process_counts() {
        let own = "1:name=systemd:/x\n4:cpu,memory:/docker/ab\n0::/system.slice/sconce.service\n";
        let [unified, memory] = HIERARCHIES.map(|hierarchy| groups(&hierarchy, own));

        let unified: Vec<_> = unified.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            unified,
            [
                "/sys/fs/cgroup/system.slice/sconce.service",
                "/sys/fs/cgroup/system.slice",
                "/sys/fs/cgroup"
            ]
        );
        assert_eq!(memory[0], Path::new("/sys/fs/cgroup/memory/docker/ab"));
        assert_eq!(groups(&HIERARCHIES[0], "").len(), 1);
    }
}
