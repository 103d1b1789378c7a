//! A digest that tells checkpoints apart without reading all of them.

use sha2::{Digest, Sha256};

use super::file::Span;
use super::{Checkpoint, Error};

/// Larger tensors are sampled.
const MAX_WHOLE_BYTES: usize = 16 << 10;
const SAMPLES: usize = 4;
const SAMPLE_BYTES: usize = MAX_WHOLE_BYTES / SAMPLES;

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
            update(&mut digest, span)?;
        }
        Ok(digest.finalize().into())
    }
}

fn update(digest: &mut Sha256, span: &Span) -> Result<(), Error> {
    let len = span.len();
    if len <= MAX_WHOLE_BYTES {
        digest.update(span.read()?);
        return Ok(());
    }
    for sample in 0..SAMPLES {
        let offset = (len - SAMPLE_BYTES) / (SAMPLES - 1) * sample;
        digest.update(span.piece(offset, SAMPLE_BYTES)?);
    }
    Ok(())
}
