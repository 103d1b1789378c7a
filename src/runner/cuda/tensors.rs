//! A checkpoint's tensors in a device's memory. Named as in Hugging Face's checkpoints.
//!
//! Quantized matrices stay quantized where activations have 16 bits; where they have 32, everything does,
//! so that results can be compared.

use std::io;
use std::num::NonZeroUsize;

use half::{bf16, f16};
use sconce_kernels::cpu::{MatrixPart, dequantize};
use sconce_kernels::cuda::{Buffer, Device, Float, QuantizedMatrix, SliceMut};
use sconce_kernels::dtype::Dtype;

use super::LoadError;
use super::upload::{self, Job, PIECE};
use crate::models::config::DecoderConfig;
use crate::weights::{self, Checkpoint};

/// A weight matrix, `[n, k]`.
pub(super) enum Matrix {
    Floats(Buffer),
    Quantized(QuantizedMatrix),
}

impl Matrix {
    fn num_bytes(&self) -> usize {
        match self {
            Self::Floats(buffer) => buffer.len(),
            Self::Quantized(matrix) => matrix.num_bytes(),
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
    /// `[2 * intermediate_size, hidden_size]`: gate, then up; of experts, floats, one after the other.
    pub(super) gate_up_proj: Matrix,
    /// `[hidden_size, intermediate_size]`; of experts, floats, one after the other.
    pub(super) down_proj: Matrix,
    /// Norms of what attention and the MLP add to the residual stream, `[hidden_size]` each.
    pub(super) post_norms: Option<[Buffer; 2]>,
}

/// A matrix to be made, whose rows are those of the checkpoint's tensors, one after the other.
struct Stack<'a> {
    names: Vec<String>,
    matrix: &'a mut Matrix,
    /// Experts are multiplied as floats, whatever they are in the checkpoint.
    is_of_experts: bool,
}

impl Weights {
    /// Allocates all, and fills it on `num_threads` threads.
    pub(super) fn load(
        device: &Device,
        checkpoint: &Checkpoint,
        float: Float,
        num_threads: NonZeroUsize,
    ) -> Result<Self, LoadError> {
        let config = checkpoint.config();
        let loader = Loader { device, checkpoint, float };
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
        let (quantized, floats) = loader.allocate(weights.stacks(num_experts))?;
        let mut jobs = Vec::new();
        for Stack { names, matrix, .. } in floats {
            if let Matrix::Floats(buffer) = matrix {
                loader.push_jobs(&names, buffer.slice_mut(), &mut jobs)?;
            }
        }
        upload::run(device, jobs, num_threads)?;
        loader.pack_all(quantized, num_threads)?;
        Ok(weights)
    }

    /// Bytes of the matrices.
    pub(super) fn num_bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| {
            let matrices = [&layer.qkv_proj, &layer.o_proj, &layer.gate_up_proj, &layer.down_proj];
            matrices.into_iter().chain(&layer.router)
        });
        let all = layers.chain([&self.embed_tokens]).chain(&self.lm_head);
        all.map(Matrix::num_bytes).sum()
    }

    /// As many bytes, or none where nothing is quantized.
    pub(super) fn scratch_bytes(&self, bytes: usize) -> usize {
        let is_quantized = |matrix: &Matrix| matches!(matrix, Matrix::Quantized(_));
        let layers = self.layers.first().into_iter();
        let layers = layers.flat_map(|layer| [&layer.o_proj, &layer.down_proj]);
        let any =
            [&self.embed_tokens].into_iter().chain(&self.lm_head).chain(layers).any(is_quantized);
        if any { bytes } else { 0 }
    }

    fn stacks(&mut self, num_experts: Option<usize>) -> Vec<Stack<'_>> {
        let mut stacks = vec![stack(["model.embed_tokens.weight"], &mut self.embed_tokens)];
        if let Some(head) = &mut self.lm_head {
            stacks.push(stack(["lm_head.weight"], head));
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
            let mut push = |names, matrix, is_of_experts| {
                stacks.push(Stack { names, matrix, is_of_experts });
            };
            push(qkv, &mut layer.qkv_proj, false);
            push(o, &mut layer.o_proj, false);
            push(gate_up, &mut layer.gate_up_proj, num_experts.is_some());
            push(down, &mut layer.down_proj, num_experts.is_some());
            if let Some(matrix) = &mut layer.router {
                push(router, matrix, false);
            }
        }
        stacks
    }
}

