//! What the host asks of the driver in a step. Only the stand-in counts.
#![expect(unsafe_code, reason = "the stand-in's counters are functions of a C library")]

use std::ffi::{CString, c_char, c_void};

use sconce::runner::gpu_options::GpuDtype;

use super::models::{on_gpu, options};
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

#[test]
fn a_decode_step_is_one_graph_and_allocates_nothing() {
    let folder = tiny::folder(1, None);
    let mut gpu = on_gpu(folder.path(), &options(GpuDtype::BF16));
    let Some(counters) = Counters::find() else {
        println!("skipped: only the stand-in for the driver counts");
        return;
    };
    let mut sequences: Vec<_> = (0..3).map(|i| gpu.sequence(&[i, 5, 9])).collect();
    for sequence in &mut sequences {
        gpu.advance(&mut [(sequence, 3)]);
    }
    let mut decode = |gpu: &mut super::harness::Harness<_>| {
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

    const STEPS: u64 = 40;
    for _ in 0..STEPS {
        decode(&mut gpu);
    }

    assert_eq!(counters.of("cuGraphLaunch"), STEPS);
    assert_eq!(counters.of("cuLaunchKernel"), 0, "all launches are in the graph");
    for name in ["cuMemAlloc_v2", "cuMemFree_v2", "cuMemAllocAsync", "cuMemHostAlloc"] {
        assert_eq!(counters.of(name), 0, "{name}");
    }
    for name in ["cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2", "cuStreamSynchronize", "cuCtxSynchronize"] {
        assert_eq!(counters.of(name), 0, "{name}");
    }
    assert_eq!(counters.of("cuMemcpyHtoDAsync_v2"), STEPS, "one copy of what changes");
    assert!(counters.of("cuMemcpyDtoHAsync_v2") <= 2 * STEPS);
    let nodes = counters.of("graph_nodes");
    println!("{nodes} nodes");
    // Nine launches a layer of three layers, and those around them.
    assert!(nodes <= 3 * 10 + 8, "{nodes}");
}
