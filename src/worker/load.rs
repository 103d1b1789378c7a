//! Makes an executor of what was configured, and the description that routers get.

pub(super) mod embedder;
#[cfg(feature = "cuda")]
mod gpu;

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use sconce_kernels::cpu::Isa;
use sconce_proto::worker::{ModelInfo, SamplingDefaults, Task};
use sha2::{Digest, Sha256};

use super::Error;
use super::cli::{CheckpointSource, Config, GenerationSource, LoadFormat, ModelSource};
use super::grammars::Grammars;
use super::hash;
use super::service::Served;
use crate::engine::embed::EmbedQueue;
use crate::engine::request::TokenId;
use crate::engine::scheduler::{Scheduler, SchedulerConfig};
use crate::grammar::Compiler;
use crate::runner::cpu::{CpuRunner, RunnerOptions};
use crate::runner::device::{Device, DeviceChoice};
use crate::runner::{Embedder, Executor, ExecutorLimits};
use crate::weights::{self, Checkpoint, EncoderCheckpoint, GenerationConfig};

// Of all block tables together: 1 GiB, and few enough to be numbered in 32 bits.
const MAX_TABLE_BLOCKS: u64 = 1 << 28;

// As many as OpenAI's API allows.
const MAX_LOGPROBS: u32 = 20;

