//! Directories as `save_pretrained` writes them: safetensors beside `config.json` and the
//! tokenizer's files.

mod architecture;
mod config;
mod encoder;
mod encoder_kind;
mod names;
mod quantization;
mod rope;
mod safetensors;
mod sentence;
mod text;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    EmbeddingConfig, Error, TextConfig,
    file::{Span, Stored, WeightFile},
};
use crate::models::config::DecoderConfig;
use crate::models::encoder::config::EncoderConfig;
use crate::models::pooling::PoolerConfig;

pub(super) use self::encoder_kind::EncoderKind;
pub(crate) use self::encoder_kind::LayerNames;
pub(super) use self::text::template;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const TOKENIZER: &str = "tokenizer.json";
/// Bounds any JSON file here; vocabularies of 262,144 tokens take 35 MB.
const MAX_JSON_BYTES: u64 = 100 << 20;
const MAX_SHARDS: usize = 1024;

/// The directory of a checkpoint and the files of its tensors.
pub(super) struct HuggingFace {
    dir: PathBuf,
    files: Vec<PathBuf>,
    /// The file of each tensor, where an index says it.
    index: BTreeMap<String, PathBuf>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl HuggingFace {
    /// The checkpoint whose one file of tensors is `path`.
    pub(super) fn of_file(path: &Path) -> Self {
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        Self { dir, files: vec![path.to_owned()], index: BTreeMap::new() }
    }

    /// What `dir` says of a model, without its tensors.
    pub(super) fn without_weights(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), files: Vec::new(), index: BTreeMap::new() }
    }

    /// The checkpoint in `dir`, of one file or of shards.
    pub(super) fn of_dir(dir: &Path) -> Result<Self, Error> {
        if dir.join(SINGLE).is_file() {
            return Ok(Self::of_file(&dir.join(SINGLE)));
        }
        let path = dir.join(INDEX);
        let Some(Index { weight_map }) = optional_json(&path)? else {
            return only_file(dir).map(|path| Self::of_file(&path)).ok_or_else(|| nothing_in(dir));
        };
        let mut index = BTreeMap::new();
        for (tensor, shard) in weight_map {
            if shard.contains(['/', '\\', '\0']) || !shard.ends_with(".safetensors") {
                let reason = format!("{tensor} is in {shard:?}, which is no safetensors file here");
                return Err(Error::malformed(&path, reason));
            }
            index.insert(tensor, dir.join(shard));
        }
        let mut files: Vec<_> = index.values().cloned().collect();
        files.sort_unstable();
        files.dedup();
        if files.len() > MAX_SHARDS {
            let reason = format!("it names {} shards, at most {MAX_SHARDS}", files.len());
            return Err(Error::malformed(&path, reason));
        }
        Ok(Self { dir: dir.to_owned(), files, index })
    }

    /// Where the tensors lie, quantized matrices as one each. Of a decoder, `config` says which biases it
    /// has.
    pub(super) fn spans(
        &self,
        config: Option<&DecoderConfig>,
    ) -> Result<HashMap<String, Span>, Error> {
        let quantization = quantization::read(&self.dir)?;
        let mut tensors = self.tensors()?;
        let mut spans = match quantization {
            Some(quantization) => quantization.take_matrices(&mut tensors, config)?,
            None => HashMap::with_capacity(tensors.len()),
        };
        for (name, tensor) in tensors {
            let span = tensor.span(&name)?;
            spans.insert(name, span);
        }
        Ok(spans)
    }

    /// Matrices of these names and shapes with random codes, as the configuration says that they are
    /// quantized. `None`: they are not.
    pub(super) fn random_matrices(
        &self,
        shapes: &[(String, [usize; 2])],
        config: &DecoderConfig,
    ) -> Result<Option<HashMap<String, Span>>, Error> {
        quantization::random_matrices(&self.dir, shapes, config)
    }

    fn tensors(&self) -> Result<HashMap<String, Stored>, Error> {
        let mut spans: HashMap<String, Stored> = HashMap::new();
        for path in &self.files {
            let file = Arc::new(WeightFile::open(path)?);
            for (name, span) in safetensors::tensors(&file)? {
                if self.index.get(&name).is_some_and(|indexed| indexed != path) {
                    let reason = format!("the index has {name} in another shard");
                    return Err(Error::malformed(path, reason));
                }
                // Frequencies that old versions of transformers saved; they follow from the config.
                if name.ends_with(".rotary_emb.inv_freq") {
                    continue;
                }
                if spans.contains_key(&name) {
                    return Err(Error::malformed(path, format!("{name} is in another shard too")));
                }
                spans.insert(name, span);
            }
        }
        match self
            .index
            .keys()
            .find(|name| !spans.contains_key(*name) && !name.ends_with(".rotary_emb.inv_freq"))
        {
            Some(name) => Err(Error::MissingTensor(name.clone())),
            None => Ok(spans),
        }
    }

    /// Where a decoder's tensors lie, by the names that a decoder has without a part that sees images.
    pub(super) fn decoder_spans(
        &self,
        config: &DecoderConfig,
    ) -> Result<HashMap<String, Span>, Error> {
        let json: Option<Value> = optional_json(&self.dir.join("config.json"))?;
        let is_multimodal = json.is_some_and(|json| json.get("text_config").is_some());
        let spans = self.spans(Some(config))?.into_iter();
        Ok(spans
            .filter_map(|(name, span)| Some((names::known(&name, is_multimodal)?, span)))
            .collect())
    }

    pub(super) fn config(&self) -> Result<DecoderConfig, Error> {
        config::read(&self.dir.join("config.json"))
    }

    /// The shape of an encoder, and the prefix of its tensors' names; `None` for other models.
    pub(super) fn encoder(&self) -> Result<Option<(EncoderConfig, EncoderKind)>, Error> {
        encoder::read(&self.dir)
    }

    pub(super) fn embedding(&self) -> Result<EmbeddingConfig, Error> {
        let without_head = config::is_headless(&self.dir.join("config.json"))?;
        let pooler = sentence::pooler(&self.dir)?;
        Ok(EmbeddingConfig {
            pooler: pooler.or(without_head.then_some(PoolerConfig::DECODER)),
            max_seq_length: sentence::max_seq_length(&self.dir)?,
        })
    }

    pub(super) fn text(&self) -> Result<TextConfig, Error> {
        text::read(&self.dir)
    }

    pub(super) fn tokenizer_json(&self) -> Result<Vec<u8>, Error> {
        let path = self.dir.join(TOKENIZER);
        match text::with_eos(&self.dir)? {
            Some(json) => Ok(json),
            None => read_bounded(&path).map_err(|source| Error::Io { path, source }),
        }
    }
}

