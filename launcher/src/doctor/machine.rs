//! The processor, the system's limits, and whether there is a GPU.

use std::net::{SocketAddr, TcpListener};

use rustix::process::{Resource, getrlimit};

use super::{Finding, Subject};

/// The router's limit of connections, and some for files.
const WANTED_FILES: u64 = 12_500;

/// Where a driver's library is, on the distributions that have it elsewhere than the linker looks.
const LIBCUDA: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/libcuda.so.1",
    "/usr/lib64/libcuda.so.1",
    "/usr/lib/libcuda.so.1",
    "/usr/lib/wsl/lib/libcuda.so.1",
    "/run/opengl-driver/lib/libcuda.so.1",
    "/usr/local/nvidia/lib64/libcuda.so.1",
];

pub(super) fn instruction_set(isa: &str) -> Finding {
    const CHECK: &str = "processor";
    match isa {
        "portable" => Finding::warn(
            CHECK,
            "no vector instructions that the kernels know: many times slower than AVX2",
            "use a processor with AVX2 or ARM's dot products, or pass them through to the virtual \
             machine",
        ),
        "avx2" => {
            Finding::ok(CHECK, "avx2: fast; with AVX-VNNI or AVX-512 VNNI it would be faster")
        }
        _ => Finding::ok(CHECK, format!("{isa}: integer dot products, the fast path")),
    }
}

/// The worker starts as many threads as the system lets it use.
pub(super) fn threads(subject: &Subject) -> Finding {
    const CHECK: &str = "threads";
    let Ok(threads) = std::thread::available_parallelism() else {
        return Finding::warn(CHECK, "the number of cores is unknown", "say it: --threads COUNT");
    };
    match quota(subject) {
        Some(quota) if quota < threads.get() as f64 || quota < 1.0 => Finding::warn(
            CHECK,
            format!("{threads} threads would run, and a quota gives {quota:.1} cores: they stall"),
            format!("raise the quota, or say --threads {}", (quota as usize).max(1)),
        ),
        Some(quota) => Finding::ok(CHECK, format!("{threads}, within a quota of {quota:.1} cores")),
        None => Finding::ok(CHECK, format!("{threads}, one for each core; no quota")),
    }
}

/// Cores that the control groups around this process give it; the smallest counts.
fn quota(subject: &Subject) -> Option<f64> {
    let unified = subject.groups("").into_iter().filter_map(|group| {
        let text = subject.read(&format!("{group}/cpu.max"))?;
        let (quota, period) = text.split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
    });
    let first = subject.groups("cpu").into_iter().filter_map(|group| {
        let number = |file| subject.read(&format!("{group}/{file}"))?.parse::<f64>().ok();
        let quota = number("cpu.cfs_quota_us").filter(|quota| *quota > 0.0)?;
        Some(quota / number("cpu.cfs_period_us")?)
    });
    unified.chain(first).filter(|quota| quota.is_finite()).min_by(f64::total_cmp)
}

pub(super) fn huge_pages(subject: &Subject) -> Finding {
    const CHECK: &str = "huge pages";
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    let Some(text) = subject.read(FILE) else {
        return Finding::warn(
            CHECK,
            "the kernel has none: weights are read some percent slower",
            "use a kernel with transparent huge pages",
        );
    };
    let chosen = text.split(['[', ']']).nth(1).unwrap_or_default();
    match chosen {
        "always" | "madvise" => {
            Finding::ok(CHECK, format!("{chosen}: weights and caches get them"))
        }
        _ => Finding::warn(
            CHECK,
            format!("{chosen}: weights are read some percent slower"),
            format!("echo madvise | sudo tee {FILE}"),
        ),
    }
}

pub(super) fn numa(subject: &Subject) -> Finding {
    const CHECK: &str = "numa";
    let entries = std::fs::read_dir(subject.path("/sys/devices/system/node"));
    let is_node =
        |name: &str| name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok());
    let names = entries.into_iter().flatten().flatten();
    let num_nodes = names.filter(|entry| entry.file_name().to_str().is_some_and(is_node)).count();
    match num_nodes {
        0 | 1 => Finding::ok(CHECK, "one memory node"),
        _ => Finding::warn(
            CHECK,
            format!("{num_nodes} memory nodes: one model's weights are spread over all of them"),
            "for most tokens per second, run one server per node: numactl -N 0 -m 0 sconce up …",
        ),
    }
}

