//! The forward pass of a decoder: nine launches a layer of a Llama, on buffers made once.

use std::num::NonZeroUsize;

use sconce_kernels::Error;
use sconce_kernels::cpu::{self, KvShape};
use sconce_kernels::cuda::{
    AddRmsNorm, Attention, AttentionWorkspace, BlockTables, Buffer, Device, Float, Gate, GateMul,
    GatherQuantizedRows, GatherRows, HeadNorms, KvCache, Linear, LinearQuantized, LinearToFp8,
    Matmul, Plan, PlanGrid, RopeAndCache, RopeTable, Scaling, Scoring, Slice, SliceMut, Write,
};

use super::LoadError;
use super::batch::Lists;
use super::experts::ExpertsWorkspace;
use super::tensors::{Goal, Layer, Matrix, Weights};
use crate::layers::rope::Frequencies;
use crate::models::config::{Activation, DecoderConfig, RopeConfig, RopeStyle};
use crate::runner::gpu_options::GpuQuantization;
use crate::weights::Checkpoint;

/// A model on a device.
pub(super) struct Decoder {
    pub(super) config: DecoderConfig,
    pub(super) float: Float,
    weights: Weights,
    rope: RopeTable,
    /// Of the layers that slide, where it is another.
    sliding_rope: Option<RopeTable>,
    matmul: Matmul,
}

/// Every buffer of a forward pass, sized for the largest batch.
pub(super) struct Workspace {
    /// `[max_tokens, hidden_size]`: the residual stream.
    hidden_states: Buffer,
    /// `[max_tokens, hidden_size]`: what a part of a layer adds to it.
    pub(super) delta: Buffer,
    /// `[max_tokens, hidden_size]`
    pub(super) normed: Buffer,
    /// `[max_tokens, qkv_size]`
    qkv: Buffer,
    /// `[max_tokens, q_size]`
    attended: Buffer,
    /// `[max_tokens, 2 * intermediate_size]`; of experts, of each of a token's.
    pub(super) gate_up: Buffer,
    /// `[max_tokens, intermediate_size]`; of experts, of each of a token's.
    pub(super) inner: Buffer,
    /// Of a mixture of experts.
    pub(super) experts: Option<ExpertsWorkspace>,
    /// `[max_logits_rows, hidden_size]`
    last_hidden_states: Buffer,
    /// `[max_logits_rows, vocab_size]` f32
    logits: Buffer,
    /// Rows of quantized matrices as floats, for products of many tokens; or tokens in 8 bits.
    pub(super) scratch: Buffer,
    attention: AttentionWorkspace,
}

/// Bytes of [`Workspace::scratch`], where a model has quantized matrices: the more, the fewer products.
pub(super) const SCRATCH_BYTES: usize = 128 << 20;

/// Arguments of [`Decoder::multiply`].
struct Product<'a> {
    x: Slice<'a>,
    w: &'a Matrix,
    y: SliceMut<'a>,
    y_float: Float,
    scratch: &'a mut Buffer,
    rows: usize,
    n: usize,
    k: usize,
}

/// What the layers of a forward pass share.
pub(super) struct Pass<'a> {
    pub(super) kv: &'a mut KvCache,
    pub(super) tables: &'a BlockTables,
    pub(super) workspace: &'a mut Workspace,
    /// `[num_tokens]`
    pub(super) token_ids: Slice<'a>,
    pub(super) lists: Lists<'a>,
    /// Tokens, padding included.
    pub(super) num_tokens: usize,
    /// Rows of logits, padding included.
    pub(super) num_logits: usize,
    pub(super) grid: PlanGrid,
}

impl Decoder {
    /// Loads the weights, for sequences of up to `max_positions` tokens.
    pub(super) fn load(
        device: &Device,
        checkpoint: &Checkpoint,
        (float, quantize): (Float, Option<GpuQuantization>),
        max_positions: usize,
        num_threads: NonZeroUsize,
    ) -> Result<Self, LoadError> {
        let config = checkpoint.config().clone();
        let sliding_rope =
            config.sliding_rope().map(|rope| rope_table(device, rope, max_positions));
        let matmul = Matmul::new(device)?;
        let has_fp8 = matmul.has_fp8(Scaling::Row);
        let has_fp8_blocks = matmul.has_fp8(Scaling::Blocks);
        let goal = Goal { float, quantize, has_fp8, has_fp8_blocks };
        Ok(Self {
            float,
            weights: Weights::load(device, checkpoint, goal, num_threads)?,
            rope: rope_table(device, &config.rope, max_positions)?,
            sliding_rope: sliding_rope.transpose()?,
            matmul,
            config,
        })
    }

