//! What the host asks of the driver in a step. Only the stand-in counts.
#![expect(unsafe_code, reason = "the stand-in's counters are functions of a C library")]

use std::ffi::{CString, c_char, c_void};

use sconce::engine::request::SamplingParams;
use sconce::runner::Executor;
use sconce::runner::cuda::CudaRunner;
use sconce::runner::gpu_options::{GpuDtype, GpuOptions};
use sconce_kernels::cuda::Device;

use super::experts::{MIXED, QWEN3_MOE};
use super::harness::Harness;
use super::models::{gpu_harness, on_gpu, options};
use super::sampling::regex;
use super::tiny;

/// The stand-in's counters; `None` on a real driver.
struct Counters {
    count: Count,
    reset: Reset,
}

type Count = unsafe extern "C" fn(*const c_char) -> u64;
type Reset = unsafe extern "C" fn();

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    fn dlopen(path: *const c_char, flags: i32) -> *mut c_void;
}

impl Counters {
    fn find() -> Option<Self> {
        // SAFETY: names end with zero; the library is loaded already, and the symbols have these types.
        unsafe {
            let library = dlopen(c"libcuda.so.1".as_ptr(), 1);
            let count = dlsym(library, c"stand_in_count".as_ptr());
            let reset = dlsym(library, c"stand_in_reset".as_ptr());
            if count.is_null() || reset.is_null() {
                return None;
            }
            Some(Self {
                count: std::mem::transmute::<*mut c_void, Count>(count),
                reset: std::mem::transmute::<*mut c_void, Reset>(reset),
            })
        }
    }

    fn of(&self, name: &str) -> u64 {
        let name = CString::new(name).unwrap();
        // SAFETY: the name ends with zero.
        unsafe { (self.count)(name.as_ptr()) }
    }
}

const STEPS: u64 = 40;

/// Decodes sequences with such parameters, and counts from when the graphs of this size were captured, of which
/// a step launches so many.
fn decode(samplings: Vec<SamplingParams>, num_graphs: u64) -> Option<Counters> {
    let folder = tiny::folder(1, None);
    decode_by(on_gpu(folder.path(), &options(GpuDtype::BF16)), samplings, num_graphs)
}

/// As [`decode`], by this model.
fn decode_by(
    mut gpu: Harness<CudaRunner>,
    samplings: Vec<SamplingParams>,
    num_graphs: u64,
) -> Option<Counters> {
    let Some(counters) = Counters::find() else {
        println!("skipped: only the stand-in for the driver counts");
        return None;
    };
    let mut sequences = Vec::new();
    for (i, sampling) in (0..).zip(samplings) {
        gpu.sampling = sampling;
        sequences.push(gpu.sequence(&[i, 5, 9]));
    }
    for sequence in &mut sequences {
        gpu.advance(&mut [(sequence, 3)]);
    }
    let mut decode = |gpu: &mut Harness<_>| {
        for sequence in &mut sequences {
            sequence.tokens.push(7);
        }
        let mut batch: Vec<_> = sequences.iter_mut().map(|sequence| (sequence, 1)).collect();
        gpu.advance(&mut batch);
    };
    // The graph of this size is captured when it is first needed.
    decode(&mut gpu);
    // SAFETY: it has no arguments.
    unsafe { (counters.reset)() };
    for _ in 0..STEPS {
        decode(&mut gpu);
    }
    assert_eq!(counters.of("cuGraphLaunch"), num_graphs * STEPS);
    for name in ["cuMemAlloc_v2", "cuMemFree_v2", "cuMemAllocAsync", "cuMemHostAlloc"] {
        assert_eq!(counters.of(name), 0, "{name}");
    }
    for name in ["cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2", "cuStreamSynchronize", "cuCtxSynchronize"] {
        assert_eq!(counters.of(name), 0, "{name}");
    }
    Some(counters)
}

#[test]
fn a_decode_step_is_one_graph_and_allocates_nothing() {
    let Some(counters) = decode(vec![SamplingParams::default(); 3], 1) else { return };

    assert_eq!(counters.of("cuLaunchKernelEx"), 0, "all launches are in the graph");
    assert_eq!(counters.of("cuMemcpyHtoDAsync_v2"), STEPS, "one copy of what changes");
    assert_eq!(counters.of("cuMemcpyDtoHAsync_v2"), STEPS, "one copy of tokens");
    let nodes = counters.of("graph_nodes");
    println!("{nodes} nodes");
    // Nine launches a layer of three layers, and those around them.
    assert!(nodes <= 3 * 10 + 8, "{nodes}");
}

#[test]
fn a_decode_step_of_quantized_experts_is_one_graph_and_allocates_nothing() {
    // Few tokens, and more than a GPU's few.
    for (mixture, num_sequences) in [(&QWEN3_MOE, 3), (&MIXED, 12)] {
        let gpu = gpu_harness(&mixture.checkpoint(), &options(GpuDtype::BF16));
        let samplings = vec![SamplingParams::default(); num_sequences];
        let Some(counters) = decode_by(gpu, samplings, 1) else { return };

        assert_eq!(counters.of("cuLaunchKernelEx"), 0, "all launches are in the graph");
        assert_eq!(counters.of("cuMemcpyHtoDAsync_v2"), STEPS, "one copy of what changes");
        assert_eq!(counters.of("cuMemcpyDtoHAsync_v2"), STEPS, "one copy of tokens");
    }
}

