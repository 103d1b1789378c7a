//! A model on a GPU: weights, the KV cache, the buffers of a step, graphs of the steps that only decode,
//! and the sampler.

mod batch;
mod capture;
mod decoder;
mod deferred;
mod drawing;
mod error;
mod experts;
mod flight;
mod graphs;
mod memory;
mod needs;
mod resident;
mod sampling;
mod scores;
mod sizes;
mod tensors;
mod tuning;
mod upload;

use std::time::Instant;

use sconce_kernels::cpu::{Cpu, Isa, KvShape};
use sconce_kernels::cuda::{
    self, BlockTables, Buffer, Device, FeedTokens, KvCache, Plan, Properties,
};

use self::batch::{Batch, Layout, Room};
use self::decoder::{Decoder, Pass, Workspace};
use self::deferred::Sent;
use self::drawing::{Drawing, Source};
pub use self::error::LoadError;
use self::flight::Flight;
use self::graphs::{Graphs, Key, Part};
use self::sampling::{Needs, Samples};
use self::sizes::{asked, float, kv_dtype, kv_shape, plan_limits, room};
use super::gpu_options::{GpuOptions, GpuQuantization};
use super::input::Input;
use super::sampler::Sampler;
use super::{Error, Executor, ExecutorLimits};
use crate::engine::plan::{MAX_DRAFTS, Sampled, Scored, StepPlan};
use crate::weights::Checkpoint;

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
    workspace: Workspace,
    drawing: Drawing,
    /// `[max_num_batched_tokens]` the step's tokens, also those that are carried.
    token_ids: Buffer,
    batch: Batch,
    samples: Samples,
    /// Finds what grammars allow.
    cpu: Cpu,
    sampler: Sampler,
    input: Input,
    /// Steps begun take turns.
    flights: [Flight; 2],
    num_begun: usize,
    num_finished: usize,
    scored: Vec<Scored>,
    limits: ExecutorLimits,
    quantize: Option<GpuQuantization>,
    phases: Vec<(&'static str, f64)>,
    device_ms: f32,
    device: Device,
}

/// Steps that may be begun before the first of them is finished.
const DEPTH: usize = 2;

