//! The models that tests run, and how.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use sconce::runner::cpu::{CpuRunner, RunnerOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::{Compute, KvDtype};

use super::harness::Harness;
use super::tiny;

/// The real model, named by the environment; says so when there is none.
pub(crate) fn real_model() -> Option<PathBuf> {
    let path = std::env::var_os("SCONCE_TEST_MODEL").map(PathBuf::from);
    if path.is_none() {
        println!("skipped: SCONCE_TEST_MODEL names no model");
    }
    path
}

/// Options of a small batch; exact, or as served.
pub(crate) fn options(compute: Compute) -> RunnerOptions {
    RunnerOptions {
        num_threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        compute,
        keep_logits: true,
        kv_dtype: match compute {
            Compute::F32 => KvDtype::F32,
            Compute::Int8 | Compute::Q8 | Compute::Q4 => KvDtype::F16,
        },
        max_num_batched_tokens: 512,
        max_num_seqs: 32,
        ..RunnerOptions::default()
    }
}

/// Runs `check` on the tiny model and, when there is one, on the real model as served.
pub(crate) fn each_model(check: impl Fn(&mut Harness)) {
    check(&mut tiny_model());
    if let Some(path) = real_model() {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let runner = CpuRunner::load(&checkpoint, &options(Compute::Int8)).unwrap();
        check(&mut Harness::new(runner));
    }
}

/// The tiny model, exact.
pub(crate) fn tiny_model() -> Harness {
    let folder = tiny::folder(1, None);
    let options = RunnerOptions {
        compute: Compute::F32,
        keep_logits: true,
        kv_dtype: KvDtype::F32,
        max_num_seqs: 16,
        ..RunnerOptions::default()
    };
    Harness::new(CpuRunner::load(&Checkpoint::open(folder.path()).unwrap(), &options).unwrap())
}
