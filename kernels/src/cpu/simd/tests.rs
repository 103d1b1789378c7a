//! The vectors of every instruction set of this machine against those of plain Rust.

use half::bf16;

use super::super::isa::Isa;
use super::*;

/// Calls a generic check for each instruction set.
macro_rules! everywhere {
    ($check:ident) => {
        for isa in Isa::available() {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Bf16 => $check::<Avx512Bf16>(isa),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Vnni => $check::<Avx512Vnni>(isa),
                #[cfg(target_arch = "x86_64")]
                Isa::AvxVnni => $check::<AvxVnni>(isa),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => $check::<Avx2>(isa),
                #[cfg(target_arch = "aarch64")]
                Isa::NeonDotprod => $check::<NeonDotprod>(isa),
                _ => $check::<Portable>(isa),
            }
        }
    };
}

const SPECIAL: [f32; LANES] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -1.5,
    2.5,
    -127.0,
    1.0e-40,
    65504.0,
    -65520.0,
    3.0e38,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    f32::MIN_POSITIVE,
];

/// The lanes' bits; all NaN are alike.
fn bits<S: Simd>(value: S::F) -> [u32; LANES] {
    let mut lanes = [0.0; LANES];
    // SAFETY: `everywhere` calls for instruction sets that are there, here and below; there is
    // room for 16 floats.
    unsafe { S::store(lanes.as_mut_ptr(), value) };
    lanes.map(|lane| if lane.is_nan() { f32::NAN.to_bits() } else { lane.to_bits() })
}

fn load<S: Simd>(lanes: &[f32; LANES]) -> S::F {
    // SAFETY: as above; there are 16 floats.
    unsafe { S::load(lanes.as_ptr()) }
}

/// An odd step goes through all exponents and many halfway cases' neighbors.
fn all_kinds() -> impl Iterator<Item = [f32; LANES]> {
    (0..1 << 14).map(|i: u32| {
        let start = i.wrapping_mul(0x4_0000);
        std::array::from_fn(|lane| {
            f32::from_bits(start.wrapping_add((lane as u32).wrapping_mul(0x0fff)))
        })
    })
}

fn numbers(from: f32, step: f32) -> [f32; LANES] {
    std::array::from_fn(|lane| from + step * lane as f32)
}

#[test]
fn arithmetic_is_that_of_single_floats() {
    fn check<S: Simd>(isa: Isa) {
        for turn in 0..LANES {
            let mut other = SPECIAL;
            other.rotate_left(turn);
            let (a, b) = (load::<S>(&SPECIAL), load::<S>(&other));
            let (p, q) = (load::<Portable>(&SPECIAL), load::<Portable>(&other));
            // SAFETY: as above.
            let pairs = unsafe {
                [
                    (bits::<S>(S::add(a, b)), bits::<Portable>(Portable::add(p, q))),
                    (bits::<S>(S::sub(a, b)), bits::<Portable>(Portable::sub(p, q))),
                    (bits::<S>(S::mul(a, b)), bits::<Portable>(Portable::mul(p, q))),
                    (bits::<S>(S::div(a, b)), bits::<Portable>(Portable::div(p, q))),
                    (bits::<S>(S::max(a, b)), bits::<Portable>(Portable::max(p, q))),
                    (bits::<S>(S::min(a, b)), bits::<Portable>(Portable::min(p, q))),
                ]
            };
            for (operation, (ours, plain)) in pairs.into_iter().enumerate() {
                assert_eq!(ours, plain, "{isa}: operation {operation}, rotated by {turn}");
            }
        }
    }

    everywhere!(check);
}

