//! What the machine could do at best: bytes read from memory, and multiplications by the
//! instructions that the kernels of an instruction set could use, a second. The bounds that the
//! figures of `benches/compare.py` are held against.
//!
//! `cargo bench -p sconce-kernels --bench roofline -- [THREADS [ISA]] [--json]`
#![expect(clippy::print_stdout, reason = "the figures are the output")]
#![expect(unsafe_code, reason = "calls what the instruction set has been checked for")]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use std::{env, thread};

use sconce_kernels::Error;
use sconce_kernels::cpu::Isa;

/// Bytes that all threads together read: several times any cache that one would call a cache.
const MEMORY_BYTES: usize = 512 << 20;
const NUM_PASSES: usize = 8;
/// How long a compute probe runs, and how often; the best counts.
const COMPUTE_TIME: Duration = Duration::from_millis(100);
const NUM_TRIES: usize = 4;

/// Groups of four columns in a block of 32.
const GROUPS: usize = 8;
/// Blocks of a panel that stays in the first-level cache with its activations.
const BLOCKS: usize = 8;
/// Rows of a panel.
const LANES: usize = 16;

/// A panel of 8-bit codes of 16 rows, as [`Isa`]'s kernels read it, and activations for it.
struct Panel {
    weights: Vec<u8>,
    /// `[BLOCKS * GROUPS][tokens]`, four bytes each.
    x: Vec<i32>,
    floats: Vec<f32>,
}

/// A loop over a panel: so many tokens times its 16 rows and its columns.
#[derive(Clone, Copy)]
struct Probe {
    /// Multiplications of one call.
    macs: usize,
    /// # Safety
    /// The instruction set must be there.
    run: unsafe fn(&Panel) -> i32,
}

/// The probes of an instruction set.
struct Probes {
    /// Weights below 16.
    int4: Probe,
    /// Any 8-bit weights.
    int8: Probe,
    f32: Probe,
    /// Keys and values.
    kv: Probe,
}

impl Panel {
    fn new() -> Self {
        let weights = (0..BLOCKS * GROUPS * 4 * LANES).map(|i| (i % 16) as u8).collect();
        let x = (0..BLOCKS * GROUPS * 8).map(|i| (i as i32).wrapping_mul(0x0101_0101)).collect();
        Self { weights, x, floats: vec![0.5; BLOCKS * GROUPS * LANES] }
    }
}

const fn int(tokens: usize, run: unsafe fn(&Panel) -> i32) -> Probe {
    Probe { macs: BLOCKS * GROUPS * 4 * LANES * tokens, run }
}

const fn float(tokens: usize, run: unsafe fn(&Panel) -> i32) -> Probe {
    Probe { macs: BLOCKS * GROUPS * LANES * tokens, run }
}

fn probes(isa: Isa) -> Probes {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => Probes {
            int4: int(8, x86::vnni_512),
            int8: int(8, x86::vnni_512),
            f32: float(8, x86::fma_512),
            // Two in each lane.
            kv: Probe { macs: 2 * float(8, x86::bf16_512).macs, run: x86::bf16_512 },
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => Probes {
            int4: int(8, x86::vnni_512),
            int8: int(8, x86::vnni_512),
            f32: float(8, x86::fma_512),
            kv: float(8, x86::fma_512),
        },
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => Probes {
            int4: int(4, x86::vnni_256),
            int8: int(4, x86::vnni_256),
            f32: float(4, x86::fma_256),
            kv: float(4, x86::fma_256),
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Probes {
            int4: int(4, x86::maddubs_narrow),
            int8: int(4, x86::maddubs_wide),
            f32: float(4, x86::fma_256),
            kv: float(4, x86::fma_256),
        },
        _ => Probes {
            int4: int(1, plain_int),
            int8: int(1, plain_int),
            f32: float(1, plain_f32),
            kv: float(1, plain_f32),
        },
    }
}

fn plain_int(panel: &Panel) -> i32 {
    let mut sums = [0_i32; LANES];
    for (codes, x) in panel.weights.chunks_exact(4 * LANES).zip(&panel.x) {
        let x = x.to_le_bytes();
        for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(4)) {
            for (code, x) in codes.iter().zip(x) {
                *sum += i32::from(*code) * i32::from(x as i8);
            }
        }
    }
    sums.iter().sum()
}

fn plain_f32(panel: &Panel) -> i32 {
    let mut sums = [0.0_f32; LANES];
    for (weights, x) in panel.floats.chunks_exact(LANES).zip(&panel.floats) {
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum += weight * x;
        }
    }
    sums.iter().sum::<f32>() as i32
}

