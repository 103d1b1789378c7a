//! Checkpoints that were quantized by others, and floats that are quantized while they are loaded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sconce::runner::cuda::{CudaRunner, LoadError};
use sconce::runner::gpu_options::{GpuDtype, GpuOptions, GpuQuantization};
use sconce::weights::Checkpoint;
use sconce_kernels::cuda::{Device, Matmul, Scaling};
use sconce_kernels::dtype::Dtype;
use serde::Deserialize;

use super::harness::Harness;
use super::models::{cpu_harness, gpu_harness, on_cpu, on_gpu, options};
use super::parity::{distance, prompt};
use super::steps::Runner;
use super::tiny;

/// Logits of a tiny model at some positions of a prompt.
#[derive(Deserialize)]
struct Fixture {
    prompt_ids: Vec<u32>,
    logits: BTreeMap<usize, Vec<f32>>,
}

/// Every quantized reference, by its name.
fn references() -> Vec<(String, PathBuf)> {
    // Where the test runs, which need not be where it was built.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map_or(".".into(), PathBuf::from);
    let entries = std::fs::read_dir(root.join("tests/reference/quantized")).unwrap();
    let entries = entries.map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path())).collect()
}

fn fixture(folder: &Path) -> Fixture {
    serde_json::from_slice(&std::fs::read(folder.join("logits.json")).unwrap()).unwrap()
}

/// The largest distance of the logits at any of the positions.
fn worst(folder: &Path, options: &GpuOptions) -> f32 {
    let Fixture { prompt_ids, logits } = fixture(folder);
    let mut gpu = on_gpu(folder, options);
    let mut sequence = gpu.sequence(&prompt_ids);
    let distances = logits.iter().map(|(&position, expected)| {
        let num_new = position + 1 - sequence.num_computed;
        let (given, _) = gpu.step(&mut [(&mut sequence, num_new)]);
        distance(&given[0], expected)
    });
    distances.fold(0.0, f32::max)
}

/// Greedy tokens after the fixture's prompt.
fn greedy<R: Runner>(harness: &mut Harness<R>, prompt: &[u32]) -> Vec<u32> {
    let mut sequence = harness.sequence(prompt);
    for _ in 0..24 {
        let num_new = sequence.tokens.len() - sequence.num_computed;
        let (_, sampled) = harness.step(&mut [(&mut sequence, num_new)]);
        sequence.tokens.push(sampled[0].token);
    }
    sequence.tokens.split_off(prompt.len())
}

#[test]
fn in_32_bits_quantized_models_equal_transformers_and_the_processor() {
    let references = references();
    assert!(references.len() >= 13);
    for (name, folder) in references {
        let options = options(GpuDtype::F32);

        let worst = worst(&folder, &options);
        assert!(worst < 2e-5, "{name}: {worst:e}");

        let prompt = fixture(&folder).prompt_ids;
        let expected = greedy(&mut on_cpu(&folder), &prompt);
        assert_eq!(greedy(&mut on_gpu(&folder, &options), &prompt), expected, "{name}");
    }
}

#[test]
fn in_16_bits_quantized_models_are_near_transformers() {
    for (name, folder) in references() {
        let limit = match name.as_str() {
            // Activations are rounded to 4 bits of precision, too; of blocks, where one is the matrix.
            "compressed_fp8" | "fp8_tensor" | "fp8_blocks" => 1e-1,
            // Other codes, of 8 bits.
            "gptq_8bit_asymmetric" | "gptq_4bit_act_order" | "compressed_w4a16_asymmetric" => 4e-2,
            _ => 1e-2,
        };

        let worst = worst(&folder, &options(GpuDtype::F16));

        println!("{name}: {worst:e}");
        assert!(worst < limit, "{name}: {worst:e}");
    }
}

