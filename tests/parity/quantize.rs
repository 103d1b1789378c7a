//! Floats that become codes while they are loaded, and what is refused.

use sconce::models::load;
use sconce::runner::cpu::{CpuRunner, LoadError, RunnerOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::{Compute, KvDtype};

use super::harness::Harness;
use super::models::{options, real_model};
use super::quality::relative_error;
use super::tiny;

#[test]
fn floats_are_quantized_while_they_are_loaded() {
    let folder = tiny::folder(5, None);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let logits = |compute| {
        let mut harness = Harness::new(CpuRunner::load(&checkpoint, &options(compute)).unwrap());
        let text: Vec<u32> = (0..40).map(|i| i * i % tiny::VOCAB_SIZE as u32).collect();
        let mut sequence = harness.sequence(&text);
        let bytes = harness.runner.weight_bytes();
        (harness.step(&mut [(&mut sequence, text.len())]).0.remove(0), bytes)
    };
    let (exact, bytes) = logits(Compute::F32);
    let (q8, q8_bytes) = logits(Compute::Q8);
    let (q4, q4_bytes) = logits(Compute::Q4);

    assert!((1e-4..0.05).contains(&relative_error(&exact, &q8)));
    assert!((0.01..0.5).contains(&relative_error(&exact, &q4)));
    assert!(bytes > 3 * q8_bytes && q8_bytes > q4_bytes, "{bytes} {q8_bytes} {q4_bytes}");
}

#[test]
fn weights_that_are_quantized_are_not_quantized_again() {
    let Some(path) = real_model() else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    for compute in [Compute::Q8, Compute::Q4] {
        let refused = CpuRunner::load(&checkpoint, &options(compute)).err();
        assert!(matches!(refused, Some(LoadError::Weights(load::Error::NothingToQuantize))));
    }
}

#[test]
fn a_cache_whose_groups_do_not_fit_the_heads_is_refused() {
    let folder = tiny::folder(5, None);
    let mut config = Checkpoint::open(folder.path()).unwrap().config().clone();
    config.head_dim = 80;
    let limits = |kv_dtype| {
        CpuRunner::limits_of(&config, &RunnerOptions { kv_dtype, ..RunnerOptions::default() })
    };

    let refused = limits(KvDtype::Int8).unwrap_err().to_string();
    assert!(refused.contains("a multiple of 32") && refused.contains("80"), "{refused}");
    assert!(limits(KvDtype::F16).is_ok());
}