fn stack<'a, const N: usize>(names: [&str; N], matrix: &'a mut Matrix) -> Stack<'a> {
    Stack { names: names.map(str::to_owned).to_vec(), matrix, is_of_experts: false }
}

/// Names of an expert's tensors, by those of a whole MLP's parts.
fn expert(layer: usize, expert: usize, parts: &[&str]) -> Vec<String> {
    let name = |part: &&str| {
        let part = part.trim_start_matches("mlp.");
        format!("model.layers.{layer}.mlp.experts.{expert}.{part}.weight")
    };
    parts.iter().map(name).collect()
}

struct Loader<'a> {
    device: &'a Device,
    checkpoint: &'a Checkpoint,
    float: Float,
}

impl<'a> Loader<'a> {
    /// Parts the stacks that stay quantized from those that become floats, and makes room for these.
    fn allocate<'s>(
        &self,
        stacks: Vec<Stack<'s>>,
    ) -> Result<(Vec<Stack<'s>>, Vec<Stack<'s>>), LoadError> {
        let (mut quantized, mut floats) = (Vec::new(), Vec::new());
        for stack in stacks {
            let parts = self.parts(&stack.names)?;
            let is_quantized = parts.iter().all(|part| part.dtype.block_len() > 1);
            if self.float != Float::F32 && is_quantized && !stack.is_of_experts {
                quantized.push(stack);
                continue;
            }
            let elements: usize = parts.iter().map(|part| part.rows * part.cols).sum();
            *stack.matrix = Matrix::Floats(self.device.alloc(elements * self.float.size())?);
            floats.push(stack);
        }
        Ok((quantized, floats))
    }

    fn parts(&self, names: &[String]) -> Result<Vec<MatrixPart<'a>>, LoadError> {
        Ok(names.iter().map(|name| self.checkpoint.matrix(name)).collect::<Result<_, _>>()?)
    }

    /// Packs quantized matrices, each on one of the threads.
    fn pack_all(&self, stacks: Vec<Stack<'_>>, num_threads: NonZeroUsize) -> Result<(), LoadError> {
        upload::share_out(
            self.device,
            stacks,
            num_threads,
            || Ok(()),
            |(), Stack { names, matrix, .. }| {
                let packed = QuantizedMatrix::pack(self.device, &self.parts(&names)?)?;
                *matrix = Matrix::Quantized(packed);
                Ok(())
            },
        )
    }

    fn layer(&self, config: &DecoderConfig, index: usize) -> Result<Layer, LoadError> {
        let name = |rest: &str| format!("model.layers.{index}.{rest}");
        let empty = || Ok::<_, LoadError>(Matrix::Floats(self.device.alloc(0)?));
        let bias = ["q", "k", "v"].map(|part| name(&format!("self_attn.{part}_proj.bias")));
        let norm = |part: &str| self.norm(name(&format!("{part}.weight")));
        let qk_norms = match config.variant.qk_norm {
            true => Some([norm("self_attn.q_norm")?, norm("self_attn.k_norm")?]),
            false => None,
        };
        let (mlp_layernorm, post_norms) = match config.variant.post_norms {
            true => {
                let post = ["post_attention_layernorm", "post_feedforward_layernorm"];
                ("pre_feedforward_layernorm", Some([norm(post[0])?, norm(post[1])?]))
            }
            false => ("post_attention_layernorm", None),
        };
        Ok(Layer {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: empty()?,
            qkv_bias: match config.attention_bias {
                true => Some(self.vector(&bias)?),
                false => None,
            },
            qk_norms,
            o_proj: empty()?,
            mlp_layernorm: norm(mlp_layernorm)?,
            router: match config.variant.experts {
                Some(_) => Some(empty()?),
                None => None,
            },
            gate_up_proj: empty()?,
            down_proj: empty()?,
            post_norms,
        })
    }

    /// A norm's weights as they are multiplied with.
    fn norm(&self, name: String) -> Result<Buffer, LoadError> {
        let offset = self.checkpoint.config().variant.norm_offset;
        let mut elements = self.floats(&[name])?;
        elements.iter_mut().for_each(|element| *element += offset);
        self.buffer_of(&elements)
    }

    /// Vectors, one after the other.
    fn vector(&self, names: &[String]) -> Result<Buffer, LoadError> {
        self.buffer_of(&self.floats(names)?)
    }

    fn floats(&self, names: &[String]) -> Result<Vec<f32>, LoadError> {
        let mut elements = Vec::new();
        for name in names {
            let tensor = self.checkpoint.tensor(name)?;
            let quantized = || weights::Error::NotFloat { name: name.clone(), dtype: tensor.dtype };
            elements.extend(tensor.to_f32().ok_or_else(quantized)?);
        }
        Ok(elements)
    }

    /// Floats of the model's type.
    fn buffer_of(&self, elements: &[f32]) -> Result<Buffer, LoadError> {
        let mut bytes = vec![0; elements.len() * self.float.size()];
        write_floats(self.float, elements, &mut bytes);
        Ok(self.device.buffer_of(&bytes)?)
    }

    /// Cuts the tensors into pieces of whole rows.
    fn push_jobs(
        &self,
        names: &[String],
        mut to: SliceMut<'a>,
        jobs: &mut Vec<Job<'a>>,
    ) -> Result<(), LoadError> {
        let float = self.float;
        for name in names {
            let part = self.checkpoint.matrix(name)?;
            let row_bytes = part.cols * float.size();
            let rows_per_piece = (PIECE / row_bytes).max(1);
            for first in (0..part.rows).step_by(rows_per_piece) {
                let rows = rows_per_piece.min(part.rows - first);
                let (piece, rest) = to.split_at(rows * row_bytes);
                to = rest;
                let make = move |out: &mut [u8]| make_rows(part, first, float, out);
                jobs.push(Job { to: piece, make: Box::new(make) });
            }
        }
        Ok(())
    }
}

