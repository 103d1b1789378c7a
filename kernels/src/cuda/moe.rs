//! Mixtures of experts: routing, products with the experts' matrices, and the sum. Everything stays on
//! the device, so that a graph serves any choice of experts.
//!
//! A pair is a token and one of its experts, number `token * top_k + j`.

use super::launch::{Arg, Grid};
use super::{Device, Float, QuantizedExperts, Slice, SliceMut, Write, by_float};
use crate::cpu::RouteWeights;
use crate::{Error, check_index, check_len, check_multiple};

const MAX_EXPERTS: usize = 512;
const MAX_TOP_K: usize = 32;
/// Pairs of a tile and output features of a block, where matrices are of floats.
const PAIRS: usize = 16;
const FEATURES: usize = 16;

/// How pairs are shared out: a tile is one expert and so many of its pairs at most. The host knows how many
/// pairs there are, and not whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeTiling {
    pub(super) pairs: usize,
    pub(super) experts: usize,
    pub(super) width: usize,
}

impl MoeTiling {
    /// For matrices of floats, or of both kinds.
    pub fn of_floats(pairs: usize, experts: usize) -> Self {
        Self { pairs, experts, width: PAIRS }
    }

    /// For quantised matrices, of so many tokens with `top_k` experts each: the wider, the more of an expert's
    /// pairs meet its codes when they are unpacked, and the more room goes unused where an expert has fewer.
    pub fn of_codes(rows: usize, top_k: usize, experts: usize) -> Self {
        let pairs = rows * top_k;
        let width = match pairs.div_ceil(experts.max(1)) {
            // None of an expert's pairs are of one token.
            _ if rows <= super::MAX_GEMV_ROWS => super::MAX_GEMV_ROWS,
            0..=4 => 16,
            5..=12 => 32,
            _ => 64,
        };
        Self { pairs, experts, width }
    }

    /// The most pairs of a tile.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The most tiles that any choice of experts makes.
    pub(super) fn num_tiles(&self) -> usize {
        let chosen = self.experts.min(self.pairs);
        chosen + (self.pairs - chosen) / self.width
    }

    /// Bytes of the list of tiles.
    pub fn num_bytes(&self) -> usize {
        self.num_tiles() * size_of::<u32>() * (1 + self.width)
    }

    /// The most bytes of a list for any number of tokens up to `max_rows`.
    pub fn max_bytes(max_rows: usize, top_k: usize, experts: usize) -> usize {
        let pairs = max_rows * top_k;
        let of_width = |width| Self { pairs, experts, width }.num_bytes();
        [super::MAX_GEMV_ROWS, 16, 32, 64].map(of_width).into_iter().max().unwrap_or(0)
    }
}

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

/// The matrices `[n, k]` of all experts.
#[derive(Clone, Copy)]
pub enum ExpertMatrices<'a> {
    /// `[experts, n, k]`
    Floats(Slice<'a>),
    /// Of codes. Activations have 16 bits.
    Quantized(&'a QuantizedExperts),
}

/// Arguments of [`Device::moe_linear`].
pub struct MoeLinear<'a> {
    /// Type of the elements. Matrices of 32-bit floats are for comparisons: they take long.
    pub float: Float,
    /// `[pairs / pairs_per_x, k]`
    pub x: Slice<'a>,
    /// Pairs that a row of `x` is for: `top_k` where it is a token, one where it is a pair's.
    pub pairs_per_x: usize,
    /// The experts'.
    pub w: ExpertMatrices<'a>,
    /// `[pairs, n]`
    pub y: SliceMut<'a>,
    /// What [`Device::moe_tiles`] made.
    pub tiles: Slice<'a>,
    /// How it did: matrices of floats ask for [`MoeTiling::of_floats`].
    pub tiling: MoeTiling,
    /// Output features.
    pub n: usize,
    /// Input features, a multiple of [`Float::pack`].
    pub k: usize,
}

impl MoeLinear<'_> {
    fn check(&self) -> Result<(), Error> {
        let &Self { float, ref x, pairs_per_x, ref y, ref tiles, tiling, n, k, .. } = self;
        check_multiple("a matrix's columns", k, float.pack())?;
        check_multiple("a matrix's rows", n, 1)?;
        check_multiple("the pairs of a row", pairs_per_x, 1)?;
        check_multiple("the pairs", tiling.pairs, pairs_per_x)?;
        check_len("what is multiplied", x.len(), tiling.pairs / pairs_per_x * k * float.size())?;
        check_len("a product", y.len(), tiling.pairs * n * float.size())?;
        check_len("the list of tiles", tiles.len(), tiling.num_bytes())
    }
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

    /// Lists which pairs each expert has. `ids`: of all pairs. `tiles`: [`MoeTiling::num_bytes`].
    pub fn moe_tiles(
        &self,
        ids: Slice<'_>,
        tiles: &mut SliceMut<'_>,
        tiling: MoeTiling,
    ) -> Result<(), Error> {
        let MoeTiling { pairs, experts, width } = tiling;
        check_index("the number of experts", experts, MAX_EXPERTS + 1)?;
        check_len("the chosen experts", ids.len(), 4 * pairs)?;
        check_len("the list of tiles", tiles.len(), tiling.num_bytes())?;
        let args = [
            ids.into(),
            Arg::from(&*tiles),
            (pairs as i32).into(),
            (experts as i32).into(),
            (width as i32).into(),
            (tiling.num_tiles() as i32).into(),
        ];
        // SAFETY: the kernel's parameters; no choice of experts makes more tiles than there is room for.
        Ok(unsafe { self.launch("moe_tiles", Grid::line(1, 1024), &args) }?)
    }

    /// `y = x · wᵀ` of every pair, `w` being its expert's. A pair's result does not depend on the others: of
    /// codes, up to [`MAX_GEMV_ROWS`](super::MAX_GEMV_ROWS) tokens, and beyond.
    pub fn moe_linear(&self, args: MoeLinear<'_>) -> Result<(), Error> {
        args.check()?;
        match args.w {
            ExpertMatrices::Floats(w) => self.moe_linear_floats(args, w),
            ExpertMatrices::Quantized(w) => self.moe_linear_quantized(args, w),
        }
    }

    fn moe_linear_floats(&self, args: MoeLinear<'_>, w: Slice<'_>) -> Result<(), Error> {
        let MoeLinear { float, x, pairs_per_x, y, tiles, tiling, n, k, .. } = args;
        let name = match float {
            Float::F16 => "moe_grouped_f16",
            Float::BF16 => "moe_grouped_bf16",
            Float::F32 => "moe_grouped_f32",
        };
        check_len("the experts' matrices", w.len(), tiling.experts * n * k * float.size())?;
        check_len("the pairs of a tile", tiling.width, PAIRS)?;
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
        grid.blocks[1] = tiling.num_tiles() as u32;
        // SAFETY: the kernel's parameters, with the lengths checked above and before; `moe_tiles` lists no
        // expert and no pair that there isn't, as it was given as many of both.
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
