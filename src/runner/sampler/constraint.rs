//! The tokens that a sequence may gain: what its grammar allows, or what its request names.

use std::sync::MutexGuard;

use crate::engine::plan::ConstraintEnd;
use crate::engine::request::{SamplingParams, TokenId};
use crate::grammar::{Exhausted, SharedWalk, Standing, Walk};

/// What restricts a sequence, from its admission to its release.
#[derive(Debug)]
pub(super) enum Constraint {
    /// Shared with the thread that looks ahead.
    Grammar(SharedWalk),
    /// A bit for each token.
    Allowed(Vec<u32>),
}

/// A constraint that a thread samples under.
pub(super) enum Sampling<'a> {
    Grammar { walk: MutexGuard<'a, Walk>, end: Option<ConstraintEnd> },
    Allowed(&'a [u32]),
}

/// A bit for each token that is allowed, the lowest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mask<'a>(&'a [u32]);

impl Constraint {
    pub(super) fn needed_by(params: &SamplingParams) -> Option<Self> {
        if let Some(grammar) = &params.grammar {
            return Some(Self::Grammar(SharedWalk::new(grammar.walk())));
        }
        let last = params.allowed_token_ids.iter().max()?;
        let mut bits = vec![0_u32; *last as usize / 32 + 1];
        for token in &params.allowed_token_ids {
            bits[*token as usize / 32] |= 1 << (token % 32);
        }
        Some(Self::Allowed(bits))
    }

    pub(super) fn begin(&self) -> Sampling<'_> {
        match self {
            Self::Grammar(walk) => Sampling::Grammar { walk: walk.lock(), end: None },
            Self::Allowed(bits) => Sampling::Allowed(bits),
        }
    }
}

impl Sampling<'_> {
    /// What may come next; nothing is masked once the grammar has ended the completion.
    pub(super) fn mask(&mut self) -> Result<Option<Mask<'_>>, Exhausted> {
        match self {
            Self::Grammar { end: Some(_), .. } => Ok(None),
            Self::Grammar { walk, end: None } => walk.allowed().map(Mask).map(Some),
            Self::Allowed(bits) => Ok(Some(Mask(bits))),
        }
    }

    /// Takes the token that came.
    pub(super) fn accept(&mut self, token: TokenId) -> Option<ConstraintEnd> {
        let Self::Grammar { walk, end } = self else { return None };
        if end.is_none() {
            *end = match walk.accept(token) {
                Standing::Open => None,
                Standing::Complete => Some(ConstraintEnd::Complete),
                Standing::Exhausted => Some(ConstraintEnd::Exhausted),
            };
        }
        *end
    }
}

impl Mask<'_> {
    /// Makes all other tokens impossible.
    pub(super) fn apply(self, logits: &mut [f32]) {
        for (at, logits) in logits.chunks_mut(32).enumerate() {
            let bits = self.0.get(at).copied().unwrap_or(0);
            match bits {
                0 => logits.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                _ => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if bits >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}