#[test]
fn half_floats_convert_exactly() {
    fn check<S: Simd>(isa: Isa) {
        for start in (0..=u16::MAX).step_by(LANES) {
            let halves: [u16; LANES] = std::array::from_fn(|lane| start + lane as u16);
            let from = halves.as_ptr();
            // SAFETY: as above; there are 16 half floats.
            unsafe {
                let plain = bits::<Portable>(Portable::load_f16(from));
                assert_eq!(bits::<S>(S::load_f16(from)), plain, "{isa}: f16 from {start:x}");
            }
            let pairs = halves.map(|half| i32::from(half) | i32::from(half ^ 0x8001) << 16);
            // SAFETY: as above; there are 16 pairs.
            let split = unsafe { S::split_bf16(S::load_int(pairs.as_ptr())) }.map(bits::<S>);
            let plain = [halves, halves.map(|half| half ^ 0x8001)];
            let plain =
                plain.map(|halves| halves.map(|half| f32::from_bits(u32::from(half) << 16)));
            let plain = plain.map(bits::<Portable>);
            assert_eq!(split, plain, "{isa}: bf16 from {start:x}");
        }
    }

    everywhere!(check);
}

#[test]
fn floats_round_to_half_precision_as_plain_rust_rounds() {
    fn halves<S: Simd>(lanes: &[f32; LANES]) -> [u16; LANES] {
        let mut halves = [0; LANES];
        // SAFETY: as above; there is room for 16 half floats.
        unsafe { S::store_f16(halves.as_mut_ptr(), load::<S>(lanes)) };
        halves.map(|half| if half & 0x7fff > 0x7c00 { 0x7e00 } else { half })
    }
    fn check<S: Simd>(isa: Isa) {
        for lanes in all_kinds() {
            assert_eq!(halves::<S>(&lanes), halves::<Portable>(&lanes), "{isa}: {lanes:?}");
        }
    }

    everywhere!(check);
}

#[test]
fn floats_round_to_bf16_as_plain_rust_rounds() {
    // NaN are alike, and so is what is below the normal numbers.
    fn halves<S: Simd>(lanes: &[f32; LANES]) -> [u16; LANES] {
        let mut halves = [0; LANES];
        // SAFETY: as above; there is room for 16 half floats.
        unsafe { S::store_bf16(halves.as_mut_ptr(), load::<S>(lanes)) };
        halves.map(|half| match half & 0x7fff {
            0..0x80 => 0,
            0x7f81.. => 0x7fc0,
            _ => half,
        })
    }
    fn check<S: Simd>(isa: Isa) {
        for lanes in all_kinds() {
            assert_eq!(halves::<S>(&lanes), halves::<Portable>(&lanes), "{isa}: {lanes:?}");
        }
    }

    everywhere!(check);
}

#[test]
fn pairs_of_bf16_are_multiplied_and_added() {
    fn check<S: Simd>(isa: Isa) {
        // Small integers: every sum is exact.
        let pair = |low: i32, high: i32| {
            let [low, high] = [low, high].map(|v| bf16::from_f32(v as f32).to_bits());
            i32::from(high) << 16 | i32::from(low)
        };
        let numbers: [i32; LANES] = std::array::from_fn(|lane| lane as i32 - 8);
        let a = numbers.map(|n| pair(n, 3 * n));
        let b = numbers.map(|n| pair(5 - n, 7 * n));
        let sum = numbers.map(|n| n as f32);
        let expected = numbers.map(|n| (n + n * (5 - n) + 21 * n * n) as f32);
        let expected_low = numbers.map(|n| (n + n * (5 - n)) as f32);
        // SAFETY: as above; there are 16 of each.
        unsafe {
            let (sum, a, b) = (load::<S>(&sum), S::load_int(a.as_ptr()), S::load_int(b.as_ptr()));
            let ours = bits::<S>(S::dot_bf16(sum, a, b));
            assert_eq!(ours, expected.map(f32::to_bits), "{isa}");
            let ours = bits::<S>(S::dot_bf16(sum, S::low_halves(a), b));
            assert_eq!(ours, expected_low.map(f32::to_bits), "{isa}: low halves");
        }
    }

    everywhere!(check);
}