/// A model that can run.
pub(crate) struct Loaded {
    pub(crate) model: LoadedModel,
    /// What took how many milliseconds.
    pub(crate) phases: Vec<(&'static str, f64)>,
}

/// What runs it.
pub(crate) enum LoadedModel {
    Decoder(Box<dyn Executor>, Box<Scheduler>),
    Embedder(Box<dyn Embedder>, EmbedQueue),
}

/// Loads the model, and publishes what it is as soon as that is known. Takes seconds: not for an
/// async thread.
pub(crate) fn load(config: &Config, publish: impl FnOnce(Served) + Send) -> Result<Loaded, Error> {
    match &config.model {
        ModelSource::Checkpoint(source) => load_source(config, source, publish),
        ModelSource::Hash(options) => {
            let start = Instant::now();
            let executor = hash::HashExecutor::new(options);
            let info = ModelInfo {
                chat_template: config
                    .chat_template
                    .clone()
                    .unwrap_or_else(|| hash::CHAT_TEMPLATE.to_owned()),
                special_tokens: hash::special_tokens().into_iter().collect(),
                eos_token_ids: vec![hash::EOS],
                ..describe(config, executor.limits())
            };
            let tokenizer = hash::tokenizer_json(options.vocab_size);
            publish(Served { info, tokenizer: tokenizer.into(), grammars: Grammars::new(None) });
            let phases = vec![("load", ms(start))];
            loaded(config, Box::new(executor), vec![hash::EOS], phases)
        }
    }
}

fn load_source(
    config: &Config,
    source: &CheckpointSource,
    publish: impl FnOnce(Served) + Send,
) -> Result<Loaded, Error> {
    let path = source.path.as_path();
    let failed = |error: weights::Error| failed(path, error.into());
    let start = Instant::now();
    if source.load_format == LoadFormat::Dummy {
        let checkpoint = Checkpoint::dummy(path).map_err(failed)?;
        return load_decoder(config, source, &checkpoint, (start, ms(start)), publish);
    }
    if let Some(encoder) = EncoderCheckpoint::open(path).map_err(failed)? {
        check_embeds(config)?;
        return embedder::of_encoder(config, (path, encoder, cpu_only(source)?), publish);
    }
    let checkpoint = Checkpoint::open_for_any_task(path).map_err(failed)?;
    if let Some(pooler) = embedder::pooler(config, &checkpoint) {
        check_embeds(config)?;
        let of = (path, &checkpoint, cpu_only(source)?);
        return embedder::of_decoder(config, of, pooler, publish);
    }
    checkpoint.check_generates().map_err(failed)?;
    load_decoder(config, source, &checkpoint, (start, ms(start)), publish)
}

fn check_embeds(config: &Config) -> Result<(), Error> {
    match config.chat_template {
        Some(_) => Err(Error::Flags("--chat-template: a model that embeds has no chat".to_owned())),
        None => Ok(()),
    }
}

/// The options of what runs on the processor alone.
pub(super) fn cpu_only(source: &CheckpointSource) -> Result<&RunnerOptions, Error> {
    if let DeviceChoice::Cuda(_) = source.device {
        let message = "models that embed run on the processor: add --device cpu";
        return Err(Error::Flags(message.to_owned()));
    }
    source.options.as_ref().map_err(|message| Error::Flags(message.clone()))
}

/// Loads a decoder that generates onto the device that was chosen.
fn load_decoder(
    config: &Config,
    source: &CheckpointSource,
    checkpoint: &Checkpoint,
    opened: (Instant, f64),
    publish: impl FnOnce(Served) + Send,
) -> Result<Loaded, Error> {
    let path = source.path.as_path();
    let device = Device::open(source.device).map_err(|error| failed(path, error.into()))?;
    let flags = |message: &String| Error::Flags(message.clone());
    match device {
        Device::Cpu => {
            let options = source.options.as_ref().map_err(flags)?;
            load_checkpoint(config, (path, checkpoint, options), opened, publish)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let options = source.gpu.as_ref().map_err(flags)?;
            gpu::load(config, (path, checkpoint, options), device, opened, publish)
        }
    }
}

pub(super) fn failed(path: &Path, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Load { model: path.display().to_string(), source }
}

fn load_checkpoint(
    config: &Config,
    (path, checkpoint, options): (&Path, &Checkpoint, &RunnerOptions),
    (start, opened): (Instant, f64),
    publish: impl FnOnce(Served) + Send,
) -> Result<Loaded, Error> {
    let failed = |source| failed(path, source);
    let limits =
        CpuRunner::limits_of(checkpoint.config(), options).map_err(|error| failed(error.into()))?;
    // The tokenizer needs one thread while the weights are packed by others, and so does the
    // router that reads it.
    let (tokenizer, runner) = std::thread::scope(|scope| {
        let tokenizer = scope.spawn(|| {
            let tokenizer = checkpoint.tokenizer_json()?;
            let info = describe_checkpoint(config, checkpoint, limits);
            let weights = checkpoint.digest()?;
            let kernels = kernels(options);
            let fingerprint = fingerprint(&info, &tokenizer, (weights, &kernels));
            publish(served(ModelInfo { fingerprint, ..info }, tokenizer));
            Ok(ms(start))
        });
        let runner = CpuRunner::load(checkpoint, options);
        (tokenizer.join(), (runner, ms(start)))
    });
    let tokenizer: Result<f64, weights::Error> = tokenizer.map_err(|_| Error::Panicked)?;
    let tokenizer_at = tokenizer.map_err(|error| failed(error.into()))?;
    let (runner, packed_at) = runner;
    let runner = runner.map_err(|error| failed(error.into()))?;
    tracing::info!(
        isa = %runner.isa(),
        weight_bytes = runner.weight_bytes(),
        kv_cache_bytes = runner.kv_bytes(),
        num_threads = options.num_threads,
        "model loaded"
    );
    let phases = vec![
        ("open", opened),
        ("tokenizer", tokenizer_at - opened),
        ("weights", packed_at - opened),
    ];
    loaded(config, Box::new(runner), checkpoint.eos_token_ids().to_vec(), phases)
}

fn loaded(
    config: &Config,
    executor: Box<dyn Executor>,
    eos_token_ids: Vec<TokenId>,
    phases: Vec<(&'static str, f64)>,
) -> Result<Loaded, Error> {
    let limits = executor.limits();
    let keys = RandomState::new();
    let scheduler = SchedulerConfig {
        block_size: limits.block_size,
        num_blocks: limits.num_blocks,
        max_num_batched_tokens: limits.max_num_batched_tokens,
        max_num_seqs: limits.max_num_seqs,
        max_model_len: limits.max_model_len,
        max_queue: config.max_queue,
        max_itl: config.max_itl,
        depth: executor.depth(),
        eos_token_ids,
        speculation: config.speculation,
        hash_key: (keys.hash_one(1), keys.hash_one(2)),
    };
    let (seqs, blocks) = (scheduler.max_num_seqs, scheduler.table_len());
    if u64::from(seqs) * u64::from(blocks) > MAX_TABLE_BLOCKS {
        return Err(Error::Flags(format!(
            "the block tables of {seqs} sequences have {blocks} blocks each, together more than \
             {MAX_TABLE_BLOCKS}: lower --max-num-seqs or --max-model-len"
        )));
    }
    let scheduler = Box::new(Scheduler::new(scheduler));
    Ok(Loaded { model: LoadedModel::Decoder(executor, scheduler), phases })
}

fn served(info: ModelInfo, tokenizer: Vec<u8>) -> Served {
    let tokenizer: Arc<[u8]> = tokenizer.into();
    let json = Arc::clone(&tokenizer);
    let (eos, vocab_size) = (info.eos_token_ids.clone(), info.vocab_size);
    let compiler = Compiler::new(json, eos, vocab_size);
    Served { info, tokenizer, grammars: Grammars::new(Some(Arc::new(compiler))) }
}

fn describe_checkpoint(
    config: &Config,
    checkpoint: &Checkpoint,
    limits: ExecutorLimits,
) -> ModelInfo {
    ModelInfo {
        chat_template: match &config.chat_template {
            Some(template) => template.clone(),
            None => checkpoint.chat_template().unwrap_or_default().to_owned(),
        },
        special_tokens: checkpoint.special_tokens().clone().into_iter().collect(),
        bos_token_id: checkpoint.bos_token_id(),
        add_bos_token: checkpoint.add_bos_token(),
        eos_token_ids: checkpoint.eos_token_ids().to_vec(),
        sampling_defaults: sampling_defaults(match config.generation_source {
            GenerationSource::Auto => {
                config.generation.clone().over(checkpoint.generation_config().clone())
            }
            GenerationSource::None => config.generation.clone(),
        }),
        ..describe(config, limits)
    }
}

/// As routers are told it; `None` if nothing is said.
fn sampling_defaults(config: GenerationConfig) -> Option<SamplingDefaults> {
    let GenerationConfig { temperature, top_p, min_p, repetition_penalty, .. } = config;
    let said = config != GenerationConfig::default();
    said.then(|| SamplingDefaults {
        temperature,
        // Less than nothing means all tokens, as 0 does.
        top_k: config.top_k.map(|k| u32::try_from(k).unwrap_or(0)),
        top_p,
        min_p,
        repetition_penalty,
        frequency_penalty: config.frequency_penalty,
        presence_penalty: config.presence_penalty,
        max_tokens: config.max_new_tokens,
        stop: config.stop.unwrap_or_default(),
    })
}

/// What of the processor's kernels changes answers.
fn kernels(options: &RunnerOptions) -> String {
    let isa = options.isa.unwrap_or_else(Isa::detect);
    let RunnerOptions { compute, activation_dtype, kv_dtype, block_size, .. } = options;
    format!("{isa} {compute:?} {activation_dtype:?} {kv_dtype:?} {block_size}")
}

/// Differs where answers to the same request may. What it is made of is logged, so that an operator
/// can tell which of it has changed.
fn fingerprint(info: &ModelInfo, tokenizer: &[u8], (weights, kernels): ([u8; 32], &str)) -> String {
    let ModelInfo { version, chat_template, special_tokens, max_model_len, .. } = info;
    let program = env!("CARGO_PKG_VERSION");
    let special_tokens: BTreeMap<_, _> = special_tokens.iter().collect();
    let ends = (info.bos_token_id, info.add_bos_token, &info.eos_token_ids);
    let parsers = (&info.tool_parser, &info.reasoning_parser);
    let text = format!("{chat_template:?} {special_tokens:?} {ends:?} {parsers:?}");
    let text = match &info.sampling_defaults {
        Some(defaults) => format!("{text} {defaults:?}"),
        None => text,
    };
    let text = hex(&Sha256::new().chain_update(text).chain_update(tokenizer).finalize());
    let weights = hex(&weights);
    let all = format!("{program} {version} {weights} {text} {kernels} {max_model_len}");
    let fingerprint = format!("fp_{}", hex(&Sha256::digest(all)));
    tracing::info!(
        fingerprint,
        program,
        version,
        weights,
        text,
        kernels,
        max_model_len,
        "fingerprint"
    );
    fingerprint
}

/// The first 64 bits.
fn hex(digest: &[u8]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What every model's description has.
fn describe(config: &Config, limits: ExecutorLimits) -> ModelInfo {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    ModelInfo {
        model: config.name.clone(),
        version: config.version.clone(),
        max_model_len: limits.max_model_len,
        vocab_size: limits.vocab_size,
        max_num_seqs: limits.max_num_seqs,
        block_size: limits.block_size,
        num_blocks: limits.num_blocks,
        created: i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX),
        epoch: RandomState::new().hash_one(since_1970),
        max_queue: config.max_queue,
        tool_parser: config.tool_parser.clone(),
        reasoning_parser: config.reasoning_parser.clone(),
        max_logprobs: MAX_LOGPROBS.min(limits.vocab_size),
        tasks: vec![Task::Generate.into()],
        sampling_defaults: sampling_defaults(config.generation.clone()),
        ..ModelInfo::default()
    }
}

/// Milliseconds since `start`.
pub(crate) fn ms(start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() * 1e4).round() / 10.0
}
