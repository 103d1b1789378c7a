//! A checkpoint's tensors in a device's memory. Named as in Hugging Face's checkpoints.
//!
//! Quantized matrices stay quantized where activations have 16 bits; where they have 32, everything does,
//! so that results can be compared. 8-bit floats with a scale per row, or per square of 128 by 128, meet
//! activations of 8 bits where the hardware multiplies them, and are 8-bit codes elsewhere.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use half::{bf16, f16};
use sconce_kernels::cpu::{MatrixPart, dequantize};
use sconce_kernels::cuda::{Buffer, Device, Float, Form, Fp8Matrix, QuantizedMatrix, SliceMut};
use sconce_kernels::dtype::Dtype;

use super::LoadError;
use super::upload::{self, Job, PIECE};
use crate::models::config::DecoderConfig;
use crate::runner::gpu_options::GpuQuantization;
use crate::weights::{self, Checkpoint, FP8_BLOCK, Fp8, Fp8Scales};

/// A weight matrix, `[n, k]`.
pub(super) enum Matrix {
    Floats(Buffer),
    Quantized(QuantizedMatrix),
    Fp8(Fp8Matrix),
}

impl Matrix {
    fn num_bytes(&self) -> usize {
        match self {
            Self::Floats(buffer) => buffer.len(),
            Self::Quantized(matrix) => matrix.num_bytes(),
            Self::Fp8(matrix) => matrix.num_bytes(),
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
    kind: Kind,
    matrix: &'a mut Matrix,
}

/// What a matrix is for, where that decides what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Layer,
    /// Its rows are the vocabulary.
    Vocabulary,
    /// Chooses experts: what is floats stays so.
    Router,
    /// Multiplied as floats, whatever it is in the checkpoint.
    Experts,
}

/// What becomes of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// Floats.
    Floats,
    /// Codes; floats among the parts become those of the form.
    Codes(Option<Form>),
    /// The checkpoint's 8-bit floats.
    Fp8,
    /// 8-bit floats, of others.
    ToFp8,
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
        check(checkpoint, goal)?;
        let config = checkpoint.config();
        let loader = Loader { device, checkpoint, goal, num_threads };
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
            Matrix::Floats(_) => 0,
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
            let of_mlp = if num_experts.is_some() { Kind::Experts } else { Kind::Layer };
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

/// Refuses to quantize what is quantized already, and what the device could not multiply.
fn check(checkpoint: &Checkpoint, goal: Goal) -> Result<(), LoadError> {
    match goal.quantize {
        Some(_) if !checkpoint.has_float_matrices() => Err(LoadError::NothingToQuantize),
        Some(_) if checkpoint.config().variant.experts.is_some() => Err(LoadError::FloatExperts),
        Some(GpuQuantization::Fp8) if !goal.has_fp8 => Err(LoadError::NoFp8),
        Some(_) | None => Ok(()),
    }
}

struct Loader<'a> {
    device: &'a Device,
    checkpoint: &'a Checkpoint,
    goal: Goal,
    num_threads: NonZeroUsize,
}

impl<'a> Loader<'a> {
    /// Makes the matrices: first those whose bytes are copied as they are or as floats.
    fn fill(&self, stacks: Vec<Stack<'_>>) -> Result<(), LoadError> {
        let (mut copied, mut packed, mut to_fp8) = (Vec::new(), Vec::new(), Vec::new());
        let num = stacks.len();
        for stack in stacks {
            match self.decide(&stack)? {
                made @ (Made::Floats | Made::Fp8) => {
                    *stack.matrix = self.allocate(&stack.names, made)?;
                    copied.push(stack);
                }
                Made::Codes(floats) => packed.push((stack, floats)),
                Made::ToFp8 => to_fp8.push(stack),
            }
        }
        let num_fp8 = copied.iter().filter(|it| matches!(it.matrix, Matrix::Fp8(_))).count();
        let (codes, fp8) = (packed.len(), num_fp8 + to_fp8.len());
        tracing::info!(floats = num - codes - fp8, codes, fp8, "matrices of weights");
        let mut jobs = Vec::new();
        for Stack { names, matrix, .. } in copied {
            match matrix {
                Matrix::Floats(buffer) => self.push_jobs(&names, buffer.slice_mut(), &mut jobs)?,
                Matrix::Fp8(matrix) => self.push_fp8(&names, matrix.codes_mut(), &mut jobs)?,
                Matrix::Quantized(_) => {}
            }
        }
        upload::run(self.device, jobs, self.num_threads)?;
        self.pack_all(packed)?;
        to_fp8.iter_mut().try_for_each(|stack| self.to_fp8(stack))
    }