    pub(super) fn float(&self) -> Float {
        self.float
    }

    pub(super) fn num_bytes(&self) -> usize {
        self.weights.num_bytes()
    }

    pub(super) fn matmul(&self) -> &Matmul {
        &self.matmul
    }

    pub(super) fn device(&self) -> &Device {
        self.matmul.device()
    }

    pub(super) fn workspace(
        &self,
        max_tokens: usize,
        max_logits_rows: usize,
        (plan, shape): (&Plan, &KvShape),
    ) -> Result<Workspace, Error> {
        let (config, size) = (&self.config, self.float.size());
        let experts = config.variant.experts;
        let experts_per_tok = experts.map_or(1, |experts| experts.num_experts_per_tok);
        let of = |rows: usize, cols: usize| self.device().alloc_zeroed(rows * cols * size);
        Ok(Workspace {
            hidden_states: of(max_tokens, config.hidden_size)?,
            delta: of(max_tokens, config.hidden_size)?,
            normed: of(max_tokens, config.hidden_size)?,
            qkv: of(max_tokens, config.qkv_size())?,
            attended: of(max_tokens, config.q_size())?,
            gate_up: of(max_tokens * experts_per_tok, 2 * config.intermediate_size)?,
            inner: of(max_tokens * experts_per_tok, config.intermediate_size)?,
            experts: match experts {
                Some(_) => Some(ExpertsWorkspace::new(self, max_tokens)?),
                None => None,
            },
            last_hidden_states: of(max_logits_rows, config.hidden_size)?,
            logits: self.device().alloc_zeroed(max_logits_rows * config.vocab_size * 4)?,
            scratch: self.device().alloc(self.weights.scratch_bytes(max_tokens, SCRATCH_BYTES))?,
            attention: AttentionWorkspace::new(self.device(), plan, shape)?,
        })
    }

