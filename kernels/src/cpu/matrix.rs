//! Weight matrices, repacked once at load into the panels that the kernels read.
//!
//! Each thread reads the rows of one panel and packs them while they are in its cache, so that a
//! matrix is never in memory twice.

use std::cell::RefCell;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::blocks::{self, Group};
use super::memory::Slab;
use super::panels::{BLOCK, Format};
use super::shared::SharedMut;
use super::simd::LANES;
use super::{Cpu, Operands};
use crate::dtype::Dtype;
use crate::{Error, check_index, check_len, check_multiple};

/// What a matrix multiplication computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    /// Quantized weights stay quantized and meet activations quantized per 32 elements. Plain
    /// float weights stay what they are and meet floats: bf16 weights those of
    /// [`Isa::rounds_to_bf16`](super::Isa::rounds_to_bf16), others f32.
    Int8,
    /// All weights become f32: exact, and several times slower and larger.
    F32,
    /// As `Int8`, and plain float weights become 8-bit codes with a scale per 32, as in Q8_0.
    Q8,
    /// As `Int8`, and plain float weights become 4-bit codes with a scale and a minimum per 32, as
    /// in Q4_1.
    Q4,
}

impl Compute {
    fn format(self, dtype: Dtype, cols: usize) -> Format {
        match (self, Format::of(dtype)) {
            (Self::F32, _) => Format::F32,
            (Self::Q8, format) if format.is_float() => Format::P8,
            (Self::Q4, format) if format.is_float() => Format::P4,
            // Pairs of columns have no room for half a pair, and no model has such a matrix.
            (Self::Int8, Format::BF16) if !cols.is_multiple_of(2) => Format::F32,
            (Self::Int8 | Self::Q8 | Self::Q4, format) => format,
        }
    }
}

/// A checkpoint's bytes, in a file or in memory. Several threads read at once.
pub trait ReadBytes: Sync {
    /// How many there are.
    fn num_bytes(&self) -> usize;

    /// Fills `out` with the bytes from `offset` on.
    fn read_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()>;
}

