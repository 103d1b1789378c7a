//! Mixtures of experts: routing, products with the experts' matrices, and the sum. Everything stays on
//! the device, so that a graph serves any choice of experts.
//!
//! A pair is a token and one of its experts, number `token * top_k + j`.

use super::launch::{Arg, Grid};
use super::{Device, Float, Slice, SliceMut, Write, by_float};
use crate::cpu::RouteWeights;
use crate::{Error, check_index, check_len, check_multiple};

/// Pairs of a tile: an expert's.
const PAIRS: usize = 16;
/// Bytes of a tile: its expert's number, and its pairs'.
const TILE_BYTES: usize = 4 * (1 + PAIRS);
const MAX_EXPERTS: usize = 512;
const MAX_TOP_K: usize = 32;
/// Output features of a block.
const FEATURES: usize = 16;

/// Arguments of [`Device::moe_route`].
pub struct MoeRoute<'a> {
    /// Type of the logits.
    pub float: Float,
    /// `[rows, experts]`
    pub logits: Slice<'a>,
    /// `[rows, top_k]` of u32.
    pub ids: SliceMut<'a>,
    /// `[rows, top_k]` of f32.
    pub weights: SliceMut<'a>,
    /// Tokens.
    pub rows: usize,
    /// There are.
    pub experts: usize,
    /// Experts of a token, at most 32.
    pub top_k: usize,
    /// What the weights add up to.
    pub sum: RouteWeights,
}

/// Arguments of [`Device::moe_linear`].
pub struct MoeLinear<'a> {
    /// Type of the elements. 32 bits are for comparisons: they take long.
    pub float: Float,
    /// `[pairs / pairs_per_x, k]`
    pub x: Slice<'a>,
    /// Pairs that a row of `x` is for: `top_k` where it is a token, one where it is a pair's.
    pub pairs_per_x: usize,
    /// `[experts, n, k]`
    pub w: Slice<'a>,
    /// `[pairs, n]`
    pub y: SliceMut<'a>,
    /// What [`Device::moe_tiles`] made.
    pub tiles: Slice<'a>,
    /// Output features.
    pub n: usize,
    /// Input features, a multiple of [`Float::pack`].
    pub k: usize,
}

/// Arguments of [`Device::moe_combine`].
pub struct MoeCombine<'a> {
    /// Type of the elements.
    pub float: Float,
    /// `[rows, top_k, cols]`
    pub pairs: Slice<'a>,
    /// `[rows, top_k]` of f32.
    pub weights: Slice<'a>,
    /// `[rows, cols]`
    pub out: SliceMut<'a>,
    /// What happens to the sum.
    pub write: Write,
    /// Tokens.
    pub rows: usize,
    /// A multiple of [`Float::pack`].
    pub cols: usize,
    /// Experts of a token.
    pub top_k: usize,
}

/// Bytes of the list of tiles of so many pairs, whichever experts they choose.
pub fn moe_tiles_bytes(pairs: usize, experts: usize) -> usize {
    (pairs / PAIRS + experts.min(pairs)) * TILE_BYTES
}

impl Device {
    /// Chooses each token's experts: the likeliest, of equals the first. They are in that order.
    pub fn moe_route(&self, args: MoeRoute<'_>) -> Result<(), Error> {
        let MoeRoute { float, logits, ids, weights, rows, experts, top_k, sum } = args;
        check_index("the number of experts", experts, MAX_EXPERTS + 1)?;
        check_multiple("a token's experts", top_k, 1)?;
        check_index("a token's experts", top_k, experts.min(MAX_TOP_K) + 1)?;
        check_len("the router's logits", logits.len(), rows * experts * float.size())?;
        check_len("the chosen experts", ids.len(), 4 * rows * top_k)?;
        check_len("the experts' weights", weights.len(), 4 * rows * top_k)?;
        let args = [
            logits.into(),
            Arg::from(&ids),
            Arg::from(&weights),
            (rows as i32).into(),
            (experts as i32).into(),
            (top_k as i32).into(),
            i32::from(sum == RouteWeights::OfChosen).into(),
        ];
        let name = by_float!(float, "moe_route");
        // SAFETY: the kernel's parameters, with the lengths checked above.
        Ok(unsafe { self.launch(name, Grid::line(rows.div_ceil(8), 256), &args) }?)
    }

