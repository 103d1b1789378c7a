//! The paged cache of keys and values.
//!
//! A block holds its positions in all layers, so that memory is touched block by block as the
//! pool fills. Per block and layer: each head's keys as `[block_size / 16][head_dim][16]`,
//! dimension-major so that one vector holds 16 positions, and its values as
//! `[block_size][head_dim]`.
//!
//! Of bf16, two dimensions of a key and two positions of a value lie side by side, as their dot
//! product reads them: keys as `[block_size / 16][head_dim / 2][16][2]`, values as
//! `[block_size / 2][head_dim][2]`.
//!
//! Of an 8-bit cache, 16 positions' keys are a panel of weights, whose rows are the positions:
//! codes around 128 with a scale per 32 dimensions. Values are `[16][head_dim]` codes, then their
//! scales, `[head_dim / 32][16]`.

use half::f16;

use super::Cpu;
use super::kernels::Kernels;
use super::kernels::rows::RowSlot;
use super::memory::Region;
use super::panels::{BLOCK, P8_BYTES};
use super::simd::LANES;
use crate::{Error, check_index, check_multiple};

/// How the cache stores an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvDtype {
    /// Half precision.
    F16,
    /// Three bits less of precision, more range, and a dot product on some processors: queries and
    /// weights are rounded to it too.
    BF16,
    /// Full precision, for exact mode.
    F32,
    /// 8-bit integers with a half-precision scale for each 32 elements of a head.
    Int8,
}

impl KvDtype {
    /// Elements of a head that are stored together.
    pub const fn group(self) -> usize {
        match self {
            Self::F16 | Self::BF16 | Self::F32 => LANES,
            Self::Int8 => BLOCK,
        }
    }

    /// Bytes of 32 elements.
    const fn block_bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2 * BLOCK,
            Self::F32 => 4 * BLOCK,
            Self::Int8 => BLOCK + 2,
        }
    }

    /// Bytes of 16 positions of a head.
    pub(super) const fn chunk_bytes(self, head_dim: usize) -> usize {
        LANES * head_dim * self.block_bytes() / BLOCK
    }
}

/// The cache's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers of the model.
    pub num_layers: usize,
    /// Blocks of the pool.
    pub num_blocks: usize,
    /// Positions of a block, a multiple of 16.
    pub block_size: usize,
    /// Heads of keys and values.
    pub num_kv_heads: usize,
    /// Elements of a head, a multiple of 16, or of 32 in an 8-bit cache.
    pub head_dim: usize,
}

impl KvShape {
    /// Bytes of all blocks, if that is a number at all.
    pub fn num_bytes(&self, dtype: KvDtype) -> Option<usize> {
        let elements = self.num_kv_heads.checked_mul(self.head_dim)?;
        [self.num_layers, self.num_blocks, self.block_size, elements]
            .into_iter()
            .try_fold(2 * dtype.block_bytes(), usize::checked_mul)
            .map(|bytes| bytes / BLOCK)
    }
}

/// The pool of blocks of all layers. Memory is committed when a block is first written.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    dtype: KvDtype,
    memory: Region,
}

/// Where one head's keys and values of a block lie; offsets in bytes.
#[derive(Clone, Copy)]
pub(super) struct HeadBlock {
    pub keys: usize,
    pub values: usize,
}

impl KvCache {
    /// Reserves the cache.
    pub fn new(shape: KvShape, dtype: KvDtype) -> Result<Self, Error> {
        check_multiple("kv cache: layers", shape.num_layers, 1)?;
        check_multiple("kv cache: blocks", shape.num_blocks, 1)?;
        check_multiple("kv cache: heads", shape.num_kv_heads, 1)?;
        check_multiple("kv cache: block_size", shape.block_size, LANES)?;
        check_multiple("kv cache: head_dim", shape.head_dim, dtype.group())?;
        let bytes = shape.num_bytes(dtype).unwrap_or(usize::MAX);
        Ok(Self { shape, dtype, memory: Region::new(bytes)? })
    }

