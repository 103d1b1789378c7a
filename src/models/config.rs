//! A Llama-shaped decoder's hyperparameters, the same whether GGUF or `config.json` gave them.

/// Shape of a decoder. Names are those of Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; query heads are a multiple of it.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the logits.
    pub vocab_size: usize,
    /// Most positions.
    pub max_position_embeddings: usize,
    /// Epsilon of every RMS norm.
    pub rms_norm_eps: f32,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// The LM head is the embedding table.
    pub tie_word_embeddings: bool,
    /// The q, k and v projections have biases.
    pub attention_bias: bool,
}

/// Rotary position embedding (Su et al., 2021).
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f32,
    /// Dimensions of a head that are rotated; the first ones.
    pub dim: usize,
    /// Which dimensions are paired.
    pub style: RopeStyle,
    /// How frequencies are changed for longer contexts.
    pub scaling: RopeScaling,
}

/// Which two dimensions of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// `i` and `i + dim/2`: Hugging Face checkpoints.
    Half,
    /// `2i` and `2i + 1`: GGUF files of the llama architecture, whose rows are permuted for it.
    Interleaved,
}

/// How frequencies are changed for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not.
    None,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Llama 3's: low frequencies divided, high ones kept, smooth between.
    Llama3 {
        /// Divides low frequencies.
        factor: f32,
        /// Wavelengths above `original / low_freq_factor` are low.
        low_freq_factor: f32,
        /// Wavelengths below `original / high_freq_factor` are high.
        high_freq_factor: f32,
        /// The context of the pre-training.
        original_max_position_embeddings: usize,
    },
    /// YaRN (Peng et al., 2023).
    Yarn {
        /// Context extension.
        factor: f32,
        /// The context of the pre-training.
        original_max_position_embeddings: usize,
        /// Rotations above which a frequency is kept.
        beta_fast: f32,
        /// Rotations below which a frequency is interpolated.
        beta_slow: f32,
        /// Multiplies cosines and sines; `None`: `0.1 ln(factor) + 1`.
        attention_factor: Option<f32>,
    },
    /// `[dim / 2]` divisors of the frequencies, as GGUF's `rope_freqs.weight` holds them.
    Factors(Vec<f32>),
}
