//! The decoder on the CPU: Llama's and its relatives', described by a [`DecoderConfig`].
//!
//! The forward pass reads a ragged batch and preallocated buffers, and writes the KV cache and
//! the logits of the tokens that will be sampled from.

use sconce_kernels::cpu::{
    ActivationDtype, Activations, Argmax, Attention, Cpu, HeadNorms, KvCache, Operands, Output,
    PackedMatrix, RmsNorm, RopeAndCache, RopeTable,
};

use super::config::{Activation, DecoderConfig};
use super::experts::{Experts, ExpertsWorkspace};
use crate::engine::plan::StepPlan;
use crate::runner::input::Input;

/// A model's weights, packed for the processor. Named as in Hugging Face's checkpoints.
#[derive(Debug)]
pub struct Decoder {
    pub(super) config: DecoderConfig,
    /// `[vocab_size, hidden_size]`
    pub(super) embed_tokens: PackedMatrix,
    pub(super) layers: Vec<DecoderLayer>,
    /// `[hidden_size]`
    pub(super) norm: Vec<f32>,
    /// `[vocab_size, hidden_size]`; `None` when it is the embedding table, or not needed.
    pub(super) lm_head: Option<PackedMatrix>,
    pub(super) rope: RopeTable,
    /// Of the layers that slide, where it is another.
    pub(super) sliding_rope: Option<RopeTable>,
}

/// One layer's weights.
#[derive(Debug)]
pub(super) struct DecoderLayer {
    /// `[hidden_size]`
    pub(super) input_layernorm: Vec<f32>,
    /// `[(num_attention_heads + 2 * num_key_value_heads) * head_dim, hidden_size]`
    pub(super) qkv_proj: PackedMatrix,
    /// `[(num_attention_heads + 2 * num_key_value_heads) * head_dim]`
    pub(super) qkv_bias: Option<Vec<f32>>,
    /// Of queries and of keys, `[head_dim]` each.
    pub(super) qk_norms: Option<[Vec<f32>; 2]>,
    /// `[hidden_size, num_attention_heads * head_dim]`
    pub(super) o_proj: PackedMatrix,
    /// `[hidden_size]`: before the MLP.
    pub(super) mlp_layernorm: Vec<f32>,
    pub(super) mlp: FeedForward,
    /// Norms of what attention and the MLP add to the residual stream, `[hidden_size]` each.
    pub(super) post_norms: Option<[Vec<f32>; 2]>,
}

/// What comes after attention.
#[derive(Debug)]
pub(super) enum FeedForward {
    Dense(Mlp),
    Experts(Experts),
}

/// A gated MLP's weights.
#[derive(Debug)]
pub(super) struct Mlp {
    /// `[2 * intermediate_size, hidden_size]`: gate, then up.
    pub(super) gate_up_proj: PackedMatrix,
    /// `[hidden_size, intermediate_size]`
    pub(super) down_proj: PackedMatrix,
}

impl DecoderLayer {
    fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        let (router, mlps) = match &self.mlp {
            FeedForward::Dense(mlp) => (None, std::slice::from_ref(mlp)),
            FeedForward::Experts(experts) => (Some(&experts.router), &*experts.mlps),
        };
        let mlps = mlps.iter().flat_map(|mlp| [&mlp.gate_up_proj, &mlp.down_proj]);
        [&self.qkv_proj, &self.o_proj].into_iter().chain(router).chain(mlps)
    }
}

/// Every buffer of a forward pass, sized for the largest batch.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// `[max_tokens, hidden_size]`: the residual stream.
    pub(super) hidden_states: Vec<f32>,
    /// `[max_tokens, (num_attention_heads + 2 * num_key_value_heads) * head_dim]`
    qkv: Vec<f32>,
    /// `[max_tokens, num_attention_heads * head_dim]`
    attended: Vec<f32>,
    /// `[max_tokens, 2 * intermediate_size]`
    pub(super) gate_up: Vec<f32>,
    /// `[max_tokens, hidden_size]`: what is normed, or of several experts, before it is added to the
    /// residual stream. Empty of models without either.
    pub(super) delta: Vec<f32>,
    /// Empty of models without experts.
    pub(super) experts: ExpertsWorkspace,
    /// `[max_logits_rows, hidden_size]`
    last_hidden_states: Vec<f32>,
    /// `[max_logits_rows, vocab_size]`
    logits: Vec<f32>,
    /// `[num_logits_rows]` of the last projection.
    argmax: Vec<Argmax>,
    pub(super) activations: Activations,
}

