//! GGUF files of decoders.
//!
//! candle's reader parses the header, after [`scan`] has checked it. Tensors are read on demand.

mod architecture;
mod config;
mod dtype;
mod metadata;
mod names;
mod pre_tokenizer;
mod scan;
mod text;
mod tokenizer;

use std::{collections::HashMap, io::Cursor, path::Path, sync::Arc};

use candle_core::quantized::gguf_file::Content;

use self::{architecture::Architecture, metadata::Metadata, names::Role};
use super::{
    Error, TextConfig,
    file::{Span, WeightFile},
};
use crate::models::{
    config::{DecoderConfig, MAX_EXPERTS},
    pooling::PoolerConfig,
};

/// Enough for the header of most files.
const FIRST_READ_BYTES: u64 = 4 << 20;

/// An open GGUF file.
pub(super) struct Gguf {
    metadata: Metadata,
    spans: HashMap<String, Span>,
}

impl Gguf {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = Arc::new(WeightFile::open(path)?);
        let header = read_header(&file)?;
        let content = Content::read(&mut Cursor::new(&header))
            .map_err(|source| Error::Candle { path: path.to_owned(), source })?;
        let metadata = Metadata { path: path.to_owned(), values: content.metadata };
        let architecture = Architecture::of(&metadata)?;
        let mut spans = HashMap::with_capacity(content.tensor_infos.len());
        for (name, info) in &content.tensor_infos {
            let Some(role) = names::role(name, architecture) else {
                let supported = format!("those of {}", architecture.name());
                return Err(Error::unsupported("a tensor", name, supported));
            };
            let dtype = dtype::from_candle(info.ggml_dtype).ok_or_else(|| {
                Error::unsupported(name, format!("of type {:?}", info.ggml_dtype), dtype::SUPPORTED)
            })?;
            let offset = content.tensor_data_offset.saturating_add(info.offset);
            let span = file.span(name, dtype, info.shape.dims(), offset)?;
            match role {
                Role::Weight(name) => drop(spans.insert(name, span)),
                Role::Experts { prefix, part } => {
                    if span.shape.first().is_some_and(|number| *number > MAX_EXPERTS) {
                        let found = format!("of shape {:?}", span.shape);
                        let supported = format!("at most {MAX_EXPERTS} experts");
                        return Err(Error::unsupported(name, found, supported));
                    }
                    let experts = span.unstack().into_iter().flatten().enumerate();
                    spans.extend(experts.map(|(i, span)| (format!("{prefix}.{i}.{part}"), span)));
                }
                Role::Unused => {}
            }
        }
        Ok(Self { metadata, spans })
    }

    pub(super) fn config(&self) -> Result<DecoderConfig, Error> {
        config::read(self)
    }

    pub(super) fn pooler(&self) -> Result<Option<PoolerConfig>, Error> {
        config::pooler(&self.metadata)
    }

    pub(super) fn text(&self) -> Result<TextConfig, Error> {
        text::read(&self.metadata)
    }

    /// The tokenizer that the metadata describes, as a `tokenizer.json`.
    pub(super) fn tokenizer_json(&self) -> Result<Vec<u8>, Error> {
        tokenizer::json(&self.metadata)
    }

    /// Where the tensors lie, by their Hugging Face names.
    pub(super) fn take_spans(&mut self) -> HashMap<String, Span> {
        std::mem::take(&mut self.spans)
    }

    fn span(&self, name: &str) -> Result<&Span, Error> {
        self.spans.get(name).ok_or_else(|| Error::MissingTensor(name.to_owned()))
    }
}

/// Reads as much of the file as the header takes.
fn read_header(file: &WeightFile) -> Result<Vec<u8>, Error> {
    let mut len = FIRST_READ_BYTES;
    loop {
        let mut head = file.head(len)?;
        match scan::scan(&head, file.len()) {
            Ok(header_len) => {
                head.truncate(header_len);
                return Ok(head);
            }
            Err(scan::Failure::Incomplete) if len < file.len().min(scan::MAX_HEADER_BYTES) => {
                len *= 4;
            }
            Err(scan::Failure::Incomplete) => return Err(file.malformed("its header is cut off")),
            Err(scan::Failure::Malformed(reason)) => return Err(file.malformed(reason)),
            Err(scan::Failure::UnsupportedType { name, kind }) => {
                return Err(Error::unsupported(name, dtype::describe(kind), dtype::SUPPORTED));
            }
        }
    }
}
