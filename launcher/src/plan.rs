//! Whether a model fits into this machine's memory, and how large its KV cache can be.
//!
//! The worker says what a model is and what memory it needs, as it will when it loads it: one place
//! reads checkpoints. What is decided here, before anything is loaded, is how much context for how
//! many sequences there is room for.

mod describe;

use std::fmt;

use indicatif::BinaryBytes;
use serde::{Deserialize, Serialize};

pub use describe::{DescribeError, describe};

/// What a worker and a router take beside a model on the processor: their code, tokenizers and buffers.
pub const PROCESS_BYTES: u64 = 256 << 20;

/// What is left to the rest of the machine where there is a choice.
const SPARE_PERCENT: u64 = 5;

/// A KV cache for less than this serves nobody.
const MIN_CONTEXT: u64 = 256;

/// A model, as `sconce worker --describe` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Description {
    /// `generate` or `embed`.
    pub task: String,
    /// `cpu`, or a GPU such as `cuda:0`; `none` of a model that takes no memory to speak of.
    pub device: String,
    /// The rest, where there is memory to plan.
    #[serde(flatten)]
    pub needs: Option<Needs>,
}

/// What a model needs on its device.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Needs {
    /// The instruction set, or the GPU's name.
    pub isa: String,
    /// Threads of the forward pass.
    pub num_threads: u32,
    /// The packed weights.
    pub weight_bytes: u64,
    /// Activations and logits.
    pub workspace_bytes: u64,
    /// Positions that the model knows.
    pub max_positions: u64,
    /// Most tokens of a sequence, if the worker's flags say it.
    pub max_model_len: Option<u64>,
    /// Most sequences at once, as the worker's flags say or by default.
    pub max_num_seqs: u64,
    /// Memory that can be had; `None` where the system does not say.
    pub available_bytes: Option<u64>,
    /// What goes to the processes around the model, or on a GPU to libraries and graphs.
    #[serde(default = "process_bytes")]
    pub process_bytes: u64,
    /// What a GPU's driver says is free.
    #[serde(default)]
    pub device_free_bytes: Option<u64>,
    /// What a GPU has.
    #[serde(default)]
    pub device_total_bytes: Option<u64>,
    /// The cache of a model that generates.
    pub kv_cache: Option<KvCache>,
    /// Whether others have a part of the memory, so that a cache that fills it must be told its size.
    #[serde(skip)]
    pub is_shared: bool,
}

/// A KV cache, as the worker's flags say or by default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct KvCache {
    /// What it stores.
    pub dtype: String,
    /// Tokens of a block.
    pub block_size: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Blocks.
    pub num_blocks: u64,
    /// Whether they are so many as there is memory left.
    #[serde(default)]
    pub fills_memory: bool,
}

fn process_bytes() -> u64 {
    PROCESS_BYTES
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Sequences of full length at once.
    pub concurrency: Option<u64>,
    /// Tokens of prompt and completion together.
    pub context: Option<u64>,
    /// Whether the worker's flags say how large the cache is.
    pub kv_cache: Sizing,
}

/// Who says how large the cache is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sizing {
    /// This plan.
    #[default]
    Chosen,
    /// The worker's flags.
    Given,
}

/// How a model fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The packed weights.
    pub weight_bytes: u64,
    /// Activations and logits.
    pub workspace_bytes: u64,
    /// The processes around the model.
    pub process_bytes: u64,
    /// The KV cache.
    pub kv_cache_bytes: u64,
    /// All of it.
    pub needed_bytes: u64,
    /// What can be had.
    pub available_bytes: Option<u64>,
    /// What a GPU's driver says is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_free_bytes: Option<u64>,
    /// What a GPU has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_total_bytes: Option<u64>,
    /// Most tokens of a sequence; of a model that embeds, of an input.
    pub context: u64,
    /// Sequences of that length that the cache has room for.
    pub concurrency: u64,
    /// Tokens that the cache has room for.
    pub capacity: u64,
    /// Whether flags must say what was chosen, for it is not what the worker does by default.
    pub flags: Vec<String>,
    /// What was chosen, and why.
    pub reasons: Vec<String>,
}

