//! A model on a GPU: weights, the KV cache, the buffers of a step, graphs of the steps that only decode,
//! and the sampler.

mod batch;
mod decoder;
mod graphs;
mod memory;
mod tables;
mod tensors;
mod upload;

use std::io;
use std::time::Instant;

use sconce_kernels::cpu::{Cpu, Isa, KvShape};
use sconce_kernels::cuda::{
    self, BlockTables, Device, Float, KvCache, KvDtype, Plan, PlanLimits, Properties, Readback,
};

use self::batch::{Batch, Layout, Room};
use self::decoder::{Decoder, Pass, Workspace};
use self::graphs::Graphs;
use self::tables::TableMirror;
use super::gpu_options::{GpuDtype, GpuKvDtype, GpuOptions};
use super::input::Input;
use super::limits::{Asked, LimitError};
use super::sampler::{Logits, Sampler};
use super::{Error, Executor, ExecutorLimits};
use crate::engine::plan::{MAX_DRAFTS, Sampled, Scored, StepPlan};
use crate::models::config::DecoderConfig;
use crate::weights::{self, Checkpoint};

/// Why a model cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The weights are not what the shape asks for.
    #[error("the checkpoint cannot be loaded")]
    Weights(#[from] weights::Error),
    /// A tensor cannot be read.
    #[error("cannot read the weights")]
    Read(#[source] io::Error),
    /// A limit that is impossible.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The GPU refused or failed.
    #[error("the GPU cannot run this model")]
    Kernel(#[from] sconce_kernels::Error),
    /// A thread that loads panicked.
    #[error("loading the weights panicked")]
    Panicked,
    /// The weights leave no room for the KV cache.
    #[error(
        "the weights and buffers leave {left} bytes of the GPU's memory for the KV cache, and it needs \
         {needed} at least: raise --gpu-memory-utilization, or lower --max-model-len, \
         --max-num-batched-tokens or --max-num-seqs"
    )]
    NoRoom {
        /// Bytes.
        left: u64,
        /// Bytes.
        needed: u64,
    },
}

impl From<cuda::Error> for LoadError {
    fn from(error: cuda::Error) -> Self {
        Self::Kernel(error.into())
    }
}

impl From<cuda::Error> for Error {
    fn from(error: cuda::Error) -> Self {
        Self::Kernel(error.into())
    }
}

/// Runs a decoder on a GPU.
pub struct CudaRunner {
    // Before what it names.
    graphs: Graphs,
    decoder: Decoder,
    kv: KvCache,
    tables: BlockTables,
    mirror: TableMirror,
    workspace: Workspace,
    batch: Batch,
    logits: Readback,
    /// Samples what is read back.
    cpu: Cpu,
    sampler: Sampler,
    input: Input,
    scored: Vec<Scored>,
    limits: ExecutorLimits,
    phases: Vec<(&'static str, f64)>,
    device: Device,
}

impl CudaRunner {
    /// Loads the checkpoint's weights and allocates all that a step needs.
    pub fn load(
        device: Device,
        checkpoint: &Checkpoint,
        options: &GpuOptions,
    ) -> Result<Self, LoadError> {
        let start = Instant::now();
        let config = checkpoint.config();
        let asked = asked(options);
        let most = asked.limits(config, u32::MAX / options.block_size.max(1))?;
        let float = float(checkpoint, options.dtype);
        let max_positions = most.max_model_len as usize;
        let decoder =
            Decoder::load(&device, checkpoint, float, max_positions, options.num_threads)?;
        let weights_at = ms(start);
        let max_logits = most.max_num_seqs as usize + MAX_DRAFTS;
        let logits = Readback::new(&device, max_logits * config.vocab_size * 4)?;
        let shape = KvShape { num_blocks: 1, ..kv_shape(config, options) };
        let kv_dtype = match options.kv_dtype {
            GpuKvDtype::Auto => KvDtype::Float(float),
            GpuKvDtype::Fp8 => KvDtype::Fp8,
        };
        let sizing = memory::Sizing { device: &device, config, options, most, float };
        let num_blocks = sizing.num_blocks(&decoder, (shape, kv_dtype))?;
        let limits = asked.limits(config, num_blocks)?;
        let shape = KvShape { num_blocks: num_blocks as usize, ..shape };
        let kv = KvCache::new(&device, shape, kv_dtype)?;
        let plan = Plan::new(plan_limits(config, float, &limits))?;
        let max_tokens = limits.max_num_batched_tokens as usize;
        let workspace = decoder.workspace(max_tokens, max_logits, (&plan, &shape))?;
        let num_columns = limits.max_model_len.div_ceil(limits.block_size) as usize;
        let tables = BlockTables::new(&device, limits.max_num_seqs as usize, num_columns)?;
        let batch = Batch::new(&device, room(&limits, num_columns), plan)?;
        let cpu = Cpu::new(options.num_threads, Isa::detect())?;
        let sampler = Sampler::new(checkpoint.eos_token_ids().to_vec(), cpu.num_threads());
        let mut runner = Self {
            graphs: Graphs::new(options.graphs, &limits),
            decoder,
            kv,
            mirror: TableMirror::new(limits.max_num_seqs as usize),
            tables,
            workspace,
            batch,
            logits,
            cpu,
            sampler,
            input: Input::default(),
            scored: Vec::new(),
            limits,
            phases: Vec::new(),
            device,
        };
        let cache_at = ms(start);
        runner.capture_first()?;
        let phases = [
            ("copy", weights_at),
            ("kv_cache", cache_at - weights_at),
            ("graphs", ms(start) - cache_at),
        ];
        runner.phases.extend(phases);
        Ok(runner)
    }

