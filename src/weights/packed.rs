//! Matrices that a checkpoint has as codes, scales and zero points, in tensors of their own.
//!
//! To the rest they are tensors of blocks of 32, [`Dtype::Int4`], [`Dtype::Int8`] or
//! [`Dtype::Dequantized`], which are made when rows are read: nothing of a whole matrix is ever there
//! but what the file has. Which program packed it is not known here, only where codes lie.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use half::{bf16, f16};
use safetensors::Dtype as StoredDtype;
use sconce_kernels::cpu::{MatrixPart, ReadBytes};
use sconce_kernels::dtype::Dtype;

use super::Error;
use super::file::{Span, Stored};

/// Elements of a block.
const BLOCK: usize = 32;

/// Which row of eight a nibble of AWQ's words is of: the order in which its kernels unpack them.
const AWQ_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The zero point of a row and group, in the bytes of a tensor.
type ZeroAt<'a> = Box<dyn Fn(&[u8], usize, usize) -> u16 + 'a>;

/// Where the code of an element of a matrix `[n, k]` lies. Words have 32 bits, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codes {
    /// Words along the columns, `[k * bits / 32, n]`.
    Columns { bits: usize },
    /// Words along the columns, `[n, k * bits / 32]`.
    Rows { bits: usize },
    /// Words of eight rows in AWQ's order, `[k, n / 8]`.
    Awq,
    /// Signed bytes, `[n, k]`.
    Int8,
    /// Floats of 8 bits, `[n, k]`.
    E4M3,
}

/// Where zero points lie, and how.
#[derive(Clone)]
pub(super) enum Zeros {
    /// Half the number of codes is zero.
    Middle,
    /// Words along the rows, `[groups, n * bits / 32]`, that are so much below the zero point.
    Groups { tensor: Stored, below: u16 },
    /// The same in AWQ's order.
    Awq { tensor: Stored },
    /// Words along the rows, `[n * bits / 32, groups]`.
    Rows { tensor: Stored },
    /// Signed bytes, `[n, groups]`.
    Int8 { tensor: Stored },
}

/// Where in their tensor the scale of a row and group is: `row / row_block * row_stride + group *
/// group_stride`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) row_block: usize,
    pub(super) row_stride: usize,
    pub(super) group_stride: usize,
}

impl Places {
    pub(super) fn of(self, row: usize, group: usize) -> usize {
        row / self.row_block * self.row_stride + group * self.group_stride
    }
}

/// A matrix in its tensors.
pub(super) struct Packed {
    pub(super) codes: Codes,
    pub(super) weight: Stored,
    pub(super) scales: Stored,
    pub(super) places: Places,
    pub(super) zeros: Zeros,
    /// Each column's group, where columns are not in order.
    pub(super) g_idx: Option<Vec<u32>>,
    /// Rows and columns.
    pub(super) shape: [usize; 2],
    /// Columns of a group.
    pub(super) group: usize,
}

impl Packed {
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The blocks that the matrix is made into.
    pub(super) fn dtype(&self) -> Dtype {
        let is_in_order = self.g_idx.is_none() && self.group.is_multiple_of(BLOCK);
        match (self.codes.bits(), &self.zeros) {
            _ if self.codes == Codes::E4M3 || !is_in_order => Dtype::Dequantized,
            (4, _) => Dtype::Int4,
            (_, Zeros::Middle) => Dtype::Int8,
            (_, _) => Dtype::Dequantized,
        }
    }

