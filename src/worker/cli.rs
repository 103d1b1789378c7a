//! `sconce worker`: what is typed, and what is meant by it.

mod options;
mod source;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use sconce_kernels::cpu::Isa;

use self::options::{checkpoint_source, hash_options};
pub(crate) use self::source::{CheckpointSource, HashOptions, ModelSource};
use super::Error;
use super::listen::Address;
use crate::engine::scheduler::{MAX_STEP, Speculation};
use crate::models::pooling::Pooling;
use crate::runner::device::DeviceChoice;
use crate::weights::GenerationConfig;

// Beyond it, a step's bookkeeping takes longer than the step.
const MAX_NUM_SEQS: u32 = 4096;

// The formats that routers know, by name.
const TOOL_PARSERS: [&str; 10] = [
    "hermes",
    "llama",
    "pythonic",
    "mistral",
    "mistral-args",
    "qwen3-coder",
    "deepseek-v3",
    "deepseek-v3.1",
    "harmony",
    "json",
];
const REASONING_PARSERS: [&str; 5] = ["none", "think", "deepseek-r1", "mistral", "harmony"];

/// Serves one model to routers: tokens in, tokens or vectors out
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce worker --model ./smollm2.gguf --listen unix:/run/sconce/worker.sock
  sconce worker --model ./Qwen3-0.6B --listen 127.0.0.1:9000 --quantize q8 --threads 8
  sconce worker --model ./smollm2.gguf --describe")]
pub struct Worker {
    /// The GGUF file or the directory of safetensors to load, or `hash`: a model without weights,
    /// for tests. BERT-like encoders, sentence-transformers' among them, and decoders that embed (see
    /// --task) are served for embeddings, and encoders with a classifier for reranking; what is said
    /// below of sequences and the KV cache concerns none of these
    #[arg(long, env = "SCONCE_MODEL", value_name = "PATH")]
    model: PathBuf,

    /// What clients call the model
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// What the files are: a revision or a content hash
    #[arg(long, value_name = "VERSION", default_value = "unversioned")]
    version: String,

    /// Where routers connect: `unix:PATH` or `ADDRESS:PORT`
    #[arg(long, env = "SCONCE_WORKER_LISTEN", value_name = "ADDRESS")]
    #[arg(required = false, required_unless_present = "describe")]
    #[arg(default_value_if("describe", clap::builder::ArgPredicate::IsPresent, "127.0.0.1:0"))]
    listen: Address,

    /// Listen on an address that other machines can reach. The protocol has neither encryption nor
    /// passwords: only inside a network where everyone may use the model and see its prompts
    #[arg(long)]
    allow_remote: bool,

    #[command(flatten)]
    task: TaskArgs,

    #[command(flatten)]
    gpu: GpuArgs,

    #[command(flatten)]
    compute: ComputeArgs,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    formats: FormatArgs,

    #[command(flatten)]
    hash: HashArgs,

    /// Drain and exit when standard input ends: whoever started this process has died
    #[arg(long)]
    exit_with_stdin: bool,

    /// Print what the model is and how much memory it needs, as JSON, and exit: nothing is loaded
    #[arg(long)]
    describe: bool,
}

/// What the model is for.
#[derive(Args, Clone, Debug)]
struct TaskArgs {
    /// What a decoder does. As its files say, unless said otherwise: one with the `modules.json` of
    /// sentence-transformers, a `pooling_type` in its GGUF file, or without an LM head embeds
    #[arg(long, value_enum, default_value_t = TaskChoice::Auto)]
    task: TaskChoice,

