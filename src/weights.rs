//! Checkpoints: a GGUF file, or safetensors with `config.json` and `tokenizer.json`.
//!
//! Both kinds answer the same questions under Hugging Face's tensor names. Nothing that a file
//! declares is believed before it was compared with the file's length, and what would change the
//! results without our knowing how is refused.

mod error;
mod file;
mod gguf;
mod layout;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use half::{bf16, f16};

use sconce_kernels::dtype::Dtype;

pub use self::error::Error;
use self::{file::Span, gguf::Gguf};
use crate::models::config::DecoderConfig;

/// An open checkpoint. Tensors are read when asked for, from any thread.
pub struct Checkpoint {
    source: Source,
    config: DecoderConfig,
    text: TextConfig,
}

enum Source {
    Gguf(Gguf),
}

/// What a checkpoint says of prompts and their ends.
#[derive(Debug, Default)]
struct TextConfig {
    chat_template: Option<String>,
    special_tokens: BTreeMap<String, String>,
    bos_token_id: Option<u32>,
    add_bos_token: bool,
    eos_token_ids: Vec<u32>,
}

impl Checkpoint {
    /// Opens the GGUF file at `path` and checks everything but the tensors' contents.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let gguf = Gguf::open(path)?;
        let (config, text) = (gguf.config()?, gguf.text()?);
        let checkpoint = Self { source: Source::Gguf(gguf), config, text };
        layout::check(&checkpoint.config, checkpoint.spans())?;
        Ok(checkpoint)
    }

    /// The shape of the decoder.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Whether there is a tensor with this Hugging Face name.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.spans().contains_key(name)
    }

    /// Every tensor's element type and number of elements.
    pub fn sizes(&self) -> impl Iterator<Item = (Dtype, usize)> {
        self.spans().values().map(|span| (span.dtype, span.shape.iter().product()))
    }

    /// Reads the tensor with this Hugging Face name, such as `model.embed_tokens.weight`.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let span = self.spans().get(name).ok_or_else(|| Error::MissingTensor(name.to_owned()))?;
        let data = match &self.source {
            Source::Gguf(gguf) => gguf.read(span)?,
        };
        Ok(Tensor { dtype: span.dtype, shape: span.shape.clone(), data })
    }

    /// The tokenizer as a Hugging Face `tokenizer.json`.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, Error> {
        match &self.source {
            Source::Gguf(gguf) => gguf.tokenizer_json(),
        }
    }

    /// Jinja source of the chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.text.chat_template.as_deref()
    }

    /// Tokens that the template may name (`bos_token`, `eos_token`, ...), by these names.
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.text.special_tokens
    }

    /// The token that begins a sequence.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.text.bos_token_id
    }

    /// Whether raw prompts begin with [`Self::bos_token_id`].
    pub fn add_bos_token(&self) -> bool {
        self.text.add_bos_token
    }

    /// Tokens that end a completion, ascending.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.text.eos_token_ids
    }

    fn spans(&self) -> &HashMap<String, Span> {
        match &self.source {
            Source::Gguf(gguf) => gguf.spans(),
        }
    }
}

/// One tensor as the checkpoint stores it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Row-major: `[rows, cols]` of a matrix, `[len]` of a vector.
    pub shape: Vec<usize>,
    /// The elements, little-endian, or the quantised blocks of the rows one after the other.
    pub data: Vec<u8>,
}

impl Tensor {
    /// The elements of a float tensor; `None` when it is quantised. A checkpoint's vectors (norms
    /// and biases) are always floats.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let (pairs, _) = self.data.as_chunks::<2>();
        match self.dtype {
            Dtype::F32 => {
                let (quads, _) = self.data.as_chunks::<4>();
                Some(quads.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
            }
            Dtype::F16 => Some(pairs.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
            Dtype::BF16 => Some(pairs.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
            Dtype::Q4_0
            | Dtype::Q4_1
            | Dtype::Q5_0
            | Dtype::Q5_1
            | Dtype::Q8_0
            | Dtype::Q4K
            | Dtype::Q5K
            | Dtype::Q6K => None,
        }
    }
}