    /// Lists which pairs each expert has, 16 at a time. `ids`: of all pairs. `tiles`: [`moe_tiles_bytes`].
    pub fn moe_tiles(
        &self,
        ids: Slice<'_>,
        tiles: &mut SliceMut<'_>,
        experts: usize,
    ) -> Result<(), Error> {
        check_index("the number of experts", experts, MAX_EXPERTS + 1)?;
        let pairs = ids.len() / 4;
        check_len("the list of tiles", tiles.len(), moe_tiles_bytes(pairs, experts))?;
        let args = [
            ids.into(),
            Arg::from(&*tiles),
            (pairs as i32).into(),
            (experts as i32).into(),
            ((tiles.len() / TILE_BYTES) as i32).into(),
        ];
        // SAFETY: the kernel's parameters; no choice of experts makes more tiles than there is room for.
        Ok(unsafe { self.launch("moe_tiles", Grid::line(1, 1024), &args) }?)
    }

    /// `y = x · wᵀ` of every pair, `w` being its expert's. A pair's result does not depend on the others.
    pub fn moe_linear(&self, args: MoeLinear<'_>) -> Result<(), Error> {
        let MoeLinear { float, x, pairs_per_x, w, y, tiles, n, k } = args;
        let name = match float {
            Float::F16 => "moe_grouped_f16",
            Float::BF16 => "moe_grouped_bf16",
            Float::F32 => "moe_grouped_f32",
        };
        check_multiple("a matrix's columns", k, float.pack())?;
        check_multiple("a matrix's rows", n, 1)?;
        check_multiple("the experts' matrices' bytes", w.len(), n * k * float.size())?;
        check_multiple("the pairs of a row", pairs_per_x, 1)?;
        check_multiple("what is multiplied", x.len(), k * float.size())?;
        let (rows, experts) = (x.len() / (k * float.size()), w.len() / (n * k * float.size()));
        let pairs = rows * pairs_per_x;
        check_len("a product", y.len(), pairs * n * float.size())?;
        check_len("the list of tiles", tiles.len(), moe_tiles_bytes(pairs, experts))?;
        let args = [
            x.into(),
            w.into(),
            Arg::from(&y),
            tiles.into(),
            (pairs_per_x as i32).into(),
            (n as i32).into(),
            (k as i32).into(),
        ];
        let mut grid = Grid::line(n.div_ceil(FEATURES), 256);
        grid.blocks[1] = (tiles.len() / TILE_BYTES) as u32;
        // SAFETY: the kernel's parameters, with the lengths checked above; `moe_tiles` lists no expert and
        // no pair that there isn't, as it was given as many of both.
        Ok(unsafe { self.launch(name, grid, &args) }?)
    }

    /// `out (+)=` each token's pairs times their weights, added in order.
    pub fn moe_combine(&self, args: MoeCombine<'_>) -> Result<(), Error> {
        let MoeCombine { float, pairs, weights, out, write, rows, cols, top_k } = args;
        check_multiple("the experts' width", cols, float.pack())?;
        check_len("the experts' results", pairs.len(), rows * top_k * cols * float.size())?;
        check_len("the experts' weights", weights.len(), 4 * rows * top_k)?;
        check_len("the experts' sum", out.len(), rows * cols * float.size())?;
        let args = [
            pairs.into(),
            weights.into(),
            Arg::from(&out),
            (cols as i32).into(),
            (top_k as i32).into(),
            i32::from(write == Write::Add).into(),
        ];
        let threads = cols.div_ceil(float.pack()).next_multiple_of(32).clamp(64, 512) as u32;
        let name = by_float!(float, "moe_combine");
        // SAFETY: the kernel's parameters, with the lengths checked above.
        Ok(unsafe { self.launch(name, Grid::line(rows, threads), &args) }?)
    }
}
