//! A GPU that is too small, or fails.

use sconce::runner::cuda::{CudaRunner, LoadError};
use sconce::runner::gpu_options::{GpuDtype, GpuOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cuda::Device;

use super::models::options;
use super::tiny;

#[test]
fn a_model_that_leaves_no_room_for_its_cache_is_refused_with_numbers() {
    let folder = tiny::folder(1, None);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let device = Device::open(0).unwrap();
    // Less than the weights alone take.
    let memory_utilization = 1e-6;
    let options = GpuOptions { kv_cache: None, memory_utilization, ..options(GpuDtype::F32) };

    let refused = CudaRunner::load(device, &checkpoint, &options).err();

    assert!(matches!(refused, Some(LoadError::NoRoom { needed: 1.., .. })), "{refused:?}");
}
