//! Logits and tokens against the processor's, and against transformers'.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sconce::runner::gpu_options::{GpuDtype, GpuKvDtype, GpuOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::dtype::Dtype;
use serde::Deserialize;

use super::harness::{Harness, Sequence};
use super::models::{cpu_harness, gpu_harness, on_cpu, on_gpu, options};
use super::steps::Runner;
use super::tiny;

/// The largest difference of logits, relative to the largest of them.
pub(crate) fn distance(given: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(given.len(), expected.len());
    let scale = expected.iter().fold(0.0_f32, |scale, x| scale.max(x.abs()));
    let differences = given.iter().zip(expected).map(|(x, y)| (x - y).abs());
    // What is no number must not pass.
    differences.fold(0.0, |most: f32, x| if x <= most { most } else { x }) / scale
}

pub(crate) fn prompt(seed: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (seed * 7919 + i * 104_729 + i * i * 31) % tiny::VOCAB_SIZE as u32).collect()
}

/// Prompts in chunks beside rows that decode, then decoding alone: every step's logits, and the tokens.
fn generate<R: Runner>(harness: &mut Harness<R>) -> (Vec<Vec<f32>>, Vec<u32>) {
    let lengths = [1, 5, 37, 130];
    let prompts: Vec<_> = (0..).zip(lengths).map(|(seed, len)| prompt(seed, len)).collect();
    go_on(harness, &prompts)
}

/// As [`generate`], of these prompts.
pub(crate) fn go_on<R: Runner>(
    harness: &mut Harness<R>,
    prompts: &[Vec<u32>],
) -> (Vec<Vec<f32>>, Vec<u32>) {
    let mut sequences: Vec<Sequence> =
        prompts.iter().map(|prompt| harness.sequence(prompt)).collect();
    let (mut all, mut tokens) = (Vec::new(), Vec::new());
    for _ in 0..24 {
        let mut batch: Vec<(&mut Sequence, usize)> = (sequences.iter_mut())
            .map(|sequence| {
                let pending = sequence.tokens.len() - sequence.num_computed;
                (sequence, pending.min(20))
            })
            .collect();
        let (logits, sampled) = harness.step(&mut batch);
        for ((sequence, logits), sampled) in sequences.iter_mut().zip(logits).zip(sampled) {
            if sequence.num_computed == sequence.tokens.len() {
                sequence.tokens.push(sampled.token);
                tokens.push(sampled.token);
                all.push(logits);
            }
        }
    }
    (all, tokens)
}

#[test]
fn in_32_bits_tokens_equal_the_processors() {
    let folder = tiny::folder(1, None);
    let (expected, tokens) = generate(&mut on_cpu(folder.path()));

    for graphs in [true, false] {
        let options = GpuOptions { graphs, ..options(GpuDtype::F32) };
        let (logits, given) = generate(&mut on_gpu(folder.path(), &options));

        assert_eq!(given, tokens, "graphs: {graphs}");
        let worst = logits.iter().zip(&expected).map(|(x, y)| distance(x, y)).fold(0.0, f32::max);
        println!("graphs {graphs}: {worst:e}");
        assert!(worst < 2e-5, "{worst:e}");
    }
}

#[test]
fn in_16_bits_logits_are_near_the_processors() {
    let folder = tiny::folder(2, None);
    let mut cpu = on_cpu(folder.path());
    for (dtype, kv_dtype, limit) in [
        (GpuDtype::F16, GpuKvDtype::Auto, 5e-3),
        (GpuDtype::BF16, GpuKvDtype::Auto, 4e-2),
        (GpuDtype::F16, GpuKvDtype::Fp8, 1e-1),
        (GpuDtype::F16, GpuKvDtype::Int8, 3e-2),
    ] {
        let options = GpuOptions { kv_dtype, ..options(dtype) };
        let mut gpu = on_gpu(folder.path(), &options);
        let tokens = prompt(3, 150);
        let (mut on_cpu, mut on_gpu) = (cpu.sequence(&tokens), gpu.sequence(&tokens));

        for num_new in [100, 1, 7, 40, 1, 1] {
            let (expected, _) = cpu.step(&mut [(&mut on_cpu, num_new)]);
            let (given, _) = gpu.step(&mut [(&mut on_gpu, num_new)]);

            let worst = distance(&given[0], &expected[0]);
            println!("{dtype:?} {kv_dtype:?} {num_new}: {worst:e}");
            assert!(worst < limit, "{dtype:?} {kv_dtype:?} {num_new}: {worst:e}");
        }
        cpu.clear();
    }
}

