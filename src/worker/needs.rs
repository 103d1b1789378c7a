//! `sconce worker --describe`: what a model is and how much memory it needs, without loading it.

use std::io::Write;
use std::path::Path;

use sconce_kernels::cpu::Isa;
use serde_json::{Value, json};

use super::Error;
use super::cli::{CheckpointSource, Config, LoadFormat, ModelSource};
use super::load::{cpu_only, embedder, failed};
use crate::models::load as packing;
use crate::runner::cpu::{CpuRunner, RunnerOptions};
use crate::runner::device::{self, Device, DeviceChoice};
use crate::runner::memory;
use crate::weights::{self, Checkpoint, EncoderCheckpoint};

/// Prints one line of JSON, which the launcher reads before it starts a worker.
#[expect(clippy::print_stdout, reason = "the launcher reads this line")]
pub(super) fn print(config: &Config) -> Result<(), Error> {
    println!("{}", of_config(config)?);
    let flushed = std::io::stdout().flush();
    flushed.map_err(|source| Error::Process { what: "can't print the description", source })
}

fn of_config(config: &Config) -> Result<Value, Error> {
    let source = match &config.model {
        ModelSource::Checkpoint(source) => source,
        // It needs no memory to speak of.
        ModelSource::Hash(_) => return Ok(json!({ "task": "generate", "device": "none" })),
    };
    let path = source.path.as_path();
    let failed = |error: weights::Error| failed(path, error.into());
    if source.load_format == LoadFormat::Dummy {
        return of_decoder(source, &Checkpoint::dummy(path).map_err(failed)?);
    }
    if let Some(encoder) = EncoderCheckpoint::open(path).map_err(failed)? {
        let options = cpu_only(source)?;
        let weights = packing::bytes_of(encoder.sizes(), options.compute);
        let shape = encoder.config();
        let width = 5 * shape.hidden_size + 5 * shape.intermediate_size.max(shape.hidden_size);
        let workspace = 4 * u64::from(options.max_num_batched_tokens) * width as u64;
        return Ok(embeds(options, weights, workspace, shape.num_positions()));
    }
    let checkpoint = Checkpoint::open_for_any_task(path).map_err(failed)?;
    if embedder::pooler(config, &checkpoint).is_some() {
        let options = cpu_only(source)?;
        let needs = CpuRunner::needs_of(&checkpoint, options)
            .map_err(|error| self::failed(path, error.into()))?;
        let positions = checkpoint.config().max_position_embeddings;
        return Ok(embeds(options, needs.weight_bytes, needs.workspace_bytes, positions));
    }
    checkpoint.check_generates().map_err(failed)?;
    of_decoder(source, &checkpoint)
}

fn of_decoder(source: &CheckpointSource, checkpoint: &Checkpoint) -> Result<Value, Error> {
    let path: &Path = &source.path;
    if device::is_gpu(source.device).map_err(|error| failed(path, error.into()))? {
        return on_gpu(source, checkpoint);
    }
    let options = source.options.as_ref().map_err(|message| Error::Flags(message.clone()))?;
    let needs =
        CpuRunner::needs_of(checkpoint, options).map_err(|error| failed(path, error.into()))?;
    let mut value = common("generate", options);
    value["weight_bytes"] = needs.weight_bytes.into();
    value["workspace_bytes"] = needs.workspace_bytes.into();
    value["max_positions"] = checkpoint.config().max_position_embeddings.into();
    value["kv_cache"] = json!({
        "dtype": format!("{:?}", options.kv_dtype).to_lowercase(),
        "block_size": options.block_size,
        "block_bytes": needs.block_bytes,
        "num_blocks": needs.num_blocks,
    });
    Ok(value)
}

fn on_gpu(source: &CheckpointSource, checkpoint: &Checkpoint) -> Result<Value, Error> {
    let failed = |error| failed(&source.path, error);
    let options = source.gpu.as_ref().map_err(|message| Error::Flags(message.clone()))?;
    let opened = Device::open(source.device).map_err(|error| failed(error.into()))?;
    let needs = device::gpu_needs(&opened, checkpoint, options).map_err(failed)?;
    let ordinal = match source.device {
        DeviceChoice::Cuda(ordinal) => ordinal,
        DeviceChoice::Auto | DeviceChoice::Cpu => 0,
    };
    let Some(needs) = needs else { return Ok(json!({ "task": "generate", "device": "cuda" })) };
    Ok(json!({
        "task": "generate",
        "device": format!("cuda:{ordinal}"),
        "isa": needs.name,
        "num_threads": options.num_threads,
        "max_num_seqs": options.max_num_seqs,
        "max_model_len": options.max_model_len,
        "max_positions": checkpoint.config().max_position_embeddings,
        "weight_bytes": needs.weight_bytes,
        "workspace_bytes": needs.workspace_bytes,
        "process_bytes": needs.reserve_bytes,
        "device_free_bytes": needs.free_bytes,
        "device_total_bytes": needs.total_bytes,
        "available_bytes": needs.available_bytes,
        "kv_cache": {
            "dtype": needs.kv_dtype,
            "block_size": options.block_size,
            "block_bytes": needs.block_bytes,
            "num_blocks": needs.num_blocks,
            "fills_memory": options.kv_cache.is_none(),
        },
    }))
}

fn embeds(options: &RunnerOptions, weights: u64, workspace: u64, positions: usize) -> Value {
    let mut value = common("embed", options);
    value["weight_bytes"] = weights.into();
    value["workspace_bytes"] = workspace.into();
    value["max_positions"] = positions.into();
    value
}

fn common(task: &str, options: &RunnerOptions) -> Value {
    json!({
        "task": task,
        "device": "cpu",
        "isa": options.isa.unwrap_or_else(Isa::detect).to_string(),
        "num_threads": options.num_threads,
        "max_num_seqs": options.max_num_seqs,
        "max_model_len": options.max_model_len,
        "available_bytes": memory::available_bytes(),
    })
}
