//! What a worker serves, read from the command line and checked; nothing of it is opened yet.

use std::path::PathBuf;
use std::time::Duration;

use super::LoadFormat;
use crate::runner::cpu::RunnerOptions;
use crate::runner::device::DeviceChoice;
use crate::runner::gpu_options::GpuOptions;

/// What is served.
#[derive(Clone, Debug)]
pub(crate) enum ModelSource {
    /// A checkpoint on some device.
    Checkpoint(Box<CheckpointSource>),
    /// The model without weights.
    Hash(HashOptions),
}

/// A checkpoint and how to run it.
#[derive(Clone, Debug)]
pub(crate) struct CheckpointSource {
    pub(crate) path: PathBuf,
    pub(crate) load_format: LoadFormat,
    pub(crate) device: DeviceChoice,
    /// On the processor.
    pub(crate) options: Result<RunnerOptions, String>,
    /// On a GPU.
    pub(crate) gpu: Result<GpuOptions, String>,
}

/// The hash model's shape and faults.
#[derive(Clone, Debug)]
pub(crate) struct HashOptions {
    pub(crate) vocab_size: u32,
    pub(crate) block_size: u32,
    pub(crate) num_blocks: u32,
    pub(crate) max_num_seqs: u32,
    pub(crate) max_num_batched_tokens: u32,
    pub(crate) max_model_len: u32,
    pub(crate) step: Duration,
    pub(crate) fail_at: Option<u32>,
    pub(crate) depth: usize,
}