    /// Everything that it is made of.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Stored> {
        let zeros = match &self.zeros {
            Zeros::Middle => None,
            Zeros::Groups { tensor, .. }
            | Zeros::Awq { tensor }
            | Zeros::Rows { tensor }
            | Zeros::Int8 { tensor } => Some(tensor),
        };
        [&self.weight, &self.scales].into_iter().chain(zeros)
    }

    fn num_groups(&self) -> usize {
        self.shape[1].div_ceil(self.group)
    }

    /// Says what does not fit, if anything: what is read later is within the tensors.
    pub(super) fn check(&self, name: &str) -> Result<(), Error> {
        let [n, k] = self.shape;
        // Below 2^28, products of two sizes and a number of bits fit into 64 bits.
        let is_possible = |size: usize| (1..1 << 28).contains(&size);
        if !is_possible(n) || !is_possible(k) || !k.is_multiple_of(BLOCK) {
            let found = format!("{n} by {k}");
            let supported = format!("a multiple of {BLOCK} columns");
            return Err(Error::unsupported(
                format!("{name}, which is quantized,"),
                found,
                supported,
            ));
        }
        let bits = self.codes.bits();
        let expect = |what: &str, tensor: &Stored, expected: usize| {
            let given = tensor.num_elements();
            if given == expected {
                return Ok(());
            }
            let reason = format!("{name} has {given} {what} ({:?}), not {expected}", tensor.shape);
            Err(tensor.malformed(reason))
        };
        let codes = match self.codes {
            Codes::Columns { bits } | Codes::Rows { bits } => k * bits / 32 * n,
            Codes::Awq => k * (n / 8),
            Codes::Int8 | Codes::E4M3 => n * k,
        };
        expect("words of codes", &self.weight, codes)?;
        expect("scales", &self.scales, self.places.of(n - 1, self.num_groups() - 1) + 1)?;
        match &self.zeros {
            Zeros::Middle => {}
            Zeros::Groups { tensor, .. } | Zeros::Awq { tensor } => {
                expect("words of zero points", tensor, self.num_groups() * (n * bits / 32))?;
            }
            Zeros::Rows { tensor } => {
                expect(
                    "words of zero points",
                    tensor,
                    self.num_groups() * (n * bits).div_ceil(32),
                )?;
            }
            Zeros::Int8 { tensor } => expect("zero points", tensor, self.num_groups() * n)?,
        }
        // A word is of eight rows or four.
        let per_word = match (&self.zeros, self.codes) {
            (Zeros::Groups { .. }, _) => 32 / bits,
            (_, Codes::Awq) => 8,
            _ => 1,
        };
        if !n.is_multiple_of(per_word) {
            return Err(self
                .weight
                .malformed(format!("{name} has {n} rows, in words of {per_word}")));
        }
        let last = self.num_groups() as u32;
        match self.g_idx.iter().flatten().find(|index| **index >= last) {
            Some(index) => {
                let reason =
                    format!("a column of {name} is of group {index}, and there are {last}");
                Err(self.weight.malformed(reason))
            }
            None => Ok(()),
        }
    }

    /// Reads what rows are made of.
    pub(super) fn unpack(&self) -> Result<Unpacked<'_>, Error> {
        let scales = floats(&self.scales)?;
        let zeros = self.read_zeros(scales.len())?;
        Ok(Unpacked { packed: self, codes: self.weight.read()?, scales, zeros })
    }

    /// The zero points, where the scales are; none if all are in the middle.
    fn read_zeros(&self, len: usize) -> Result<Vec<u16>, Error> {
        let ([n, _], bits, num_groups) = (self.shape, self.codes.bits(), self.num_groups());
        let per_word = 32 / bits;
        let code = |words: &[u8], word: usize, at: usize| {
            (word_at(words, word) >> (bits * at) & ((1 << bits) - 1)) as u16
        };
        let (bytes, zero): (Vec<u8>, ZeroAt<'_>) = match &self.zeros {
            Zeros::Middle => return Ok(Vec::new()),
            Zeros::Groups { tensor, below } => (
                tensor.read()?,
                Box::new(move |words, row, group| {
                    let word = (group * n + row) / per_word;
                    code(words, word, row % per_word) + below
                }),
            ),
            Zeros::Awq { tensor } => (
                tensor.read()?,
                Box::new(move |words, row, group| {
                    code(words, (group * n + row) / 8, AWQ_ORDER[row % 8])
                }),
            ),
            Zeros::Rows { tensor } => (
                tensor.read()?,
                Box::new(move |words, row, group| {
                    code(words, row / per_word * num_groups + group, row % per_word)
                }),
            ),
            Zeros::Int8 { tensor } => (
                tensor.read()?,
                Box::new(move |bytes, row, group| {
                    let signed = i16::from(bytes[row * num_groups + group] as i8);
                    (signed + (1 << (bits - 1))) as u16
                }),
            ),
        };
        let mut zeros = vec![0; len];
        for row in 0..n {
            for group in 0..num_groups {
                zeros[self.places.of(row, group)] = zero(&bytes, row, group);
            }
        }
        Ok(zeros)
    }
}