    /// How the hidden states of a text become its embedding; has a decoder embed. As the model's
    /// files say, unless said otherwise, or `last` of a decoder whose files don't
    #[arg(long, value_enum, value_name = "MODE")]
    pooling: Option<PoolingMode>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TaskChoice {
    /// As the model's files say
    Auto,
    /// Continue prompts
    Generate,
    /// Embed texts, and rank and score them by their embeddings
    Embed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PoolingMode {
    /// The last token's
    Last,
    /// The mean of all tokens'
    Mean,
    /// The first token's
    Cls,
    /// The largest of each element
    Max,
}

/// Where to compute, and what concerns GPUs alone.
#[derive(Args, Clone, Debug)]
struct GpuArgs {
    /// What computes: `cpu`, `cuda` or `cuda:NUMBER`. `auto` is the first GPU, or the processor where
    /// there is no GPU or this program has no GPU kernels
    #[arg(long, env = "SCONCE_DEVICE", value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// Type of weights and activations on a GPU. The checkpoint's own, or bf16 of what is quantized
    /// or 32 bits wide, unless said otherwise
    #[arg(long, value_enum, value_name = "TYPE")]
    dtype: Option<FloatChoice>,

    /// Share of a GPU's memory that this process may take: what weights and buffers leave of it
    /// becomes the KV cache, unless that has a size of its own
    #[arg(long, value_name = "SHARE", default_value_t = 0.9, value_parser = share)]
    gpu_memory_utilization: f64,

    /// Don't let a GPU place each kernel's blocks while the kernel before still runs (programmatic
    /// dependent launch), which those of compute capability 9.0 and newer do otherwise
    #[arg(long)]
    no_early_launch: bool,

    /// Measure at the start which of cuBLASLt's algorithms compute the model's matrix products fastest,
    /// for up to 5 seconds, and keep them in this file; what it has is not measured again. Several
    /// workers, and kinds of GPUs, may have one file
    #[arg(long, value_name = "FILE")]
    tuning_cache: Option<PathBuf>,

    /// Where the weights come from
    #[arg(long, value_enum, default_value_t = LoadFormat::Auto)]
    load_format: LoadFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FloatChoice {
    /// 16 bits, 8 of precision
    #[value(name = "bf16", alias = "bfloat16")]
    BF16,
    /// 16 bits, 11 of precision
    #[value(alias = "float16")]
    F16,
    /// 32 bits
    #[value(alias = "float32")]
    F32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadFormat {
    /// The model's files
    Auto,
    /// Random numbers: of the model only `config.json` and the tokenizer are read. For measurements
    Dummy,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().map_err(|_| "expected a number".to_owned())?;
    let is_share = (0.05..=1.0).contains(&share);
    if is_share { Ok(share) } else { Err("expected 0.05 to 1".to_owned()) }
}

/// How to compute.
#[derive(Args, Clone, Debug)]
struct ComputeArgs {
    /// Threads of the forward pass, or those that load a GPU's weights. The number of cores, unless
    /// said otherwise
    #[arg(long, value_name = "COUNT")]
    threads: Option<NonZeroUsize>,

    /// Instruction set of the forward pass on the processor. The best that the machine has, unless said
    /// otherwise
    #[arg(long, value_name = "NAME")]
    isa: Option<Isa>,

    /// What matrix products compute in on the processor
    #[arg(long, value_enum, default_value_t = Precision::Mixed)]
    compute: Precision,

    /// The same answers as in 32-bit arithmetic from end to end: `--compute f32` with
    /// `--kv-cache-dtype f32`
    #[arg(long, conflicts_with_all = ["compute", "quantize", "kv_cache_dtype"])]
    exact: bool,

    /// Quantize, while loading, weights that the file has as plain floats. A file without any is
    /// refused
    #[arg(long, value_enum, value_name = "FORMAT")]
    quantize: Option<Quantization>,

    /// What the KV cache stores
    #[arg(long, alias = "kv-dtype", value_enum, default_value_t = KvPrecision::Auto)]
    kv_cache_dtype: KvPrecision,

    /// Bytes of the KV cache. 512 MiB on the processor, unless said otherwise; on a GPU see
    /// --gpu-memory-utilization
    #[arg(long, value_name = "BYTES", conflicts_with = "num_blocks")]
    kv_cache_bytes: Option<u64>,

    /// Blocks of the KV cache
    #[arg(long, value_name = "COUNT")]
    num_blocks: Option<NonZeroU32>,

    /// Tokens in a block of the KV cache
    #[arg(long, value_name = "COUNT", default_value = "16")]
    block_size: NonZeroU32,
}

/// What the model writes besides text. Routers take it apart.
#[derive(Args, Clone, Debug)]
struct FormatArgs {
    /// How the model writes calls of tools. As its chat template shows, unless said otherwise
    #[arg(long, value_name = "FORMAT", value_parser = TOOL_PARSERS)]
    tool_parser: Option<String>,

    /// How the model writes its reasoning. As its chat template shows, unless said otherwise
    #[arg(long, value_name = "FORMAT", value_parser = REASONING_PARSERS)]
    reasoning_parser: Option<String>,

    /// Jinja source of the chat template, instead of the model's own
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,

    /// How to sample where a request doesn't say: as the model's generation_config.json says, or as
    /// OpenAI documents
    #[arg(long, value_enum, default_value_t = GenerationSource::Auto)]
    generation_config: GenerationSource,

    /// What goes before --generation-config, as JSON: temperature, top_k, top_p, min_p,
    /// repetition_penalty, frequency_penalty, presence_penalty, max_tokens, stop. For example
    /// '{"temperature": 0.6, "top_p": 0.95}'
    #[arg(long, value_name = "JSON", value_parser = GenerationConfig::parse)]
    override_generation_config: Option<GenerationConfig>,
}

/// Where it is said how to sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GenerationSource {
    /// The model's own file, if there is one.
    Auto,
    /// Nowhere.
    None,
}

/// What runs at once, and what waits.
#[derive(Args, Clone, Debug)]
struct LimitArgs {
    /// Most sequences that run at once; at most 4096
    #[arg(long, value_name = "COUNT", default_value = "64")]
    max_num_seqs: NonZeroU32,

    /// Most tokens that one step computes; at least --max-num-seqs
    #[arg(long, value_name = "COUNT", default_value = "2048")]
    max_num_batched_tokens: NonZeroU32,

    /// Most tokens of prompt and completion together. The model's own limit, or what fits into the
    /// KV cache, unless said otherwise
    #[arg(long, value_name = "COUNT")]
    max_model_len: Option<NonZeroU32>,

    /// Most requests that wait
    #[arg(long, value_name = "COUNT", default_value = "256")]
    max_queue: NonZeroU32,

    /// Milliseconds that a running stream may wait for its next token because of other prompts; at
    /// most 500
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 200)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=MAX_STEP.as_millis() as i64))]
    max_itl_ms: u16,

    /// How the next tokens of a sequence are guessed, so that one step yields several. What is
    /// generated is the same
    #[arg(long, value_enum, default_value_t = SpeculationMode::PromptLookup)]
    speculation: SpeculationMode,
}