/// What the layers of a forward pass share.
pub(super) struct Pass<'a> {
    pub(super) cpu: &'a Cpu,
    plan: &'a StepPlan,
    pub(super) input: &'a Input,
    kv: &'a mut KvCache,
    pub(super) workspace: &'a mut Workspace,
}

/// A device, and the memory that a forward pass changes.
pub(crate) struct Device<'a> {
    pub(crate) cpu: &'a Cpu,
    pub(crate) kv: &'a mut KvCache,
    pub(crate) workspace: &'a mut Workspace,
}

impl DecoderConfig {
    /// Width of the queries.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of the keys, and of the values.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Width of queries, keys and values together.
    pub fn qkv_size(&self) -> usize {
        self.q_size() + 2 * self.kv_size()
    }

    /// Width of what parts of a layer compute apart from the residual stream, on the processor.
    fn delta_size(&self) -> usize {
        let is_apart = self.variant.post_norms || self.variant.experts.is_some();
        if is_apart { self.hidden_size } else { 0 }
    }
}

impl Decoder {
    /// The shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Bytes of the packed matrices.
    pub fn num_bytes(&self) -> usize {
        self.matrices().map(PackedMatrix::num_bytes).sum()
    }

    fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        self.layers
            .iter()
            .flat_map(DecoderLayer::matrices)
            .chain([&self.embed_tokens])
            .chain(&self.lm_head)
    }

    /// Allocates the buffers for batches of up to `max_tokens` tokens, of which up to
    /// `max_logits_rows` are sampled from.
    pub(crate) fn workspace(
        &self,
        cpu: &Cpu,
        max_tokens: usize,
        max_logits_rows: usize,
        dtype: ActivationDtype,
    ) -> Workspace {
        let config = &self.config;
        let operands = (self.matrices())
            .map(PackedMatrix::operands)
            .fold(Operands::default(), |all, one| all | one);
        let max_cols = config.hidden_size.max(config.q_size()).max(config.intermediate_size);
        Workspace {
            hidden_states: vec![0.0; max_tokens * config.hidden_size],
            qkv: vec![0.0; max_tokens * config.qkv_size()],
            attended: vec![0.0; max_tokens * config.q_size()],
            gate_up: vec![0.0; max_tokens * 2 * config.intermediate_size],
            delta: vec![0.0; max_tokens * config.delta_size()],
            experts: ExpertsWorkspace::new(config, max_tokens),
            last_hidden_states: vec![0.0; max_logits_rows * config.hidden_size],
            logits: vec![0.0; max_logits_rows * config.vocab_size],
            argmax: Vec::with_capacity(max_logits_rows),
            activations: Activations::new(
                cpu,
                max_tokens.max(max_logits_rows),
                max_cols,
                operands,
                dtype,
            ),
        }
    }

    /// Bytes of [`Self::workspace`], at most; `has_floats`: of matrices that read f32 or bf16.
    pub(crate) fn workspace_bytes(
        config: &DecoderConfig,
        max_tokens: u64,
        max_logits_rows: u64,
        has_floats: bool,
    ) -> u64 {
        let max_cols = config.hidden_size.max(config.q_size()).max(config.intermediate_size);
        let widths = config.hidden_size
            + config.qkv_size()
            + config.q_size()
            + 2 * config.intermediate_size
            + config.delta_size()
            + ExpertsWorkspace::width(config)
            // Two lanes of integers with their scales take 3.25 bytes an element, f32 and bf16 six.
            + max_cols * if has_floats { 3 } else { 1 };
        let logits = config.hidden_size + config.vocab_size;
        4 * (max_tokens * widths as u64 + max_logits_rows * logits as u64)
    }

    /// Computes the batch. Keys and values go to the cache, logits to
    /// [`Workspace::logits`].
    pub(crate) fn forward(
        &self,
        device: Device<'_>,
        plan: &StepPlan,
        input: &Input,
    ) -> Result<(), sconce_kernels::Error> {
        let Device { cpu, kv, workspace } = device;
        let mut pass = Pass { cpu, plan, input, kv, workspace };
        self.run_layers(&mut pass)?;
        let Pass { cpu, input, kv, workspace, .. } = pass;
        let device = Device { cpu, kv, workspace };
        self.project_to_vocabulary(
            device,
            input.num_tokens,
            (&input.logits_tokens, &input.greedy_rows),
        )
    }

    /// Computes the batch's hidden states after the last norm, `[num_tokens, hidden_size]`.
    ///
    /// Rows begin with their sequences: the cache may have one layer, which all use in turn.
    pub(crate) fn hidden_states<'a>(
        &self,
        device: Device<'a>,
        plan: &StepPlan,
        input: &Input,
    ) -> Result<&'a [f32], sconce_kernels::Error> {
        let Device { cpu, kv, workspace } = device;
        self.run_layers(&mut Pass { cpu, plan, input, kv, workspace })?;
        let hidden = self.config.hidden_size;
        let hidden_states = &mut workspace.hidden_states[..input.num_tokens * hidden];
        for row in hidden_states.chunks_exact_mut(hidden) {
            let mean = row.iter().map(|x| x * x).sum::<f32>() / hidden as f32;
            let scale = (mean + self.config.rms_norm_eps).sqrt().recip();
            for (x, weight) in row.iter_mut().zip(&self.norm) {
                *x *= scale * weight;
            }
        }
        Ok(hidden_states)
    }

    fn run_layers(&self, pass: &mut Pass<'_>) -> Result<(), sconce_kernels::Error> {
        let num_elements = pass.input.num_tokens * self.config.hidden_size;
        let hidden_states = &mut pass.workspace.hidden_states[..num_elements];
        pass.cpu.embed(&self.embed_tokens, &pass.plan.token_ids, hidden_states)?;
        if let Some(scale) = self.config.variant.embedding_scale {
            pass.cpu.scale(hidden_states, scale);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            self.attend(layer, index, pass)?;
            match &layer.mlp {
                FeedForward::Dense(mlp) => self.feed_forward(layer, mlp, pass)?,
                FeedForward::Experts(experts) => experts.run(&self.config, layer, pass)?,
            }
        }
        Ok(())
    }

    pub(super) fn rms_norm<'a>(&self, weight: &'a [f32]) -> RmsNorm<'a> {
        RmsNorm { weight, eps: self.config.rms_norm_eps }
    }

    /// The norms of queries and keys.
    fn head_norms<'a>(&self, layer: &'a DecoderLayer) -> Option<HeadNorms<'a>> {
        let [query, key] = layer.qk_norms.as_ref()?;
        Some(HeadNorms { query: self.rms_norm(query), key: self.rms_norm(key) })
    }

    fn attend(
        &self,
        layer: &DecoderLayer,
        index: usize,
        pass: &mut Pass<'_>,
    ) -> Result<(), sconce_kernels::Error> {
        let (config, num_tokens) = (&self.config, pass.input.num_tokens);
        let cached_layer = index % pass.kv.shape().num_layers;
        let window = config.window(index);
        let Workspace { hidden_states, qkv, attended, delta, activations, .. } =
            &mut *pass.workspace;
        let hidden_states = &mut hidden_states[..num_tokens * config.hidden_size];
        let qkv = &mut qkv[..num_tokens * config.qkv_size()];
        let attended = &mut attended[..num_tokens * config.q_size()];

        let norm = self.rms_norm(&layer.input_layernorm);
        pass.cpu.activations(hidden_states, num_tokens, Some(norm), activations)?;
        pass.cpu.matmul(&layer.qkv_proj, activations, Output::Store(&mut *qkv))?;
        if let Some(bias) = &layer.qkv_bias {
            pass.cpu.add_bias(qkv, bias)?;
        }
        let rope = RopeAndCache {
            qkv: &mut *qkv,
            num_q_heads: config.num_attention_heads,
            norms: self.head_norms(layer),
            positions: &pass.plan.positions,
            table: self.sliding_rope.as_ref().filter(|_| window.is_some()).unwrap_or(&self.rope),
            slot_mapping: &pass.plan.slot_mapping,
            layer: cached_layer,
        };
        pass.cpu.rope_and_cache(rope, pass.kv)?;
        let attention = Attention {
            qkv,
            num_q_heads: config.num_attention_heads,
            scale: config.attention_scale(),
            soft_cap: config.variant.attn_logit_softcapping,
            window,
            layer: cached_layer,
            rows: &pass.input.rows,
            block_tables: &pass.input.block_tables,
        };
        pass.cpu.attention(attention, pass.kv, attended)?;
        pass.cpu.activations(attended, num_tokens, None, activations)?;
        let Some([norm, _]) = &layer.post_norms else {
            return pass.cpu.matmul(&layer.o_proj, activations, Output::Add(hidden_states));
        };
        let delta = &mut delta[..num_tokens * config.hidden_size];
        pass.cpu.matmul(&layer.o_proj, activations, Output::Store(&mut *delta))?;
        pass.cpu.add_normed(delta, self.rms_norm(norm), hidden_states)
    }

    fn feed_forward(
        &self,
        layer: &DecoderLayer,
        mlp: &Mlp,
        pass: &mut Pass<'_>,
    ) -> Result<(), sconce_kernels::Error> {
        let (config, num_tokens) = (&self.config, pass.input.num_tokens);
        let Workspace { hidden_states, gate_up, delta, activations, .. } = &mut *pass.workspace;
        let hidden_states = &mut hidden_states[..num_tokens * config.hidden_size];
        let gate_up = &mut gate_up[..num_tokens * 2 * config.intermediate_size];

        let norm = self.rms_norm(&layer.mlp_layernorm);
        pass.cpu.activations(hidden_states, num_tokens, Some(norm), activations)?;
        let out = match &layer.post_norms {
            None => Output::Add(&mut *hidden_states),
            Some(_) => Output::Store(&mut delta[..num_tokens * config.hidden_size]),
        };
        mlp.run(pass.cpu, config.variant.hidden_act, (activations, gate_up), out)?;
        let Some([_, norm]) = &layer.post_norms else { return Ok(()) };
        let delta = &delta[..num_tokens * config.hidden_size];
        pass.cpu.add_normed(delta, self.rms_norm(norm), hidden_states)
    }

    /// The logits of some of the tokens that were computed last, as many as there is room for. Only
    /// of those that are sampled from or scored: a prompt's other tokens need none. Of those that are
    /// `greedy` (`[num_tokens]` of these, or empty), the likeliest token alone is found, unless a cap
    /// may make several equal.
    pub(crate) fn project_to_vocabulary(
        &self,
        Device { cpu, workspace, .. }: Device<'_>,
        num_tokens: usize,
        (tokens, greedy): (&[u32], &[bool]),
    ) -> Result<(), sconce_kernels::Error> {
        let config = &self.config;
        let argmax = &mut workspace.argmax;
        let cap = config.variant.final_logit_softcapping;
        let is_greedy = |row: usize| cap.is_none() && greedy.get(row).is_some_and(|greedy| *greedy);
        argmax.clear();
        argmax.extend((0..tokens.len()).map(|row| Argmax::new(is_greedy(row))));
        if tokens.is_empty() {
            return Ok(());
        }
        let Workspace { hidden_states, last_hidden_states, logits, argmax, activations, .. } =
            workspace;
        let hidden_states = &hidden_states[..num_tokens * config.hidden_size];
        let last_hidden_states = &mut last_hidden_states[..tokens.len() * config.hidden_size];
        let logits = &mut logits[..tokens.len() * config.vocab_size];

        let cols = config.hidden_size;
        cpu.gather_rows(hidden_states, cols, tokens, last_hidden_states)?;
        let norm = self.rms_norm(&self.norm);
        cpu.activations(last_hidden_states, tokens.len(), Some(norm), activations)?;
        let lm_head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        cpu.matmul(lm_head, activations, Output::StoreOrArgmax(&mut *logits, argmax))?;
        if let Some(cap) = cap {
            cpu.soft_cap(logits, cap);
        }
        Ok(())
    }
}

impl Mlp {
    /// Computes the MLP of the tokens that the activations hold, which it changes. `gate_up`: room for
    /// `[num_tokens, 2 * intermediate_size]`.
    pub(super) fn run(
        &self,
        cpu: &Cpu,
        activation: Activation,
        (activations, gate_up): (&mut Activations, &mut [f32]),
        out: Output<'_>,
    ) -> Result<(), sconce_kernels::Error> {
        let num_tokens = activations.num_tokens();
        cpu.matmul(&self.gate_up_proj, activations, Output::Store(&mut *gate_up))?;
        match activation {
            Activation::Silu => cpu.silu_mul(gate_up, num_tokens, activations)?,
            Activation::GeluTanh => cpu.gelu_tanh_mul(gate_up, num_tokens, activations)?,
        }
        cpu.matmul(&self.down_proj, activations, out)
    }
}

impl Workspace {
    /// `[num_rows]`: what takes the place of the rows of logits that are not wanted.
    pub(crate) fn argmax(&self) -> &[Argmax] {
        &self.argmax
    }

    /// `[num_rows, vocab_size]`
    pub(crate) fn logits(&self, num_rows: usize, vocab_size: usize) -> &[f32] {
        &self.logits[..num_rows * vocab_size]
    }
}
