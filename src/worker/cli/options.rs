//! What flags mean for a device, and which of them exclude each other.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use sconce_kernels::cpu::{ActivationDtype, Compute, Isa, KvDtype};

use super::{
    CheckpointSource, ComputeArgs, FloatChoice, GpuArgs, HashArgs, HashOptions, KvPrecision,
    LimitArgs, Precision, Quantization,
};
use crate::runner::cpu::{KvCacheSize, RunnerOptions};
use crate::runner::device::DeviceChoice;
use crate::runner::gpu_options::{GpuDtype, GpuKvDtype, GpuOptions, GpuQuantization};
use crate::worker::Error;

/// What was said of a checkpoint, for each device that may run it.
pub(super) fn checkpoint_source(
    path: PathBuf,
    gpu: &GpuArgs,
    compute: &ComputeArgs,
    limits: &LimitArgs,
) -> Result<CheckpointSource, Error> {
    let num_threads = match compute.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism()
            .map_err(|source| Error::Process { what: "can't count the cores", source })?,
    };
    let mut options = runner_options(num_threads, compute, limits);
    if gpu.dtype.is_some() {
        options = Err("--dtype is for GPUs: the processor's is --compute".to_owned());
    }
    let gpu_options = gpu_options(num_threads, gpu, compute, limits);
    // What no device can do is refused before one is looked for.
    match (gpu.device, &options, &gpu_options) {
        (DeviceChoice::Cpu, Err(message), _)
        | (DeviceChoice::Cuda(_), _, Err(message))
        | (DeviceChoice::Auto, Err(message), Err(_)) => Err(Error::Flags(message.clone())),
        _ => Ok(CheckpointSource {
            path,
            load_format: gpu.load_format,
            device: gpu.device,
            options,
            gpu: gpu_options,
        }),
    }
}

fn gpu_options(
    num_threads: NonZeroUsize,
    gpu: &GpuArgs,
    compute: &ComputeArgs,
    limits: &LimitArgs,
) -> Result<GpuOptions, String> {
    let only = |flag: &str| Err(format!("{flag} is for the processor: add --device cpu"));
    if compute.isa.is_some() {
        return only("--isa");
    }
    match compute.compute {
        Precision::Int8 => return only("--compute int8"),
        Precision::Int16 => return only("--compute int16"),
        Precision::Mixed | Precision::F32 => {}
    }
    let is_f32 = compute.exact || compute.compute == Precision::F32;
    let dtype = match gpu.dtype {
        Some(_) if is_f32 => return Err("--dtype excludes --exact and --compute f32".to_owned()),
        None if is_f32 => Some(GpuDtype::F32),
        None => None,
        Some(FloatChoice::BF16) => Some(GpuDtype::BF16),
        Some(FloatChoice::F16) => Some(GpuDtype::F16),
        Some(FloatChoice::F32) => Some(GpuDtype::F32),
    };
    if dtype == Some(GpuDtype::F32) && compute.quantize.is_some() {
        return Err("--quantize excludes 32-bit activations".to_owned());
    }
    let kv_dtype = match (compute.kv_cache_dtype, dtype) {
        (KvPrecision::Fp8, _) => GpuKvDtype::Fp8,
        (KvPrecision::Int8, _) => GpuKvDtype::Int8,
        (KvPrecision::Auto, _)
        | (KvPrecision::BF16, Some(GpuDtype::BF16))
        | (KvPrecision::F16, Some(GpuDtype::F16))
        | (KvPrecision::F32, Some(GpuDtype::F32)) => GpuKvDtype::Auto,
        _ => {
            let message = "a GPU's --kv-cache-dtype is auto (that of --dtype), fp8 or int8; for others \
                           add --device cpu";
            return Err(message.to_owned());
        }
    };
    Ok(GpuOptions {
        num_threads,
        dtype,
        quantize: compute.quantize.map(|quantization| match quantization {
            Quantization::Q8 => GpuQuantization::Q8,
            Quantization::Q4 => GpuQuantization::Q4,
            Quantization::Fp8 => GpuQuantization::Fp8,
        }),
        kv_dtype,
        kv_cache: match (compute.num_blocks, compute.kv_cache_bytes) {
            (Some(num_blocks), _) => Some(KvCacheSize::Blocks(num_blocks.get())),
            (None, Some(bytes)) => Some(KvCacheSize::Bytes(bytes)),
            (None, None) => None,
        },
        memory_utilization: gpu.gpu_memory_utilization,
        block_size: compute.block_size.get(),
        max_num_batched_tokens: limits.max_num_batched_tokens.get(),
        max_num_seqs: limits.max_num_seqs.get(),
        max_model_len: limits.max_model_len.map(NonZeroU32::get),
        graphs: true,
        early_launch: !gpu.no_early_launch,
        tuning_cache: gpu.tuning_cache.clone(),
    })
}