pub(super) fn open_files() -> Finding {
    const CHECK: &str = "open files";
    let limit = getrlimit(Resource::Nofile).current;
    match limit {
        Some(limit) if limit < WANTED_FILES => Finding::warn(
            CHECK,
            format!("{limit} at most, and every connection is one: the router takes up to 12000"),
            "ulimit -n 65536, or LimitNOFILE=65536 in a systemd unit",
        ),
        Some(limit) => Finding::ok(CHECK, format!("{limit} at most")),
        None => Finding::ok(CHECK, "no limit"),
    }
}

pub(super) fn port(listen: SocketAddr) -> Finding {
    const CHECK: &str = "port";
    match TcpListener::bind(listen) {
        Ok(_) => Finding::ok(CHECK, format!("{listen} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::warn(
            CHECK,
            format!("{listen} is taken, perhaps by another sconce"),
            "sconce up --port NUMBER, or --port 0 for any",
        ),
        Err(error) => Finding::fail(
            CHECK,
            format!("nobody can listen on {listen}: {error}"),
            "choose another: --host and --port, SCONCE_HOST and SCONCE_PORT",
        ),
    }
}

/// By the kernel's word and the library's presence: nothing is loaded.
pub(super) fn gpu(subject: &Subject) -> Vec<Finding> {
    const CHECK: &str = "nvidia";
    let kernel = subject.read("/proc/driver/nvidia/version");
    let version = kernel.as_deref().and_then(driver_version);
    let library = LIBCUDA.into_iter().find(|path| subject.path(path).exists());
    // In WSL, the driver is the host's.
    let is_wsl = subject.path("/dev/dxg").exists();
    let finding = match (version, library) {
        (None, None) => Finding::ok(CHECK, "no driver: the processor computes"),
        (Some(version), Some(library)) => {
            Finding::ok(CHECK, format!("driver {version}, {library}"))
        }
        (None, Some(library)) if is_wsl => {
            Finding::ok(CHECK, format!("the driver of the host, {library}"))
        }
        (None, Some(library)) => Finding::warn(
            CHECK,
            format!("{library} is there, and the kernel's driver is not loaded: no GPU"),
            "sudo modprobe nvidia, or start the container with its GPUs (--gpus all)",
        ),
        (Some(version), None) => Finding::warn(
            CHECK,
            format!("driver {version} without libcuda.so.1: the GPU can't be used"),
            "install the driver's libraries (libcuda1, nvidia-driver-cuda), or start the container \
             with NVIDIA_DRIVER_CAPABILITIES=compute",
        ),
    };
    vec![finding]
}

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue …`
fn driver_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version"))?;
    let is_version =
        |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    Some(line.split_whitespace().find(is_version).unwrap_or("of an unknown version").to_owned())
}

impl Subject {
    /// The folders of this process's control group and of all around it: of the unified hierarchy,
    /// or of a controller of the first version.
    pub(super) fn groups(&self, controller: &str) -> Vec<String> {
        let root = match controller {
            "" => "/sys/fs/cgroup".to_owned(),
            _ => format!("/sys/fs/cgroup/{controller}"),
        };
        let own = self.read("/proc/self/cgroup").unwrap_or_default();
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let is_it = fields.next()?.split(',').any(|name| name == controller);
            fields.next().filter(|_| is_it)
        });
        let mut groups = vec![root.clone()];
        let parts = path.unwrap_or_default().split('/').filter(|part| !part.is_empty());
        for part in parts {
            let inner = format!("{}/{part}", groups.last().unwrap_or(&root));
            groups.push(inner);
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_version_is_found() {
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56\n\
                    GCC version:  gcc version 12.2.0";
        let open =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build";

        assert_eq!(driver_version(text).unwrap(), "550.54.15");
        assert_eq!(driver_version(open).unwrap(), "570.86.10");
    }
}