/// Why a model does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Not even the weights.
    #[error(
        "{} of weights and {} around them are needed, and {} are available",
        BinaryBytes(*.weights), BinaryBytes(*.around), BinaryBytes(*.available)
    )]
    Weights {
        /// The packed weights.
        weights: u64,
        /// Workspace and processes.
        around: u64,
        /// What can be had.
        available: u64,
    },
    /// Not the KV cache.
    #[error(
        "a KV cache of {} for {what} is needed, {} are available, and {} of them go to weights and \
         the like",
        BinaryBytes(*.kv), BinaryBytes(*.available), BinaryBytes(*.rest)
    )]
    KvCache {
        /// What it is for.
        what: String,
        /// The cache.
        kv: u64,
        /// All else.
        rest: u64,
        /// What can be had.
        available: u64,
        /// Most tokens that there is room for.
        capacity: u64,
    },
    /// More than the model knows.
    #[error("a context of {asked} tokens was asked for, and the model has {limit} positions")]
    Context {
        /// Asked for.
        asked: u64,
        /// What the model has.
        limit: u64,
    },
    /// The worker's flags contradict what is asked for.
    #[error(
        "the KV cache that the flags say has room for {capacity} tokens, and {what} need {tokens}"
    )]
    Flags {
        /// Tokens that fit.
        capacity: u64,
        /// What they are needed for.
        what: String,
        /// Tokens that are needed.
        tokens: u64,
    },
}

impl Misfit {
    /// What to try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Weights { .. } => Some(
                "a smaller quantization of the model, or `--quantize q4` after `--` for plain floats"
                    .to_owned(),
            ),
            Self::KvCache { capacity, .. } => Some(format!(
                "there is room for {capacity} tokens: lower --context or --concurrency, or halve the \
                 cache with `-- --kv-cache-dtype int8`"
            )),
            Self::Context { limit, .. } => Some(format!("--context {limit} at most")),
            Self::Flags { .. } => {
                Some("leave the cache's size out, and it is chosen".to_owned())
            }
        }
    }
}

/// Fits a model into the memory that can be had.
pub fn plan(needs: &Needs, ask: Ask) -> Result<Plan, Misfit> {
    let around = needs.workspace_bytes.saturating_add(needs.process_bytes);
    let rest = needs.weight_bytes.saturating_add(around);
    let available = needs.available_bytes.unwrap_or(u64::MAX);
    if rest > available {
        return Err(Misfit::Weights { weights: needs.weight_bytes, around, available });
    }
    if let Some(asked) = ask.context.filter(|asked| *asked > needs.max_positions) {
        return Err(Misfit::Context { asked, limit: needs.max_positions });
    }
    let cache = match &needs.kv_cache {
        Some(kv) => Fit { needs, kv, ask, rest, available }.cache()?,
        None => Cache::none(needs, ask),
    };
    Ok(Plan {
        weight_bytes: needs.weight_bytes,
        workspace_bytes: needs.workspace_bytes,
        process_bytes: needs.process_bytes,
        kv_cache_bytes: cache.bytes,
        needed_bytes: rest.saturating_add(cache.bytes),
        available_bytes: needs.available_bytes,
        device_free_bytes: needs.device_free_bytes,
        device_total_bytes: needs.device_total_bytes,
        context: cache.context,
        concurrency: cache.capacity.checked_div(cache.context).unwrap_or(0),
        capacity: cache.capacity,
        flags: cache.flags,
        reasons: cache.reasons,
    })
}

/// What became of the cache.
struct Cache {
    bytes: u64,
    context: u64,
    capacity: u64,
    flags: Vec<String>,
    reasons: Vec<String>,
}

impl Cache {
    fn none(needs: &Needs, ask: Ask) -> Self {
        let context = ask.context.or(needs.max_model_len).unwrap_or(needs.max_positions);
        let flags = ask.context.map(|context| flag("--max-model-len", context));
        let mut reasons = vec!["no KV cache: the model embeds".to_owned()];
        if let Some(concurrency) = ask.concurrency {
            reasons.push(format!("{concurrency} at once take no more memory: batches are shared"));
        }
        Self {
            bytes: 0,
            context,
            capacity: 0,
            flags: flags.into_iter().flatten().collect(),
            reasons,
        }
    }
}

/// A decoder, and what is left for its cache.
struct Fit<'a> {
    needs: &'a Needs,
    kv: &'a KvCache,
    ask: Ask,
    /// Bytes of all else.
    rest: u64,
    available: u64,
}