/// The hash model's. Testing aids.
#[derive(Args, Clone, Debug)]
struct HashArgs {
    /// Tokens in the hash model's vocabulary
    #[arg(long, value_name = "COUNT", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(300..=1_000_000))]
    hash_vocab: u32,

    /// Microseconds that a step of the hash model takes at least: a testing aid
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    hash_step_us: u64,

    /// The hash model fails at the step that samples its first token at this position: a testing
    /// aid for the death of workers
    #[arg(long, value_name = "POSITION", hide = true)]
    hash_fail_at: Option<u32>,

    /// Steps of the hash model that may be in flight: a testing aid
    #[arg(long, value_name = "STEPS", hide = true, default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=2))]
    hash_depth: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Precision {
    /// Weights as the file has them, activations in 8-bit integers per 32, and in 16 bits where
    /// outliers would lose much
    Mixed,
    /// As mixed, but all activations in 8 bits: faster for many streams, a little less precise
    Int8,
    /// As mixed, but all activations in 16 bits: nearly exact; many streams take up to twice as long
    Int16,
    /// Everything in 32-bit floats: slower, exact
    F32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Quantization {
    /// 8 bits and a scale per 32 weights
    Q8,
    /// 4 bits, a scale and a minimum per 32 weights; the vocabulary in 8 bits
    Q4,
    /// 8-bit floats with a scale per row, times activations in 8-bit floats; the vocabulary as it is.
    /// For GPUs of the generation Hopper
    Fp8,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SpeculationMode {
    /// From what followed the last tokens earlier in prompt and completion, where that pays
    PromptLookup,
    /// One token of a sequence per step
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KvPrecision {
    /// 8-bit integers, with a scale per 32, on a GPU per head: half the memory, and faster with much
    /// context
    Int8,
    /// On GPUs: 8-bit floats, 4 bits of precision: half the memory
    Fp8,
    /// bf16 where the processor has a dot product for it and activations are rounded to 8 bits, else
    /// f16. On a GPU, what the activations are
    Auto,
    /// 16-bit floats of 8 bits precision, multiplied twice as fast by some processors
    #[value(name = "bf16")]
    BF16,
    /// 16-bit floats of 11 bits precision
    F16,
    /// 32-bit floats
    F32,
}

/// A worker's configuration, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) model: ModelSource,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) task: TaskChoice,
    /// `None`: as the model's files say.
    pub(crate) pooling: Option<Pooling>,
    pub(crate) listen: Address,
    pub(crate) max_queue: u32,
    pub(crate) max_itl: Duration,
    pub(crate) speculation: Speculation,
    /// Empty: as the chat template shows.
    pub(crate) tool_parser: String,
    /// Empty: as the chat template shows.
    pub(crate) reasoning_parser: String,
    /// `None`: the model's own.
    pub(crate) chat_template: Option<String>,
    pub(crate) generation_source: GenerationSource,
    /// Goes before what the model says.
    pub(crate) generation: GenerationConfig,
    pub(crate) exit_with_stdin: bool,
    /// Nothing is served: what the model needs is printed.
    pub(crate) describe: bool,
}

impl TryFrom<Worker> for Config {
    type Error = Error;

    fn try_from(args: Worker) -> Result<Self, Error> {
        if let Address::Tcp(address) = args.listen
            && !is_local(address)
            && !args.allow_remote
        {
            return Err(Error::Flags(format!(
                "{address} can be reached from other machines; --allow-remote permits that"
            )));
        }
        let (tokens, seqs) = (args.limits.max_num_batched_tokens, args.limits.max_num_seqs);
        if tokens < seqs {
            return Err(Error::Flags(format!(
                "--max-num-batched-tokens is {tokens} and must be at least --max-num-seqs, {seqs}: \
                 every running sequence needs a token of each step"
            )));
        }
        if seqs.get() > MAX_NUM_SEQS {
            return Err(Error::Flags(format!("--max-num-seqs is {seqs}, at most {MAX_NUM_SEQS}")));
        }
        let is_hash = args.model.as_os_str() == "hash";
        let TaskArgs { task, pooling } = args.task;
        if task == TaskChoice::Generate && pooling.is_some() {
            let message = "--pooling is for embeddings, and --task generate excludes them";
            return Err(Error::Flags(message.to_owned()));
        }
        if is_hash && (task == TaskChoice::Embed || pooling.is_some()) {
            return Err(Error::Flags("the hash model does not embed".to_owned()));
        }
        let name = match args.name {
            Some(name) if name.is_empty() || name.len() > 200 => {
                return Err(Error::Flags("--name must have 1 to 200 bytes".to_owned()));
            }
            Some(name) => name,
            None => match args.model.file_stem() {
                Some(stem) => stem.to_string_lossy().into_owned(),
                None => return Err(Error::Flags("--model is no file".to_owned())),
            },
        };
        let chat_template = args.formats.chat_template.as_deref().map(read_template).transpose()?;
        let model = if is_hash {
            ModelSource::Hash(hash_options(&args.compute, &args.limits, &args.hash)?)
        } else {
            let source = checkpoint_source(args.model, &args.gpu, &args.compute, &args.limits)?;
            ModelSource::Checkpoint(Box::new(source))
        };
        Ok(Self {
            model,
            name,
            version: args.version,
            task,
            pooling: pooling.map(|pooling| match pooling {
                PoolingMode::Last => Pooling::Last,
                PoolingMode::Mean => Pooling::Mean,
                PoolingMode::Cls => Pooling::Cls,
                PoolingMode::Max => Pooling::Max,
            }),
            listen: args.listen,
            max_queue: args.limits.max_queue.get(),
            max_itl: Duration::from_millis(args.limits.max_itl_ms.into()),
            speculation: match args.limits.speculation {
                SpeculationMode::PromptLookup => Speculation::PromptLookup,
                SpeculationMode::Off => Speculation::Off,
            },
            tool_parser: args.formats.tool_parser.unwrap_or_default(),
            reasoning_parser: args.formats.reasoning_parser.unwrap_or_default(),
            chat_template,
            generation_source: args.formats.generation_config,
            generation: args.formats.override_generation_config.unwrap_or_default(),
            exit_with_stdin: args.exit_with_stdin,
            describe: args.describe,
        })
    }
}

fn read_template(path: &std::path::Path) -> Result<String, Error> {
    std::fs::read_to_string(path)
        .map_err(|source| Error::Process { what: "can't read the chat template", source })
}

fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        worker: Worker,
    }

    fn parse(args: &[&str]) -> Result<Config, String> {
        let all = ["sconce", "--model", "hash"].iter().chain(args);
        let cli = Cli::try_parse_from(all).map_err(|error| error.to_string())?;
        Config::try_from(cli.worker).map_err(|error| error.to_string())
    }

    #[test]
    fn a_task_and_a_pooling_must_agree() {
        let embedder = |args: &[&str]| {
            let all = ["sconce", "--model", "m.gguf", "--listen", "unix:w"].iter().chain(args);
            let cli = Cli::try_parse_from(all).map_err(|error| error.to_string())?;
            Config::try_from(cli.worker).map_err(|error| error.to_string())
        };
        let config = embedder(&["--task", "embed", "--pooling", "mean"]).unwrap();
        assert_eq!((config.task, config.pooling), (TaskChoice::Embed, Some(Pooling::Mean)));
        let config = embedder(&[]).unwrap();
        assert_eq!((config.task, config.pooling), (TaskChoice::Auto, None));

        let refusal = embedder(&["--task", "generate", "--pooling", "cls"]).unwrap_err();
        assert!(refusal.contains("--task generate excludes them"), "{refusal}");
        let refusal = parse(&["--listen", "unix:w", "--task", "embed"]).unwrap_err();
        assert!(refusal.contains("the hash model does not embed"), "{refusal}");
    }

    #[test]
    fn other_machines_are_let_in_only_when_that_is_said() {
        assert!(parse(&["--listen", "127.0.0.1:0"]).is_ok());
        assert!(parse(&["--listen", "unix:/run/worker.sock"]).is_ok());
        assert!(parse(&["--listen", "0.0.0.0:9000"]).unwrap_err().contains("--allow-remote"));
        assert!(parse(&["--listen", "0.0.0.0:9000", "--allow-remote"]).is_ok());
    }

    #[test]
    fn tokens_are_guessed_unless_that_is_forbidden() {
        let speculation = |args: &[&str]| {
            parse(&[&["--listen", "unix:/w"], args].concat()).map(|config| config.speculation)
        };
        assert_eq!(speculation(&[]), Ok(Speculation::PromptLookup));
        assert_eq!(speculation(&["--speculation", "off"]), Ok(Speculation::Off));
    }

    #[test]
    fn limits_that_serve_nobody_are_refused() {
        for args in [
            ["--max-queue", "0"],
            ["--max-num-seqs", "0"],
            ["--num-blocks", "0"],
            ["--hash-vocab", "10"],
            ["--max-model-len", "1000000"],
            ["--max-itl-ms", "0"],
            ["--max-itl-ms", "501"],
            ["--max-num-batched-tokens", "63"],
            ["--max-num-seqs", "4097"],
            ["--num-blocks", "4294967295"],
            ["--exact", "--quantize=q8"],
            ["--exact", "--kv-dtype=int8"],
            ["--speculation", "yes"],
        ] {
            let args: Vec<_> = ["--listen", "unix:/w"].into_iter().chain(args).collect();
            assert!(parse(&args).is_err(), "{args:?}");
        }
    }
}
