//! The decoder on the processor against other implementations, and against itself: batched and
//! alone, in chunks and whole, on shared blocks and on its own, with drafts and without.

#[cfg(test)]
#[path = "parity/consistency.rs"]
mod consistency;
#[cfg(test)]
#[path = "parity/gguf.rs"]
mod gguf;
#[cfg(test)]
#[path = "weights/gguf_file.rs"]
#[expect(dead_code, reason = "bad files are for other tests")]
mod gguf_file;
#[cfg(test)]
#[path = "parity/harness.rs"]
mod harness;
#[cfg(test)]
#[path = "parity/load.rs"]
mod load;
#[cfg(test)]
#[path = "parity/models.rs"]
mod models;
#[cfg(test)]
#[path = "parity/oracle.rs"]
mod oracle;
#[cfg(test)]
#[path = "parity/quality.rs"]
mod quality;
#[cfg(test)]
#[path = "parity/quantize.rs"]
mod quantize;
#[cfg(test)]
#[path = "parity/quantized.rs"]
mod quantized;
#[cfg(test)]
#[path = "parity/speculation.rs"]
mod speculation;
#[cfg(test)]
#[path = "parity/steps.rs"]
mod steps;
#[cfg(test)]
#[path = "parity/tiny.rs"]
mod tiny;
#[cfg(test)]
#[path = "parity/transformers.rs"]
mod transformers;