impl Fit<'_> {
    fn cache(&self) -> Result<Cache, Misfit> {
        match (self.ask.kv_cache, self.ask.concurrency, self.ask.context) {
            (Sizing::Given, _, _) => self.given(),
            (Sizing::Chosen, None, None) => self.default(),
            (Sizing::Chosen, _, _) => self.asked(),
        }
    }

    /// The flags say how large it is: it fits, and so does what is asked for, or not.
    fn given(&self) -> Result<Cache, Misfit> {
        let bytes = self.bytes(self.kv.num_blocks);
        let capacity = self.capacity(self.kv.num_blocks);
        let context = self.ask.context.or(self.needs.max_model_len);
        let concurrency = self.ask.concurrency.unwrap_or(1);
        if let Some(context) = context {
            let tokens = concurrency.saturating_mul(self.round_up(context));
            if tokens > capacity {
                let what = describe_tokens(concurrency, context);
                return Err(Misfit::Flags { capacity, what, tokens });
            }
        }
        self.check(bytes, "what the flags say".to_owned())?;
        let context = context.unwrap_or(capacity.min(self.needs.max_positions));
        let reason = format!("a KV cache of {}, as the flags say", BinaryBytes(bytes));
        let mut cache = self.made(bytes, context, vec![reason]);
        cache.flags = self.asked_flags();
        Ok(cache)
    }

    /// Nothing is asked for: as the worker does by itself, or less where that does not fit.
    fn default(&self) -> Result<Cache, Misfit> {
        let usual = self.usual();
        let blocks = usual.min(self.room());
        let context = self.needs.max_model_len.unwrap_or(self.needs.max_positions);
        let wanted = self.needs.max_model_len.unwrap_or(MIN_CONTEXT.min(self.needs.max_positions));
        if self.capacity(blocks) < wanted {
            let least = self.bytes(self.blocks_of(wanted));
            self.check(least, describe_tokens(1, wanted))?;
            // More than the default, or as much as fits when nothing is spared.
            let (size, what) = (BinaryBytes(least), describe_tokens(1, wanted));
            let reason = format!("a KV cache of {size}, no more than {what} takes");
            let mut cache = self.made(least, wanted, vec![reason]);
            cache.flags = flag("--kv-cache-bytes", least);
            return Ok(cache);
        }
        let bytes = self.bytes(blocks);
        let mut reasons = Vec::new();
        let mut flags = Vec::new();
        if self.kv.fills_memory && self.needs.is_shared {
            let bytes = BinaryBytes(self.bytes(blocks));
            reasons.push(format!("a KV cache of {bytes}: its part of what is left"));
            flags = flag("--kv-cache-bytes", self.bytes(blocks));
        } else if blocks < usual {
            let usual = BinaryBytes(self.bytes(usual));
            let bytes = BinaryBytes(bytes);
            reasons.push(format!("a KV cache of {bytes} instead of {usual}: no more is left"));
            flags = flag("--kv-cache-bytes", self.bytes(blocks));
        } else {
            let why = if self.kv.fills_memory { "what is left" } else { "the default" };
            reasons.push(format!("a KV cache of {}, {why}", BinaryBytes(bytes)));
        }
        let capacity = self.capacity(blocks);
        let context = if capacity < context {
            reasons.push(format!("a context of {capacity} tokens of {context}: what it holds"));
            capacity
        } else {
            reasons.push(format!("a context of {context} tokens, all that the model has"));
            context
        };
        let mut cache = self.made(bytes, context, reasons);
        cache.flags = flags;
        Ok(cache)
    }

    /// What the worker does by itself.
    fn usual(&self) -> u64 {
        // Slots are numbered in 32 bits.
        let most = u64::from(u32::MAX) / self.kv.block_size.max(1);
        if self.kv.fills_memory { self.room().min(most) } else { self.kv.num_blocks }
    }

    /// As much as sequences of full length take.
    fn asked(&self) -> Result<Cache, Misfit> {
        let concurrency = self.ask.concurrency.unwrap_or(1);
        let asked = self.ask.context.or(self.needs.max_model_len);
        let most = asked.unwrap_or(self.needs.max_positions);
        let of = |context: u64| self.blocks_of(context).saturating_mul(concurrency);
        let mut reasons = Vec::new();
        let context = if asked.is_some() || of(most) <= self.room() {
            reasons.push(match asked {
                Some(_) => format!("a context of {most} tokens, as asked"),
                None => format!("a context of {most} tokens, all that the model has"),
            });
            most
        } else {
            let fits = self.capacity(self.room() / concurrency.max(1)).min(most);
            if fits < MIN_CONTEXT.min(most) {
                let least = MIN_CONTEXT.min(most);
                self.check(self.bytes(of(least)), describe_tokens(concurrency, least))?;
                least
            } else {
                let why = format!("what is left for each of {concurrency} sequences");
                reasons.push(format!("a context of {fits} tokens of {most}: {why}"));
                fits
            }
        };
        let bytes = self.bytes(of(context));
        self.check(bytes, describe_tokens(concurrency, context))?;
        let why = describe_tokens(concurrency, context);
        reasons.push(format!("a KV cache of {} for {why}", BinaryBytes(bytes)));
        let mut cache = self.made(bytes, context, reasons);
        cache.flags = flag("--kv-cache-bytes", bytes);
        cache.flags.extend(flag("--max-model-len", context));
        if let Some(concurrency) = self.ask.concurrency {
            cache.flags.extend(flag("--max-num-seqs", concurrency));
        }
        Ok(cache)
    }

    fn asked_flags(&self) -> Vec<String> {
        let context = self.ask.context.map(|context| flag("--max-model-len", context));
        let seqs = self.ask.concurrency.map(|concurrency| flag("--max-num-seqs", concurrency));
        context.into_iter().chain(seqs).flatten().collect()
    }

    fn made(&self, bytes: u64, context: u64, reasons: Vec<String>) -> Cache {
        let blocks = bytes.checked_div(self.kv.block_bytes).unwrap_or(0);
        Cache { bytes, context, capacity: self.capacity(blocks), flags: Vec::new(), reasons }
    }

    /// Blocks that there is room for when some is spared.
    fn room(&self) -> u64 {
        // A GPU's worker spares what --gpu-memory-utilization says.
        let spare = if self.kv.fills_memory { 0 } else { self.available / 100 * SPARE_PERCENT };
        let left = self.available.saturating_sub(self.rest).saturating_sub(spare);
        left / self.kv.block_bytes.max(1)
    }

    fn check(&self, bytes: u64, what: String) -> Result<(), Misfit> {
        if self.rest.saturating_add(bytes) <= self.available {
            return Ok(());
        }
        let (rest, available) = (self.rest, self.available);
        Err(Misfit::KvCache {
            what,
            kv: bytes,
            rest,
            available,
            capacity: self.capacity(self.room()),
        })
    }

    fn blocks_of(&self, tokens: u64) -> u64 {
        tokens.div_ceil(self.kv.block_size.max(1))
    }

    fn round_up(&self, tokens: u64) -> u64 {
        self.capacity(self.blocks_of(tokens))
    }

    fn capacity(&self, blocks: u64) -> u64 {
        blocks.saturating_mul(self.kv.block_size)
    }

    fn bytes(&self, blocks: u64) -> u64 {
        blocks.saturating_mul(self.kv.block_bytes)
    }
}