/// Reads the rows from `first` on that fill `out`, as `float`.
fn make_rows(part: MatrixPart<'_>, first: usize, float: Float, out: &mut [u8]) -> io::Result<()> {
    let MatrixPart { dtype, cols, data, .. } = part;
    let file_bytes = cols / dtype.block_len() * dtype.block_bytes();
    if dtype == of_float(float) {
        return data.read_at(first * file_bytes, out);
    }
    let rows = out.len() / (cols * float.size());
    let mut bytes = vec![0; rows * file_bytes];
    data.read_at(first * file_bytes, &mut bytes)?;
    let mut elements = vec![0.0; cols];
    for (row, out) in bytes.chunks_exact(file_bytes).zip(out.chunks_exact_mut(cols * float.size()))
    {
        dequantize(dtype, row, &mut elements);
        write_floats(float, &elements, out);
    }
    Ok(())
}

fn of_float(float: Float) -> Dtype {
    match float {
        Float::F32 => Dtype::F32,
        Float::F16 => Dtype::F16,
        Float::BF16 => Dtype::BF16,
    }
}

/// Writes floats, rounded to `float`, as the device reads them.
fn write_floats(float: Float, elements: &[f32], out: &mut [u8]) {
    match float {
        Float::F32 => {
            for (x, out) in elements.iter().zip(out.as_chunks_mut::<4>().0) {
                *out = x.to_le_bytes();
            }
        }
        Float::F16 => {
            for (x, out) in elements.iter().zip(out.as_chunks_mut::<2>().0) {
                *out = f16::from_f32(*x).to_le_bytes();
            }
        }
        Float::BF16 => {
            for (x, out) in elements.iter().zip(out.as_chunks_mut::<2>().0) {
                *out = bf16::from_f32(*x).to_le_bytes();
            }
        }
    }
}
