//! A mixture of experts on the processor: the tokens of each expert are computed together.
//!
//! What experts make of a token is added in the order of their numbers, so that it does not depend on
//! the other tokens.

use sconce_kernels::cpu::{Output, PackedMatrix, RmsNorm, Route, RouteWeights, route};

use super::config::{self, DecoderConfig};
use super::decoder::{DecoderLayer, Mlp, Pass, Workspace};

/// The weights of a layer's experts.
#[derive(Debug)]
pub(super) struct Experts {
    pub(super) config: config::Experts,
    /// `[num_experts, hidden_size]`
    pub(super) router: PackedMatrix,
    pub(super) mlps: Vec<Mlp>,
}

/// Buffers of a mixture's pass.
#[derive(Debug, Default)]
pub(super) struct ExpertsWorkspace {
    /// `[max_tokens, num_experts]`
    logits: Vec<f32>,
    /// `[max_tokens, num_experts_per_tok]`
    routes: Vec<Route>,
    /// An expert's tokens and their weights.
    tokens: Vec<u32>,
    weights: Vec<f32>,
    /// `[max_tokens, hidden_size]`: an expert's tokens, then what it makes of them.
    rows: Vec<f32>,
}

impl ExpertsWorkspace {
    /// For up to `max_tokens` tokens; empty of a model without experts.
    pub(super) fn new(config: &DecoderConfig, max_tokens: usize) -> Self {
        let Some(experts) = config.variant.experts else { return Self::default() };
        Self {
            logits: vec![0.0; max_tokens * experts.num_experts],
            routes: Vec::with_capacity(max_tokens * experts.num_experts_per_tok),
            tokens: Vec::with_capacity(max_tokens),
            weights: Vec::with_capacity(max_tokens),
            rows: vec![0.0; max_tokens * config.hidden_size],
        }
    }

    /// Words of a token.
    pub(super) fn width(config: &DecoderConfig) -> usize {
        let Some(experts) = config.variant.experts else { return 0 };
        experts.num_experts + 2 * experts.num_experts_per_tok + 2 + config.hidden_size
    }
}

impl Experts {
    /// Computes the mixture, and adds it to the residual stream.
    pub(super) fn run(
        &self,
        config: &DecoderConfig,
        layer: &DecoderLayer,
        pass: &mut Pass<'_>,
    ) -> Result<(), sconce_kernels::Error> {
        let (num_tokens, hidden) = (pass.input.num_tokens, config.hidden_size);
        let norm = RmsNorm { weight: &layer.mlp_layernorm, eps: config.rms_norm_eps };
        let Workspace { hidden_states, gate_up, delta, experts, activations, .. } =
            &mut *pass.workspace;
        let hidden_states = &mut hidden_states[..num_tokens * hidden];
        let delta = &mut delta[..num_tokens * hidden];
        let ExpertsWorkspace { logits, routes, tokens, weights, rows } = experts;

        let logits = &mut logits[..num_tokens * self.config.num_experts];
        pass.cpu.activations(hidden_states, num_tokens, Some(norm), activations)?;
        pass.cpu.matmul(&self.router, activations, Output::Store(&mut *logits))?;
        self.choose(logits, routes);

        delta.fill(0.0);
        for (expert, mlp) in (0..).zip(&self.mlps) {
            tokens.clear();
            weights.clear();
            for (token, chosen) in (0..).zip(routes.chunks_exact(self.config.num_experts_per_tok)) {
                let chosen = chosen.iter().find(|route| route.expert == expert);
                tokens.extend(chosen.map(|_| token));
                weights.extend(chosen.map(|route| route.weight));
            }
            if tokens.is_empty() {
                continue;
            }
            let rows = &mut rows[..tokens.len() * hidden];
            let gate_up = &mut gate_up[..tokens.len() * 2 * config.intermediate_size];
            pass.cpu.gather_rows(hidden_states, hidden, tokens, rows)?;
            pass.cpu.activations(rows, tokens.len(), Some(norm), activations)?;
            let (activation, out) = (config.variant.hidden_act, Output::Store(&mut *rows));
            mlp.run(pass.cpu, activation, (activations, gate_up), out)?;
            pass.cpu.add_weighted_rows(rows, (tokens, weights), delta)?;
        }
        for (hidden_state, delta) in hidden_states.iter_mut().zip(delta) {
            *hidden_state += *delta;
        }
        Ok(())
    }

    /// Chooses each token's experts.
    fn choose(&self, logits: &[f32], routes: &mut Vec<Route>) {
        let config::Experts { num_experts, num_experts_per_tok, norm_topk_prob } = self.config;
        let sum = if norm_topk_prob { RouteWeights::OfChosen } else { RouteWeights::OfAll };
        routes.clear();
        for logits in logits.chunks_exact(num_experts) {
            route(logits, num_experts_per_tok, sum, routes);
        }
    }
}
