//! A BERT-shaped encoder's hyperparameters, and what is made of its hidden states.

use crate::models::pooling::PoolerConfig;

/// Shape of an encoder. Names are those of Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Heads of queries, keys and values.
    pub num_attention_heads: usize,
    /// Tokens that have an embedding.
    pub vocab_size: usize,
    /// Rows of the table of positions.
    pub max_position_embeddings: usize,
    /// The row of the first token's position: 0 of BERT, the one after the padding's of RoBERTa.
    pub first_position: usize,
    /// Rows of the table of token types; 1 without one.
    pub type_vocab_size: usize,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f32,
    /// Most tokens of one input that its makers meant it for.
    pub max_seq_length: usize,
    /// What is made of the hidden states.
    pub head: HeadConfig,
}

/// What is made of an input's hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadConfig {
    /// One embedding.
    Embed(PoolerConfig),
    /// A number for each label, from the first token's.
    Classify {
        /// How many there are.
        num_labels: usize,
        /// What is between the classifier's two matrices.
        activation: ClassifierActivation,
    },
}

/// What is between a classifier's two matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassifierActivation {
    /// BERT's and RoBERTa's.
    Tanh,
    /// DistilBERT's.
    Relu,
}

impl EncoderConfig {
    /// Says what is impossible about the numbers. A checkpoint gives them, so anything may come.
    pub fn validate(&self) -> Result<(), String> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("max_seq_length", self.max_seq_length),
            ("the number of labels", self.num_outputs()),
        ];
        // Below 2^24, products of two sizes fit into 64 bits, and indices into `u32`.
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !(1..1 << 24).contains(size)) {
            return Err(format!("{name} is {size}"));
        }
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        if !hidden.is_multiple_of(heads) {
            return Err(format!("{heads} heads do not divide a width of {hidden}"));
        }
        if self.first_position >= self.max_position_embeddings {
            let (first, rows) = (self.first_position, self.max_position_embeddings);
            return Err(format!("positions begin at row {first} of {rows}"));
        }
        if !(self.layer_norm_eps >= 0.0 && self.layer_norm_eps < 1.0) {
            return Err(format!("layer_norm_eps is {}", self.layer_norm_eps));
        }
        Ok(())
    }

    /// Most tokens that have positions.
    pub fn num_positions(&self) -> usize {
        self.max_position_embeddings - self.first_position
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Numbers that come of one input.
    pub fn num_outputs(&self) -> usize {
        match self.head {
            HeadConfig::Embed(_) => self.hidden_size,
            HeadConfig::Classify { num_labels, .. } => num_labels,
        }
    }
}