impl Codes {
    fn bits(self) -> usize {
        match self {
            Self::Columns { bits } | Self::Rows { bits } => bits,
            Self::Awq => 4,
            Self::Int8 | Self::E4M3 => 8,
        }
    }
}

/// What a matrix is made of, in memory.
pub(super) struct Unpacked<'a> {
    packed: &'a Packed,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<u16>,
}

impl Unpacked<'_> {
    /// Fills `out` with the bytes from `offset` on of the blocks.
    pub(super) fn read_at(&self, offset: usize, out: &mut [u8]) {
        let dtype = self.packed.dtype();
        let row_bytes = self.packed.shape[1] / BLOCK * dtype.block_bytes();
        let (first, skipped) = (offset / row_bytes, offset % row_bytes);
        if skipped == 0 && out.len().is_multiple_of(row_bytes) {
            return self.fill_rows(dtype, first, row_bytes, out);
        }
        let end = (offset + out.len()).div_ceil(row_bytes);
        let mut rows = vec![0; (end - first) * row_bytes];
        self.fill_rows(dtype, first, row_bytes, &mut rows);
        out.copy_from_slice(&rows[skipped..skipped + out.len()]);
    }

    /// A few columns of all rows at a time: where words lie along the rows, neighbors share cache lines.
    fn fill_rows(&self, dtype: Dtype, first: usize, row_bytes: usize, out: &mut [u8]) {
        for index in 0..self.packed.shape[1] / BLOCK {
            for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                let block = &mut out[index * dtype.block_bytes()..][..dtype.block_bytes()];
                match dtype {
                    Dtype::Int4 | Dtype::Int8 => self.fill_codes(first + row, index, block),
                    _ => self.fill_elements(first + row, index, block),
                }
            }
        }
    }

    fn fill_codes(&self, row: usize, index: usize, block: &mut [u8]) {
        let at = self.packed.places.of(row, index * BLOCK / self.packed.group);
        block[..4].copy_from_slice(&self.scales[at].to_le_bytes());
        block[4..8].copy_from_slice(&u32::from(self.zero(at)).to_le_bytes());
        block[8..].copy_from_slice(&self.codes(row, index));
    }

    fn fill_elements(&self, row: usize, index: usize, block: &mut [u8]) {
        let codes = self.codes(row, index);
        let is_float = self.packed.codes == Codes::E4M3;
        for (i, (out, code)) in block.as_chunks_mut().0.iter_mut().zip(codes).enumerate() {
            let column = index * BLOCK + i;
            let group = match &self.packed.g_idx {
                Some(g_idx) => g_idx[column] as usize,
                None => column / self.packed.group,
            };
            let at = self.packed.places.of(row, group);
            let value = match is_float {
                true => E4M3[usize::from(code)],
                false => f32::from(code) - f32::from(self.zero(at)),
            };
            *out = (value * self.scales[at]).to_le_bytes();
        }
    }

    fn zero(&self, at: usize) -> u16 {
        let middle = 1 << (self.packed.codes.bits() - 1);
        self.zeros.get(at).copied().unwrap_or(middle)
    }

    /// Columns `32 * index` and on of a row.
    fn codes(&self, row: usize, index: usize) -> [u8; BLOCK] {
        let ([n, k], column) = (self.packed.shape, index * BLOCK);
        match self.packed.codes {
            Codes::Columns { bits } => {
                let per_word = 32 / bits;
                let word = |at| word_at(&self.codes, (column / per_word + at) * n + row);
                spread(bits, word)
            }
            Codes::Rows { bits } => {
                let per_word = 32 / bits;
                let first = row * (k / per_word) + column / per_word;
                spread(bits, |at| word_at(&self.codes, first + at))
            }
            Codes::Awq => {
                let shift = 4 * AWQ_ORDER[row % 8];
                let word = |at| word_at(&self.codes, (column + at) * (n / 8) + row / 8);
                std::array::from_fn(|at| (word(at) >> shift & 15) as u8)
            }
            Codes::Int8 => self.bytes(row * k + column).map(|byte| byte ^ 128),
            Codes::E4M3 => self.bytes(row * k + column),
        }
    }

    fn bytes(&self, at: usize) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        bytes.copy_from_slice(&self.codes[at..at + BLOCK]);
        bytes
    }
}

