//! The decoder on a GPU against the one on the processor, and what the host asks of the driver. They run
//! on a GPU, or without one on the stand-in for the driver: `tests/cuda/run.sh`.

#[cfg(test)]
#[path = "gpu/calls.rs"]
mod calls;
#[cfg(test)]
#[path = "gpu/experts.rs"]
mod experts;
#[cfg(test)]
#[path = "gpu/faults.rs"]
mod faults;
#[cfg(test)]
#[path = "weights/gguf_file.rs"]
#[expect(dead_code, reason = "bad files are for other tests")]
mod gguf_file;
#[cfg(test)]
#[path = "parity/harness.rs"]
mod harness;
#[cfg(test)]
#[path = "gpu/models.rs"]
mod models;
#[cfg(test)]
#[path = "gpu/parity.rs"]
mod parity;
#[cfg(test)]
#[path = "gpu/quantized.rs"]
mod quantized;
#[cfg(test)]
#[path = "gpu/sampling.rs"]
mod sampling;
#[cfg(test)]
#[path = "gpu/speculation.rs"]
mod speculation;
#[cfg(test)]
#[path = "parity/steps.rs"]
mod steps;
#[cfg(test)]
#[path = "parity/tiny.rs"]
mod tiny;
#[cfg(test)]
#[path = "../router/tests/support/tokenizers.rs"]
mod tokenizers;
#[cfg(test)]
#[path = "gpu/tuning.rs"]
mod tuning;