    /// Computes the batch. Keys and values go to the cache, logits to [`Workspace::logits`].
    pub(super) fn forward(&self, pass: &mut Pass<'_>) -> Result<(), Error> {
        self.embed(pass)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.norm(&layer.input_layernorm, index > 0, pass)?;
            self.attend(layer, index, pass)?;
            self.post_norm(layer, 0, pass)?;
            self.norm(&layer.mlp_layernorm, true, pass)?;
            match &layer.router {
                None => self.feed_forward(layer, pass)?,
                Some(router) => self.mix_experts(layer, router, pass)?,
            }
            self.post_norm(layer, 1, pass)?;
        }
        self.norm(&self.weights.norm, true, pass)?;
        let (tokens, num_logits) = (pass.lists.logits_tokens, pass.num_logits);
        self.project_to_vocabulary(pass.workspace, tokens, pass.num_tokens, num_logits)
    }

    /// The logits of some of the tokens that were computed last, as many as there is room for.
    pub(super) fn project_to_vocabulary(
        &self,
        workspace: &mut Workspace,
        tokens: Slice<'_>,
        num_tokens: usize,
        num_logits: usize,
    ) -> Result<(), Error> {
        let hidden = self.config.hidden_size;
        if num_logits == 0 {
            return Ok(());
        }
        let bytes = num_tokens * hidden * self.float.size();
        self.device().gather_rows(GatherRows {
            float: self.float,
            table: workspace.normed.slice().at(0, bytes),
            indices: tokens,
            out: self.rows(&mut workspace.last_hidden_states, num_logits, hidden),
            cols: hidden,
        })?;
        let Workspace { last_hidden_states, logits, scratch, .. } = workspace;
        let (bytes, vocab_size) = (num_logits * hidden * self.float.size(), self.config.vocab_size);
        self.multiply(Product {
            x: last_hidden_states.slice().at(0, bytes),
            w: self.weights.lm_head.as_ref().unwrap_or(&self.weights.embed_tokens),
            y: logits.slice_mut().at(0, num_logits * vocab_size * 4),
            y_float: Float::F32,
            scratch,
            rows: num_logits,
            n: vocab_size,
            k: hidden,
        })?;
        if let Some(cap) = self.config.variant.final_logit_softcapping {
            let mut logits = logits.slice_mut().at(0, num_logits * vocab_size * 4);
            self.device().soft_cap(&mut logits, cap)?;
        }
        Ok(())
    }

    fn embed(&self, pass: &mut Pass<'_>) -> Result<(), Error> {
        let (float, cols) = (self.float, self.config.hidden_size);
        let out = self.rows(&mut pass.workspace.hidden_states, pass.num_tokens, cols);
        let indices = pass.token_ids;
        match &self.weights.embed_tokens {
            Matrix::Floats(table) => {
                let table = table.slice();
                self.device().gather_rows(GatherRows { float, table, indices, out, cols })
            }
            Matrix::Quantized(table) => self.device().gather_quantized_rows(GatherQuantizedRows {
                table,
                indices,
                float,
                out,
            }),
            Matrix::Fp8(_) | Matrix::Experts(_) => Err(Error::Operand),
        }?;
        if let Some(scale) = self.config.variant.embedding_scale {
            let mut rows = self.rows(&mut pass.workspace.hidden_states, pass.num_tokens, cols);
            self.device().scale(float, &mut rows, scale)?;
        }
        Ok(())
    }

    /// `y = x · wᵀ`
    fn multiply(&self, product: Product<'_>) -> Result<(), Error> {
        let Product { x, w, y, y_float, scratch, rows, n, k } = product;
        let (float, write) = (self.float, Write::Store);
        match w {
            Matrix::Floats(w) => {
                let w = w.slice();
                self.matmul.linear(Linear { float, x, w, y, y_float, write, rows, n, k })
            }
            Matrix::Quantized(w) => {
                let scratch = scratch.slice_mut();
                self.matmul.linear_quantized(LinearQuantized {
                    float,
                    x,
                    w,
                    y,
                    y_float,
                    write,
                    rows,
                    scratch,
                })
            }
            Matrix::Fp8(w) => {
                let scratch = scratch.slice_mut().at(0, w.scratch_bytes(rows));
                self.matmul.linear_fp8(LinearToFp8 {
                    float,
                    x,
                    w,
                    y,
                    y_float,
                    write,
                    rows,
                    scratch,
                })
            }
            Matrix::Experts(_) => Err(Error::Operand),
        }
    }

    /// The first `rows` of a buffer of rows.
    pub(super) fn rows<'a>(
        &self,
        buffer: &'a mut Buffer,
        rows: usize,
        cols: usize,
    ) -> SliceMut<'a> {
        buffer.slice_mut().at(0, rows * cols * self.float.size())
    }

    /// Adds what the part before computed to the residual stream, if there was one, and norms it.
    fn norm(&self, weight: &Buffer, adds: bool, pass: &mut Pass<'_>) -> Result<(), Error> {
        let (rows, cols) = (pass.num_tokens, self.config.hidden_size);
        let Workspace { hidden_states, delta, normed, .. } = &mut *pass.workspace;
        let bytes = rows * cols * self.float.size();
        self.device().add_rms_norm(AddRmsNorm {
            float: self.float,
            residual: self.rows(hidden_states, rows, cols),
            delta: adds.then(|| delta.slice().at(0, bytes)),
            weight: weight.slice(),
            out: self.rows(normed, rows, cols),
            rows,
            cols,
            epsilon: self.config.rms_norm_eps,
        })
    }

    /// Norms what a part of a layer adds to the residual stream, in families that do.
    fn post_norm(&self, layer: &Layer, part: usize, pass: &mut Pass<'_>) -> Result<(), Error> {
        let Some(norms) = &layer.post_norms else { return Ok(()) };
        let (rows, cols) = (pass.num_tokens, self.config.hidden_size);
        let Workspace { delta, normed, .. } = &mut *pass.workspace;
        self.device().add_rms_norm(AddRmsNorm {
            float: self.float,
            residual: self.rows(delta, rows, cols),
            delta: None,
            weight: norms[part].slice(),
            out: self.rows(normed, rows, cols),
            rows,
            cols,
            epsilon: self.config.rms_norm_eps,
        })?;
        // Twice a layer: graphs find each where it was.
        std::mem::swap(delta, normed);
        Ok(())
    }

    /// `y = x · wᵀ`, of buffers of rows.
    pub(super) fn linear(
        &self,
        (x, k): (&Buffer, usize),
        (w, scratch): (&Matrix, &mut Buffer),
        (y, n): (&mut Buffer, usize),
        rows: usize,
    ) -> Result<(), Error> {
        let x = x.slice().at(0, rows * k * self.float.size());
        let y = self.rows(y, rows, n);
        self.multiply(Product { x, w, y, y_float: self.float, scratch, rows, n, k })
    }

    fn attend(&self, layer: &Layer, index: usize, pass: &mut Pass<'_>) -> Result<(), Error> {
        let (config, rows) = (&self.config, pass.num_tokens);
        let window = config.window(index);
        let (hidden, q_size, qkv_size) = (config.hidden_size, config.q_size(), config.qkv_size());
        let Workspace { delta, normed, qkv, attended, scratch, attention, .. } =
            &mut *pass.workspace;
        self.linear((normed, hidden), (&layer.qkv_proj, scratch), (qkv, qkv_size), rows)?;
        self.device().rope_and_cache(RopeAndCache {
            float: self.float,
            qkv: self.rows(qkv, rows, qkv_size),
            bias: layer.qkv_bias.as_ref().map(Buffer::slice),
            norms: layer.qk_norms.as_ref().map(|[query, key]| HeadNorms {
                query: query.slice(),
                key: key.slice(),
                epsilon: config.rms_norm_eps,
            }),
            table: self.sliding_rope.as_ref().filter(|_| window.is_some()).unwrap_or(&self.rope),
            positions: pass.lists.positions,
            slot_mapping: pass.lists.slots,
            cache: pass.kv,
            layer: index,
            num_tokens: rows,
            num_heads: config.num_attention_heads,
        })?;
        self.device().attention(Attention {
            float: self.float,
            qkv: qkv.slice().at(0, rows * qkv_size * self.float.size()),
            out: self.rows(attended, rows, q_size),
            num_tokens: rows,
            num_heads: config.num_attention_heads,
            cache: pass.kv,
            layer: index,
            tables: pass.tables,
            plan: pass.lists.plan,
            grid: pass.grid,
            scoring: Scoring {
                scale: config.attention_scale(),
                soft_cap: config.variant.attn_logit_softcapping,
                window,
                sinks: None,
            },
            workspace: attention,
        })?;
        self.linear((attended, q_size), (&layer.o_proj, scratch), (delta, hidden), rows)
    }

    fn feed_forward(&self, layer: &Layer, pass: &mut Pass<'_>) -> Result<(), Error> {
        let (config, rows) = (&self.config, pass.num_tokens);
        let (hidden, cols) = (config.hidden_size, config.intermediate_size);
        let Workspace { delta, normed, gate_up, inner, scratch, .. } = &mut *pass.workspace;
        self.linear((normed, hidden), (&layer.gate_up_proj, scratch), (gate_up, 2 * cols), rows)?;
        self.gate(gate_up, inner, rows)?;
        self.linear((inner, cols), (&layer.down_proj, scratch), (delta, hidden), rows)
    }

    /// `inner = gate(gate_up[.., ..cols]) * gate_up[.., cols..]`
    pub(super) fn gate(
        &self,
        gate_up: &Buffer,
        inner: &mut Buffer,
        rows: usize,
    ) -> Result<(), Error> {
        let cols = self.config.intermediate_size;
        self.device().gate_mul(GateMul {
            float: self.float,
            gate: match self.config.variant.hidden_act {
                Activation::Silu => Gate::Silu,
                Activation::GeluTanh => Gate::GeluTanh,
            },
            gate_up: gate_up.slice().at(0, rows * 2 * cols * self.float.size()),
            out: self.rows(inner, rows, cols),
            rows,
            cols,
        })
    }
}

fn rope_table(
    device: &Device,
    rope: &RopeConfig,
    max_positions: usize,
) -> Result<RopeTable, Error> {
    let Frequencies { inv_freq, magnitude } = Frequencies::new(rope);
    let style = match rope.style {
        RopeStyle::Half => cpu::RopeStyle::Half,
        RopeStyle::Interleaved => cpu::RopeStyle::Interleaved,
    };
    RopeTable::new(device, &inv_freq, max_positions, magnitude, style)
}

impl Workspace {
    /// `[num_rows, vocab_size]` f32
    pub(super) fn logits(&self, num_rows: usize, vocab_size: usize) -> Slice<'_> {
        self.logits.slice().at(0, num_rows * vocab_size * 4)
    }
}
