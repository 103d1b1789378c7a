//! 4-bit matrices as AWQ and GPTQ store them in safetensors.
//!
//! Both have per group of columns and per row a scale and a zero point: `w = (code - zero) * scale`. Words
//! of 32 bits hold eight codes or zero points. Ours are the same codes with a minimum, `-zero * scale`,
//! rounded to a half float.

use half::{bf16, f16};

use super::layout::{self, Codes, GROUP, TILE_ROWS};
use super::{Device, Form, QuantizedMatrix, Rows};
use crate::dtype::Dtype;
use crate::{Error, check_len, check_multiple};

/// Which row of eight a word's nibbles are of, in AWQ: the order in which its kernels unpack them.
const AWQ_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Who packed a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int4Format {
    /// AWQ's `gemm`: codes in words along the rows, `qweight`: `[k, n / 8]`.
    Awq,
    /// GPTQ: codes in words along the columns, `qweight`: `[k / 8, n]`; zero points are stored less one.
    Gptq,
    /// GPTQ with `checkpoint_format` `gptq_v2`: zero points are stored as they are.
    GptqV2,
}

/// A matrix `[n, k]`, or some rows of one. All bytes are little-endian.
#[derive(Clone, Copy)]
pub struct Int4Part<'a> {
    /// Who packed it.
    pub format: Int4Format,
    /// Words of codes.
    pub qweight: &'a [u8],
    /// `[k / group, n / 8]`: words of zero points.
    pub qzeros: &'a [u8],
    /// `[k / group, n]`, and of which type.
    pub scales: (Dtype, &'a [u8]),
    /// `[k]` of i32: each column's group. Only GPTQ has it, and only columns in order are supported.
    pub g_idx: Option<&'a [u8]>,
    /// Output features, a multiple of 8.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// Columns of a group, a multiple of 32.
    pub group: usize,
}

impl QuantizedMatrix {
    /// Packs the parts, stacked along the rows.
    pub fn pack_int4(device: &Device, parts: &[Int4Part<'_>]) -> Result<Self, Error> {
        let k = parts.first().ok_or(Error::Empty("a matrix's parts"))?.k;
        let mut rows = Rows::default();
        for part in parts {
            check_len("the columns of a matrix's part", part.k, k)?;
            part.check()?;
            let packed = layout::pack(Form::W4, part.n, k, |tile, to| {
                let first = tile * TILE_ROWS;
                for row in first..part.n.min(first + TILE_ROWS) {
                    for index in 0..k / GROUP {
                        to.put(row - first, index, &part.codes(row, index));
                    }
                }
                Ok(())
            });
            rows.push(Form::W4, part.n, packed.map_err(Error::Read)?);
        }
        rows.upload(device, k)
    }
}

impl Int4Part<'_> {
    fn check(&self) -> Result<(), Error> {
        let Self { qweight, qzeros, scales, n, k, group, .. } = *self;
        check_multiple("a group's columns", group, GROUP)?;
        check_multiple("a matrix's columns", k, group)?;
        check_multiple("a matrix's rows", n, 8)?;
        let (dtype, scales) = scales;
        if dtype.block_len() != 1 {
            return Err(Error::Operand);
        }
        check_len("the bytes of a matrix's codes", qweight.len(), n * k / 2)?;
        check_len("the bytes of a matrix's zero points", qzeros.len(), k / group * n / 2)?;
        check_len(
            "the bytes of a matrix's scales",
            scales.len(),
            k / group * n * dtype.block_bytes(),
        )?;
        let Some(g_idx) = self.g_idx else { return Ok(()) };
        check_len("the bytes of g_idx", g_idx.len(), 4 * k)?;
        for (col, index) in g_idx.as_chunks().0.iter().enumerate() {
            check_len("a column's group", u32::from_le_bytes(*index) as usize, col / group)?;
        }
        Ok(())
    }

    /// Columns `32 * index` and on of a row.
    fn codes(&self, row: usize, index: usize) -> Codes {
        let mut codes = [0; GROUP];
        for (i, code) in codes.iter_mut().enumerate() {
            let col = index * GROUP + i;
            *code = match self.format {
                Int4Format::Awq => {
                    let word = word_at(self.qweight, (col * self.n + row) / 8);
                    nibble(word, AWQ_ORDER[row % 8])
                }
                Int4Format::Gptq | Int4Format::GptqV2 => {
                    nibble(word_at(self.qweight, col / 8 * self.n + row), col % 8)
                }
            };
        }
        let place = index * GROUP / self.group * self.n + row;
        let zeros = word_at(self.qzeros, place / 8);
        let zero = match self.format {
            Int4Format::Awq => nibble(zeros, AWQ_ORDER[row % 8]),
            Int4Format::Gptq => nibble(zeros, row % 8) + 1,
            Int4Format::GptqV2 => nibble(zeros, row % 8),
        };
        let scale = self.scale(place);
        let min = -f32::from(zero) * scale;
        Codes { codes, scales: [f16::from_f32(scale), f16::from_f32(min)] }
    }

    fn scale(&self, at: usize) -> f32 {
        let (dtype, bytes) = self.scales;
        let pair = || [bytes[2 * at], bytes[2 * at + 1]];
        match dtype {
            Dtype::F16 => f16::from_le_bytes(pair()).to_f32(),
            Dtype::BF16 => bf16::from_le_bytes(pair()).to_f32(),
            _ => f32::from_bits(word_at(bytes, at)),
        }
    }
}

fn nibble(word: u32, at: usize) -> u8 {
    (word >> (4 * at) & 15) as u8
}

fn word_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = &bytes[4 * at..4 * at + 4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