#[test]
fn a_part_of_a_vector_is_all_that_is_read_and_written() {
    fn check<S: Simd>(isa: Isa) {
        let lanes = numbers(1.0, 1.0);
        for count in 0..=LANES {
            let first: [f32; LANES] =
                std::array::from_fn(|lane| if lane < count { lanes[lane] } else { 0.0 });
            let mut stored = [0.0; LANES];
            let short = lanes[..count].to_vec();

            // SAFETY: as above; there are `count` floats, and room for 16.
            let (loaded, either) = unsafe {
                let loaded = S::load_first(short.as_ptr(), count);
                S::store_first(stored.as_mut_ptr(), load::<S>(&lanes), count);
                (loaded, S::first_or(load::<S>(&lanes), count, S::splat(0.0)))
            };

            let expected = first.map(f32::to_bits);
            assert_eq!(bits::<S>(loaded), expected, "{isa}: load {count}");
            assert_eq!(bits::<S>(either), expected, "{isa}: first {count}");
            assert_eq!(stored, first, "{isa}: store {count}");
        }
    }

    everywhere!(check);
}

#[test]
fn integers_round_to_even_and_back() {
    fn check<S: Simd>(isa: Isa) {
        for lanes in [numbers(-126.0, 7.25), numbers(-4.0, 0.5), numbers(-1.0e6, 99_999.5)] {
            let rounded = lanes.map(f32::round_ties_even);
            let expected = rounded.map(|lane| (lane + 0.0).to_bits());
            // SAFETY: as above; there is room for 16 bytes.
            unsafe {
                let value = load::<S>(&lanes);
                let ours = bits::<S>(S::add(S::round(value), S::splat(0.0)));
                assert_eq!(ours, expected, "{isa}: round {lanes:?}");
                let ints = S::to_int(value);
                assert_eq!(bits::<S>(S::to_float(ints)), expected, "{isa}: to_int {lanes:?}");
                let sum: i32 = rounded.iter().map(|&lane| lane as i32).sum();
                assert_eq!(S::sum_int(ints), sum, "{isa}: sum_int {lanes:?}");
                let others = S::splat_int(3);
                assert_eq!(S::sums_int(ints, others), [sum, 48], "{isa}: sums_int {lanes:?}");
                if lanes[0] >= -128.0 {
                    let mut bytes = [0; LANES];
                    S::store_bytes(bytes.as_mut_ptr(), ints);
                    let value = S::load_i8(bytes.as_ptr());
                    assert_eq!(bits::<S>(value), expected, "{isa}: bytes {lanes:?}");
                }
            }
        }
    }

    everywhere!(check);
}

#[test]
fn lanes_are_summed_and_compared_and_powers_are_exact() {
    fn check<S: Simd>(isa: Isa) {
        for turn in 0..LANES {
            let mut lanes = numbers(-3.0, 0.25);
            lanes.rotate_left(turn);
            // SAFETY: as above.
            unsafe {
                assert_eq!(S::sum(load::<S>(&lanes)), -18.0, "{isa}");
                assert_eq!(S::largest(load::<S>(&lanes)), 0.75, "{isa}");
            }
        }
        for lanes in [numbers(-126.0, 1.0), numbers(112.0, 1.0), numbers(-8.0, 1.0)] {
            // SAFETY: as above.
            let powers = unsafe { S::pow2(load::<S>(&lanes)) };
            let expected = lanes.map(|lane| 2.0_f64.powf(lane.into()) as f32);
            assert_eq!(bits::<S>(powers), expected.map(f32::to_bits), "{isa}");
        }
    }

    everywhere!(check);
}

