//! One completion's way through its grammar.

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use crate::engine::request::TokenId;

/// Where a completion is in its grammar, and what may come next.
pub struct Walk {
    matcher: Matcher,
    /// Computed ahead of its use, while the model computes.
    mask: Option<SimpleVob>,
    standing: Standing,
}

/// Whether anything may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// More text may follow, or must.
    Open,
    /// The text is complete, and nothing can be added to it.
    Complete,
    /// The next token could not be found within the limits.
    Exhausted,
}

/// To go on would take more than the limits allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the grammar's next tokens can't be found within the limits")]
pub struct Exhausted;

impl Walk {
    pub(super) fn new(matcher: Matcher) -> Self {
        Self { matcher, mask: None, standing: Standing::Open }
    }

    /// Finds the tokens that may come next, so that [`Self::allowed`] has them at once.
    pub fn prepare(&mut self) {
        if self.standing == Standing::Open && self.mask.is_none() {
            match self.matcher.compute_mask_or_eos() {
                Ok(mask) if !mask.is_zero() => self.mask = Some(mask),
                Ok(_) | Err(_) => self.standing = Standing::Exhausted,
            }
        }
    }

    /// The tokens that may come next, a bit each, the lowest first; end tokens where the text may
    /// end. There is at least one.
    pub fn allowed(&mut self) -> Result<&[u32], Exhausted> {
        self.prepare();
        match &self.mask {
            Some(mask) if self.standing != Standing::Exhausted => Ok(mask.as_slice()),
            Some(_) | None => Err(Exhausted),
        }
    }

    /// Goes on with a token that may come next, or ends with an end token.
    pub fn accept(&mut self, token: TokenId) -> Standing {
        self.mask = None;
        self.standing = match self.matcher.consume_token(token) {
            Err(_) => Standing::Exhausted,
            Ok(()) if self.matcher.is_stopped() => Standing::Complete,
            Ok(()) => Standing::Open,
        };
        self.standing
    }
}

impl std::fmt::Debug for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Walk").field("standing", &self.standing).finish_non_exhaustive()
    }
}
