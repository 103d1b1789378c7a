//! Checkpoints: a GGUF file, or safetensors with `config.json` and `tokenizer.json`.
//!
//! Both kinds answer the same questions under Hugging Face's tensor names. Nothing that a file
//! declares is believed before it was compared with the file's length, and what would change the
//! results without our knowing how is refused.

mod digest;
mod dummy;
mod encoder;
mod error;
mod file;
#[cfg(feature = "cuda")]
mod fp8;
mod generation;
mod gguf;
mod hugging_face;
mod layout;
mod packed;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    path::Path,
};

use half::{bf16, f16};

use sconce_kernels::dtype::Dtype;

pub use self::encoder::EncoderCheckpoint;
pub use self::error::Error;
#[cfg(feature = "cuda")]
pub(crate) use self::fp8::{FP8_BLOCK, Fp8, Fp8Scales};
pub use self::generation::GenerationConfig;
pub(crate) use self::packed::Matrix;
use self::{
    file::{Span, WeightFile},
    gguf::Gguf,
    hugging_face::HuggingFace,
};
use crate::models::{config::DecoderConfig, pooling::PoolerConfig};

/// An open checkpoint. Tensors are read when asked for, from any thread.
pub struct Checkpoint {
    config: DecoderConfig,
    text: TextConfig,
    embedding: EmbeddingConfig,
    spans: HashMap<String, Span>,
    source: Source,
}

enum Source {
    Gguf(Gguf),
    HuggingFace(HuggingFace),
}

/// What a checkpoint says of prompts and their ends.
#[derive(Debug, Default)]
struct TextConfig {
    chat_template: Option<String>,
    special_tokens: BTreeMap<String, String>,
    bos_token_id: Option<u32>,
    add_bos_token: bool,
    /// Texts to embed end with the end token. Nothing could be generated after it.
    add_eos_token: bool,
    eos_token_ids: Vec<u32>,
    generation: GenerationConfig,
}

/// What a checkpoint says of embeddings.
#[derive(Debug, Default)]
struct EmbeddingConfig {
    /// `None` when it is made for generation.
    pooler: Option<PoolerConfig>,
    max_seq_length: Option<usize>,
}