fn flag(name: &str, value: u64) -> Vec<String> {
    vec![name.to_owned(), value.to_string()]
}

fn describe_tokens(concurrency: u64, context: u64) -> String {
    match concurrency {
        1 => format!("one sequence of {context} tokens"),
        _ => format!("{concurrency} sequences of {context} tokens"),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, bytes: u64| {
            writeln!(f, "{what:<12}{:>12}", BinaryBytes(bytes).to_string())
        };
        line("weights", self.weight_bytes)?;
        line("KV cache", self.kv_cache_bytes)?;
        line("activations", self.workspace_bytes)?;
        let is_gpu = self.device_total_bytes.is_some();
        line(if is_gpu { "libraries" } else { "processes" }, self.process_bytes)?;
        line("needed", self.needed_bytes)?;
        match self.available_bytes {
            Some(available) => line("available", available)?,
            None => writeln!(f, "available    unknown: the system does not say")?,
        }
        if let (Some(free), Some(total)) = (self.device_free_bytes, self.device_total_bytes) {
            let (free, total) = (BinaryBytes(free), BinaryBytes(total));
            writeln!(f, "- {free} of the GPU's {total} are free, says its driver")?;
        }
        for reason in &self.reasons {
            writeln!(f, "- {reason}")?;
        }
        if self.capacity > 0 {
            let all = self.capacity;
            writeln!(f, "- room for {all} tokens: {} full contexts", self.concurrency)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
