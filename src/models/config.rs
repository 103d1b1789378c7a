//! A decoder's hyperparameters, the same whether GGUF or `config.json` gave them: a Llama's, and what its
//! family does otherwise.

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
    /// What is not as in a Llama.
    pub variant: Variant,
}

/// What a family does otherwise than Llama. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variant {
    /// Queries and keys have RMS norms of each head, before they are rotated.
    pub qk_norm: bool,
    /// What scores are multiplied with; `None`: one by the root of `head_dim`.
    pub attention_scale: Option<f32>,
    /// Scores are `cap * tanh(score / cap)`.
    pub attn_logit_softcapping: Option<f32>,
    /// Logits are `cap * tanh(logit / cap)`.
    pub final_logit_softcapping: Option<f32>,
    /// Layers that see only the last positions.
    pub sliding: Option<Sliding>,
    /// What embeddings are multiplied with.
    pub embedding_scale: Option<f32>,
    /// Added to the norms' weights when they are loaded.
    pub norm_offset: f32,
    /// What attention and MLP compute is normed before it is added to the residual stream.
    pub post_norms: bool,
    /// What the MLP's gates are put through.
    pub hidden_act: Activation,
    /// Each MLP is a mixture of experts, of `intermediate_size` each.
    pub experts: Option<Experts>,
}

/// Sliding windows.
#[derive(Clone, Debug, PartialEq)]
pub struct Sliding {
    /// How many positions a token sees, itself included.
    pub window: usize,
    /// Which layers have one.
    pub layers: Vec<bool>,
    /// The rotary embedding of those layers, where it is another.
    pub rope: Option<RopeConfig>,
}

/// What gates are put through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    #[default]
    Silu,
    /// GELU, by the approximation with the hyperbolic tangent.
    GeluTanh,
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// There are.
    pub num_experts: usize,
    /// Of each token.
    pub num_experts_per_tok: usize,
    /// The weights of a token's experts add up to one.
    pub norm_topk_prob: bool,
}

/// Most experts of a mixture, and of a token.
pub(crate) const MAX_EXPERTS: usize = 512;
pub(crate) const MAX_EXPERTS_PER_TOK: usize = 32;

/// No model reads further, and tables of this many rows still fit into memory.
const MAX_POSITIONS: usize = 1 << 24;

impl Variant {
    /// Names of a layer's norms: of the one before the MLP, and of those of what attention and MLP add
    /// to the residual stream, where there are such.
    pub(crate) fn mlp_and_post_norms(&self) -> (&'static str, Option<[&'static str; 2]>) {
        let post = ["post_attention_layernorm", "post_feedforward_layernorm"];
        match self.post_norms {
            true => ("pre_feedforward_layernorm", Some(post)),
            false => (post[0], None),
        }
    }
}

impl DecoderConfig {
    /// Says what is impossible about the numbers. A checkpoint gives them, so anything may come.
    pub fn validate(&self) -> Result<(), String> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        // Below 2^28, products of two sizes fit into 64 bits, and indices into `u32`.
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !(1..1 << 28).contains(size)) {
            return Err(format!("{name} is {size}"));
        }
        if self.max_position_embeddings > MAX_POSITIONS {
            let given = self.max_position_embeddings;
            return Err(format!("max_position_embeddings is {given}, at most {MAX_POSITIONS}"));
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!("{heads} query heads do not share {kv_heads} key and value heads"));
        }
        if !(self.rms_norm_eps >= 0.0 && self.rms_norm_eps < 1.0) {
            return Err(format!("rms_norm_eps is {}", self.rms_norm_eps));
        }
        self.rope.validate(self.head_dim)?;
        self.variant.validate(self)
    }

    /// What scores are multiplied with.
    pub fn attention_scale(&self) -> f32 {
        self.variant.attention_scale.unwrap_or((self.head_dim as f32).sqrt().recip())
    }

    /// How many positions a layer's tokens see, if not all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let sliding = self.variant.sliding.as_ref()?;
        sliding.layers.get(layer)?.then_some(sliding.window)
    }

    /// The rotary embedding of the layers that slide, where it is not that of the others.
    pub fn sliding_rope(&self) -> Option<&RopeConfig> {
        self.variant.sliding.as_ref()?.rope.as_ref()
    }
}

impl Variant {
    fn validate(&self, config: &DecoderConfig) -> Result<(), String> {
        let positives = [
            ("the scale of attention", self.attention_scale),
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
            ("the scale of embeddings", self.embedding_scale),
        ];
        for (name, number) in positives {
            if number.is_some_and(|number| !(number.is_finite() && number > 0.0)) {
                return Err(format!("{name} is {number:?}"));
            }
        }
        if let Some(Sliding { window, layers, rope }) = &self.sliding {
            if *window == 0 {
                return Err("sliding_window is 0".to_owned());
            }
            if layers.len() != config.num_hidden_layers {
                let (given, layers) = (layers.len(), config.num_hidden_layers);
                return Err(format!("{given} layer_types of {layers} layers"));
            }
            if let Some(rope) = rope {
                rope.validate(config.head_dim)?;
            }
        }
        let Some(Experts { num_experts, num_experts_per_tok, .. }) = self.experts else {
            return Ok(());
        };
        if !(1..=MAX_EXPERTS).contains(&num_experts) {
            return Err(format!("the number of experts is {num_experts}, at most {MAX_EXPERTS}"));
        }
        let most = num_experts.min(MAX_EXPERTS_PER_TOK);
        if !(1..=most).contains(&num_experts_per_tok) {
            return Err(format!("num_experts_per_tok is {num_experts_per_tok}, at most {most}"));
        }
        Ok(())
    }
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

impl RopeConfig {
    fn validate(&self, head_dim: usize) -> Result<(), String> {
        if !self.theta.is_finite() || self.theta <= 1.0 {
            return Err(format!("rope_theta is {}", self.theta));
        }
        if self.dim == 0 || self.dim > head_dim || !self.dim.is_multiple_of(2) {
            return Err(format!("RoPE rotates {} of {head_dim} dimensions", self.dim));
        }
        self.scaling.validate(self.dim)
    }
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

impl RopeScaling {
    fn validate(&self, dim: usize) -> Result<(), String> {
        let positive = |numbers: &[f32]| numbers.iter().all(|x| x.is_finite() && *x > 0.0);
        let possible = match self {
            Self::None => true,
            Self::Linear { factor } => positive(&[*factor]),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                positive(&[*factor, *low_freq_factor, *high_freq_factor])
                    && low_freq_factor < high_freq_factor
                    && (1..=MAX_POSITIONS).contains(original_max_position_embeddings)
            }
            Self::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                attention_factor,
            } => {
                positive(&[*factor, *beta_fast, *beta_slow, attention_factor.unwrap_or(1.0)])
                    && (1..=MAX_POSITIONS).contains(original_max_position_embeddings)
            }
            Self::Factors(factors) => factors.len() == dim / 2 && positive(factors),
        };
        if possible { Ok(()) } else { Err(format!("the scaling of RoPE is impossible: {self:?}")) }
    }
}
