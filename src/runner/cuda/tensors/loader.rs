//! Decides what becomes of a checkpoint's matrices on a device, and makes it.

use std::num::NonZeroUsize;
use std::sync::Arc;

use sconce_kernels::cpu::MatrixPart;
use sconce_kernels::cuda::{
    Buffer, Device, Float, Form, Fp8Matrix, QuantizedExperts, QuantizedMatrix, SliceMut,
};

use super::floats::{make_rows, write_floats};
use super::{Goal, Layer, Matrix};
use crate::models::config::DecoderConfig;
use crate::runner::cuda::LoadError;
use crate::runner::cuda::upload::{self, Job, PIECE};
use crate::runner::gpu_options::GpuQuantization;
use crate::weights::{self, Checkpoint, FP8_BLOCK, Fp8, Fp8Scales};

/// A matrix to be made, whose rows are those of the checkpoint's tensors, one after the other.
pub(super) struct Stack<'a> {
    pub(super) names: Vec<String>,
    pub(super) kind: Kind,
    pub(super) matrix: &'a mut Matrix,
}

/// What a matrix is for, where that decides what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Layer,
    /// Its rows are the vocabulary.
    Vocabulary,
    /// Chooses experts: what is floats stays so.
    Router,
    /// The matrices of so many experts.
    Experts(usize),
}

/// What becomes of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Made {
    /// Floats.
    Floats,
    /// Codes; floats among the parts become those of the form.
    Codes(Option<Form>),
    /// Codes of each expert: forms and rows of what its matrix is made of.
    ExpertCodes(Vec<(Form, usize)>),
    /// The checkpoint's 8-bit floats.
    Fp8,
    /// 8-bit floats, of others.
    ToFp8,
}

/// Refuses to quantize what is quantized already, and what the device could not multiply.
fn check(checkpoint: &Checkpoint, goal: Goal) -> Result<(), LoadError> {
    match goal.quantize {
        Some(_) if !checkpoint.has_float_matrices() => Err(LoadError::NothingToQuantize),
        Some(GpuQuantization::Fp8) if checkpoint.config().variant.experts.is_some() => {
            Err(LoadError::Fp8Experts)
        }
        Some(GpuQuantization::Fp8) if !goal.has_fp8 => Err(LoadError::NoFp8),
        Some(_) | None => Ok(()),
    }
}

/// Makes matrices and vectors of a checkpoint's tensors.
pub(super) struct Loader<'a> {
    device: &'a Device,
    checkpoint: &'a Checkpoint,
    goal: Goal,
    num_threads: NonZeroUsize,
}

impl<'a> Loader<'a> {
    /// For a checkpoint that can become what is asked for.
    pub(super) fn new(
        device: &'a Device,
        checkpoint: &'a Checkpoint,
        goal: Goal,
        num_threads: NonZeroUsize,
    ) -> Result<Self, LoadError> {
        check(checkpoint, goal)?;
        Ok(Self { device, checkpoint, goal, num_threads })
    }