/// The codes of words, lowest bits first.
fn spread(bits: usize, word: impl Fn(usize) -> u32) -> [u8; BLOCK] {
    let mut codes = [0; BLOCK];
    let mask = if bits == 4 { 15 } else { 255 };
    for (at, codes) in codes.chunks_exact_mut(32 / bits).enumerate() {
        let word = word(at);
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (word >> (bits * i)) as u8 & mask;
        }
    }
    codes
}

fn word_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = &bytes[4 * at..4 * at + 4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Reads a tensor of floats.
pub(super) fn floats(tensor: &Stored) -> Result<Vec<f32>, Error> {
    let bytes = tensor.read()?;
    let (pairs, quads) = (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0);
    match tensor.dtype {
        StoredDtype::F32 => Ok(quads.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        StoredDtype::F16 => Ok(pairs.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
        StoredDtype::BF16 => Ok(pairs.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
        other => Err(tensor.malformed(format!("scales are of type {other:?}, not of floats"))),
    }
}

/// The 8-bit floats with 4 bits of exponent (Micikevicius et al., 2022).
static E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = (code >> 3 & 15, code & 7);
        // As a 32-bit float, whose exponent is 120 more; subnormal numbers are sums of 2^-9.
        let magnitude = match (exponent, mantissa) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa as f32 / 512.0,
            _ => f32::from_bits(((exponent + 120) << 23 | mantissa << 20) as u32),
        };
        table[code] = if code < 128 { magnitude } else { -magnitude };
        code += 1;
    }
    table
};

/// A matrix on its way to where it is computed with. What it is made of is read with the first of its
/// rows, and forgotten with this.
pub(crate) struct Matrix<'a> {
    span: &'a Span,
    unpacked: Mutex<Option<Arc<Unpacked<'a>>>>,
}

impl<'a> Matrix<'a> {
    pub(super) fn new(span: &'a Span) -> Self {
        Self { span, unpacked: Mutex::new(None) }
    }

    /// As kernels take it.
    pub(crate) fn part(&self) -> MatrixPart<'_> {
        self.span.matrix_of(self)
    }

    fn unpacked(&self, packed: &'a Packed) -> io::Result<Arc<Unpacked<'a>>> {
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unpacked) = &*unpacked {
            return Ok(Arc::clone(unpacked));
        }
        let read = Arc::new(packed.unpack().map_err(io::Error::other)?);
        *unpacked = Some(Arc::clone(&read));
        Ok(read)
    }
}

impl ReadBytes for Matrix<'_> {
    fn num_bytes(&self) -> usize {
        self.span.num_bytes()
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        match self.span.as_packed() {
            Some(packed) => {
                self.unpacked(packed)?.read_at(offset, out);
                Ok(())
            }
            None => self.span.read_at(offset, out),
        }
    }
}