impl ReadBytes for Vec<u8> {
    fn num_bytes(&self) -> usize {
        self.len()
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.get(offset..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Rows of a matrix as a checkpoint has them: row-major, `rows * cols` elements of `dtype`.
#[derive(Clone, Copy)]
pub struct MatrixPart<'a> {
    /// The element type.
    pub dtype: Dtype,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The checkpoint's bytes.
    pub data: &'a dyn ReadBytes,
}

impl MatrixPart<'_> {
    fn row_bytes(&self) -> usize {
        self.cols / self.dtype.block_len() * self.dtype.block_bytes()
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        check_multiple("a matrix's columns", self.cols, self.dtype.block_len())?;
        check_multiple("a matrix's rows", self.rows, 1)?;
        let expected = self.rows.saturating_mul(self.row_bytes());
        check_len("a matrix's bytes", self.data.num_bytes(), expected)
    }

    /// Reads the rows of a panel, 16 or the last, calls `pack` with them, and says what reading came to.
    pub(crate) fn with_rows(&self, panel: usize, pack: impl FnOnce(&[&[u8]])) -> io::Result<()> {
        let first = panel * LANES;
        let num_bytes = LANES.min(self.rows - first) * self.row_bytes();
        ROWS.with_borrow_mut(|bytes| {
            bytes.resize(bytes.len().max(num_bytes), 0);
            let bytes = &mut bytes[..num_bytes];
            self.data.read_at(first * self.row_bytes(), bytes)?;
            pack(&bytes.chunks_exact(self.row_bytes()).collect::<Vec<_>>());
            Ok(())
        })
    }
}

thread_local! {
    /// One panel's rows, as a checkpoint has them.
    static ROWS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where a part lies in the packed memory.
#[derive(Debug)]
pub(super) struct PackedPart {
    pub format: Format,
    pub rows: usize,
    /// The part's first row in the matrix.
    pub first_row: usize,
    /// The part's first panel, counted over all parts.
    pub first_panel: usize,
    /// The part's first byte.
    pub start: usize,
    pub panel_bytes: usize,
}

impl PackedPart {
    fn num_panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }
}

/// A weight matrix `[rows, cols]` ready for [`Cpu::matmul`].
#[derive(Debug)]
pub struct PackedMatrix {
    pub(super) parts: Vec<PackedPart>,
    memory: Slab,
    rows: usize,
    cols: usize,
}

impl PackedMatrix {
    /// Packs the parts, stacked along the rows; their types may differ, their columns may not.
    ///
    /// `Int4` has its zero point times its scale rounded to half precision; `Dequantized` is rounded
    /// to 8 bits. Every other type is kept exactly.
    pub fn pack(cpu: &Cpu, parts: &[MatrixPart<'_>], compute: Compute) -> Result<Self, Error> {
        let cols = parts.first().ok_or(Error::Empty("a matrix's parts"))?.cols;
        let mut packed: Vec<PackedPart> = Vec::with_capacity(parts.len());
        let (mut start, mut first_row, mut first_panel) = (0, 0, 0);
        for part in parts {
            part.check()?;
            check_len("the columns of a matrix's part", part.cols, cols)?;
            let format = compute.format(part.dtype, cols);
            check_multiple("a matrix's columns", cols, format.block_len())?;
            let panel_bytes = format.panel_bytes(cols);
            let part =
                PackedPart { format, rows: part.rows, first_row, first_panel, start, panel_bytes };
            start += part.num_panels() * panel_bytes;
            first_row += part.rows;
            first_panel += part.num_panels();
            packed.push(part);
        }
        let mut memory = cpu.weights.lock().unwrap_or_else(PoisonError::into_inner).slab(start)?;
        let bytes = memory.as_mut_slice();
        let failure = Mutex::new(None);
        for (from, to) in parts.iter().zip(&packed) {
            let bytes = &mut bytes[to.start..][..to.num_panels() * to.panel_bytes];
            let panels = SharedMut::new(bytes);
            cpu.pool.run(to.num_panels(), &|panel| {
                // SAFETY: each panel is taken once.
                let bytes = unsafe { panels.part(panel * to.panel_bytes, to.panel_bytes) };
                let outcome =
                    from.with_rows(panel, |rows| pack_panel(from, to.format, rows, bytes));
                if let Err(error) = outcome {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            });
        }
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(Error::Read(error));
        }
        Ok(Self { parts: packed, memory, rows: first_row, cols })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of the packed weights.
    pub fn num_bytes(&self) -> usize {
        self.memory.len()
    }

    /// What the matrix needs of the activations it is multiplied with.
    pub fn operands(&self) -> Operands {
        let has = |is: &dyn Fn(Format) -> bool| self.parts.iter().any(|part| is(part.format));
        Operands {
            int8: has(&|format| !format.is_float()),
            dense: has(&|format| matches!(format, Format::F32 | Format::F16)),
            bf16: has(&|format| format == Format::BF16),
        }
    }

    pub(super) fn num_panels(&self) -> usize {
        self.parts.last().map_or(0, |part| part.first_panel + part.num_panels())
    }

    /// The part that holds a panel.
    pub(super) fn part_of_panel(&self, panel: usize) -> &PackedPart {
        let after = self.parts.partition_point(|part| part.first_panel <= panel);
        &self.parts[after - 1]
    }

    /// A panel's bytes.
    pub(super) fn panel(&self, part: &PackedPart, panel: usize) -> &[u8] {
        let start = part.start + (panel - part.first_panel) * part.panel_bytes;
        &self.memory.as_slice()[start..start + part.panel_bytes]
    }

    fn read_row(&self, row: usize, out: &mut [f32]) {
        let after = self.parts.partition_point(|part| part.first_row <= row);
        let part = &self.parts[after - 1];
        let row = row - part.first_row;
        let panel = self.panel(part, part.first_panel + row / LANES);
        part.format.read_row(panel, row % LANES, out);
    }
}

impl Cpu {
    /// Looks rows up: `out` (`[num_ids, cols]`) gets row `ids[i]` of the table as f32.
    pub fn embed(&self, table: &PackedMatrix, ids: &[u32], out: &mut [f32]) -> Result<(), Error> {
        check_len("embed: out", out.len(), ids.len().saturating_mul(table.cols))?;
        for &id in ids {
            check_index("token id", id as usize, table.rows)?;
        }
        let out = SharedMut::new(out);
        self.pool.run(ids.len(), &|i| {
            // SAFETY: each row is taken once.
            let row = unsafe { out.part(i * table.cols, table.cols) };
            table.read_row(ids[i] as usize, row);
        });
        Ok(())
    }
}

/// Packs up to 16 rows of a part; those that are missing stay zero.
fn pack_panel(part: &MatrixPart<'_>, format: Format, rows: &[&[u8]], out: &mut [u8]) {
    match format {
        Format::F32 => pack_floats(part, rows, out),
        Format::F16 => pack_columns::<2>(rows, out),
        Format::BF16 => pack_columns::<4>(rows, out),
        Format::P4 | Format::P5 | Format::P5Min | Format::P8 => {
            for (index, block) in out.chunks_exact_mut(format.block_bytes()).enumerate() {
                format.put_group(block, rows.len(), |row| group(part, format, rows[row], index));
            }
        }
        Format::P4K | Format::P5K | Format::P6K => {
            for (index, block) in out.chunks_exact_mut(format.block_bytes()).enumerate() {
                let read = |row: usize| blocks::super_block(part.dtype, rows[row], index);
                format.put_super_block(block, rows.len(), read);
            }
        }
    }
}

/// A group of a row as it will be packed.
fn group(part: &MatrixPart<'_>, format: Format, row: &[u8], index: usize) -> Group {
    if !Format::of(part.dtype).is_float() {
        return blocks::group(part.dtype, row, index);
    }
    let bytes = BLOCK * part.dtype.block_bytes();
    let mut floats = [0.0; BLOCK];
    blocks::dequantize_row(part.dtype, &row[index * bytes..][..bytes], &mut floats);
    if format == Format::P4 { Group::q4(&floats) } else { Group::q8(&floats) }
}

fn pack_floats(part: &MatrixPart<'_>, rows: &[&[u8]], out: &mut [u8]) {
    let mut floats = vec![0.0_f32; part.cols];
    for (lane, row) in rows.iter().enumerate() {
        blocks::dequantize_row(part.dtype, row, &mut floats);
        for (value, column) in floats.iter().zip(out.chunks_exact_mut(4 * LANES)) {
            column[4 * lane..][..4].copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// Puts columns of `BYTES`, or so many bytes of several, beside those of the other rows: a few of all
/// rows at a time, which stay in the first-level cache.
fn pack_columns<const BYTES: usize>(rows: &[&[u8]], out: &mut [u8]) {
    for (chunk, out) in out.chunks_mut(BYTES * LANES * BLOCK).enumerate() {
        for (lane, row) in rows.iter().enumerate() {
            let (elements, _) = row[BYTES * BLOCK * chunk..].as_chunks::<BYTES>();
            for (element, column) in elements.iter().zip(out.chunks_exact_mut(BYTES * LANES)) {
                column[BYTES * lane..][..BYTES].copy_from_slice(element);
            }
        }
    }
}