    /// The dimensions.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> KvDtype {
        self.dtype
    }

    /// Bytes of one head's keys (or values) of a block.
    pub(super) fn head_bytes(&self) -> usize {
        self.shape.block_size / LANES * self.dtype.chunk_bytes(self.shape.head_dim)
    }

    /// Bytes of a block in one layer.
    fn layer_bytes(&self) -> usize {
        2 * self.shape.num_kv_heads * self.head_bytes()
    }

    /// Finds a head's part of a block; all three must be in range.
    pub(super) fn head_block(&self, layer: usize, block: usize, head: usize) -> HeadBlock {
        let shape = self.shape;
        assert!(
            layer < shape.num_layers && block < shape.num_blocks && head < shape.num_kv_heads,
            "the op checked its layer, blocks and heads"
        );
        let keys =
            (block * shape.num_layers + layer) * self.layer_bytes() + head * self.head_bytes();
        HeadBlock { keys, values: keys + shape.num_kv_heads * self.head_bytes() }
    }

    /// A part of the cache.
    pub(super) fn bytes(&self, start: usize, len: usize) -> &[u8] {
        // SAFETY: writers hold the cache mutably.
        unsafe { self.memory.slice(start, len) }
    }

    /// A writer for one layer that several threads can share.
    pub(super) fn writer(&mut self, layer: usize) -> KvWriter<'_> {
        KvWriter { start: self.memory.as_mut_ptr(), cache: self, layer }
    }
}

/// Writes tokens' keys and values into one layer.
pub(super) struct KvWriter<'a> {
    start: *mut u8,
    cache: &'a KvCache,
    layer: usize,
}

// SAFETY: the writer's methods are unsafe where two threads could meet, and its cache is borrowed
// mutably for as long as it lives.
unsafe impl Sync for KvWriter<'_> {}

impl KvWriter<'_> {
    /// Writes a token's key of one head.
    ///
    /// # Safety
    /// The slot is in the cache, the table is this machine's, and no other thread writes keys of
    /// this head.
    pub(super) unsafe fn write_key(
        &self,
        kernels: &Kernels,
        slot: usize,
        head: usize,
        key: &[f32],
    ) {
        let KvShape { block_size, head_dim, .. } = self.cache.shape;
        assert_eq!(key.len(), head_dim, "a key fills its place");
        let block = self.cache.head_block(self.layer, slot / block_size, head);
        let (chunk, lane) = (slot % block_size / LANES, slot % LANES);
        // SAFETY: the chunk is inside the head's part of the block, which `head_block` found inside
        // the cache, and the key's elements, its lane, inside the chunk; the caller keeps others
        // away.
        unsafe {
            let start = self.start.add(block.keys + chunk * self.cache.dtype.chunk_bytes(head_dim));
            match self.cache.dtype {
                KvDtype::F32 => {
                    for (dim, &value) in key.iter().enumerate() {
                        start.cast::<f32>().add(dim * LANES + lane).write(value);
                    }
                }
                KvDtype::Int8 => quantized(kernels, key, |group, codes, scale| {
                    let panel = start.add(group * P8_BYTES);
                    for (j, four) in codes.iter().enumerate() {
                        let at = panel.add(64 * j + 4 * lane).cast::<u32>();
                        // Around 128, as weights are.
                        at.write_unaligned(*four as u32 ^ 0x8080_8080);
                    }
                    panel.add(P8_BYTES - 2 * LANES).cast::<u16>().add(lane).write_unaligned(scale);
                }),
                KvDtype::BF16 => {
                    let mut halves = [0_u16; LANES];
                    for (chunk, key) in key.as_chunks::<LANES>().0.iter().enumerate() {
                        (kernels.to_bf16)(key, &mut halves);
                        for (pair, &[low, high]) in halves.as_chunks().0.iter().enumerate() {
                            let at = (chunk * LANES / 2 + pair) * LANES + lane;
                            start.cast::<[u16; 2]>().add(at).write([low, high]);
                        }
                    }
                }
                KvDtype::F16 => {
                    let mut halves = [0_u16; LANES];
                    for (chunk, key) in key.as_chunks::<LANES>().0.iter().enumerate() {
                        (kernels.to_f16)(key, &mut halves);
                        for (dim, &value) in halves.iter().enumerate() {
                            let dim = chunk * LANES + dim;
                            start.cast::<u16>().add(dim * LANES + lane).write(value);
                        }
                    }
                }
            }
        }
    }

    /// Writes a token's value of one head.
    ///
    /// # Safety
    /// The slot is in the cache, the table is this machine's, and no other thread writes values of
    /// this head.
    pub(super) unsafe fn write_value(
        &self,
        kernels: &Kernels,
        slot: usize,
        head: usize,
        value: &[f32],
    ) {
        let KvShape { block_size, head_dim, .. } = self.cache.shape;
        assert_eq!(value.len(), head_dim, "a value fills its place");
        let block = self.cache.head_block(self.layer, slot / block_size, head);
        let (chunk, lane) = (slot % block_size / LANES, slot % LANES);
        let first = lane * head_dim;
        // SAFETY: the chunk is inside the head's part of the block, which `head_block` found inside
        // the cache, and the value's elements inside the chunk; the caller keeps others away.
        unsafe {
            let start =
                self.start.add(block.values + chunk * self.cache.dtype.chunk_bytes(head_dim));
            match self.cache.dtype {
                KvDtype::Int8 => quantized(kernels, value, |group, codes, scale| {
                    let to = start.add(first + group * BLOCK);
                    codes.as_ptr().cast::<u8>().copy_to_nonoverlapping(to, BLOCK);
                    let scales = start.add(LANES * head_dim).cast::<u16>();
                    scales.add(group * LANES + lane).write_unaligned(scale);
                }),
                KvDtype::BF16 => {
                    let to = start.cast::<u16>().add(lane / 2 * 2 * head_dim + lane % 2);
                    let mut halves = [0_u16; LANES];
                    for (chunk, value) in value.as_chunks::<LANES>().0.iter().enumerate() {
                        (kernels.to_bf16)(value, &mut halves);
                        for (dim, &value) in halves.iter().enumerate() {
                            to.add(2 * (chunk * LANES + dim)).write(value);
                        }
                    }
                }
                KvDtype::F32 => {
                    let to = start.cast::<f32>().add(first);
                    value.as_ptr().copy_to_nonoverlapping(to, head_dim);
                }
                KvDtype::F16 => {
                    let to = start.cast::<u16>().add(first);
                    (kernels.to_f16)(value, std::slice::from_raw_parts_mut(to, head_dim));
                }
            }
        }
    }
}