impl Checkpoint {
    /// Opens a GGUF file, a safetensors file with `config.json` beside it, or a directory with
    /// both, and checks everything but the tensors' contents.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let checkpoint = Self::open_for_any_task(path)?;
        checkpoint.check_generates()?;
        Ok(checkpoint)
    }

    /// As [`Self::open`], for what only embeds, too.
    pub fn open_for_any_task(path: &Path) -> Result<Self, Error> {
        let mut checkpoint = match kind(path)? {
            Kind::Gguf => {
                let mut gguf = Gguf::open(path)?;
                let (config, text) = (gguf.config()?, gguf.text()?);
                let embedding = EmbeddingConfig { pooler: gguf.pooler()?, max_seq_length: None };
                let spans = gguf.take_spans();
                Self { config, text, embedding, spans, source: Source::Gguf(gguf) }
            }
            Kind::Safetensors => Self::of_hugging_face(HuggingFace::of_file(path))?,
            Kind::Directory => Self::of_hugging_face(HuggingFace::of_dir(path)?)?,
        };
        layout::part(&checkpoint.config, &mut checkpoint.spans);
        layout::check(&checkpoint.config, &checkpoint.spans)?;
        let (text, vocab_size) = (&checkpoint.text, checkpoint.config.vocab_size);
        let mut ids = text.eos_token_ids.iter().chain(&text.bos_token_id);
        match ids.find(|id| **id as usize >= vocab_size) {
            Some(id) => {
                let reason = format!("token {id} is special and the vocabulary has {vocab_size}");
                Err(Error::malformed(path, reason))
            }
            None => Ok(checkpoint),
        }
    }

    /// A checkpoint of random weights: of the directory's `config.json` and tokenizer, without its
    /// tensors, quantized as the configuration says. For measurements: the speed is the model's, the text
    /// is not.
    pub fn dummy(dir: &Path) -> Result<Self, Error> {
        Self::dummy_of(dir, Dtype::BF16)
    }

    /// As [`Self::dummy`], of bf16, or with matrices in Q4_0 or Q8_0 where the configuration does not say
    /// how they are quantized.
    pub fn dummy_of(dir: &Path, matrices: Dtype) -> Result<Self, Error> {
        if !matches!(matrices, Dtype::BF16 | Dtype::Q4_0 | Dtype::Q8_0) {
            return Err(Error::unsupported(
                "random weights",
                format!("{matrices:?}"),
                "BF16, Q4_0, Q8_0",
            ));
        }
        let files = HuggingFace::without_weights(dir);
        let (config, text) = (files.config()?, files.text()?);
        let embedding = EmbeddingConfig { pooler: None, max_seq_length: None };
        let mut spans = layout::random(&config, matrices)?;
        let quantized = files.random_matrices(&layout::quantizable(&config), &config)?;
        if quantized.is_some() && matrices != Dtype::BF16 {
            let what = "random weights of a configuration that says how they are quantized";
            return Err(Error::unsupported(what, format!("{matrices:?}"), "BF16"));
        }
        spans.extend(quantized.into_iter().flatten());
        let source = Source::HuggingFace(files);
        Ok(Self { config, text, embedding, spans, source })
    }

    fn of_hugging_face(dir: HuggingFace) -> Result<Self, Error> {
        let config = dir.config()?;
        let (text, embedding, mut spans) =
            (dir.text()?, dir.embedding()?, dir.decoder_spans(&config)?);
        // Without a head, the model is saved under its own names.
        if !spans.keys().any(|name| name.starts_with("model.")) {
            let named = spans.into_iter().map(|(name, span)| match name.as_str() {
                "lm_head.weight" => (name, span),
                _ => (format!("model.{name}"), span),
            });
            spans = named.collect();
        }
        Ok(Self { config, text, embedding, spans, source: Source::HuggingFace(dir) })
    }

    /// Says why nothing can be generated, if that is so.
    pub fn check_generates(&self) -> Result<(), Error> {
        if self.text.add_eos_token {
            let what = "add_eos_token of the tokenizer";
            return Err(Error::unsupported(what, "true", "false, but for embeddings"));
        }
        if !self.config.tie_word_embeddings && !self.has_tensor("lm_head.weight") {
            return Err(Error::MissingTensor("lm_head.weight".to_owned()));
        }
        Ok(())
    }

    /// How embeddings are made of the hidden states. `None` when the checkpoint does not say that
    /// it is made for them.
    pub fn pooler(&self) -> Option<PoolerConfig> {
        self.embedding.pooler
    }

    /// Most tokens of a text to embed, where the checkpoint says it.
    pub fn max_seq_length(&self) -> Option<usize> {
        self.embedding.max_seq_length
    }

    /// The shape of the decoder.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Whether there is a tensor with this Hugging Face name.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.spans.contains_key(name)
    }

    /// Every tensor's element type and number of elements.
    pub fn sizes(&self) -> impl Iterator<Item = (Dtype, usize)> {
        self.spans.values().map(|span| (span.dtype, span.shape.iter().product()))
    }

    /// Whether its matrices are 16-bit IEEE floats: in a directory, those that are floats at all.
    pub fn is_f16(&self) -> bool {
        let matrices = || self.spans.values().filter(|span| span.shape.len() > 1);
        match &self.source {
            Source::Gguf(_) => matrices().all(|span| span.dtype == Dtype::F16),
            Source::HuggingFace(_) => {
                let mut floats = matrices().filter(|span| span.dtype.block_len() == 1).peekable();
                floats.peek().is_some() && floats.all(|span| span.dtype == Dtype::F16)
            }
        }
    }

    /// Whether there is a matrix of plain floats, but for those that choose a mixture's experts: these stay
    /// what they are whatever the others become.
    pub fn has_float_matrices(&self) -> bool {
        self.spans.iter().any(|(name, span)| {
            span.shape.len() > 1
                && span.dtype.block_len() == 1
                && !name.ends_with(".mlp.gate.weight")
        })
    }

    /// Reads the tensor with this Hugging Face name, such as `model.embed_tokens.weight`.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let span = self.span(name)?;
        span.tensor()
    }

    fn span(&self, name: &str) -> Result<&Span, Error> {
        self.spans.get(name).ok_or_else(|| Error::MissingTensor(name.to_owned()))
    }

    /// The matrix with this Hugging Face name, left in its file.
    pub(crate) fn matrix(&self, name: &str) -> Result<Matrix<'_>, Error> {
        Ok(Matrix::new(self.span(name)?))
    }

    /// The tokenizer as a Hugging Face `tokenizer.json`.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, Error> {
        match &self.source {
            Source::Gguf(gguf) => gguf.tokenizer_json(),
            Source::HuggingFace(dir) => dir.tokenizer_json(),
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

    /// How its authors sample from it.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.text.generation
    }
}

enum Kind {
    Gguf,
    Safetensors,
    Directory,
}

/// What lies at `path`, by its contents where they tell: a store may name files by their hashes.
fn kind(path: &Path) -> Result<Kind, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(Kind::Directory);
    }
    let magic = WeightFile::open(path)?.head(4)?;
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    if magic == *b"GGUF" || extension == "gguf" {
        return Ok(Kind::Gguf);
    }
    if extension == "safetensors" {
        return Ok(Kind::Safetensors);
    }
    let found = match magic.as_slice() {
        // A zip, as torch.save writes it, or a bare pickle of protocol 2 and up.
        [b'P', b'K', ..] | [0x80, 2..=5, ..] => "pickled weights, whose loading can run code",
        _ => "of another kind",
    };
    let supported = "a GGUF file, a .safetensors file, a directory with config.json";
    Err(Error::unsupported(path.display().to_string(), found, supported))
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
            | Dtype::Q6K
            | Dtype::Int4
            | Dtype::Int8
            | Dtype::Dequantized => None,
        }
    }
}