    /// What the hardware is.
    pub fn properties(&self) -> &Properties {
        self.device.properties()
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self) -> usize {
        self.decoder.num_bytes()
    }

    /// Bytes of the whole KV cache.
    pub fn kv_bytes(&self) -> usize {
        cuda::num_bytes(&self.kv.shape(), self.kv.dtype()).unwrap_or(usize::MAX)
    }

    /// What took how many milliseconds of the load.
    pub fn phases(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.phases.iter().copied()
    }

    /// What of the kernels changes answers.
    pub fn fingerprint(&self) -> String {
        let Properties { name, capability, driver_version, .. } = self.properties();
        let (float, kv_dtype) = (self.decoder.float(), self.kv.dtype());
        let block_size = self.limits.block_size;
        format!("{name} {capability:?} {driver_version} {float:?} {kv_dtype:?} {block_size}")
    }

    /// The last step's logits as the model gave them, as
    /// [`CpuRunner::last_logits`](super::cpu::CpuRunner::last_logits) are.
    pub fn last_logits(&mut self) -> Result<Vec<f32>, Error> {
        let num_rows = self.input.logits_tokens.len();
        let logits = self.workspace.logits(num_rows, self.limits.vocab_size as usize);
        Ok(self.device.download(logits)?)
    }

    /// Launches the step's forward pass, as a graph where there may be one.
    fn launch(&mut self, plan: &StepPlan) -> Result<(), Error> {
        let num_tokens = self.input.num_tokens;
        let num_logits = self.input.logits_tokens.len();
        self.batch.plan_attention(plan)?;
        let updates = self.mirror.update(plan);
        let is_decode = num_tokens == plan.rows.len() && num_logits == num_tokens;
        let is_plain = is_decode && plan.copies.is_empty() && updates.len() <= num_tokens;
        let bucket = if is_plain { self.graphs.bucket(num_tokens) } else { None };
        let room = match bucket {
            Some(size) => Room { tokens: size, logits: size, updates: size, copies: 0 },
            None => Room {
                tokens: num_tokens,
                logits: num_logits,
                updates: updates.len(),
                copies: plan.copies.len(),
            },
        };
        let layout = Layout::new(room);
        self.batch.send(&self.device, &layout, plan, &self.input, updates)?;
        match bucket {
            Some(size) => self.launch_graph(size, &layout),
            None => self.compute(&layout, self.batch.plan.grid()),
        }
    }

    /// Everything that a step asks of the device between what it is sent and what it yields.
    fn compute(&mut self, layout: &Layout, grid: cuda::PlanGrid) -> Result<(), Error> {
        let Room { tokens, logits, updates, copies } = layout.room();
        let lists = self.batch.lists(layout);
        if updates > 0 {
            self.tables.update(&self.device, lists.updates)?;
        }
        if copies > 0 {
            self.kv.copy_blocks(&self.device, lists.copies)?;
        }
        if tokens == 0 {
            return Ok(());
        }
        self.decoder.forward(&mut Pass {
            kv: &mut self.kv,
            tables: &self.tables,
            workspace: &mut self.workspace,
            lists,
            num_tokens: tokens,
            num_logits: logits,
            grid,
        })?;
        Ok(())
    }

    fn launch_graph(&mut self, size: usize, layout: &Layout) -> Result<(), Error> {
        if !self.graphs.has(size) {
            self.capture(size, layout)?;
        }
        Ok(self.graphs.launch(size)?)
    }

    fn capture(&mut self, size: usize, layout: &Layout) -> Result<(), Error> {
        let grid = self.batch.plan.decode_grid(size);
        // Once without capture: what is loaded or decided at a first use must not be part of it.
        self.compute(layout, grid)?;
        let device = self.device.clone();
        let graph = device.capture(|| self.compute(layout, grid))?;
        self.graphs.insert(size, graph);
        Ok(())
    }