/// Quantized weights, which stay so: against the processor's, which reads the same blocks.
#[test]
fn quantized_logits_are_near_the_processors() {
    let folder = tiny::folder(8, None);
    for matrices in [Dtype::Q4_0, Dtype::Q8_0] {
        let checkpoint = Checkpoint::dummy_of(folder.path(), matrices).unwrap();
        let mut cpu = cpu_harness(&checkpoint);
        let mut gpu = gpu_harness(&checkpoint, &options(GpuDtype::F16));
        let tokens = prompt(9, 330);
        let (mut on_cpu, mut on_gpu) = (cpu.sequence(&tokens), gpu.sequence(&tokens));

        // By each of the ways that products go: of one token, of some, of many.
        for num_new in [1, 6, 40, 282, 1] {
            let (expected, _) = cpu.step(&mut [(&mut on_cpu, num_new)]);
            let (given, _) = gpu.step(&mut [(&mut on_gpu, num_new)]);

            let worst = distance(&given[0], &expected[0]);
            println!("{matrices:?} {num_new}: {worst:e}");
            assert!(worst < 1e-2, "{matrices:?} {num_new}: {worst:e}");
        }
    }
}

#[test]
fn completions_of_one_prompt_share_blocks_until_they_write() {
    let folder = tiny::folder(4, None);
    let mut cpu = on_cpu(folder.path());
    let mut gpu = on_gpu(folder.path(), &options(GpuDtype::F32));

    let (expected, given) = (forked(&mut cpu, &prompt(5, 21)), forked(&mut gpu, &prompt(5, 21)));

    assert_eq!(given.len(), 4);
    for (given, expected) in given.iter().zip(&expected) {
        assert!(distance(given, expected) < 2e-5);
    }
}

#[test]
fn completions_of_one_prompt_begin_from_the_same_logits() {
    let folder = tiny::folder(4, None);
    let mut gpu = on_gpu(folder.path(), &options(GpuDtype::BF16));

    let (logits, sampled) = gpu.step_shared(&prompt(5, 21), 3);

    assert_eq!((logits.len(), sampled.len()), (1, 3));
    assert!(sampled.iter().all(|one| one.token == sampled[0].token));
}

/// Two completions of a prompt, the second with its own copy of the last block: the logits of both.
fn forked<R: Runner>(harness: &mut Harness<R>, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut first = harness.sequence(tokens);
    harness.step(&mut [(&mut first, tokens.len())]);
    let mut second = harness.fork(&first);
    let last = second.blocks.len() - 1;
    harness.copy_on_write(&mut second, last);
    first.tokens.push(11);
    second.tokens.push(12);
    let (mut logits, _) = harness.step(&mut [(&mut first, 1), (&mut second, 1)]);
    first.tokens.push(13);
    second.tokens.push(13);
    logits.extend(harness.step(&mut [(&mut first, 1), (&mut second, 1)]).0);
    logits
}

