//! The paged cache of keys and values.
//!
//! Each layer has keys and values apart, `[num_blocks, num_kv_heads, block_size, head_dim]`: 16 positions
//! of a head are one piece of memory, which is what kernels load at once.

use super::launch::{Arg, Grid};
use super::{Buffer, Device, Float, Slice, SliceMut};
use crate::cpu::KvShape;
use crate::{Error, check_len, check_multiple};

/// Positions that surely lie in one block.
pub(super) const UNIT: usize = 16;

/// How the cache stores an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// As the model computes.
    Float(Float),
    /// 8-bit floats of 4 bits of exponent and 3 of mantissa, which saturate.
    Fp8,
    /// 8-bit integers, with an f32 scale for each position and head.
    Int8,
}

impl KvDtype {
    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Self::Float(float) => float.size(),
            Self::Fp8 | Self::Int8 => 1,
        }
    }

    /// Bytes of the scale of a position of a head.
    pub(super) const fn scale_size(self) -> usize {
        match self {
            Self::Float(_) | Self::Fp8 => 0,
            Self::Int8 => size_of::<f32>(),
        }
    }
}

/// Bytes of the cache, if that is a number at all.
pub fn num_bytes(shape: &KvShape, dtype: KvDtype) -> Option<usize> {
    let head = shape.head_dim.checked_mul(dtype.size())?.checked_add(dtype.scale_size())?;
    [shape.num_layers, shape.num_blocks, shape.block_size, shape.num_kv_heads, 2]
        .into_iter()
        .try_fold(head, usize::checked_mul)
}

/// The pool of blocks of all layers.
pub struct KvCache {
    shape: KvShape,
    dtype: KvDtype,
    layers: Vec<Layer>,
    /// `[2 * num_layers]` addresses, of elements and of scales.
    elements: Buffer,
    scales: Option<Buffer>,
}

struct Layer {
    keys: Part,
    values: Part,
}

struct Part {
    elements: Buffer,
    scales: Option<Buffer>,
}

impl Part {
    fn new(device: &Device, shape: &KvShape, dtype: KvDtype) -> Result<Self, super::Error> {
        let heads = shape.num_blocks * shape.num_kv_heads * shape.block_size;
        let scales = dtype.scale_size();
        Ok(Self {
            elements: device.alloc_zeroed(heads * shape.head_dim * dtype.size())?,
            scales: (scales > 0).then(|| device.alloc_zeroed(heads * scales)).transpose()?,
        })
    }
}

/// A layer's keys and values, `[num_blocks, num_kv_heads, block_size, head_dim]`, and what they are
/// multiples of, if so, `[num_blocks, num_kv_heads, block_size]`.
pub struct KvSlices<T> {
    /// Elements of keys.
    pub keys: T,
    /// Elements of values.
    pub values: T,
    /// f32
    pub key_scales: Option<T>,
    /// f32
    pub value_scales: Option<T>,
}

impl KvCache {
    /// Allocates the cache, all zero.
    pub fn new(device: &Device, shape: KvShape, dtype: KvDtype) -> Result<Self, Error> {
        check_multiple("kv cache: layers", shape.num_layers, 1)?;
        check_multiple("kv cache: blocks", shape.num_blocks, 1)?;
        check_multiple("kv cache: heads", shape.num_kv_heads, 1)?;
        check_multiple("kv cache: block_size", shape.block_size, UNIT)?;
        check_multiple("kv cache: head_dim", shape.head_dim, 8)?;
        // Kernels count positions of heads in 32 bits.
        let positions = [shape.num_blocks, shape.num_kv_heads, shape.block_size];
        let num_positions = positions.into_iter().try_fold(1, usize::checked_mul);
        let limit = i32::MAX as usize;
        if !num_positions.is_some_and(|positions| positions < limit) {
            let index = num_positions.unwrap_or(usize::MAX);
            return Err(Error::OutOfRange { what: "kv cache: positions of heads", index, limit });
        }
        let layer = |_| {
            let part = || Part::new(device, &shape, dtype);
            Ok(Layer { keys: part()?, values: part()? })
        };
        let layers: Vec<_> = (0..shape.num_layers).map(layer).collect::<Result<_, Error>>()?;
        let parts = || layers.iter().flat_map(|layer| [&layer.keys, &layer.values]);
        let elements: Vec<_> = parts().map(|part| part.elements.slice().pointer()).collect();
        let scales: Vec<_> =
            parts().filter_map(|part| Some(part.scales.as_ref()?.slice().pointer())).collect();
        Ok(Self {
            shape,
            dtype,
            elements: device.buffer_of(&elements)?,
            scales: (!scales.is_empty()).then(|| device.buffer_of(&scales)).transpose()?,
            layers,
        })
    }

