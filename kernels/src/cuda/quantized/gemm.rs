//! Products of quantised matrices with more tokens than the reading of the matrix hides.

use super::layout::{TILE_COLS, TILE_ROWS};
use super::linear::by_form;
use super::{Form, LinearQuantized, Piece};
use crate::Error;
use crate::cuda::launch::{Arg, Grid};
use crate::cuda::{Float, Matmul, Write, by_float};

/// Tokens that the kernel is better for than floats and cuBLASLt.
pub(super) const MAX_GEMM_ROWS: usize = 128;
/// Warps of a block of this kernel, each of which takes two tiles.
const WARPS: usize = 4;
/// Tiles and rows that a block takes of the matrix.
const ROW_TILES: usize = 2 * WARPS;
const FEATURES: usize = ROW_TILES * TILE_ROWS;
/// Tiles along k below which sharing them out no longer pays.
const MIN_TILES: usize = 8;
/// Pieces of shared memory that are filled in turn.
const STAGES: usize = 4;
/// Blocks that a processor runs at once.
const BLOCKS_PER_PROCESSOR: usize = 4;

/// How many blocks do a product.
struct Split {
    /// Tokens of a block.
    tokens: usize,
    /// Parts of k, and the tiles of each.
    num_parts: usize,
    tiles: usize,
}

/// Bytes of shared memory of a block: some tiles, and as many columns of the tokens, of 16 bits.
fn shared_bytes(form: Form, tokens: usize) -> usize {
    STAGES * (ROW_TILES * form.tile_bytes() + tokens * TILE_COLS * 2)
}

impl Split {
    /// The same up to 64 tokens, however many: that way none's result depends on the others.
    fn new(rows: usize, (n, k): (usize, usize), num_processors: usize, room: usize) -> Self {
        let tokens = match rows {
            0..=16 => 16,
            17..=32 => 32,
            _ => 64,
        };
        let (all, blocks) = (k.div_ceil(TILE_COLS), n.div_ceil(FEATURES) * rows.div_ceil(tokens));
        let wanted = num_processors * BLOCKS_PER_PROCESSOR / blocks;
        let most = all.div_ceil(MIN_TILES).min(room / (rows * n * size_of::<f32>()));
        let tiles = all.div_ceil(wanted.min(most).max(1));
        Self { tokens, num_parts: all.div_ceil(tiles), tiles }
    }
}

/// The name of a kernel that is written once per form and number of tokens.
macro_rules! by_tokens {
    ($before:literal, $tokens:expr, $form:expr, $types:literal) => {
        match $tokens {
            16 => by_form!($form, $before, $types, "_16"),
            32 => by_form!($form, $before, $types, "_32"),
            _ => by_form!($form, $before, $types, "_64"),
        }
    };
}

/// The kernel of pairs of 16-bit floats, in tiles of so many, that multiplies `n` rows of each expert's matrix,
/// and its blocks for each tile.
pub(super) fn moe_gemm(form: Form, float: Float, width: usize, n: usize) -> (&'static str, Grid) {
    let name = match float {
        Float::F16 => by_tokens!("moe_gemm_", width, form, "_f16"),
        Float::BF16 | Float::F32 => by_tokens!("moe_gemm_", width, form, "_bf16"),
    };
    let grid = Grid {
        blocks: [1, n.div_ceil(FEATURES) as u32, 1],
        threads: [32 * WARPS as u32, 1, 1],
        shared_bytes: shared_bytes(form, width) as u32,
    };
    (name, grid)
}

impl Matmul {
    /// The product with one piece. It uses the workspace, in the stream's order, as cuBLASLt does.
    pub(super) fn quantized_gemm(
        &self,
        args: &mut LinearQuantized<'_>,
        piece: &Piece,
    ) -> Result<(), Error> {
        let (n, k, rows) = (args.w.n, args.w.k, args.rows);
        let (form, workspace) = (piece.form, self.workspace());
        let num_processors = self.device().properties().num_processors as usize;
        let split = Split::new(rows, (piece.n, k), num_processors, workspace.len());
        let name = match (args.float, args.y_float) {
            (Float::F16, Float::F16) => by_tokens!("gemm_", split.tokens, form, "_f16"),
            (Float::F16, _) => by_tokens!("gemm_", split.tokens, form, "_f16_f32"),
            (_, Float::F32) => by_tokens!("gemm_", split.tokens, form, "_bf16_f32"),
            (_, Float::F16 | Float::BF16) => by_tokens!("gemm_", split.tokens, form, "_bf16"),
        };
        let (x, y_float) = (args.x, args.y_float);
        let accumulate = Arg::from(i32::from(args.write == Write::Add));
        let y = Arg::from(&args.y_from(piece.first_row));
        let parts = (split.num_parts > 1).then_some(workspace);
        let [rows_arg, own_n, stride] = [rows, piece.n, n].map(|x| Arg::from(x as i32));
        let product = [
            x.into(),
            piece.tiles.slice().into(),
            y,
            Arg::optional(parts),
            rows_arg,
            own_n,
            (k as i32).into(),
            stride,
            accumulate,
            (split.tiles as i32).into(),
        ];
        let blocks = [rows.div_ceil(split.tokens), piece.n.div_ceil(FEATURES), split.num_parts];
        let grid = Grid {
            blocks: blocks.map(|x| x as u32),
            threads: [32 * WARPS as u32, 1, 1],
            shared_bytes: shared_bytes(form, split.tokens) as u32,
        };
        // SAFETY: the kernel's parameters, of lengths that the caller checked; a piece's rows are columns
        // of `y`, and the parts fit the workspace.
        unsafe { self.device().launch(name, grid, &product) }?;
        let Some(parts) = parts else { return Ok(()) };
        let num = Arg::from(split.num_parts as i32);
        let sum = [parts.into(), y, rows_arg, own_n, stride, accumulate, num];
        let mut grid = Grid::line(piece.n.div_ceil(256), 256);
        grid.blocks[1] = rows as u32;
        // SAFETY: the kernel's parameters; the lengths are those of above.
        Ok(unsafe { self.device().launch(by_float!(y_float, "add_parts"), grid, &sum) }?)
    }
}
