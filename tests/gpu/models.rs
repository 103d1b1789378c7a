//! The models that tests run, on a GPU and on the processor.

use std::path::Path;

use sconce::runner::cpu::{CpuRunner, KvCacheSize, RunnerOptions};
use sconce::runner::cuda::CudaRunner;
use sconce::runner::gpu_options::{GpuDtype, GpuOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::{Compute, KvDtype};
use sconce_kernels::cuda::Device;

use super::harness::Harness;
use super::steps::Runner;

impl Runner for CudaRunner {
    fn logits(&mut self) -> Vec<f32> {
        self.last_logits().expect("the device works")
    }
}

/// Options of a small batch.
pub(crate) fn options(dtype: GpuDtype) -> GpuOptions {
    GpuOptions {
        dtype: Some(dtype),
        kv_cache: Some(KvCacheSize::Blocks(128)),
        max_num_batched_tokens: 512,
        max_num_seqs: 16,
        ..GpuOptions::default()
    }
}

/// A checkpoint on the first GPU.
pub(crate) fn on_gpu(path: &Path, options: &GpuOptions) -> Harness<CudaRunner> {
    gpu_harness(&Checkpoint::open(path).unwrap(), options)
}

pub(crate) fn gpu_harness(checkpoint: &Checkpoint, options: &GpuOptions) -> Harness<CudaRunner> {
    let device = Device::open(0).expect("a GPU, or the stand-in for its driver");
    Harness::new(CudaRunner::load(device, checkpoint, options).unwrap())
}

/// The same on the processor, exact.
pub(crate) fn on_cpu(path: &Path) -> Harness {
    cpu_harness(&Checkpoint::open(path).unwrap())
}

pub(crate) fn cpu_harness(checkpoint: &Checkpoint) -> Harness {
    let options = RunnerOptions {
        compute: Compute::F32,
        keep_logits: true,
        kv_dtype: KvDtype::F32,
        max_num_seqs: 16,
        ..RunnerOptions::default()
    };
    Harness::new(CpuRunner::load(checkpoint, &options).unwrap())
}