#[test]
fn weights_stay_as_small_as_their_codes_on_a_gpu() {
    // A layer's elements, its rows, and the bytes of the vocabulary's two tables.
    let (elements, rows, vocabulary) =
        (49_152, 64 + 32 + 32 + 64 + 192 + 192 + 64, 2 * 96 * 64 * 2);
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map_or(".".into(), PathBuf::from);
    let bytes = |name: &str| {
        let folder = root.join("tests/reference/quantized").join(name);
        on_gpu(&folder, &options(GpuDtype::F16)).runner.weight_bytes()
    };

    for name in ["gptq_4bit", "awq", "compressed_w4a16"] {
        assert_eq!(bytes(name), elements / 32 * 20 + vocabulary, "{name}");
    }
    for name in ["gptq_8bit", "gptq_4bit_act_order", "compressed_w8a8_int"] {
        assert_eq!(bytes(name), elements / 32 * 36 + vocabulary, "{name}");
    }
    for name in ["compressed_fp8", "fp8_tensor"] {
        assert_eq!(bytes(name), elements + 4 * rows + vocabulary, "{name}");
    }
    // One block is the whole of q, k, v and o, which have a scale each; the others have several. Those of the
    // gate would reach into what follows it, so only what goes down is multiplied as it is.
    let whole = 192 * 64 + 4 * 192;
    let (gate_up, down) = (2 * 192 * 64 / 32 * 36, 64 * 192);
    let matmul = Matmul::new(&Device::open(0).unwrap()).unwrap();
    let down = if matmul.has_fp8(Scaling::Blocks) { down + 4 * 4 } else { down / 32 * 36 };
    assert_eq!(bytes("fp8_blocks"), whole + gate_up + down + vocabulary);
}

#[test]
fn floats_are_quantized_while_they_are_copied() {
    let folder = tiny::folder(11, None);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let mut cpu = cpu_harness(&checkpoint);
    let tokens = prompt(12, 330);
    let mut plain = None;
    for (quantize, range) in [
        (None, 0.0..1e-2),
        (Some(GpuQuantization::Q8), 1e-4..3e-2),
        (Some(GpuQuantization::Q4), 1e-2..0.5),
        (Some(GpuQuantization::Fp8), 1e-3..0.2),
    ] {
        let options = GpuOptions { quantize, ..options(GpuDtype::F16) };
        let mut gpu = gpu_harness(&checkpoint, &options);
        let (mut on_cpu, mut on_gpu) = (cpu.sequence(&tokens), gpu.sequence(&tokens));

        // By each of the ways that products go: of one token, of some, of many.
        for num_new in [1, 6, 40, 282, 1] {
            let (expected, _) = cpu.step(&mut [(&mut on_cpu, num_new)]);
            let (given, _) = gpu.step(&mut [(&mut on_gpu, num_new)]);

            let distance = distance(&given[0], &expected[0]);
            println!("{quantize:?} {num_new}: {distance:e}");
            assert!(range.contains(&distance), "{quantize:?} {num_new}: {distance:e}");
        }
        cpu.clear();
        let bytes = gpu.runner.weight_bytes();
        let plain = *plain.get_or_insert(bytes);
        assert_eq!(bytes < plain * 4 / 5, quantize.is_some(), "{quantize:?}: {bytes}");
    }
}

/// Random weights of quantized configurations, which the benchmark loads.
#[test]
fn random_quantized_weights_are_computed_as_on_the_processor() {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map_or(".".into(), PathBuf::from);
    for name in ["awq", "gptq_4bit", "fp8_blocks", "fp8_tensor"] {
        let folder = root.join("tests/reference/quantized").join(name);
        let checkpoint = Checkpoint::dummy(&folder).unwrap();
        let (mut cpu, mut gpu) =
            (cpu_harness(&checkpoint), gpu_harness(&checkpoint, &options(GpuDtype::F16)));
        let tokens = [3, 9, 27, 81, 50, 7, 21, 63];
        let (mut on_cpu, mut on_gpu) = (cpu.sequence(&tokens), gpu.sequence(&tokens));

        let (expected, _) = cpu.step(&mut [(&mut on_cpu, 8)]);
        let (given, _) = gpu.step(&mut [(&mut on_gpu, 8)]);

        let distance = distance(&given[0], &expected[0]);
        println!("{name}: {distance:e}");
        assert!(distance < 0.1, "{name}: {distance:e}");
    }
}

#[test]
fn what_is_quantized_is_not_quantized_again() {
    let folder = tiny::folder(13, None);
    let checkpoint = Checkpoint::dummy_of(folder.path(), Dtype::Q4_0).unwrap();
    let device = Device::open(0).expect("a GPU, or the stand-in for its driver");
    let options = GpuOptions { quantize: Some(GpuQuantization::Fp8), ..options(GpuDtype::BF16) };

    let refused = CudaRunner::load(device, &checkpoint, &options).err();

    assert!(matches!(refused, Some(LoadError::NothingToQuantize)), "{refused:?}");
}