#[test]
fn a_coarse_power_of_e_is_near_the_exact_one() {
    fn check<S: Simd>(isa: Isa) {
        for lanes in (0..2000).map(|i| numbers(-0.04 * i as f32, -0.0025)) {
            let mut powers = [0.0; LANES];
            // SAFETY: as above; there is room for 16 floats.
            unsafe { S::store(powers.as_mut_ptr(), S::exp_coarse(load::<S>(&lanes))) };
            for (power, lane) in powers.into_iter().zip(lanes) {
                let exact = f64::from(lane).exp();
                let error = (f64::from(power) - exact).abs();
                assert!(error <= exact / 16e3, "{isa}: {lane}: {power} {exact}");
            }
        }
        let special = [f32::NEG_INFINITY, f32::NAN, 0.0, -1e30];
        let lanes = std::array::from_fn(|lane| special[lane % 4]);
        // SAFETY: as above.
        let powers = bits::<S>(unsafe { S::exp_coarse(load::<S>(&lanes)) }).map(f32::from_bits);
        assert!(powers[0] < 1e-37 && powers[1].is_nan() && powers[3] < 1e-37, "{isa}");
        assert_eq!(powers[2], 1.0, "{isa}");
    }

    everywhere!(check);
}

/// Codes of all values, and tokens' bytes of all values but -128.
fn codes_and_tokens(seed: usize) -> ([u8; 512], [i32; 32]) {
    let codes = std::array::from_fn(|i| (i * 73 + seed * 31 + i / 256) as u8);
    let byte = |i: usize| ((i * 151 + seed * 17) % 255) as i32 - 127;
    let tokens = std::array::from_fn(|i| {
        i32::from_le_bytes([0, 1, 2, 3].map(|part| byte(4 * i + part) as i8 as u8))
    });
    (codes, tokens)
}

#[test]
fn dot_products_are_exact() {
    fn check_width<S: Simd, const M: usize>(isa: Isa) {
        let floats = |ints: [S::I; M]| {
            // SAFETY: as above.
            ints.map(|ints| bits::<S>(unsafe { S::to_float(ints) }))
        };
        let plain = |ints: [[i32; LANES]; M]| {
            // SAFETY: as above.
            ints.map(|ints| bits::<Portable>(unsafe { Portable::to_float(ints) }))
        };
        for seed in 0..64 {
            let (codes, x) = codes_and_tokens(seed);
            let starts: [i32; M] = std::array::from_fn(|t| x[t] >> 8);
            let offsets: [i32; M] = std::array::from_fn(|t| {
                let groups = (0..8).flat_map(|j| x[j * M + t].to_le_bytes());
                -128 * groups.map(|byte| i32::from(byte as i8)).sum::<i32>()
            });
            let (codes, x, offsets) = (codes.as_ptr(), x.as_ptr(), offsets.as_ptr());
            // SAFETY: as above; there are 512 bytes and the groups of up to four tokens.
            unsafe {
                let start = starts.map(|start| S::splat_int(start));
                let plain_start = starts.map(|start| Portable::splat_int(start));
                let pairs = [
                    (S::dots_nibbles::<M>(codes, x), Portable::dots_nibbles::<M>(codes, x)),
                    (
                        S::dots_fives::<M>(codes, x, start),
                        Portable::dots_fives::<M>(codes, x, plain_start),
                    ),
                    (
                        S::dots_sixes::<0, M>(codes, x, start),
                        Portable::dots_sixes::<0, M>(codes, x, plain_start),
                    ),
                    (
                        S::dots_sixes::<1, M>(codes, x, start),
                        Portable::dots_sixes::<1, M>(codes, x, plain_start),
                    ),
                    (
                        S::dots_centered::<M>(codes, x, offsets),
                        Portable::dots_centered::<M>(codes, x, offsets),
                    ),
                ];
                for (index, (ours, expected)) in pairs.into_iter().enumerate() {
                    assert_eq!(floats(ours), plain(expected), "{isa}: {index}, {M} tokens");
                }
            }
        }
    }
    fn check<S: Simd>(isa: Isa) {
        check_width::<S, 1>(isa);
        check_width::<S, 2>(isa);
        check_width::<S, 3>(isa);
        check_width::<S, 4>(isa);
    }

    everywhere!(check);
}
