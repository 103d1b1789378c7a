//! Every operation of the CPU device, on every instruction set of this machine, against plain
//! loops in f64.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod attention;
mod encoder;
mod fuzz;
#[cfg(target_os = "linux")]
mod inlined;
mod matmul;
mod mixed;
mod reference;
mod rows;

use std::num::NonZeroUsize;

use sconce_kernels::cpu::{Activations, Cpu, Isa, KvCache, PackedMatrix};

/// A device for each instruction set, with one and with three threads.
fn devices() -> Vec<Cpu> {
    let mut devices = Vec::new();
    for isa in Isa::available() {
        for num_threads in [1, 3] {
            devices.push(Cpu::new(NonZeroUsize::new(num_threads).unwrap(), isa).unwrap());
        }
    }
    devices
}

/// A small generator, so that failures repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }

    /// Uniform in -1..1.
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1_u64 << 30) as f32 - 1.0
    }

    fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// What surrounds an output.
const GUARD: f32 = -12_345.5;

/// Lets `write` fill `len` floats at an offset, and returns them.
fn guarded(len: usize, offset: usize, write: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut all = vec![GUARD; offset + len + 33];
    write(&mut all[offset..offset + len]);
    let is_guard = |value: &f32| value.to_bits() == GUARD.to_bits();
    assert!(all[..offset].iter().chain(&all[offset + len..]).all(is_guard), "written outside");
    all[offset..offset + len].to_vec()
}

#[test]
fn a_device_and_what_it_works_on_can_go_to_other_threads() {
    fn shared<T: Send + Sync>() {}

    shared::<Cpu>();
    shared::<PackedMatrix>();
    shared::<KvCache>();
    shared::<Activations>();
}
