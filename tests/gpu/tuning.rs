//! Algorithms of matrix products that are measured at one start and read at the next.

use std::fs;

use sconce::runner::cuda::{CudaRunner, LoadError};
use sconce::runner::gpu_options::{GpuDtype, GpuOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cuda::{Device, Tuned};

use super::harness::Harness;
use super::models::{on_gpu, options};
use super::tiny;

/// Greedy tokens after a prompt whose products cuBLASLt computes.
fn tokens(gpu: &mut Harness<CudaRunner>) -> Vec<u32> {
    let prompt: Vec<u32> = (0..40).map(|i| i * 7 % 90).collect();
    let mut sequence = gpu.sequence(&prompt);
    let mut tokens = vec![gpu.advance(&mut [(&mut sequence, 40)])[0].token];
    for _ in 0..8 {
        sequence.tokens.extend(tokens.last());
        tokens.push(gpu.advance(&mut [(&mut sequence, 1)])[0].token);
    }
    tokens
}

#[test]
fn what_one_start_has_measured_the_next_one_reads() {
    let (folder, kept) = (tiny::folder(1, None), tempfile::tempdir().unwrap());
    let path = kept.path().join("algorithms");
    let with = GpuOptions { tuning_cache: Some(path.clone()), ..options(GpuDtype::F32) };
    let expected = tokens(&mut on_gpu(folder.path(), &options(GpuDtype::F32)));

    assert_eq!(tokens(&mut on_gpu(folder.path(), &with)), expected);
    let text = fs::read_to_string(&path).unwrap();
    assert!(Tuned::parse(&text).is_ok());
    // Four matrices of a layer and the vocabulary's, each by several numbers of tokens.
    assert!(text.lines().count() > 10, "{text}");

    assert_eq!(tokens(&mut on_gpu(folder.path(), &with)), expected);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn another_file_is_not_overwritten() {
    let (folder, kept) = (tiny::folder(1, None), tempfile::tempdir().unwrap());
    let path = kept.path().join("notes");
    fs::write(&path, "mine\n").unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let with = GpuOptions { tuning_cache: Some(path.clone()), ..options(GpuDtype::F32) };

    let refused = CudaRunner::load(Device::open(0).unwrap(), &checkpoint, &with).err();

    assert!(matches!(refused, Some(LoadError::Tuning { .. })), "{refused:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine\n");
}