impl CudaRunner {
    /// Loads the checkpoint's weights and allocates all that a step needs.
    pub fn load(
        device: Device,
        checkpoint: &Checkpoint,
        options: &GpuOptions,
    ) -> Result<Self, LoadError> {
        let start = Instant::now();
        if options.early_launch {
            device.launch_early();
        }
        let config = checkpoint.config();
        let asked = asked(options);
        let most = asked.limits(config, u32::MAX / options.block_size.max(1))?;
        let float = float(checkpoint, options.dtype);
        let kind = (float, options.quantize);
        let max_positions = most.max_model_len as usize;
        let decoder = Decoder::load(&device, checkpoint, kind, max_positions, options.num_threads)?;
        let weights_at = ms(start);
        let max_logits = most.max_num_seqs as usize + MAX_DRAFTS;
        let shape = KvShape { num_blocks: 1, ..kv_shape(config, options) };
        let kv_dtype = kv_dtype(options, float);
        let sizing = memory::Sizing { device: &device, config, options, most };
        let num_blocks = sizing.num_blocks(&decoder, (shape, kv_dtype))?;
        let limits = asked.limits(config, num_blocks)?;
        let shape = KvShape { num_blocks: num_blocks as usize, ..shape };
        let kv = KvCache::new(&device, shape, kv_dtype)?;
        let plan = Plan::new(plan_limits(config, &limits))?;
        let max_tokens = limits.max_num_batched_tokens as usize;
        let workspace = decoder.workspace(max_tokens, max_logits, (&plan, &shape))?;
        let num_columns = limits.max_model_len.div_ceil(limits.block_size) as usize;
        let tables = BlockTables::new(&device, limits.max_num_seqs as usize, num_columns)?;
        let room = room(&limits, num_columns);
        let batch = Batch::new(&device, room, plan)?;
        let flight = || Flight::new(&device, room.samples);
        let cpu = Cpu::new(options.num_threads, Isa::detect())?;
        let sampler = Sampler::on_device(checkpoint.eos_token_ids().to_vec(), cpu.num_threads());
        let mut runner = Self {
            graphs: Graphs::new(options.graphs, &limits),
            decoder,
            kv,
            tables,
            workspace,
            drawing: Drawing::new(&device, &limits, room)?,
            token_ids: device.alloc_zeroed(room.tokens * 4)?,
            batch,
            samples: Samples::default(),
            cpu,
            sampler,
            input: Input::default(),
            flights: [flight()?, flight()?],
            num_begun: 0,
            num_finished: 0,
            scored: Vec::new(),
            limits,
            quantize: options.quantize,
            phases: Vec::new(),
            device_ms: 0.0,
            device,
        };
        let cache_at = ms(start);
        if let Some(path) = &options.tuning_cache {
            runner.tune(path)?;
        }
        let tuned_at = ms(start);
        runner.capture_first()?;
        let phases = [
            ("copy", weights_at),
            ("kv_cache", cache_at - weights_at),
            ("tuning", tuned_at - cache_at),
            ("graphs", ms(start) - tuned_at),
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
        let (block_size, quantize) = (self.limits.block_size, self.quantize);
        format!(
            "{name} {capability:?} {driver_version} {float:?} {quantize:?} {kv_dtype:?} {block_size}"
        )
    }

    /// The last step's logits as the model gave them, as
    /// [`CpuRunner::last_logits`](super::cpu::CpuRunner::last_logits) are.
    pub fn last_logits(&mut self) -> Result<Vec<f32>, Error> {
        let num_rows = self.input.logits_tokens.len();
        let logits = self.workspace.logits(num_rows, self.limits.vocab_size as usize);
        Ok(self.device.download(logits)?)
    }

    /// Counts from now on how long the device is busy.
    pub fn time_steps(&mut self) -> Result<(), Error> {
        for flight in &mut self.flights {
            flight.time(&self.device)?;
        }
        Ok(())
    }

    /// Milliseconds that it was busy with steps since this was last asked.
    pub fn device_ms(&mut self) -> f32 {
        std::mem::take(&mut self.device_ms)
    }

    /// Launches the step, as a graph where there may be one. Returns where its lists lie.
    fn launch(&mut self, plan: &StepPlan) -> Result<Layout, Error> {
        self.batch.plan_attention(plan)?;
        let room = Room {
            tokens: self.input.num_tokens,
            logits: self.input.logits_tokens.len(),
            updates: plan.table_updates.len(),
            copies: plan.copies.len(),
            samples: self.samples.rows().len(),
            biases: self.samples.biases().len(),
            masked: self.samples.masked().len(),
        };
        let needs = self.samples.needs();
        // Rows of a few tokens, as drafts make them, are decoded as those of one are.
        let decodes = self.batch.plan.grid().prefills == 0;
        let size = self.graphs.size(room.tokens).filter(|size| Room::of_graph(*size).holds(room));
        let size = size.filter(|_| decodes);
        let layout = Layout::new(size.map_or(room, Room::of_graph));
        let what = (plan, &self.input, &self.samples);
        self.batch.send(&self.device, &layout, what)?;
        match size {
            Some(size) => {
                let grid = self.batch.plan.decode_grid(size);
                let key = Key { part: Part::Step, size, needs };
                self.launch_graph(key, |runner| runner.compute(&layout, grid, needs))?;
            }
            None => self.compute(&layout, self.batch.plan.grid(), needs)?,
        }
        Ok(layout)
    }

    /// Everything that a step asks of the device between what it is sent and what it yields.
    fn compute(
        &mut self,
        layout: &Layout,
        grid: cuda::PlanGrid,
        needs: Needs,
    ) -> Result<(), Error> {
        let Room { tokens, logits, updates, copies, .. } = layout.room();
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
        self.device.feed_tokens(FeedTokens {
            from: lists.carried,
            given: lists.token_ids,
            sampled: self.drawing.sampled(),
            out: self.token_ids.slice_mut().at(0, tokens * 4),
            vocab: self.limits.vocab_size as usize,
        })?;
        self.decoder.forward(&mut Pass {
            kv: &mut self.kv,
            tables: &self.tables,
            workspace: &mut self.workspace,
            token_ids: self.token_ids.slice().at(0, tokens * 4),
            lists,
            num_tokens: tokens,
            num_logits: logits,
            grid,
        })?;
        let source = Source {
            rows: lists.samples,
            logits: self.workspace.logits(logits, self.limits.vocab_size as usize),
            biases: lists.biases,
            masked: lists.masked,
            inputs: self.token_ids.slice(),
        };
        self.drawing.draw(&self.device, source, needs)
    }

    /// Scores prompts' tokens in as many passes over the vocabulary as there is room for logits. What the model
    /// gave for the samples is lost.
    fn score(&mut self, plan: &StepPlan) -> Result<(), Error> {
        let max_rows = self.limits.max_num_seqs as usize;
        let (num_tokens, num_scores) = (self.input.num_tokens, plan.scores.len());
        let vocab_size = self.limits.vocab_size as usize;
        self.drawing.send_scores(&self.device, &plan.scores, max_rows)?;
        for begin in (0..num_scores).step_by(max_rows) {
            let num_rows = max_rows.min(num_scores - begin);
            self.decoder.project_to_vocabulary(
                &mut self.workspace,
                self.drawing.score_tokens(begin, num_rows),
                num_tokens,
                num_rows,
            )?;
            let logits = self.workspace.logits(num_rows, vocab_size);
            self.drawing.score(&self.device, logits, (begin, num_rows))?;
        }
        let flight = &mut self.flights[self.num_begun % DEPTH];
        flight.read_scores(&self.device, self.drawing.scores(num_scores))
    }

    /// Computes the samples' logits again.
    fn project_samples(&mut self, layout: &Layout) -> Result<(), Error> {
        let Room { tokens, logits, .. } = layout.room();
        let lists = self.batch.lists(layout);
        let workspace = &mut self.workspace;
        Ok(self.decoder.project_to_vocabulary(workspace, lists.logits_tokens, tokens, logits)?)
    }

    /// Samples of the step in flight, after which `plan` is begun.
    fn num_before(&self, plan: &StepPlan) -> Result<usize, Error> {
        let has_drafts = plan.samples.iter().any(|sample| sample.num_drafts > 0);
        match self.flights[(self.num_begun + 1) % DEPTH].num_samples() {
            Some(num_samples) if !has_drafts => Ok(num_samples),
            Some(_) | None => {
                Err(Error::Plan("a step with drafts is not alone in flight".to_owned()))
            }
        }
    }

    /// Draws what the only step in flight has deferred: all tokens before are known now.
    fn draw_deferred(&mut self) -> Result<(), Error> {
        let flight = &mut self.flights[self.num_finished % DEPTH];
        let deferred = flight.take_deferred();
        if deferred.is_empty() {
            return Ok(());
        }
        let ids = deferred.iter().map(|one| one.sample.sequence).collect();
        self.sampler.find_allowed(&self.cpu, ids);
        let (of, graphs) = ((&deferred[..], &self.sampler), &self.graphs);
        let sent = self.drawing.send_deferred(&self.device, of, |num| graphs.size(num))?;
        match sent {
            None => {}
            Some(sent @ Sent { needs, size: Some(size), .. }) => {
                let key = Key { part: Part::Deferred, size, needs };
                self.launch_graph(key, |runner| runner.draw_sent(&sent))?;
            }
            Some(sent) => self.draw_sent(&sent)?,
        }
        let more = sent.map_or_else(Needs::default, |sent| sent.needs);
        let flight = &mut self.flights[self.num_finished % DEPTH];
        flight.end(&self.device, &self.drawing, self.samples.needs().and(more))
    }

    /// Draws deferred samples: of any rows of logits and any tokens that there may be.
    fn draw_sent(&mut self, sent: &Sent) -> Result<(), Error> {
        let max_logits = self.limits.max_num_seqs as usize + MAX_DRAFTS;
        let logits = self.workspace.logits(max_logits, self.limits.vocab_size as usize);
        self.drawing.draw_deferred(&self.device, sent, (logits, self.token_ids.slice()))
    }
}

impl Executor for CudaRunner {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn depth(&self) -> usize {
        DEPTH
    }

