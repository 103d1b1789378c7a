//! Loads what computes vectors: an encoder, or a decoder whose hidden states are pooled.

use std::path::Path;
use std::time::Instant;

use sconce_proto::worker::{ModelInfo, Task};

use super::{Loaded, LoadedModel, describe, failed, ms};
use crate::engine::embed::EmbedQueue;
use crate::models::encoder::config::HeadConfig;
use crate::models::pooling::PoolerConfig;
use crate::runner::cpu::{LoadError, RunnerOptions};
use crate::runner::encoder::EncoderRunner;
use crate::runner::pooled::PooledRunner;
use crate::runner::{Embedder, EmbedderLimits, ExecutorLimits};
use crate::weights::{self, Checkpoint, EncoderCheckpoint};
use crate::worker::Error;
use crate::worker::cli::{Config, TaskChoice};
use crate::worker::grammars::Grammars;
use crate::worker::service::Served;

/// What is known of an embedder before its weights are loaded.
struct Opened<'a> {
    path: &'a Path,
    task: Task,
    num_outputs: usize,
    limits: EmbedderLimits,
    tokenizer: Result<Vec<u8>, weights::Error>,
}

/// How a decoder's hidden states become embeddings. `None`: they don't, it generates.
pub(in crate::worker) fn pooler(config: &Config, checkpoint: &Checkpoint) -> Option<PoolerConfig> {
    let default = match config.task {
        TaskChoice::Generate => return None,
        TaskChoice::Embed => Some(PoolerConfig::DECODER),
        TaskChoice::Auto => config.pooling.map(|_| PoolerConfig::DECODER),
    };
    let pooler = checkpoint.pooler().or(default)?;
    Some(PoolerConfig { pooling: config.pooling.unwrap_or(pooler.pooling), ..pooler })
}

pub(super) fn of_decoder(
    config: &Config,
    (path, checkpoint, options): (&Path, &Checkpoint, &RunnerOptions),
    pooler: PoolerConfig,
    publish: impl FnOnce(Served) + Send,
) -> Result<Loaded, Error> {
    let opened = Opened {
        path,
        task: Task::Embed,
        num_outputs: checkpoint.config().hidden_size,
        limits: PooledRunner::limits_of(checkpoint, options)
            .map_err(|error| failed(path, error.into()))?,
        tokenizer: checkpoint.tokenizer_json(),
    };
    tracing::info!(?pooler, "a decoder that embeds");
    opened.load(config, publish, || Ok(Box::new(PooledRunner::load(checkpoint, pooler, options)?)))
}

pub(super) fn of_encoder(
    config: &Config,
    (path, mut checkpoint, options): (&Path, EncoderCheckpoint, &RunnerOptions),
    publish: impl FnOnce(Served) + Send,
) -> Result<Loaded, Error> {
    configure(config, &mut checkpoint)?;
    let shape = checkpoint.config();
    let opened = Opened {
        path,
        task: match shape.head {
            HeadConfig::Embed(_) => Task::Embed,
            HeadConfig::Classify { .. } => Task::Classify,
        },
        num_outputs: shape.num_outputs(),
        limits: EncoderRunner::limits_of(shape, options)
            .map_err(|error| failed(path, error.into()))?,
        tokenizer: checkpoint.tokenizer_json(),
    };
    opened.load(config, publish, || Ok(Box::new(EncoderRunner::load(&checkpoint, options)?)))
}

/// Says what is asked of an encoder that it can't do, and sets its pooling.
fn configure(config: &Config, checkpoint: &mut EncoderCheckpoint) -> Result<(), Error> {
    let flags = |message: &str| Err(Error::Flags(message.to_owned()));
    let classifies = matches!(checkpoint.config().head, HeadConfig::Classify { .. });
    match config.task {
        TaskChoice::Generate => return flags("--task generate: an encoder does not generate"),
        TaskChoice::Embed if classifies => {
            return flags("--task embed: the model has a classifier's head, and ranks and scores");
        }
        TaskChoice::Auto | TaskChoice::Embed => {}
    }
    match config.pooling {
        Some(pooling) if !checkpoint.set_pooling(pooling) => {
            flags("--pooling is for embeddings, and the model has a classifier's head")
        }
        Some(_) | None => Ok(()),
    }
}

impl Opened<'_> {
    /// Publishes what it is, and has it loaded.
    fn load(
        self,
        config: &Config,
        publish: impl FnOnce(Served) + Send,
        load: impl FnOnce() -> Result<Box<dyn Embedder>, LoadError>,
    ) -> Result<Loaded, Error> {
        let start = Instant::now();
        let Self { path, task, num_outputs, limits, tokenizer } = self;
        let tokenizer = tokenizer.map_err(|error| failed(path, error.into()))?;
        let info = ModelInfo {
            tasks: vec![task.into()],
            num_outputs: num_outputs as u32,
            max_model_len: limits.max_model_len,
            vocab_size: limits.vocab_size,
            max_num_seqs: 1,
            max_logprobs: 0,
            ..describe(config, ExecutorLimits::default())
        };
        publish(Served { info, tokenizer: tokenizer.into(), grammars: Grammars::new(None) });
        let embedder = load().map_err(|error| failed(path, error.into()))?;
        let (isa, weight_bytes) = (embedder.isa(), embedder.weight_bytes());
        tracing::info!(%isa, weight_bytes, "model loaded");
        let queue = EmbedQueue::new(config.max_queue, limits.max_num_batched_tokens);
        let phases = vec![("weights", ms(start))];
        Ok(Loaded { model: LoadedModel::Embedder(embedder, queue), phases })
    }
}
