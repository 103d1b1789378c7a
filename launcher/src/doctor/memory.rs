//! How much memory there is, and which limits stand around it.

use indicatif::BinaryBytes;

use super::{Finding, Gpu, Subject};

/// A small model and the processes around it.
const LEAST_BYTES: u64 = 1 << 30;

/// Enough for a small model with some context.
const SOME_BYTES: u64 = 4 << 30;

pub(super) fn memory(subject: &Subject) -> Finding {
    const CHECK: &str = "memory";
    let info = subject.read("/proc/meminfo").unwrap_or_default();
    let Some(machine) = kilobytes(&info, "MemAvailable:") else {
        return Finding::warn(
            CHECK,
            "the system does not say how much is free: nothing is refused for lack of it",
            "mount /proc",
        );
    };
    let limit = limit(subject);
    let available = limit.map_or(machine, |(_, left)| left.min(machine));
    let what = match limit {
        Some((limit, left)) if left < machine => {
            let (limit, left) = (BinaryBytes(limit), BinaryBytes(left));
            format!("{left} available: a control group's limit of {limit} leaves no more")
        }
        Some((limit, _)) => {
            let limit = BinaryBytes(limit);
            format!("{} available, within a limit of {limit}", BinaryBytes(machine))
        }
        None => format!("{} available, no limit", BinaryBytes(machine)),
    };
    let remedy = match limit {
        Some((_, left)) if left < machine => "raise the limit (MemoryMax=, docker run --memory)",
        Some(_) | None => "end other processes, or serve a smaller model",
    };
    if available < LEAST_BYTES {
        Finding::fail(CHECK, format!("{what}: hardly a model fits"), remedy)
    } else if available < SOME_BYTES {
        Finding::warn(CHECK, format!("{what}: enough for small models"), remedy)
    } else {
        Finding::ok(CHECK, what)
    }
}

/// What a GPU has free for models.
pub(super) fn gpu((ordinal, gpu): (usize, &Result<Gpu, String>)) -> Finding {
    const CHECK: &str = "gpu memory";
    let Gpu { name, cuda_version, free_bytes, total_bytes } = match gpu {
        Ok(gpu) => gpu,
        Err(error) => {
            let why = format!("cuda:{ordinal} can't be used: {error}");
            return Finding::warn(CHECK, why, "serve from the processor: `-- --device cpu`");
        }
    };
    let (free, total) = (BinaryBytes(*free_bytes), BinaryBytes(*total_bytes));
    let what = format!("cuda:{ordinal} ({name}, CUDA {cuda_version}): {free} of {total} free");
    match *free_bytes < LEAST_BYTES {
        true => Finding::warn(
            CHECK,
            format!("{what}: hardly a model fits"),
            "end what uses it (`nvidia-smi` tells)",
        ),
        false => Finding::ok(CHECK, what),
    }
}

/// The tightest limit of the control groups around this process, and what it leaves.
fn limit(subject: &Subject) -> Option<(u64, u64)> {
    let files = [
        ("", "memory.max", "memory.current", "file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    ];
    let limits = files.into_iter().flat_map(|(controller, limit, usage, cache)| {
        subject.groups(controller).into_iter().filter_map(move |group| {
            let number = |file: &str| subject.read(&format!("{group}/{file}"))?.parse::<u64>().ok();
            // The first version writes "no limit" as the largest number of pages.
            let limit = number(limit).filter(|limit| *limit < 1 << 62)?;
            let stat = subject.read(&format!("{group}/memory.stat")).unwrap_or_default();
            // Cached files are counted and can be had back.
            let cache = stat
                .lines()
                .find_map(|line| line.strip_prefix(cache)?.strip_prefix(' ')?.parse::<u64>().ok());
            let used = number(usage)?.saturating_sub(cache.unwrap_or(0));
            Some((limit, limit.saturating_sub(used)))
        })
    });
    limits.min_by_key(|(_, left)| *left)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}
