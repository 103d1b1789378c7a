//! Which device runs a model, of those that the binary knows and the machine has.

use std::str::FromStr;

use super::gpu_options::{GpuNeeds, GpuOptions};
use crate::weights::Checkpoint;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU, or the processor where there is none.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU with this number, or an error.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::Cuda(0)),
            _ => {}
        }
        let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        number.map(Self::Cuda).ok_or_else(|| "expected auto, cpu, cuda or cuda:NUMBER".to_owned())
    }
}

/// What there is.
#[derive(Debug)]
pub enum Device {
    /// The processor.
    Cpu,
    /// A GPU.
    #[cfg(feature = "cuda")]
    Cuda(sconce_kernels::cuda::Device),
}

/// Why a GPU that was asked for cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary has no GPU kernels.
    #[error("this binary was built without the feature `cuda`: build it with --features cuda")]
    NotBuilt,
    /// The machine has no such GPU, or it cannot be used.
    #[cfg(feature = "cuda")]
    #[error("GPU {ordinal} cannot be used")]
    Cuda {
        /// Which.
        ordinal: usize,
        /// Why.
        #[source]
        source: sconce_kernels::cuda::Error,
    },
}

/// A GPU, as its driver tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// The newest CUDA that its driver knows, as `12.9`.
    pub cuda_version: String,
    /// Bytes of its memory that are free.
    pub free_bytes: u64,
    /// Bytes of its memory.
    pub total_bytes: u64,
}

/// Every GPU that there are kernels for, or why it can't be used.
#[cfg(not(feature = "cuda"))]
pub fn gpus() -> Vec<Result<Gpu, String>> {
    Vec::new()
}

/// Every GPU that there are kernels for, or why it can't be used.
#[cfg(feature = "cuda")]
pub fn gpus() -> Vec<Result<Gpu, String>> {
    use sconce_kernels::cuda::Device;
    let look = |ordinal| {
        let device = Device::open(ordinal).map_err(|error| error.to_string())?;
        let (free, total) = device.memory().map_err(|error| error.to_string())?;
        let properties = device.properties();
        let (name, version) = (properties.name.clone(), properties.driver_version);
        // As the driver writes it: thousands and tens.
        let cuda_version = format!("{}.{}", version / 1000, version % 1000 / 10);
        Ok(Gpu { name, cuda_version, free_bytes: free as u64, total_bytes: total as u64 })
    };
    (0..).take_while(|ordinal| Device::check(*ordinal).is_ok()).map(look).collect()
}

/// What a decoder will take of the device's memory. `None`: the processor runs it.
#[cfg_attr(
    not(feature = "cuda"),
    expect(unused_variables, reason = "only the processor runs anything")
)]
pub(crate) fn gpu_needs(
    device: &Device,
    checkpoint: &Checkpoint,
    options: &GpuOptions,
) -> Result<Option<GpuNeeds>, Box<dyn std::error::Error + Send + Sync>> {
    match device {
        Device::Cpu => Ok(None),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            Ok(Some(super::cuda::CudaRunner::needs_of(device, checkpoint, options)?))
        }
    }
}

/// Whether [`Device::open`] will try a GPU, without the cost of opening one.
#[cfg(not(feature = "cuda"))]
pub fn is_gpu(choice: DeviceChoice) -> Result<bool, Error> {
    Device::open(choice).map(|_| false)
}

/// Whether [`Device::open`] will try a GPU, without the cost of opening one.
#[cfg(feature = "cuda")]
pub fn is_gpu(choice: DeviceChoice) -> Result<bool, Error> {
    use sconce_kernels::cuda::Device;
    match choice {
        DeviceChoice::Cpu => Ok(false),
        DeviceChoice::Auto => Ok(Device::check(0).is_ok()),
        DeviceChoice::Cuda(ordinal) => match Device::check(ordinal) {
            Ok(()) => Ok(true),
            Err(source) => Err(Error::Cuda { ordinal, source }),
        },
    }
}

impl Device {
    /// Opens the device, and says in the log which one `auto` came to.
    #[cfg(not(feature = "cuda"))]
    pub fn open(choice: DeviceChoice) -> Result<Self, Error> {
        match choice {
            DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Self::Cpu),
            DeviceChoice::Cuda(_) => Err(Error::NotBuilt),
        }
    }

    /// Opens the device, and says in the log which one `auto` came to.
    #[cfg(feature = "cuda")]
    pub fn open(choice: DeviceChoice) -> Result<Self, Error> {
        use sconce_kernels::cuda::{self, Error as Reason};
        match choice {
            DeviceChoice::Cpu => Ok(Self::Cpu),
            DeviceChoice::Cuda(ordinal) => match cuda::Device::open(ordinal) {
                Ok(device) => Ok(Self::Cuda(device)),
                Err(source) => Err(Error::Cuda { ordinal, source }),
            },
            DeviceChoice::Auto => Ok(match cuda::Device::open(0) {
                Ok(device) => Self::Cuda(device),
                Err(Reason::NoDriver) => {
                    tracing::info!("no CUDA driver found, using CPU");
                    Self::Cpu
                }
                Err(Reason::NoDevice { .. }) => {
                    tracing::info!("no GPU found, using CPU");
                    Self::Cpu
                }
                Err(error) => {
                    tracing::warn!(%error, "the GPU cannot be used, using CPU");
                    Self::Cpu
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_other_servers_name_them() {
        let parse = |text: &str| text.parse::<DeviceChoice>();

        assert_eq!(parse("auto"), Ok(DeviceChoice::Auto));
        assert_eq!(parse("cpu"), Ok(DeviceChoice::Cpu));
        assert_eq!(parse("cuda"), Ok(DeviceChoice::Cuda(0)));
        assert_eq!(parse("cuda:3"), Ok(DeviceChoice::Cuda(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_gpu_is_refused_where_the_binary_has_no_kernels() {
        assert!(matches!(Device::open(DeviceChoice::Auto), Ok(Device::Cpu)));
        assert!(matches!(Device::open(DeviceChoice::Cuda(0)), Err(Error::NotBuilt)));
    }
}