fn runner_options(
    num_threads: NonZeroUsize,
    compute: &ComputeArgs,
    limits: &LimitArgs,
) -> Result<RunnerOptions, String> {
    let activation_dtype = match compute.compute {
        Precision::Mixed | Precision::F32 => ActivationDtype::Mixed,
        Precision::Int8 => ActivationDtype::Int8,
        Precision::Int16 => ActivationDtype::Int16,
    };
    Ok(RunnerOptions {
        num_threads,
        isa: compute.isa,
        compute: match (compute.compute, compute.quantize) {
            _ if compute.exact => Compute::F32,
            (Precision::F32, None) => Compute::F32,
            (_, Some(Quantization::Fp8)) => {
                return Err("--quantize fp8 is for GPUs: the processor has q8 and q4".to_owned());
            }
            (Precision::F32, Some(_)) => {
                return Err("--quantize and --compute f32 exclude each other".to_owned());
            }
            (_, None) => Compute::Int8,
            (_, Some(Quantization::Q8)) => Compute::Q8,
            (_, Some(Quantization::Q4)) => Compute::Q4,
        },
        keep_logits: false,
        activation_dtype,
        kv_dtype: match compute.kv_cache_dtype {
            _ if compute.exact => KvDtype::F32,
            KvPrecision::Int8 => KvDtype::Int8,
            KvPrecision::Fp8 => return Err("--kv-cache-dtype fp8 is for GPUs".to_owned()),
            KvPrecision::Auto if compute.compute != Precision::F32 => {
                compute.isa.unwrap_or_else(Isa::detect).kv_dtype(activation_dtype)
            }
            KvPrecision::Auto | KvPrecision::F16 => KvDtype::F16,
            KvPrecision::BF16 => KvDtype::BF16,
            KvPrecision::F32 => KvDtype::F32,
        },
        kv_cache: match compute.num_blocks {
            Some(num_blocks) => KvCacheSize::Blocks(num_blocks.get()),
            None => KvCacheSize::Bytes(compute.kv_cache_bytes.unwrap_or(512 << 20)),
        },
        block_size: compute.block_size.get(),
        max_num_batched_tokens: limits.max_num_batched_tokens.get(),
        max_num_seqs: limits.max_num_seqs.get(),
        max_model_len: limits.max_model_len.map(NonZeroU32::get),
    })
}

/// What was said of the hash model.
pub(super) fn hash_options(
    compute: &ComputeArgs,
    limits: &LimitArgs,
    hash: &HashArgs,
) -> Result<HashOptions, Error> {
    let block_size = compute.block_size.get();
    let num_blocks = compute.num_blocks.map_or(4096, NonZeroU32::get);
    let capacity = block_size.checked_mul(num_blocks).filter(|slots| *slots <= 1 << 28);
    let Some(capacity) = capacity else {
        return Err(Error::Flags("the KV cache has more than 2^28 tokens".to_owned()));
    };
    let max_model_len = limits.max_model_len.map_or(capacity.min(8192), NonZeroU32::get);
    if max_model_len > capacity {
        return Err(Error::Flags(format!(
            "the KV cache has room for {capacity} tokens, and --max-model-len is {max_model_len}"
        )));
    }
    Ok(HashOptions {
        vocab_size: hash.hash_vocab,
        block_size,
        num_blocks,
        max_num_seqs: limits.max_num_seqs.get(),
        max_num_batched_tokens: limits.max_num_batched_tokens.get(),
        max_model_len,
        step: Duration::from_micros(hash.hash_step_us),
        fail_at: hash.hash_fail_at,
        depth: hash.hash_depth.into(),
    })
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn parse<T: Args + FromArgMatches>(args: &str) -> T {
        T::augment_args(clap::Command::new("worker"))
            .try_get_matches_from(std::iter::once("worker").chain(args.split_whitespace()))
            .and_then(|matches| T::from_arg_matches(&matches))
            .unwrap()
    }

    #[test]
    fn the_cache_is_of_what_the_processor_multiplies_unless_precision_matters() {
        let limits: LimitArgs = parse("");
        let kv_dtype =
            |args| runner_options(NonZeroUsize::MIN, &parse(args), &limits).unwrap().kv_dtype;

        assert_eq!(kv_dtype("--isa avx512-bf16"), KvDtype::BF16);
        assert_eq!(kv_dtype("--isa avx512-vnni"), KvDtype::F16);
        assert_eq!(kv_dtype("--isa avx512-bf16 --compute int16"), KvDtype::F16);
        assert_eq!(kv_dtype("--isa avx512-bf16 --compute f32"), KvDtype::F16);
        assert_eq!(kv_dtype("--isa avx512-bf16 --exact"), KvDtype::F32);
        assert_eq!(kv_dtype("--isa avx512-bf16 --kv-cache-dtype f16"), KvDtype::F16);
        assert_eq!(kv_dtype("--isa portable --kv-dtype bf16"), KvDtype::BF16);
    }

    #[test]
    fn what_a_device_cannot_do_is_refused_where_it_is_chosen() {
        let source = |args: &str| {
            let words = || args.split_whitespace();
            let (gpu, compute): (Vec<_>, Vec<_>) = words().partition(|word| {
                ["--device", "--dtype", "--gpu-"].iter().any(|own| word.starts_with(own))
            });
            let (gpu, compute) = (parse(&gpu.join(" ")), parse(&compute.join(" ")));
            checkpoint_source("m".into(), &gpu, &compute, &parse("")).map_err(|e| e.to_string())
        };

        for args in [
            "",
            "--device=cuda:1 --dtype=f16",
            "--device=cuda --quantize=fp8",
            "--device=cpu --isa=avx2",
            "--exact",
        ] {
            assert!(source(args).is_ok(), "{args}");
        }
        let refused = [
            ("--device=cpu --dtype=bf16", "for GPUs"),
            ("--device=cpu --kv-dtype=fp8", "for GPUs"),
            ("--device=cuda --isa=avx2", "--device cpu"),
            ("--device=cuda --quantize=q8 --dtype=f32", "32-bit activations"),
            ("--device=cpu --quantize=fp8", "for GPUs"),
            ("--device=cuda --kv-dtype=f32", "--device cpu"),
            ("--dtype=bf16 --isa=avx2", "for GPUs"),
        ];
        for (args, reason) in refused {
            let message = source(args).unwrap_err();
            assert!(message.contains(reason), "{args}: {message}");
        }
        // Whether it can be done depends on the device that `auto` comes to.
        let either = source("--isa=avx2").unwrap();
        assert!(either.options.is_ok() && either.gpu.is_err());
    }
}
