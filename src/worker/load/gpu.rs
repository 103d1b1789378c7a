//! Loads a decoder onto a GPU.

use std::path::Path;
use std::time::Instant;

use sconce_kernels::cuda::Device;
use sconce_proto::worker::ModelInfo;

use super::{Loaded, describe_checkpoint, failed, fingerprint, loaded, ms, served};
use crate::runner::Executor;
use crate::runner::cuda::CudaRunner;
use crate::runner::gpu_options::GpuOptions;
use crate::weights::{self, Checkpoint};
use crate::worker::Error;
use crate::worker::cli::Config;
use crate::worker::service::Served;

/// What of the GPU's kernels changes answers, and the model: how much fits beside its weights is known
/// only when they are there, so it is published last.
pub(super) fn load(
    config: &Config,
    (path, checkpoint, options): (&Path, &Checkpoint, &GpuOptions),
    device: Device,
    (start, opened): (Instant, f64),
    publish: impl FnOnce(Served) + Send,
) -> Result<Loaded, Error> {
    let (tokenizer, runner) = std::thread::scope(|scope| {
        let text = scope.spawn(|| {
            let tokenizer = checkpoint.tokenizer_json()?;
            Ok((tokenizer, checkpoint.digest()?, ms(start)))
        });
        let runner = CudaRunner::load(device, checkpoint, options);
        (text.join(), (runner, ms(start)))
    });
    let text: Result<_, weights::Error> = tokenizer.map_err(|_| Error::Panicked)?;
    let (tokenizer, digest, tokenizer_at) = text.map_err(|error| failed(path, error.into()))?;
    let (runner, packed_at) = runner;
    let runner = runner.map_err(|error| failed(path, error.into()))?;
    let info = describe_checkpoint(config, checkpoint, runner.limits());
    let fingerprint = fingerprint(&info, &tokenizer, (digest, &runner.fingerprint()));
    publish(served(ModelInfo { fingerprint, ..info }, tokenizer));
    let properties = runner.properties();
    tracing::info!(
        gpu = properties.name,
        capability = ?properties.capability,
        driver = properties.driver_version,
        weight_bytes = runner.weight_bytes(),
        kv_cache_bytes = runner.kv_bytes(),
        num_blocks = runner.limits().num_blocks,
        "model loaded"
    );
    let mut phases = vec![
        ("open", opened),
        ("tokenizer", tokenizer_at - opened),
        ("weights", packed_at - opened),
    ];
    phases.extend(runner.phases());
    loaded(config, Box::new(runner), checkpoint.eos_token_ids().to_vec(), phases)
}