/// The one file of tensors in `dir`, of any name: AutoGPTQ named it after the number of bits.
fn only_file(dir: &Path) -> Option<PathBuf> {
    let paths = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let mut files = paths.filter(|path| path.extension().is_some_and(|it| it == "safetensors"));
    files.next().filter(|_| files.next().is_none())
}

fn nothing_in(dir: &Path) -> Error {
    let holds = |extensions: &[&str]| {
        fs::read_dir(dir).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                let path = entry.path();
                path.extension().is_some_and(|e| extensions.iter().any(|known| e == *known))
            })
        })
    };
    let mut reason = format!("neither {SINGLE} nor {INDEX}, nor one other file of tensors");
    if holds(&["bin", "pt", "pth", "pkl"]) {
        reason.push_str("; pickled weights are not read, since loading them can run code");
    } else if holds(&["gguf"]) {
        reason.push_str("; name the GGUF file itself");
    }
    Error::NotFound { path: dir.to_owned(), reason }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    if file.metadata()?.len() > MAX_JSON_BYTES {
        let reason = format!("longer than {MAX_JSON_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    let mut bytes = Vec::new();
    file.take(MAX_JSON_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a text file that may be absent.
fn optional_text(path: &Path) -> Result<Option<String>, Error> {
    let bytes = match read_bounded(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { path: path.to_owned(), source }),
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(Error::malformed(path, error.to_string())),
    }
}

/// Reads a JSON file that may be absent.
fn optional_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, Error> {
    let Some(text) = optional_text(path)? else { return Ok(None) };
    let json = serde_json::from_str(&text);
    json.map(Some).map_err(|error| Error::malformed(path, error.to_string()))
}