/// Calls `write` with each group of 32 elements: its number, its codes and its scale.
///
/// # Safety
/// The table must be this machine's and the head a multiple of 32 long.
unsafe fn quantized(kernels: &Kernels, head: &[f32], mut write: impl FnMut(usize, &[i32; 8], u16)) {
    let (mut codes, mut scales, mut offsets) = ([0; 8], [0.0; 2], [0; 3]);
    for (index, group) in head.as_chunks::<BLOCK>().0.iter().enumerate() {
        let slot = RowSlot {
            width: 1,
            quants: codes.as_mut_ptr(),
            scales: scales.as_mut_ptr(),
            offsets: offsets.as_mut_ptr(),
        };
        // SAFETY: the caller's; the slot has room for one block of one token.
        unsafe { (kernels.quantize)(group, &slot, &mut []) };
        write(index, &codes, f16::from_f32(scales[0]).to_bits());
    }
}

impl Cpu {
    /// Copies whole blocks, in the order given: `(from, to)`.
    pub fn copy_blocks(&self, kv: &mut KvCache, pairs: &[(u32, u32)]) -> Result<(), Error> {
        for &(from, to) in pairs {
            check_index("block", from as usize, kv.shape.num_blocks)?;
            check_index("block", to as usize, kv.shape.num_blocks)?;
        }
        let bytes = kv.shape.num_layers * kv.layer_bytes();
        let start = kv.memory.as_mut_ptr();
        for &(from, to) in pairs {
            // SAFETY: both blocks are whole inside the cache, which is borrowed mutably; `copy`
            // allows them to be the same.
            unsafe {
                let (from, to) = (start.add(from as usize * bytes), start.add(to as usize * bytes));
                from.copy_to(to, bytes);
            }
        }
        Ok(())
    }
}