/// The loops of each instruction set. Weights and activations come from the first-level cache,
/// since operands that stay in registers would let the compiler move the products out of the loop.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{GROUPS, LANES, Panel};

    /// 32 weights: half of the 16 rows.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn half(codes: &[u8], index: usize) -> __m256i {
        let codes: &[u8; 32] = codes[32 * index..][..32].try_into().expect("32 bytes");
        // SAFETY: 32 bytes are there.
        unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn sum(sums: [[__m256i; 2]; 4]) -> i32 {
        let all = sums.into_iter().flatten().reduce(|a, b| _mm256_add_epi32(a, b));
        _mm256_extract_epi32::<0>(all.expect("there are sums"))
    }

    /// Products of weights below 16 with signed bytes: the sums of a block of 32 columns fit into
    /// 16 bits, and are widened once a block.
    #[target_feature(enable = "avx2")]
    pub(super) fn maddubs_narrow(panel: &Panel) -> i32 {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[_mm256_setzero_si256(); 2]; 4];
        let blocks = panel.weights.chunks_exact(GROUPS * 4 * LANES);
        for (codes, x) in blocks.zip(panel.x.chunks_exact(4 * GROUPS)) {
            let mut narrow = [[_mm256_setzero_si256(); 2]; 4];
            for (codes, x) in codes.chunks_exact(4 * LANES).zip(x.chunks_exact(4)) {
                let w = [half(codes, 0), half(codes, 1)];
                for t in 0..4 {
                    let x = _mm256_set1_epi32(x[t]);
                    for i in 0..2 {
                        let pairs = _mm256_maddubs_epi16(w[i], x);
                        narrow[t][i] = _mm256_add_epi16(narrow[t][i], pairs);
                    }
                }
            }
            for t in 0..4 {
                for i in 0..2 {
                    let wide = _mm256_madd_epi16(narrow[t][i], ones);
                    sums[t][i] = _mm256_add_epi32(sums[t][i], wide);
                }
            }
        }
        sum(sums)
    }

    /// Products of larger weights fill 16 bits at once, and are widened one by one.
    #[target_feature(enable = "avx2")]
    pub(super) fn maddubs_wide(panel: &Panel) -> i32 {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[_mm256_setzero_si256(); 2]; 4];
        for (codes, x) in panel.weights.chunks_exact(4 * LANES).zip(panel.x.chunks_exact(4)) {
            let w = [half(codes, 0), half(codes, 1)];
            for t in 0..4 {
                let x = _mm256_set1_epi32(x[t]);
                for i in 0..2 {
                    let wide = _mm256_madd_epi16(_mm256_maddubs_epi16(w[i], x), ones);
                    sums[t][i] = _mm256_add_epi32(sums[t][i], wide);
                }
            }
        }
        sum(sums)
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn vnni_256(panel: &Panel) -> i32 {
        let mut sums = [[_mm256_setzero_si256(); 2]; 4];
        for (codes, x) in panel.weights.chunks_exact(4 * LANES).zip(panel.x.chunks_exact(4)) {
            let w = [half(codes, 0), half(codes, 1)];
            for t in 0..4 {
                let x = _mm256_set1_epi32(x[t]);
                for i in 0..2 {
                    sums[t][i] = _mm256_dpbusd_avx_epi32(sums[t][i], w[i], x);
                }
            }
        }
        sum(sums)
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn vnni_512(panel: &Panel) -> i32 {
        let mut sums = [_mm512_setzero_si512(); 8];
        for (codes, x) in panel.weights.chunks_exact(4 * LANES).zip(panel.x.chunks_exact(8)) {
            // SAFETY: a chunk is 64 bytes.
            let w = unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) };
            for t in 0..8 {
                sums[t] = _mm512_dpbusd_epi32(sums[t], w, _mm512_set1_epi32(x[t]));
            }
        }
        let all = sums.into_iter().reduce(|a, b| _mm512_add_epi32(a, b)).expect("there are sums");
        _mm512_reduce_add_epi32(all)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fma_256(panel: &Panel) -> i32 {
        let mut sums = [[_mm256_setzero_ps(); 2]; 4];
        let x = &panel.floats[..4 * LANES];
        for (i, weights) in panel.floats.chunks_exact(LANES).enumerate() {
            let start = weights.as_ptr();
            // SAFETY: a chunk is 16 floats.
            let w = unsafe { [_mm256_loadu_ps(start), _mm256_loadu_ps(start.add(8))] };
            for t in 0..4 {
                let x = _mm256_set1_ps(x[(4 * i + t) % (4 * LANES)]);
                for half in 0..2 {
                    sums[t][half] = _mm256_fmadd_ps(w[half], x, sums[t][half]);
                }
            }
        }
        let all = sums.into_iter().flatten().reduce(|a, b| _mm256_add_ps(a, b));
        _mm256_cvtss_f32(all.expect("there are sums")) as i32
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16_512(panel: &Panel) -> i32 {
        let mut sums = [_mm512_setzero_ps(); 8];
        let x = &panel.floats[..8 * LANES];
        for (i, weights) in panel.floats.chunks_exact(LANES).enumerate() {
            // SAFETY: a chunk is 64 bytes; any of them are a pair of bf16.
            let w = unsafe { weights.as_ptr().cast::<__m512bh>().read_unaligned() };
            for t in 0..8 {
                let x = _mm512_set1_ps(x[(8 * i + t) % (8 * LANES)]);
                // SAFETY: as above.
                let x = unsafe { std::mem::transmute::<__m512, __m512bh>(x) };
                sums[t] = _mm512_dpbf16_ps(sums[t], w, x);
            }
        }
        let all = sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b)).expect("there are sums");
        _mm512_reduce_add_ps(all) as i32
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn fma_512(panel: &Panel) -> i32 {
        let mut sums = [_mm512_setzero_ps(); 8];
        let x = &panel.floats[..8 * LANES];
        for (i, weights) in panel.floats.chunks_exact(LANES).enumerate() {
            // SAFETY: a chunk is 16 floats.
            let w = unsafe { _mm512_loadu_ps(weights.as_ptr()) };
            for t in 0..8 {
                let x = _mm512_set1_ps(x[(8 * i + t) % (8 * LANES)]);
                sums[t] = _mm512_fmadd_ps(w, x, sums[t]);
            }
        }
        let all = sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b)).expect("there are sums");
        _mm512_reduce_add_ps(all) as i32
    }
}

