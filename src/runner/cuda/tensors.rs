//! A checkpoint's tensors in a device's memory. Named as in Hugging Face's checkpoints.
//!
//! Quantized matrices stay quantized where activations have 16 bits; where they have 32, everything does,
//! so that results can be compared. 8-bit floats with a scale per row, or per square of 128 by 128, meet
//! activations of 8 bits where the hardware multiplies them, and are 8-bit codes elsewhere.

mod floats;
mod loader;

use std::num::NonZeroUsize;

use sconce_kernels::cuda::{Buffer, Device, Float, Fp8Matrix, QuantizedExperts, QuantizedMatrix};

use self::loader::{Kind, Loader, Stack};
use super::LoadError;
use crate::runner::gpu_options::GpuQuantization;
use crate::weights::Checkpoint;

/// A weight matrix, `[n, k]`.
pub(super) enum Matrix {
    Floats(Buffer),
    Quantized(QuantizedMatrix),
    Fp8(Fp8Matrix),
    /// Of each expert.
    Experts(QuantizedExperts),
}

impl Matrix {
    fn num_bytes(&self) -> usize {
        match self {
            Self::Floats(buffer) => buffer.len(),
            Self::Quantized(matrix) => matrix.num_bytes(),
            Self::Fp8(matrix) => matrix.num_bytes(),
            Self::Experts(matrices) => matrices.num_bytes(),
        }
    }
}

/// All weights of a decoder.
pub(super) struct Weights {
    /// `[vocab_size, hidden_size]`
    pub(super) embed_tokens: Matrix,
    pub(super) layers: Vec<Layer>,
    /// `[hidden_size]`
    pub(super) norm: Buffer,
    /// `[vocab_size, hidden_size]`; `None` when it is the embedding table.
    pub(super) lm_head: Option<Matrix>,
}

/// One layer's weights.
pub(super) struct Layer {
    /// `[hidden_size]`
    pub(super) input_layernorm: Buffer,
    /// `[qkv_size, hidden_size]`
    pub(super) qkv_proj: Matrix,
    /// `[qkv_size]`
    pub(super) qkv_bias: Option<Buffer>,
    /// Of queries and of keys, `[head_dim]` each.
    pub(super) qk_norms: Option<[Buffer; 2]>,
    /// `[hidden_size, q_size]`
    pub(super) o_proj: Matrix,
    /// `[hidden_size]`: before the MLP.
    pub(super) mlp_layernorm: Buffer,
    /// `[num_experts, hidden_size]`, of a mixture of experts.
    pub(super) router: Option<Matrix>,
    /// `[2 * intermediate_size, hidden_size]`: gate, then up; of experts, one after the other.
    pub(super) gate_up_proj: Matrix,
    /// `[hidden_size, intermediate_size]`; of experts, one after the other.
    pub(super) down_proj: Matrix,
    /// Norms of what attention and the MLP add to the residual stream, `[hidden_size]` each.
    pub(super) post_norms: Option<[Buffer; 2]>,
}

/// What weights are to be.
#[derive(Clone, Copy)]
pub(super) struct Goal {
    /// Type of activations, and of weights that are floats.
    pub(super) float: Float,
    /// What floats become.
    pub(super) quantize: Option<GpuQuantization>,
    /// Whether the device multiplies 8-bit floats with a scale per row.
    pub(super) has_fp8: bool,
    /// Whether it multiplies those with a scale per square.
    pub(super) has_fp8_blocks: bool,
}

impl Weights {
    /// Allocates all, and fills it on `num_threads` threads.
    pub(super) fn load(
        device: &Device,
        checkpoint: &Checkpoint,
        goal: Goal,
        num_threads: NonZeroUsize,
    ) -> Result<Self, LoadError> {
        let config = checkpoint.config();
        let loader = Loader::new(device, checkpoint, goal, num_threads)?;
        let layers = (0..config.num_hidden_layers).map(|index| loader.layer(config, index));
        let mut weights = Self {
            embed_tokens: Matrix::Floats(device.alloc(0)?),
            layers: layers.collect::<Result<_, _>>()?,
            norm: loader.norm("model.norm.weight".to_owned())?,
            lm_head: match config.tie_word_embeddings {
                true => None,
                false => Some(Matrix::Floats(device.alloc(0)?)),
            },
        };
        let num_experts = config.variant.experts.map(|experts| experts.num_experts);
        loader.fill(weights.stacks(num_experts))?;
        Ok(weights)
    }

    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(|layer| {
            let matrices = [&layer.qkv_proj, &layer.o_proj, &layer.gate_up_proj, &layer.down_proj];
            matrices.into_iter().chain(&layer.router)
        });
        layers.chain([&self.embed_tokens]).chain(&self.lm_head)
    }

    /// Bytes of the matrices.
    pub(super) fn num_bytes(&self) -> usize {
        self.matrices().map(Matrix::num_bytes).sum()
    }

    /// What products of up to `max_rows` tokens need besides, where `bytes` are for rows of quantized
    /// matrices as floats.
    pub(super) fn scratch_bytes(&self, max_rows: usize, bytes: usize) -> usize {
        let needed = self.matrices().map(|matrix| match matrix {
            Matrix::Floats(_) | Matrix::Experts(_) => 0,
            Matrix::Quantized(_) => bytes,
            Matrix::Fp8(matrix) => matrix.scratch_bytes(max_rows),
        });
        needed.max().unwrap_or(0)
    }

    fn stacks(&mut self, num_experts: Option<usize>) -> Vec<Stack<'_>> {
        let mut stacks = vec![vocabulary("model.embed_tokens.weight", &mut self.embed_tokens)];
        if let Some(head) = &mut self.lm_head {
            stacks.push(vocabulary("lm_head.weight", head));
        }
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let prefixed = |names: &[&str]| -> Vec<String> {
                names.iter().map(|name| format!("model.layers.{index}.{name}.weight")).collect()
            };
            let qkv = prefixed(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]);
            let o = prefixed(&["self_attn.o_proj"]);
            let of_mlp = |parts: &[&str]| match num_experts {
                None => prefixed(parts),
                Some(num) => (0..num).flat_map(|i| expert(index, i, parts)).collect(),
            };
            let (gate_up, down) =
                (of_mlp(&["mlp.gate_proj", "mlp.up_proj"]), of_mlp(&["mlp.down_proj"]));
            let router = prefixed(&["mlp.gate"]);
            let of_mlp = num_experts.map_or(Kind::Layer, Kind::Experts);
            let mut push = |names, matrix, kind| stacks.push(Stack { names, matrix, kind });
            push(qkv, &mut layer.qkv_proj, Kind::Layer);
            push(o, &mut layer.o_proj, Kind::Layer);
            push(gate_up, &mut layer.gate_up_proj, of_mlp);
            push(down, &mut layer.down_proj, of_mlp);
            if let Some(matrix) = &mut layer.router {
                push(router, matrix, Kind::Router);
            }
        }
        stacks
    }
}

fn vocabulary<'a>(name: &str, matrix: &'a mut Matrix) -> Stack<'a> {
    Stack { names: vec![name.to_owned()], kind: Kind::Vocabulary, matrix }
}

/// Names of an expert's tensors, by those of a whole MLP's parts.
fn expert(layer: usize, expert: usize, parts: &[&str]) -> Vec<String> {
    let name = |part: &&str| {
        let part = part.trim_start_matches("mlp.");
        format!("model.layers.{layer}.mlp.experts.{expert}.{part}.weight")
    };
    parts.iter().map(name).collect()
}