    fn begin(&mut self, plan: &StepPlan) -> Result<(), Error> {
        self.device.bind()?;
        let is_pipelined = self.num_begun > self.num_finished;
        let num_before = if is_pipelined { self.num_before(plan)? } else { 0 };
        self.input.fill_after(plan, &self.limits, num_before)?;
        self.sampler.update(plan)?;
        let (alive, limit) = (self.sampler.num_sequences(), self.limits.max_num_seqs as usize);
        if alive > limit {
            return Err(Error::Plan(format!("{alive} sequences are alive, at most {limit}")));
        }
        self.drawing.admit(&self.device, &plan.admitted)?;
        self.samples.fill(plan, &self.input, &self.sampler)?;
        let deferred = self.samples.deferred();
        let flight = &mut self.flights[self.num_begun % DEPTH];
        flight.begin(plan, deferred)?;
        let layout = self.launch(plan)?;
        if !plan.scores.is_empty() {
            self.score(plan)?;
        }
        match (self.samples.deferred(), is_pipelined) {
            ([], _) => {
                let flight = &mut self.flights[self.num_begun % DEPTH];
                flight.end(&self.device, &self.drawing, self.samples.needs())?;
            }
            (_, pipelined) => {
                if !plan.scores.is_empty() {
                    self.project_samples(&layout)?;
                }
                if !pipelined {
                    self.draw_deferred()?;
                }
            }
        }
        self.num_begun += 1;
        Ok(())
    }

    fn finish(&mut self, plan: &StepPlan, sampled: &mut Vec<Sampled>) -> Result<(), Error> {
        self.device.bind()?;
        let flight = &mut self.flights[self.num_finished % DEPTH];
        let first = sampled.len();
        flight.collect(plan, &mut self.sampler, sampled)?;
        self.scored = flight.scored(plan)?;
        self.device_ms += flight.ms()?;
        self.num_finished += 1;
        let own = (plan, &sampled[first..]);
        self.drawing.count_drafted(&self.device, own, &self.sampler)?;
        // While the device computes the step after.
        self.draw_deferred()
    }

    fn take_scored(&mut self) -> Vec<Scored> {
        std::mem::take(&mut self.scored)
    }
}

/// Milliseconds since `start`.
fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