/// Bytes a second that all threads together read, each its own share.
fn read_rate(num_threads: usize) -> f64 {
    // Written, so that every page is its own.
    let words = vec![1_u64; MEMORY_BYTES / 8];
    let share = words.len() / num_threads;
    let passes = (0..NUM_PASSES).map(|_| {
        let seconds = together(num_threads, |thread| {
            black_box(sum_words(&words[thread * share..][..share]));
        });
        (share * num_threads * 8) as f64 / seconds
    });
    passes.fold(0.0, f64::max)
}

/// Eight sums at once, so that the loads are what takes the time.
fn sum_words(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 32];
    for words in words.chunks_exact(32) {
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// Multiplications a second of all threads together.
fn compute_rate(num_threads: usize, probe: Probe) -> f64 {
    let panel = Panel::new();
    let start = Instant::now();
    let mut calls = 0_usize;
    while start.elapsed() < COMPUTE_TIME {
        // SAFETY: `main` checked that the instruction set is there.
        black_box(unsafe { (probe.run)(black_box(&panel)) });
        calls += 1;
    }
    let tries = (0..NUM_TRIES).map(|_| {
        let seconds = together(num_threads, |_| {
            let panel = Panel::new();
            for _ in 0..calls {
                // SAFETY: as above.
                black_box(unsafe { (probe.run)(black_box(&panel)) });
            }
        });
        (num_threads * calls * probe.macs) as f64 / seconds
    });
    tries.fold(0.0, f64::max)
}

/// Seconds from when all threads are there until all are done.
fn together(num_threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(num_threads + 1);
    thread::scope(|scope| {
        for thread in 0..num_threads {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(thread);
                barrier.wait();
            });
        }
        barrier.wait();
        let start = Instant::now();
        barrier.wait();
        start.elapsed().as_secs_f64()
    })
}

fn main() -> Result<(), Error> {
    let (flags, values): (Vec<_>, Vec<_>) =
        env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let available = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let num_threads = values.first().and_then(|given| given.parse().ok()).unwrap_or(available);
    let isa = values.get(1).map_or(Ok(Isa::detect()), |given| given.parse::<Isa>())?;
    assert!(isa.is_available(), "this machine does not have {isa}");

    let probes = probes(isa);
    let read = read_rate(num_threads);
    let [int4, int8, f32, kv] = [probes.int4, probes.int8, probes.f32, probes.kv]
        .map(|probe| compute_rate(num_threads, probe));
    if flags.iter().any(|flag| flag == "--json") {
        println!(
            "{{\"isa\":\"{isa}\",\"threads\":{num_threads},\"read_bytes\":{read:.0},\
             \"int4_macs\":{int4:.0},\"int8_macs\":{int8:.0},\"f32_macs\":{f32:.0},\
             \"kv_macs\":{kv:.0}}}"
        );
    } else {
        println!("{isa}, {num_threads} threads");
        println!("memory, read              {:8.1} GB/s", read / 1e9);
        println!("products of 4-bit weights {:8.1} G/s", int4 / 1e9);
        println!("products of 8-bit weights {:8.1} G/s", int8 / 1e9);
        println!("products of floats        {:8.1} G/s", f32 / 1e9);
        println!("products of the KV cache  {:8.1} G/s", kv / 1e9);
    }
    Ok(())
}