    fn decide(&self, stack: &Stack<'_>) -> Result<Made, LoadError> {
        let Goal { float, quantize, .. } = self.goal;
        let matrices = self.matrices(&stack.names)?;
        let num_quantized =
            matrices.iter().filter(|matrix| matrix.part().dtype.block_len() > 1).count();
        if float == Float::F32 || stack.kind == Kind::Experts {
            return Ok(Made::Floats);
        }
        if num_quantized == matrices.len() {
            return Ok(if self.is_fp8(stack)? { Made::Fp8 } else { Made::Codes(None) });
        }
        let fits = |multiple: usize| {
            matrices.iter().all(|matrix| matrix.part().cols.is_multiple_of(multiple))
        };
        match quantize {
            Some(GpuQuantization::Q4) if fits(32) && stack.kind != Kind::Vocabulary => {
                Ok(Made::Codes(Some(Form::W4)))
            }
            Some(GpuQuantization::Q8 | GpuQuantization::Q4) if fits(32) => {
                Ok(Made::Codes(Some(Form::W8Halves)))
            }
            Some(GpuQuantization::Fp8)
                if stack.kind != Kind::Vocabulary && self.fits_fp8(&matrices) =>
            {
                Ok(Made::ToFp8)
            }
            Some(_) | None => Ok(Made::Floats),
        }
    }

    /// Whether all its parts are 8-bit floats that the device multiplies.
    fn is_fp8(&self, stack: &Stack<'_>) -> Result<bool, LoadError> {
        if stack.kind == Kind::Vocabulary {
            return Ok(false);
        }
        let parts = self.fp8_parts(&stack.names)?;
        let scaling = parts.first().map(Fp8::scaling);
        let is_multiplied = match scaling {
            None => false,
            Some(Fp8Scales::Rows) => self.goal.has_fp8,
            // Squares of one part must not reach into the next.
            Some(Fp8Scales::Blocks) => {
                let whole = |part: &Fp8<'_>| part.shape()[0].is_multiple_of(FP8_BLOCK);
                self.goal.has_fp8_blocks && parts[..parts.len() - 1].iter().all(whole)
            }
        };
        let are_alike = parts.len() == stack.names.len()
            && parts.iter().all(|part| Some(part.scaling()) == scaling);
        Ok(is_multiplied && are_alike && self.fits_fp8(&self.matrices(&stack.names)?))
    }

