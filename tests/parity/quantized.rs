//! Checkpoints that were quantized by others, against what transformers computes of the same codes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::harness::Harness;
use super::models::options;
use super::quality::relative_error;
use sconce::runner::cpu::{CpuRunner, RunnerOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::{ActivationDtype, Compute, KvDtype};

/// Logits of a tiny model at some positions of a prompt.
#[derive(Deserialize)]
struct Fixture {
    prompt_ids: Vec<u32>,
    logits: BTreeMap<usize, Vec<f32>>,
}

/// Every quantized reference, by its name.
fn references() -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/quantized");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path())).collect()
}

/// The largest relative error of the logits at any of the positions.
fn worst(folder: &Path, options: &RunnerOptions) -> f64 {
    let fixture = std::fs::read(folder.join("logits.json")).unwrap();
    let fixture: Fixture = serde_json::from_slice(&fixture).unwrap();
    let checkpoint = Checkpoint::open(folder).unwrap();
    let mut harness = Harness::new(CpuRunner::load(&checkpoint, options).unwrap());
    let mut sequence = harness.sequence(&fixture.prompt_ids);
    let errors = fixture.logits.iter().map(|(&position, expected)| {
        let num_new = position + 1 - sequence.num_computed;
        let (logits, _) = harness.step(&mut [(&mut sequence, num_new)]);
        relative_error(expected, &logits[0])
    });
    errors.fold(0.0, f64::max)
}

/// What the codes stand for: zero points, orders of columns, nibbles and blocks are where they are said
/// to be.
#[test]
fn exact_logits_equal_those_of_transformers() {
    let references = references();
    assert!(references.len() >= 13);
    for (name, folder) in references {
        let worst = worst(&folder, &options(Compute::F32));
        println!("{name}: {worst:e}");
        assert!(worst < 1e-5, "{name}: {worst:e}");
    }
}

/// As served, but with activations that are nearly exact: what is left is what packing costs. It is
/// nothing where codes are kept and zero points are in the middle, half a unit of half floats
/// of the minimum where they are not, and an 8-bit rounding of what becomes other codes.
#[test]
fn packed_weights_are_as_good_as_their_codes() {
    for (name, folder) in references() {
        let limit = match name.as_str() {
            "gptq_4bit" | "gptq_8bit" => 3e-4,
            "compressed_w4a16" | "compressed_w8a16" | "compressed_w8a8_int" => 3e-4,
            "awq" | "gptq_v2_4bit_asymmetric" => 4e-3,
            _ => 4e-2,
        };
        let options = RunnerOptions {
            activation_dtype: ActivationDtype::Int16,
            kv_dtype: KvDtype::F32,
            ..options(Compute::Int8)
        };

        let worst = worst(&folder, &options);

        println!("{name}: {worst:e}");
        assert!(worst < limit, "{name}: {worst:e}");
    }
}

#[test]
fn weights_stay_as_small_as_their_codes() {
    let bytes = |name: &str, compute| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/quantized");
        let checkpoint = Checkpoint::open(&folder.join(name)).unwrap();
        // The floats that are left are the vocabulary's.
        CpuRunner::load(&checkpoint, &options(compute)).unwrap().weight_bytes()
    };
    let vocabulary = |bytes_each: usize| 2 * 96 * 64 * bytes_each;
    let (elements, floats) = (49_152, bytes("gptq_4bit", Compute::F32));

    assert_eq!(floats, 4 * elements + vocabulary(4));
    assert_eq!(bytes("gptq_4bit", Compute::Int8), elements / 32 * 20 + vocabulary(2));
    assert_eq!(bytes("awq", Compute::Int8), elements / 32 * 20 + vocabulary(2));
    assert_eq!(bytes("fp8_blocks", Compute::Int8), elements / 32 * 34 + vocabulary(2));
}
