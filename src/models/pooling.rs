//! How the hidden states of an input's tokens become its embedding.

/// What is made of an input's hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolerConfig {
    /// How many vectors become one.
    pub pooling: Pooling,
    /// Whether it gets length 1.
    pub normalize: bool,
}

/// How the hidden states of all tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's: the only one that has seen all others of a decoder.
    Last,
    /// The largest of each element.
    Max,
}

impl PoolerConfig {
    /// What a decoder's files mean that do not say it.
    pub const DECODER: Self = Self { pooling: Pooling::Last, normalize: true };

    /// Appends one vector per input to `out`.
    ///
    /// `hidden_states`: `[num_tokens, hidden]` · `lens`: tokens of each input, at least one.
    pub(crate) fn pool(
        self,
        hidden_states: &[f32],
        hidden: usize,
        lens: &[usize],
        out: &mut Vec<f32>,
    ) {
        let mut rest = hidden_states;
        for len in lens {
            let (rows, others) = rest.split_at(len * hidden);
            rest = others;
            let (first, last) = (&rows[..hidden], &rows[rows.len() - hidden..]);
            let start = out.len();
            out.extend_from_slice(if self.pooling == Pooling::Last { last } else { first });
            let vector = &mut out[start..];
            let others = rows.chunks_exact(hidden).skip(1);
            match self.pooling {
                Pooling::Cls | Pooling::Last => {}
                Pooling::Max => others.for_each(|row| fold(vector, row, f32::max)),
                Pooling::Mean => {
                    others.for_each(|row| fold(vector, row, |sum, x| sum + x));
                    vector.iter_mut().for_each(|sum| *sum /= *len as f32);
                }
            }
            if self.normalize {
                let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
                vector.iter_mut().for_each(|x| *x /= norm);
            }
        }
    }
}

fn fold(vector: &mut [f32], row: &[f32], join: impl Fn(f32, f32) -> f32) {
    for (sum, x) in vector.iter_mut().zip(row) {
        *sum = join(*sum, *x);
    }
}