#[test]
fn a_sequence_is_the_same_whatever_is_beside_it() {
    let folder = tiny::folder(6, None);
    let mut gpu = on_gpu(folder.path(), &options(GpuDtype::BF16));
    let tokens = prompt(7, 60);
    let mut alone = gpu.sequence(&tokens);
    let (expected, _) = gpu.step(&mut [(&mut alone, tokens.len())]);
    alone.tokens.push(9);
    let (decoded, _) = gpu.step(&mut [(&mut alone, 1)]);
    gpu.clear();

    let mut others: Vec<_> = (10..14).map(|seed| gpu.sequence(&prompt(seed, 30))).collect();
    let mut among = gpu.sequence(&tokens);
    let mut batch: Vec<_> = others.iter_mut().map(|other| (other, 30)).collect();
    gpu.advance(&mut batch);
    gpu.step(&mut [(&mut among, tokens.len())]);
    among.tokens.push(9);
    for other in &mut others {
        other.tokens.push(3);
    }
    let mut batch: Vec<_> = others.iter_mut().map(|other| (other, 1)).collect();
    batch.push((&mut among, 1));
    let (logits, _) = gpu.step(&mut batch);

    assert_eq!(logits.last(), decoded.first(), "of up to 8 rows, bit for bit");
    assert!(expected[0].iter().all(|logit| logit.is_finite()));
}

/// Logits of a tiny model at some positions of a prompt.
#[derive(Deserialize)]
struct Fixture {
    prompt_ids: Vec<u32>,
    logits: BTreeMap<usize, Vec<f32>>,
}

/// The folders of the tiny models.
fn tiny_models() -> Vec<PathBuf> {
    // Where the test runs, which need not be where it was built.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map_or(".".into(), PathBuf::from);
    let entries = std::fs::read_dir(root.join("tests/reference/tiny")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn fixture(folder: &Path) -> Fixture {
    serde_json::from_slice(&std::fs::read(folder.join("logits.json")).unwrap()).unwrap()
}

/// Of every family, with graphs of steps that decode.
#[test]
fn tiny_models_generate_what_they_do_on_the_processor() {
    for folder in tiny_models() {
        let ids = fixture(&folder).prompt_ids;
        let prompts: Vec<_> = [1, 5, 37, 48].iter().map(|len| ids[..*len].to_vec()).collect();
        let (expected, tokens) = go_on(&mut on_cpu(&folder), &prompts);

        let (logits, given) = go_on(&mut on_gpu(&folder, &options(GpuDtype::F32)), &prompts);

        let worst = logits.iter().zip(&expected).map(|(x, y)| distance(x, y)).fold(0.0, f32::max);
        println!("{}: {worst:e}", folder.display());
        assert!(worst < 5e-5, "{}: {worst:e}", folder.display());
        assert_eq!(given, tokens, "{}", folder.display());
    }
}

#[test]
fn in_16_bits_logits_of_tiny_models_are_near_those_of_transformers() {
    for folder in tiny_models() {
        let fixture = fixture(&folder);
        let mut gpu = on_gpu(&folder, &options(GpuDtype::F16));
        let mut sequence = gpu.sequence(&fixture.prompt_ids);
        for (position, expected) in &fixture.logits {
            let num_new = position + 1 - sequence.num_computed;
            let (logits, _) = gpu.step(&mut [(&mut sequence, num_new)]);

            let worst = distance(&logits[0], expected);
            println!("{}, position {position}: {worst:e}", folder.display());
            assert!(worst < 2e-2, "{}, position {position}: {worst:e}", folder.display());
        }
    }
}

#[test]
fn logits_of_tiny_models_equal_those_of_transformers() {
    let mut num_models = 0;
    for folder in tiny_models() {
        let fixture = fixture(&folder);
        let mut gpu = on_gpu(&folder, &options(GpuDtype::F32));
        let mut sequence = gpu.sequence(&fixture.prompt_ids);
        for (position, expected) in &fixture.logits {
            let num_new = position + 1 - sequence.num_computed;
            let (logits, _) = gpu.step(&mut [(&mut sequence, num_new)]);

            let worst = distance(&logits[0], expected);
            assert!(worst < 1e-4, "{}, position {position}: {worst:e}", folder.display());
        }
        num_models += 1;
    }
    assert!(num_models >= 12);
}
