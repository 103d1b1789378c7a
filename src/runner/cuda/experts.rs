//! A mixture of experts on a GPU. Which experts a token goes to stays on the device, so that a graph serves
//! any choice.

use sconce_kernels::Error;
use sconce_kernels::cpu::RouteWeights;
use sconce_kernels::cuda::{
    Buffer, ExpertMatrices, MoeCombine, MoeLinear, MoeRoute, MoeTiling, SliceMut, Write,
};

use super::decoder::{Decoder, Pass, Workspace};
use super::tensors::{Layer, Matrix};
use crate::models::config::Experts;

/// Buffers of a mixture, sized for the largest batch.
pub(super) struct ExpertsWorkspace {
    /// `[max_tokens, num_experts]`
    logits: Buffer,
    /// `[max_tokens, num_experts_per_tok]` of u32.
    ids: Buffer,
    /// `[max_tokens, num_experts_per_tok]` of f32.
    weights: Buffer,
    /// Which tokens each expert has.
    tiles: Buffer,
    /// `[max_tokens, num_experts_per_tok, hidden_size]`
    pairs: Buffer,
}

impl ExpertsWorkspace {
    /// For a model with experts.
    pub(super) fn new(decoder: &Decoder, max_tokens: usize) -> Result<Self, Error> {
        let (config, size) = (&decoder.config, decoder.float.size());
        let (num_experts, top_k) = (config.variant.experts)
            .map_or((0, 0), |experts| (experts.num_experts, experts.num_experts_per_tok));
        let (device, pairs) = (decoder.device(), max_tokens * top_k);
        Ok(Self {
            logits: device.alloc_zeroed(max_tokens * num_experts * size)?,
            ids: device.alloc_zeroed(4 * pairs)?,
            weights: device.alloc_zeroed(4 * pairs)?,
            tiles: device.alloc_zeroed(MoeTiling::max_bytes(max_tokens, top_k, num_experts))?,
            pairs: device.alloc_zeroed(pairs * config.hidden_size * size)?,
        })
    }
}

/// A product of every pair of a token and one of its experts, with the expert's matrix.
struct Product<'a> {
    x: &'a Buffer,
    /// Pairs that a row of `x` is for.
    pairs_per_x: usize,
    w: &'a Matrix,
    tiles: &'a Buffer,
    tiling: MoeTiling,
    y: SliceMut<'a>,
    pairs: usize,
    n: usize,
    k: usize,
}

impl Decoder {
    /// What a layer's experts make of the normed tokens, into the delta.
    pub(super) fn mix_experts(
        &self,
        layer: &Layer,
        router: &Matrix,
        pass: &mut Pass<'_>,
    ) -> Result<(), Error> {
        let (config, rows, size) = (&self.config, pass.num_tokens, self.float.size());
        let (hidden, cols) = (config.hidden_size, config.intermediate_size);
        let Workspace { delta, normed, gate_up, inner, experts, scratch, .. } =
            &mut *pass.workspace;
        let (Some(workspace), Some(experts)) = (experts, config.variant.experts) else {
            return Ok(());
        };
        let (num_experts, top_k) = (experts.num_experts, experts.num_experts_per_tok);
        let pairs = rows * top_k;
        let tiling = match (&layer.gate_up_proj, &layer.down_proj) {
            (Matrix::Experts(_), Matrix::Experts(_)) => {
                MoeTiling::of_codes(rows, top_k, num_experts)
            }
            _ => MoeTiling::of_floats(pairs, num_experts),
        };

        let logits = (&mut workspace.logits, num_experts);
        self.linear((normed, hidden), (router, scratch), logits, rows)?;
        self.route(workspace, experts, (rows, tiling))?;
        let to = self.rows(gate_up, pairs, 2 * cols);
        let tiles = &workspace.tiles;
        self.multiply_pairs(Product {
            x: normed,
            pairs_per_x: top_k,
            w: &layer.gate_up_proj,
            tiles,
            tiling,
            y: to,
            pairs,
            n: 2 * cols,
            k: hidden,
        })?;
        self.gate(gate_up, inner, pairs)?;
        let to = self.rows(&mut workspace.pairs, pairs, hidden);
        self.multiply_pairs(Product {
            x: inner,
            pairs_per_x: 1,
            w: &layer.down_proj,
            tiles,
            tiling,
            y: to,
            pairs,
            n: hidden,
            k: cols,
        })?;
        self.device().moe_combine(MoeCombine {
            float: self.float,
            pairs: workspace.pairs.slice().at(0, pairs * hidden * size),
            weights: workspace.weights.slice().at(0, 4 * pairs),
            out: self.rows(delta, rows, hidden),
            write: Write::Store,
            rows,
            cols: hidden,
            top_k,
        })
    }

    /// Chooses the experts of each token, and lists the tokens of each expert.
    fn route(
        &self,
        workspace: &mut ExpertsWorkspace,
        experts: Experts,
        (rows, tiling): (usize, MoeTiling),
    ) -> Result<(), Error> {
        let ExpertsWorkspace { logits, ids, weights, tiles, .. } = workspace;
        let Experts { num_experts, num_experts_per_tok: top_k, norm_topk_prob } = experts;
        let pairs = rows * top_k;
        self.device().moe_route(MoeRoute {
            float: self.float,
            logits: logits.slice().at(0, rows * num_experts * self.float.size()),
            ids: ids.slice_mut().at(0, 4 * pairs),
            weights: weights.slice_mut().at(0, 4 * pairs),
            rows,
            experts: num_experts,
            top_k,
            sum: if norm_topk_prob { RouteWeights::OfChosen } else { RouteWeights::OfAll },
        })?;
        let mut tiles = tiles.slice_mut().at(0, tiling.num_bytes());
        self.device().moe_tiles(ids.slice().at(0, 4 * pairs), &mut tiles, tiling)
    }

    fn multiply_pairs(&self, product: Product<'_>) -> Result<(), Error> {
        let Product { x, pairs_per_x, w, tiles, tiling, y, pairs, n, k } = product;
        let w = match w {
            Matrix::Floats(w) => ExpertMatrices::Floats(w.slice()),
            Matrix::Experts(w) => ExpertMatrices::Quantized(w),
            Matrix::Quantized(_) | Matrix::Fp8(_) => return Err(Error::Operand),
        };
        self.device().moe_linear(MoeLinear {
            float: self.float,
            x: x.slice().at(0, pairs / pairs_per_x * k * self.float.size()),
            pairs_per_x,
            w,
            y,
            tiles: tiles.slice().at(0, tiling.num_bytes()),
            tiling,
            n,
            k,
        })
    }
}