    /// Captures the smallest and the largest bucket, so that a first request finds them; others are
    /// captured when they are first needed.
    fn capture_first(&mut self) -> Result<(), LoadError> {
        for size in self.graphs.first() {
            let room = Room { tokens: size, logits: size, updates: size, copies: 0 };
            let layout = Layout::new(room);
            let (plan, input) = (StepPlan::default(), Input::default());
            let captured = self.batch.plan_attention(&plan).and_then(|()| {
                self.batch.send(&self.device, &layout, &plan, &input, &[])?;
                self.capture(size, &layout)
            });
            captured.map_err(|error| match error {
                Error::Kernel(error) => LoadError::Kernel(error),
                Error::Plan(_) => LoadError::Panicked,
            })?;
        }
        Ok(self.device.synchronize()?)
    }

    /// Scores in as many passes over the vocabulary as there is room for logits.
    fn score(&mut self, plan: &StepPlan) -> Result<(), Error> {
        let max_rows = self.limits.max_num_seqs as usize + MAX_DRAFTS;
        let vocab_size = self.limits.vocab_size as usize;
        for scores in plan.scores.chunks(max_rows) {
            let tokens: Vec<_> = scores.iter().map(|score| score.token_index).collect();
            let tokens = self.device.buffer_of(&tokens)?;
            let (num_tokens, num_scores) = (self.input.num_tokens, scores.len());
            let workspace = &mut self.workspace;
            self.decoder.project_to_vocabulary(
                workspace,
                tokens.slice(),
                num_tokens,
                num_scores,
            )?;
            self.logits.begin(&self.device, self.workspace.logits(num_scores, vocab_size))?;
            let logits = self.logits.wait()?;
            self.sampler.score(&self.cpu, (scores, vocab_size), logits, &mut self.scored);
        }
        Ok(())
    }
}

impl Executor for CudaRunner {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn forward(&mut self, plan: &StepPlan, sampled: &mut Vec<Sampled>) -> Result<(), Error> {
        self.device.bind()?;
        self.input.fill(plan, &self.limits)?;
        self.sampler.update(plan)?;
        let (alive, limit) = (self.sampler.num_sequences(), self.limits.max_num_seqs as usize);
        if alive > limit {
            return Err(Error::Plan(format!("{alive} sequences are alive, at most {limit}")));
        }
        self.launch(plan)?;
        if plan.rows.is_empty() {
            return Ok(());
        }
        let (num_rows, vocab_size) =
            (self.input.logits_tokens.len(), self.limits.vocab_size as usize);
        self.logits.begin(&self.device, self.workspace.logits(num_rows, vocab_size))?;
        let values = self.logits.wait()?;
        let logits = Logits { values, vocab_size, rows: &self.input.logits_rows };
        self.sampler.sample(&self.cpu, plan, logits, sampled)?;
        self.score(plan)
    }

    fn take_scored(&mut self) -> Vec<Scored> {
        std::mem::take(&mut self.scored)
    }
}

/// What was asked for.
fn asked(options: &GpuOptions) -> Asked {
    Asked {
        block_size: options.block_size,
        max_num_batched_tokens: options.max_num_batched_tokens,
        max_num_seqs: options.max_num_seqs,
        max_model_len: options.max_model_len,
    }
}

fn float(checkpoint: &Checkpoint, dtype: Option<GpuDtype>) -> Float {
    match dtype {
        Some(GpuDtype::BF16) => Float::BF16,
        Some(GpuDtype::F16) => Float::F16,
        Some(GpuDtype::F32) => Float::F32,
        None if checkpoint.is_f16() => Float::F16,
        None => Float::BF16,
    }
}

fn kv_shape(config: &DecoderConfig, options: &GpuOptions) -> KvShape {
    KvShape {
        num_layers: config.num_hidden_layers,
        num_blocks: 1,
        block_size: options.block_size as usize,
        num_kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
    }
}

fn plan_limits(config: &DecoderConfig, float: Float, limits: &ExecutorLimits) -> PlanLimits {
    let capacity = limits.num_blocks as usize * limits.block_size as usize;
    let longest = limits.max_num_seqs as usize * limits.max_model_len as usize;
    PlanLimits {
        group: config.num_attention_heads / config.num_key_value_heads,
        max_rows: limits.max_num_seqs as usize,
        max_tokens: limits.max_num_batched_tokens as usize,
        max_chunks: capacity.min(longest).div_ceil(256) + limits.max_num_seqs as usize,
        prefill_tile: cuda::prefill_tile(float),
    }
}

/// The most that a step is given.
fn room(limits: &ExecutorLimits, num_columns: usize) -> Room {
    let seqs = limits.max_num_seqs as usize;
    Room {
        tokens: limits.max_num_batched_tokens as usize,
        logits: seqs + MAX_DRAFTS,
        updates: seqs * num_columns,
        copies: seqs,
    }
}

/// Milliseconds since `start`.
fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
