//! A digest that tells checkpoints apart without reading all of them.

use sha2::{Digest, Sha256};

use super::{Checkpoint, Error};

/// Larger tensors are sampled.
const MAX_WHOLE_BYTES: usize = 16 << 10;
const SAMPLES: usize = 4;

impl Checkpoint {
    /// The SHA-256 of every tensor's name, type, shape and contents; of a large tensor, of four
    /// pieces from its beginning to its end. What was trained further differs in all of them. That
    /// not one bit of a file has changed is checked where it is downloaded.
    pub fn digest(&self) -> Result<[u8; 32], Error> {
        let mut spans: Vec<_> = self.spans.iter().collect();
        spans.sort_unstable_by_key(|(name, _)| *name);
        let mut digest = Sha256::new();
        for (name, span) in spans {
            digest.update(format!("{name} {:?} {:?}\0", span.dtype, span.shape));
            span.sample((MAX_WHOLE_BYTES, SAMPLES), |bytes| digest.update(bytes))?;
        }
        Ok(digest.finalize().into())
    }
}