    /// Makes the matrices: first those that are filled piece by piece, then those that are made as a whole.
    pub(super) fn fill(&self, stacks: Vec<Stack<'_>>) -> Result<(), LoadError> {
        let (mut pieces, mut packed, mut to_fp8) = (Vec::new(), Vec::new(), Vec::new());
        let (num, mut codes, mut fp8) = (stacks.len(), 0, 0);
        for stack in stacks {
            let made = self.decide(&stack)?;
            codes += usize::from(matches!(made, Made::Codes(_) | Made::ExpertCodes(_)));
            fp8 += usize::from(matches!(made, Made::Fp8 | Made::ToFp8));
            match made {
                Made::Floats | Made::Fp8 | Made::ExpertCodes(_) => {
                    *stack.matrix = self.allocate(&stack.names, &made)?;
                    pieces.push((stack, made));
                }
                Made::Codes(floats) => packed.push((stack, floats)),
                Made::ToFp8 => to_fp8.push(stack),
            }
        }
        tracing::info!(floats = num - codes - fp8, codes, fp8, "matrices of weights");
        let mut jobs = Vec::new();
        for (Stack { names, matrix, .. }, made) in pieces {
            match (matrix, made) {
                (Matrix::Floats(buffer), _) => {
                    self.push_jobs(&names, buffer.slice_mut(), &mut jobs)?;
                }
                (Matrix::Fp8(matrix), _) => {
                    self.push_fp8(&names, matrix.codes_mut(), &mut jobs)?;
                }
                (Matrix::Experts(matrices), Made::ExpertCodes(parts)) => {
                    self.push_experts(&names, (matrices, &parts), &mut jobs)?;
                }
                (Matrix::Quantized(_) | Matrix::Experts(_), _) => {}
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
        if float == Float::F32 {
            return Ok(Made::Floats);
        }
        if let Kind::Experts(num_experts) = stack.kind {
            let parts = self.expert_forms(&matrices, num_experts);
            return Ok(parts.map_or(Made::Floats, Made::ExpertCodes));
        }
        if num_quantized == matrices.len() {
            return Ok(if self.is_fp8(stack)? { Made::Fp8 } else { Made::Codes(None) });
        }
        if stack.kind == Kind::Router {
            return Ok(Made::Floats);
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

    /// Forms and rows of what an expert's matrix is made of, in a stack of all experts'; `None` where some part
    /// is of floats, or not of the same form for each.
    fn expert_forms(
        &self,
        matrices: &[weights::Matrix<'_>],
        num_experts: usize,
    ) -> Option<Vec<(Form, usize)>> {
        let of_floats = match self.goal.quantize {
            Some(GpuQuantization::Q4) => Some(Form::W4),
            Some(GpuQuantization::Q8) => Some(Form::W8Halves),
            Some(GpuQuantization::Fp8) | None => None,
        };
        let form = |matrix: &weights::Matrix<'_>| {
            let MatrixPart { dtype, cols, rows, .. } = matrix.part();
            let form = Form::of(dtype).or(of_floats).filter(|_| cols.is_multiple_of(32));
            form.map(|form| (form, rows))
        };
        let mut experts = matrices.chunks(matrices.len() / num_experts.max(1));
        let first: Vec<_> = experts.next()?.iter().map(form).collect::<Option<_>>()?;
        let is_alike = |expert: &[_]| expert.iter().map(form).eq(first.iter().copied().map(Some));
        experts.all(is_alike).then_some(first)
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

    /// Makes room for what is filled piece by piece.
    fn allocate(&self, names: &[String], made: &Made) -> Result<Matrix, LoadError> {
        let matrices = self.matrices(names)?;
        if let Made::ExpertCodes(parts) = made {
            let num_experts = matrices.len() / parts.len().max(1);
            let cols = matrices.first().map_or(0, |matrix| matrix.part().cols);
            let experts = QuantizedExperts::new(self.device, (num_experts, cols), parts)?;
            return Ok(Matrix::Experts(experts));
        }
        if *made != Made::Fp8 {
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
        let Matrix::Floats(mut floats) = self.allocate(&stack.names, &Made::Floats)? else {
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

    pub(super) fn layer(&self, config: &DecoderConfig, index: usize) -> Result<Layer, LoadError> {
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
    pub(super) fn norm(&self, name: String) -> Result<Buffer, LoadError> {
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

    /// Cuts experts' matrices into pieces of whole rows of tiles, which are packed on the way.
    fn push_experts<'j>(
        &self,
        names: &[String],
        (matrices, parts): (&'j mut QuantizedExperts, &[(Form, usize)]),
        jobs: &mut Vec<Job<'j>>,
    ) -> Result<(), LoadError>
    where
        'a: 'j,
    {
        let forms = parts.iter().map(|(form, _)| *form).cycle();
        for ((name, form), mut to) in names.iter().zip(forms).zip(matrices.parts_mut()) {
            let matrix = Arc::new(self.checkpoint.matrix(name)?);
            let row_bytes = form.row_bytes(matrix.part().cols);
            let rows_per_piece = (PIECE / row_bytes).max(1);
            for first in (0..to.len() / row_bytes).step_by(rows_per_piece) {
                let len = to.len().min(rows_per_piece * row_bytes);
                let (piece, rest) = to.split_at(len);
                to = rest;
                let matrix = Arc::clone(&matrix);
                let make = move |out: &mut [u8]| {
                    QuantizedExperts::pack_rows(matrix.part(), form, first, out)
                };
                jobs.push(Job { to: piece, make: Box::new(make) });
            }
        }
        Ok(())
    }
}
