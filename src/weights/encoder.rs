//! Checkpoints of encoders: directories as `save_pretrained` and sentence-transformers write them.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Mutex, PoisonError},
};

use sconce_kernels::dtype::Dtype;

use super::{
    Error, Kind, Matrix,
    file::Span,
    hugging_face::{EncoderKind, HuggingFace, LayerNames},
    kind,
};
use crate::models::{
    encoder::config::{EncoderConfig, HeadConfig},
    pooling::Pooling,
};

/// An open checkpoint of an encoder. Tensors are read when asked for, by names without the model's
/// prefix.
pub struct EncoderCheckpoint {
    config: EncoderConfig,
    kind: EncoderKind,
    prefix: &'static str,
    spans: HashMap<String, Span>,
    dir: HuggingFace,
    read: Mutex<HashSet<String>>,
}

impl EncoderCheckpoint {
    /// Opens the checkpoint at `path`. `None` when what lies there is no encoder.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        let dir = match kind(path)? {
            Kind::Gguf => return Ok(None),
            Kind::Safetensors => HuggingFace::of_file(path),
            Kind::Directory => HuggingFace::of_dir(path)?,
        };
        let Some((config, kind)) = dir.encoder()? else { return Ok(None) };
        let spans = dir.spans(None)?;
        // Without a head, the model is saved under its own names.
        let prefix = kind.prefix();
        let has_prefix = spans.keys().any(|name| name.starts_with(prefix));
        let prefix = if has_prefix { prefix } else { "" };
        Ok(Some(Self { config, kind, prefix, spans, dir, read: Mutex::default() }))
    }

    /// The shape.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Has the hidden states pooled in another way than the files say. Returns whether they are
    /// pooled at all.
    pub fn set_pooling(&mut self, pooling: Pooling) -> bool {
        match &mut self.config.head {
            HeadConfig::Embed(pooler) => {
                pooler.pooling = pooling;
                true
            }
            HeadConfig::Classify { .. } => false,
        }
    }

    /// The tokenizer as a Hugging Face `tokenizer.json`.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, Error> {
        self.dir.tokenizer_json()
    }

    /// Every tensor's element type and number of elements.
    pub fn sizes(&self) -> impl Iterator<Item = (Dtype, usize)> {
        self.spans.values().map(|span| (span.dtype, span.shape.iter().product()))
    }

    /// The names of the classifier's two matrices.
    pub(crate) fn classifier(&self) -> [&'static str; 2] {
        self.kind.classifier()
    }

    /// The names of a layer's tensors.
    pub(crate) fn layer_names(&self) -> &'static LayerNames {
        self.kind.layer_names()
    }

    /// Whether there is a table of token types.
    pub(crate) fn has_token_types(&self) -> bool {
        self.kind.has_token_types()
    }

    /// A matrix of this shape, left in its file.
    pub(crate) fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Matrix<'_>, Error> {
        Ok(Matrix::new(self.span(name, &shape)?))
    }

    /// Reads a tensor of this shape.
    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let tensor = self.span(name, shape)?.tensor()?;
        let quantized = || Error::NotFloat { name: name.to_owned(), dtype: tensor.dtype };
        tensor.to_f32().ok_or_else(quantized)
    }

    fn span(&self, name: &str, shape: &[usize]) -> Result<&Span, Error> {
        // A head has no prefix.
        let full = format!("{}{name}", self.prefix);
        let (found, span) = [full.as_str(), name]
            .into_iter()
            .find_map(|name| Some((name, self.spans.get(name)?)))
            .ok_or_else(|| Error::MissingTensor(full.clone()))?;
        if span.shape != shape {
            let (name, expected) = (found.to_owned(), shape.to_vec());
            return Err(Error::Shape { name, found: span.shape.clone(), expected });
        }
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(found.to_owned());
        Ok(span)
    }

    /// A tensor that nothing reads means that the model is more than the configuration says, but
    /// for the heads that it was trained with and is not served with.
    pub(crate) fn check_all_read(&self) -> Result<(), Error> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other_head = |name: &str| {
            let name = name.strip_prefix(self.prefix).unwrap_or(name);
            ["pooler.", "cls.", "lm_head.", "vocab_"].iter().any(|head| name.starts_with(head))
        };
        match self.spans.keys().find(|name| !read.contains(*name) && !is_other_head(name)) {
            Some(name) => Err(Error::unsupported("a tensor", name, "those of a BERT encoder")),
            None => Ok(()),
        }
    }
}