    /// The dimensions.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> KvDtype {
        self.dtype
    }

    /// A layer's memory, to be read.
    ///
    /// # Panics
    ///
    /// Without such a layer.
    pub fn layer(&self, layer: usize) -> KvSlices<Slice<'_>> {
        let Layer { keys, values } = &self.layers[layer];
        KvSlices {
            keys: keys.elements.slice(),
            values: values.elements.slice(),
            key_scales: keys.scales.as_ref().map(Buffer::slice),
            value_scales: values.scales.as_ref().map(Buffer::slice),
        }
    }

    /// A layer's memory, to be written.
    ///
    /// # Panics
    ///
    /// Without such a layer.
    pub fn layer_mut(&mut self, layer: usize) -> KvSlices<SliceMut<'_>> {
        let Layer { keys, values } = &mut self.layers[layer];
        KvSlices {
            keys: keys.elements.slice_mut(),
            values: values.elements.slice_mut(),
            key_scales: keys.scales.as_mut().map(Buffer::slice_mut),
            value_scales: values.scales.as_mut().map(Buffer::slice_mut),
        }
    }

    /// A layer's keys, values, scales of keys, scales of values, as kernels take them.
    pub(super) fn args(&self, layer: usize) -> [Arg; 4] {
        let KvSlices { keys, values, key_scales, value_scales } = self.layer(layer);
        [keys.into(), values.into(), Arg::optional(key_scales), Arg::optional(value_scales)]
    }

    /// Whether a model that computes in `float` can use it.
    pub(super) fn check_float(&self, float: Float) -> Result<(), Error> {
        let fits = match self.dtype {
            KvDtype::Float(own) => own == float,
            KvDtype::Fp8 | KvDtype::Int8 => true,
        };
        if fits { Ok(()) } else { Err(Error::Operand) }
    }

    /// Copies blocks within each layer. `copies` is u32: the number of copies, then of each the block to
    /// read and the block to write. They happen in order; a block that does not exist is left out.
    pub fn copy_blocks(&mut self, device: &Device, copies: Slice<'_>) -> Result<(), Error> {
        check_len("the list of copies", copies.len() % 8, 4)?;
        let KvShape { num_layers, num_blocks, block_size, num_kv_heads, head_dim } = self.shape;
        let elements = num_kv_heads * block_size * head_dim * self.dtype.size();
        let scales = num_kv_heads * block_size * self.dtype.scale_size();
        let buffers = [(Some(&self.elements), elements), (self.scales.as_ref(), scales)];
        for (buffers, bytes) in buffers {
            let Some(buffers) = buffers else { continue };
            // 16 positions of a head are a multiple of 16 bytes.
            let packs = bytes / 16;
            let grid = Grid {
                blocks: [packs.div_ceil(256) as u32, 2 * num_layers as u32, 1],
                threads: [256, 1, 1],
                shared_bytes: 0,
            };
            let args = [
                buffers.slice().into(),
                copies.into(),
                (num_blocks as u32).into(),
                (packs as u32).into(),
                ((copies.len() / 8) as u32).into(),
            ];
            // SAFETY: the kernel's parameters. There are this many buffers of this many blocks of this many
            // packs; the kernel checks the blocks, and reads as many copies as there are.
            unsafe { device.launch("copy_blocks", grid, &args) }?;
        }
        Ok(())
    }
}

/// The block tables of all sequences, which stay on the device: steps only send what changed.
pub struct BlockTables {
    buffer: Buffer,
    num_rows: usize,
    num_columns: usize,
}

impl BlockTables {
    /// Tables of `num_columns` blocks each.
    pub fn new(device: &Device, num_rows: usize, num_columns: usize) -> Result<Self, Error> {
        check_multiple("block tables: rows", num_rows, 1)?;
        check_multiple("block tables: columns", num_columns, 1)?;
        let mut buffer = device.alloc(num_rows * num_columns * size_of::<u32>())?;
        // No block has this number, so nothing is read by what was not set.
        device.fill(&mut buffer.slice_mut(), 0xff)?;
        Ok(Self { buffer, num_rows, num_columns })
    }

    /// `[num_rows, num_columns]` u32
    pub fn slice(&self) -> Slice<'_> {
        self.buffer.slice()
    }

    /// To be overwritten, as a whole or in parts.
    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        self.buffer.slice_mut()
    }

    /// Tables.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Blocks of a table.
    pub fn num_columns(&self) -> usize {
        self.num_columns
    }

    /// Applies changes. `updates` is u32: their number, then of each the row, the column and the block.
    /// No place may come twice. What lies outside is left out.
    pub fn update(&mut self, device: &Device, updates: Slice<'_>) -> Result<(), Error> {
        check_len("the list of table updates", updates.len() % 12, 4)?;
        let limit = updates.len() / 12;
        let args = [
            self.buffer.slice().into(),
            updates.into(),
            (self.num_rows as u32).into(),
            (self.num_columns as u32).into(),
            (limit as u32).into(),
        ];
        let grid = Grid::line(limit.div_ceil(256).min(64), 256);
        // SAFETY: the kernel's parameters; it checks rows and columns, and reads as many updates as there
        // are.
        Ok(unsafe { device.launch("update_tables", grid, &args) }?)
    }
}
