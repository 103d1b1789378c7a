//! A checkpoint's tensors in a device's memory. Named as in Hugging Face's checkpoints.

use std::io;
use std::num::NonZeroUsize;

use half::{bf16, f16};
use sconce_kernels::cpu::{MatrixPart, dequantize};
use sconce_kernels::cuda::{Buffer, Device, Float, SliceMut};
use sconce_kernels::dtype::Dtype;

use super::LoadError;
use super::upload::{self, Job, PIECE};
use crate::models::config::DecoderConfig;
use crate::weights::{self, Checkpoint};

/// All weights of a decoder, as one type of floats.
pub(super) struct Weights {
    /// `[vocab_size, hidden_size]`
    pub(super) embed_tokens: Buffer,
    pub(super) layers: Vec<Layer>,
    /// `[hidden_size]`
    pub(super) norm: Buffer,
    /// `[vocab_size, hidden_size]`; `None` when it is the embedding table.
    pub(super) lm_head: Option<Buffer>,
}

/// One layer's weights.
pub(super) struct Layer {
    /// `[hidden_size]`
    pub(super) input_layernorm: Buffer,
    /// `[qkv_size, hidden_size]`
    pub(super) qkv_proj: Buffer,
    /// `[qkv_size]`
    pub(super) qkv_bias: Option<Buffer>,
    /// `[hidden_size, q_size]`
    pub(super) o_proj: Buffer,
    /// `[hidden_size]`
    pub(super) post_attention_layernorm: Buffer,
    /// `[2 * intermediate_size, hidden_size]`: gate, then up.
    pub(super) gate_up_proj: Buffer,
    /// `[hidden_size, intermediate_size]`
    pub(super) down_proj: Buffer,
}

/// A matrix whose rows are those of the checkpoint's tensors, one after the other.
struct Stack<'a> {
    names: Vec<String>,
    buffer: &'a mut Buffer,
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
        let table = config.vocab_size * config.hidden_size;
        let layers = (0..config.num_hidden_layers).map(|index| loader.layer(config, index));
        let mut weights = Self {
            embed_tokens: loader.room(table)?,
            layers: layers.collect::<Result<_, _>>()?,
            norm: loader.vector(&["model.norm.weight".to_owned()])?,
            lm_head: match config.tie_word_embeddings {
                true => None,
                false => Some(loader.room(table)?),
            },
        };
        let mut jobs = Vec::new();
        for Stack { names, buffer } in weights.stacks() {
            loader.push_jobs(&names, buffer.slice_mut(), &mut jobs)?;
        }
        upload::run(device, jobs, num_threads)?;
        Ok(weights)
    }

    /// Bytes of the matrices.
    pub(super) fn num_bytes(&self) -> usize {
        let layers = self.layers.iter().map(|layer| {
            layer.qkv_proj.len()
                + layer.o_proj.len()
                + layer.gate_up_proj.len()
                + layer.down_proj.len()
        });
        let head = self.lm_head.as_ref().map_or(0, Buffer::len);
        layers.sum::<usize>() + self.embed_tokens.len() + head
    }

    fn stacks(&mut self) -> Vec<Stack<'_>> {
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
            let gate_up = prefixed(&["mlp.gate_proj", "mlp.up_proj"]);
            let down = prefixed(&["mlp.down_proj"]);
            stacks.push(Stack { names: qkv, buffer: &mut layer.qkv_proj });
            stacks.push(Stack { names: o, buffer: &mut layer.o_proj });
            stacks.push(Stack { names: gate_up, buffer: &mut layer.gate_up_proj });
            stacks.push(Stack { names: down, buffer: &mut layer.down_proj });
        }
        stacks
    }
}

fn stack<'a, const N: usize>(names: [&str; N], buffer: &'a mut Buffer) -> Stack<'a> {
    Stack { names: names.map(str::to_owned).to_vec(), buffer }
}

struct Loader<'a> {
    device: &'a Device,
    checkpoint: &'a Checkpoint,
    float: Float,
}

impl<'a> Loader<'a> {
    fn room(&self, num_elements: usize) -> Result<Buffer, LoadError> {
        Ok(self.device.alloc(num_elements * self.float.size())?)
    }

    fn layer(&self, config: &DecoderConfig, index: usize) -> Result<Layer, LoadError> {
        let name = |rest: &str| format!("model.layers.{index}.{rest}");
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let bias = ["q", "k", "v"].map(|part| name(&format!("self_attn.{part}_proj.bias")));
        Ok(Layer {
            input_layernorm: self.vector(&[name("input_layernorm.weight")])?,
            qkv_proj: self.room(config.qkv_size() * hidden)?,
            qkv_bias: match config.attention_bias {
                true => Some(self.vector(&bias)?),
                false => None,
            },
            o_proj: self.room(hidden * config.q_size())?,
            post_attention_layernorm: self.vector(&[name("post_attention_layernorm.weight")])?,
            gate_up_proj: self.room(2 * inner * hidden)?,
            down_proj: self.room(hidden * inner)?,
        })
    }

    /// Vectors, one after the other.
    fn vector(&self, names: &[String]) -> Result<Buffer, LoadError> {
        let mut elements = Vec::new();
        for name in names {
            let tensor = self.checkpoint.tensor(name)?;
            let quantized = || weights::Error::NotFloat { name: name.clone(), dtype: tensor.dtype };
            elements.extend(tensor.to_f32().ok_or_else(quantized)?);
        }
        let mut bytes = vec![0; elements.len() * self.float.size()];
        write_floats(self.float, &elements, &mut bytes);
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