#[test]
fn a_decode_step_asks_for_no_more_whatever_its_samples_need() {
    let plain = SamplingParams { ignore_eos: true, temperature: 0.8, ..SamplingParams::default() };
    let penalties = SamplingParams {
        repetition_penalty: 1.2,
        frequency_penalty: 0.5,
        presence_penalty: 0.1,
        logit_bias: (0..300).map(|token| (token, 0.5)).collect(),
        ..plain.clone()
    };
    let words = SamplingParams {
        min_tokens: 5,
        stop_token_ids: vec![3, 4],
        bad_words: (0..100).map(|token| vec![7, token]).collect(),
        ..plain.clone()
    };
    let typical = SamplingParams { typical_p: 0.5, top_p: 0.9, ..plain.clone() };
    let likely = SamplingParams { num_logprobs: Some(20), ..plain.clone() };
    let allowed = SamplingParams { allowed_token_ids: (5..90).collect(), ..plain.clone() };

    let samplings = vec![plain, penalties, words, typical, likely, allowed];
    let Some(counters) = decode(samplings, 1) else { return };

    assert_eq!(counters.of("cuLaunchKernelEx"), 0, "all launches are in the graph");
    assert_eq!(counters.of("cuMemcpyHtoDAsync_v2"), STEPS, "one copy of what changes");
    assert_eq!(counters.of("cuMemcpyDtoHAsync_v2"), 2 * STEPS, "tokens and log-probabilities");
    // Six more at most: to weigh, gather and choose what is typical, and two that score.
    let nodes = counters.of("graph_nodes");
    println!("{nodes} nodes");
    assert!(nodes <= 3 * 10 + 8 + 6, "{nodes}");
}

#[test]
fn a_step_with_drafts_is_one_graph_too() {
    let folder = tiny::folder(1, None);
    let mut gpu = on_gpu(folder.path(), &options(GpuDtype::BF16));
    let Some(counters) = Counters::find() else {
        println!("skipped: only the stand-in for the driver counts");
        return;
    };
    gpu.sampling = SamplingParams {
        temperature: 0.8,
        logit_bias: vec![(3, 0.5)],
        bad_words: vec![vec![7, 9]],
        ..SamplingParams::default()
    };
    let mut sequences = [gpu.sequence(&[1, 5, 9]), gpu.sequence(&[2, 5, 9])];
    for sequence in &mut sequences {
        gpu.advance(&mut [(sequence, 3)]);
    }
    let mut draft = |gpu: &mut Harness<CudaRunner>| {
        for sequence in &mut sequences {
            sequence.tokens.extend([7, 8, 7, 8]);
        }
        let mut batch: Vec<_> = sequences.iter_mut().map(|sequence| (sequence, 4)).collect();
        gpu.push_rows(&mut batch);
        for sample in &mut gpu.plan.samples {
            (sample.token_index, sample.position) = (sample.token_index - 3, sample.position - 3);
            sample.num_drafts = 3;
        }
        let mut sampled = Vec::new();
        gpu.runner.forward(&gpu.plan, &mut sampled).expect("the plan keeps the limits");
        assert!(gpu.plan.is_answered_by(&sampled));
        gpu.plan.clear();
    };
    // The graph of this size is captured when it is first needed.
    draft(&mut gpu);
    // SAFETY: it has no arguments.
    unsafe { (counters.reset)() };
    for _ in 0..STEPS {
        draft(&mut gpu);
    }

    assert_eq!(counters.of("cuGraphLaunch"), STEPS);
    assert_eq!(counters.of("cuLaunchKernelEx"), 0, "all launches are in the graph");
    assert_eq!(counters.of("cuMemAlloc_v2"), 0);
    assert_eq!(counters.of("cuMemcpyHtoDAsync_v2"), STEPS, "one copy of what changes");
    assert_eq!(counters.of("cuMemcpyDtoHAsync_v2"), STEPS, "one copy of tokens");
}

#[test]
fn what_a_grammar_allows_takes_one_copy_and_one_graph_more() {
    let grammar = Some(regex("[0-9]{400}"));
    let constrained = SamplingParams { grammar, ..SamplingParams::default() };

    let samplings = vec![SamplingParams::default(), constrained.clone(), constrained];
    let Some(counters) = decode(samplings, 2) else { return };

    assert_eq!(counters.of("cuLaunchKernelEx"), 0, "all launches are in the graphs");
    assert_eq!(counters.of("cuMemcpyHtoDAsync_v2"), 2 * STEPS, "what changes, and the masks");
    assert_eq!(counters.of("cuMemcpyDtoHAsync_v2"), STEPS, "one copy of tokens");
}

#[test]
fn early_launches_wait_for_what_they_need() {
    if Device::open(0).unwrap().properties().capability < (9, 0) {
        println!("skipped: the GPU can't");
        return;
    }
    let folder = tiny::folder(1, None);
    let early = GpuOptions { early_launch: true, ..options(GpuDtype::BF16) };
    let late = GpuOptions { early_launch: false, ..options(GpuDtype::BF16) };
    let tokens = |options: &GpuOptions| {
        let mut gpu = on_gpu(folder.path(), options);
        let mut sequence = gpu.sequence(&[1, 5, 9]);
        let mut sampled = gpu.advance(&mut [(&mut sequence, 3)]);
        for _ in 0..8 {
            let last = sampled.last().map_or(0, |one| one.token);
            sequence.tokens.push(last);
            sampled.extend(gpu.advance(&mut [(&mut sequence, 1)]));
        }
        sampled
    };
    let expected = tokens(&late);
    let counters = Counters::find();
    if let Some(counters) = &counters {
        // SAFETY: it has no arguments.
        unsafe { (counters.reset)() };
    }

    assert_eq!(tokens(&early), expected);
    if let Some(counters) = counters {
        // The stand-in fails a kernel that doesn't wait.
        let launched = counters.of("cuLaunchKernelEx");
        assert!(launched > 0);
        assert_eq!(counters.of("attribute:6"), launched);
    }
}