    /// Those of the matrices that are of 8-bit floats.
    fn fp8_parts(&self, names: &[String]) -> Result<Vec<Fp8<'a>>, LoadError> {
        let parts = names.iter().filter_map(|name| self.checkpoint.fp8(name).transpose());
        Ok(parts.collect::<Result<_, _>>()?)
    }

    /// cuBLASLt's 8-bit products are of multiples of 16.
    fn fits_fp8(&self, matrices: &[weights::Matrix<'_>]) -> bool {
        let rows: usize = matrices.iter().map(|matrix| matrix.part().rows).sum();
        let cols = matrices.first().map_or(0, |matrix| matrix.part().cols);
        rows.is_multiple_of(16) && cols.is_multiple_of(16)
    }

    /// Makes room for what is copied.
    fn allocate(&self, names: &[String], made: Made) -> Result<Matrix, LoadError> {
        let matrices = self.matrices(names)?;
        if made != Made::Fp8 {
            let elements: usize =
                matrices.iter().map(|matrix| matrix.part().rows * matrix.part().cols).sum();
            let bytes = elements * self.goal.float.size();
            return Ok(Matrix::Floats(self.device.alloc(bytes)?));
        }
        let parts = self.fp8_parts(names)?;
        let scales: Vec<_> = parts.iter().map(Fp8::scales).collect::<Result<_, _>>()?;
        let scales = scales.concat();
        let cols = matrices.first().map_or(0, |matrix| matrix.part().cols);
        let rows = matrices.iter().map(|matrix| matrix.part().rows).sum();
        Ok(Matrix::Fp8(match parts.first().map(Fp8::scaling) {
            Some(Fp8Scales::Blocks) => Fp8Matrix::with_blocks(self.device, &scales, (rows, cols))?,
            Some(Fp8Scales::Rows) | None => Fp8Matrix::with_scales(self.device, &scales, cols)?,
        }))
    }

    fn matrices(&self, names: &[String]) -> Result<Vec<weights::Matrix<'a>>, LoadError> {
        Ok(names.iter().map(|name| self.checkpoint.matrix(name)).collect::<Result<_, _>>()?)
    }

    /// Packs matrices, each on one of the threads.
    fn pack_all(&self, stacks: Vec<(Stack<'_>, Option<Form>)>) -> Result<(), LoadError> {
        upload::share_out(
            self.device,
            stacks,
            self.num_threads,
            || Ok(()),
            |(), (Stack { names, matrix, .. }, floats)| {
                let matrices = self.matrices(&names)?;
                let parts: Vec<_> = matrices.iter().map(weights::Matrix::part).collect();
                *matrix = Matrix::Quantized(match floats {
                    Some(form) => QuantizedMatrix::quantize(self.device, &parts, form)?,
                    None => QuantizedMatrix::pack(self.device, &parts)?,
                });
                Ok(())
            },
        )
    }

    /// Copies floats, and has the device make them 8 bits wide: there is room for one matrix of them.
    fn to_fp8(&self, stack: &mut Stack<'_>) -> Result<(), LoadError> {
        let float = self.goal.float;
        let Matrix::Floats(mut floats) = self.allocate(&stack.names, Made::Floats)? else {
            return Ok(());
        };
        let matrices = self.matrices(&stack.names)?;
        let rows = matrices.iter().map(|matrix| matrix.part().rows).sum();
        let cols = matrices.first().map_or(0, |matrix| matrix.part().cols);
        let mut jobs = Vec::new();
        self.push_jobs(&stack.names, floats.slice_mut(), &mut jobs)?;
        upload::run(self.device, jobs, self.num_threads)?;
        let matrix = Fp8Matrix::quantize(self.device, (float, floats.slice()), (rows, cols))?;
        *stack.matrix = Matrix::Fp8(matrix);
        Ok(self.device.synchronize()?)
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
        let (mlp_layernorm, post_norms) = config.variant.mlp_and_post_norms();
        let post_norms = match post_norms {
            Some([attention, mlp]) => Some([norm(attention)?, norm(mlp)?]),
            None => None,
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
        let mut bytes = vec![0; elements.len() * self.goal.float.size()];
        write_floats(self.goal.float, elements, &mut bytes);
        Ok(self.device.buffer_of(&bytes)?)
    }

    /// Cuts the tensors into pieces of whole rows.
    fn push_jobs<'j>(
        &self,
        names: &[String],
        mut to: SliceMut<'j>,
        jobs: &mut Vec<Job<'j>>,
    ) -> Result<(), LoadError>
    where
        'a: 'j,
    {
        let float = self.goal.float;
        for name in names {
            // What it is made of is forgotten with its last piece.
            let matrix = Arc::new(self.checkpoint.matrix(name)?);
            let (rows, cols) = (matrix.part().rows, matrix.part().cols);
            let row_bytes = cols * float.size();
            let rows_per_piece = (PIECE / row_bytes).max(1);
            for first in (0..rows).step_by(rows_per_piece) {
                let rows = rows_per_piece.min(rows - first);
                let (piece, rest) = to.split_at(rows * row_bytes);
                to = rest;
                let matrix = Arc::clone(&matrix);
                let make = move |out: &mut [u8]| make_rows(matrix.part(), first, float, out);
                jobs.push(Job { to: piece, make: Box::new(make) });
            }
        }
        Ok(())
    }

    /// Cuts 8-bit floats into pieces, which are copied as they are.
    fn push_fp8<'j>(
        &self,
        names: &[String],
        mut to: SliceMut<'j>,
        jobs: &mut Vec<Job<'j>>,
    ) -> Result<(), LoadError>
    where
        'a: 'j,
    {
        for name in names {
            let Some(part) = self.checkpoint.fp8(name)? else { continue };
            let [rows, cols] = part.shape();
            let len = rows * cols;
            for first in (0..len).step_by(PIECE) {
                let (piece, rest) = to.split_at(PIECE.min(len - first));
                to = rest;
                let make = move |out: &mut [u8]| part.read_codes_at(first, out);
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
