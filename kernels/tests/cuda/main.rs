//! Every GPU kernel against a 64-bit reference, on random inputs. They run on a GPU, or without one on
//! the stand-in for the driver: `tests/cuda/run.sh`.
#![expect(clippy::unwrap_used, reason = "tests")]

mod activation;
mod attention;
mod blocks;
mod fp8;
mod linear;
mod moe;
mod norm;
mod quantized;
mod rope;
mod rows;
mod sampling;

use std::cell::RefCell;
use std::rc::Rc;

use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sconce_kernels::cuda::{Buffer, Device, Float, Slice};

/// All types of floats.
const FLOATS: [Float; 3] = [Float::F32, Float::F16, Float::BF16];

/// The device, opened once per thread: tests of one process share it.
fn device() -> Rc<Device> {
    thread_local!(static DEVICE: RefCell<Option<Rc<Device>>> = const { RefCell::new(None) });
    DEVICE.with_borrow_mut(|device| {
        Rc::clone(device.get_or_insert_with(|| Rc::new(Device::open(0).unwrap())))
    })
}

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Numbers between -1 and 1 that all types hold exactly, so that references start from what kernels do.
fn numbers(rng: &mut StdRng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-128..=128) as f32 / 128.0).collect()
}

/// As a buffer of `float`.
fn floats(device: &Device, float: Float, values: &[f32]) -> Buffer {
    match float {
        Float::F32 => device.buffer_of(values).unwrap(),
        Float::F16 => {
            let values: Vec<_> = values.iter().copied().map(f16::from_f32).collect();
            device.buffer_of(&values).unwrap()
        }
        Float::BF16 => {
            let values: Vec<_> = values.iter().copied().map(bf16::from_f32).collect();
            device.buffer_of(&values).unwrap()
        }
    }
}

/// Room for `len` elements of `float`, full of what is no number.
fn poisoned(device: &Device, float: Float, len: usize) -> Buffer {
    let mut buffer = device.alloc(len * float.size()).unwrap();
    device.fill(&mut buffer.slice_mut(), 0xff).unwrap();
    buffer
}

/// Reads elements of `float`.
fn values(device: &Device, float: Float, slice: Slice<'_>) -> Vec<f32> {
    match float {
        Float::F32 => device.download(slice).unwrap(),
        Float::F16 => device.download(slice).unwrap().into_iter().map(f16::to_f32).collect(),
        Float::BF16 => device.download(slice).unwrap().into_iter().map(bf16::to_f32).collect(),
    }
}

/// What an 8-bit float is: sign, 4 bits of exponent, 3 of mantissa.
fn fp8(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let size = if exponent == 0 {
        mantissa / 8.0 * 2f64.powi(-6)
    } else {
        (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7)
    };
    if code >= 128 { -size } else { size }
}

/// Relative to the size of the numbers: what rounding an output to `float` once costs, with some room for
/// sums in 32 bits.
fn tolerance(float: Float) -> f64 {
    match float {
        Float::F32 => 2e-5,
        Float::F16 => 1.5e-3,
        Float::BF16 => 1e-2,
    }
}

/// Each value is near its reference, relative to the greatest of all references.
#[track_caller]
fn assert_near(given: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(given.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-30, |scale: f64, x| scale.max(x.abs()));
    for (i, (given, expected)) in given.iter().zip(expected).enumerate() {
        let error = (f64::from(*given) - expected).abs() / scale;
        assert!(error <= tolerance, "{what}: element {i} is {given}, not {expected} ({error:e})");
    }
}
